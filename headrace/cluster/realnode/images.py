"""The images of a local cluster, packed from this machine when something in them changed.

Owns their names and when they are packed anew."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from headrace.cluster.realnode import image_content
from headrace.cluster.realnode.configs import PAUSE_IMAGE
from headrace.cluster.realnode.image_archive import Entry, Image, write_archive, write_layer

#: As the manifests name it (`headrace:0.1.0`), in full.
IMAGE = "docker.io/library/headrace:0.1.0"
IMAGES = (
    Image(IMAGE, command=("headrace", "--help"), env=image_content.ENV, user=image_content.USER),
    Image(PAUSE_IMAGE, entrypoint=("/usr/bin/sleep", "infinity"), env=image_content.ENV),
)


def ensure_archive(folder: Path) -> Path:
    """Have the archive of the images in `folder`; its name tells its content. Raises ClusterError."""
    entries = image_content.chosen()
    archive = folder / f"headrace-{_fingerprint(entries)}.tar"
    if archive.exists():
        return archive
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.glob("*.tar"):
        old.unlink()
    layer = folder / ".layer"
    try:
        write_layer(layer, [*entries, *image_content.libraries(entries)])
        write_archive(archive, layer, IMAGES)
    finally:
        layer.unlink(missing_ok=True)
    return archive


def _fingerprint(entries: Sequence[Entry]) -> str:
    """Changes when a file of the images does, by its size and time: reading them all would take longer than packing."""
    digest = hashlib.sha256(repr(IMAGES).encode())
    for entry in sorted(entries, key=lambda one: one.path):
        stat = entry.source.stat() if entry.source is not None else None
        digest.update(repr((entry, stat and (stat.st_size, stat.st_mtime_ns, stat.st_mode))).encode())
    return digest.hexdigest()[:16]
