"""A mount of each backend over one writable dataset, for exercises that need nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.data_plane import DataPlane

BLOCK_BYTES: Final = 64 << 10
"""Small, so that small files have borders of blocks in them."""


@dataclass
class BothBackends:
    """Two nodes, each with a worker and a mount: `mounts` are the dataset's directories by raw and by pyfuse3."""

    plane: DataPlane
    mounts: list[Path]
    origin: Path


@contextmanager
def both_backends_in(root: Path) -> Iterator[BothBackends]:
    """Yield them; nothing is left running or mounted."""
    (root / "work").mkdir()
    with DataPlane(root / "plane") as plane:
        for node in ("raw", "pyfuse3"):
            plane.start_worker(node, {"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK_BYTES)})
        plane.sync("work", f"file://{root / 'work'}", writable=True)
        mounts = [plane.start_mount(node, "--backend", node) / "bench" / "work" for node in ("raw", "pyfuse3")]
        yield BothBackends(plane, mounts, root / "work")
