"""Writes an OCI image archive: one layer, any number of images of it.

Owns the format (OCI image layout in a tar, as `ctr images import` reads it) and that the same content gives the same
bytes. Does not know what goes in (image_content.py). The layer is not compressed: it goes no farther than this
machine's disk."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the archive. `name` is full, with registry and tag."""

    name: str
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the layer: `path` without a leading slash. Exactly one of source, link and neither (a directory)."""

    path: str
    source: Path | None = None
    link: str | None = None
    text: str | None = None
    mode: int | None = None


def write_layer(file: Path, entries: Sequence[Entry]) -> None:
    """Write the entries as a tar, in order of their paths; directories above them are made."""
    known: set[str] = set()
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as layer:
        for entry in sorted(entries, key=lambda one: one.path):
            if entry.path in known:
                continue
            for parent in reversed(Path(entry.path).parents[:-1]):
                if str(parent) not in known:
                    known.add(str(parent))
                    layer.addfile(_header(Entry(str(parent))))
            known.add(entry.path)
            _add(layer, entry)


def _add(layer: tarfile.TarFile, entry: Entry) -> None:
    header = _header(entry)
    if entry.source is not None:
        with entry.source.open("rb") as content:
            header.size = entry.source.stat().st_size
            layer.addfile(header, content)
    elif entry.text is not None:
        data = entry.text.encode()
        header.size = len(data)
        layer.addfile(header, io.BytesIO(data))
    else:
        layer.addfile(header)


def _header(entry: Entry) -> tarfile.TarInfo:
    # The builder is left out: he would make each archive another one. Times of files stay: by them Python knows that
    # what it compiled is still right.
    header = tarfile.TarInfo(entry.path)
    if entry.link is not None:
        header.type, header.linkname, header.mode = tarfile.SYMTYPE, entry.link, 0o777
    elif entry.source is not None:
        found = entry.source.stat()
        header.mode, header.mtime = (0o755 if found.st_mode & 0o111 else 0o644), int(found.st_mtime)
    elif entry.text is not None:
        header.mode = 0o644
    else:
        header.type, header.mode = tarfile.DIRTYPE, 0o755
    if entry.mode is not None:
        header.mode = entry.mode
    return header


def write_archive(file: Path, layer: Path, images: Sequence[Image]) -> None:
    """Write the archive of these images, all with that layer. It appears under its name when it is whole."""
    temporary = file.with_name(f".{file.name}.tmp")
    layer_digest = _digest_of(layer)
    index = []
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        _put(archive, "oci-layout", _encoded({"imageLayoutVersion": "1.0.0"}))
        archive.add(layer, f"blobs/sha256/{layer_digest}")
        for image in images:
            config = _encoded(_config(image, layer_digest))
            manifest = _encoded(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": _descriptor(CONFIG, config),
                    "layers": [{"mediaType": LAYER, "digest": f"sha256:{layer_digest}", "size": layer.stat().st_size}],
                }
            )
            for blob in (config, manifest):
                _put(archive, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
            index.append(_descriptor(MANIFEST, manifest) | {"annotations": {"io.containerd.image.name": image.name}})
        _put(archive, "index.json", _encoded({"schemaVersion": 2, "manifests": index}))
    temporary.replace(file)


def _config(image: Image, layer_digest: str) -> dict[str, Any]:
    return {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Env": [f"{key}={value}" for key, value in sorted(image.env.items())],
            "Entrypoint": list(image.entrypoint),
            "Cmd": list(image.command),
            "User": image.user,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    }


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}


def _encoded(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _put(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    header = tarfile.TarInfo(path)
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
