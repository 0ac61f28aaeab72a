"""A second copy of a cached file in another tier, and how it takes its place on disk.

Owns the order of names: the copy is made under a staging name, then its bytes get theirs, then the map that makes them
count. Does not count bytes and does not know the index (cached_files.py), and does not choose (core/tiering.py).
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cacheruntime.core.block_map import BlockMap
from cacheruntime.core.checksums import crc32c
from cacheruntime.worker import tier_files
from cacheruntime.worker.tier_files import CachedFile


class BlockUnreadable(Exception):
    """The medium a block lies on did not give it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def begin_copy(file: CachedFile, tier: int, directory: Path) -> tuple[CachedFile, Path]:
    """Return an open, empty copy of a file in another tier, and the temporary name it has until `take_place`. Blocks;
    OSError."""
    copy = CachedFile(BlockMap(file.version, file.map.block_size_bytes, is_home=file.map.is_home), tier, file.path)
    folder = directory / tier_files.STAGING_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging = folder / secrets.token_hex(16)
    copy.path = tier_files.data_path(directory, file.version)
    copy.descriptor = os.open(staging, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(copy.descriptor, file.version.size_bytes)
    except OSError:
        discard_copy(copy, staging)
        raise
    return copy, staging


def copy_block(file: CachedFile, index: int, copy: CachedFile) -> bool:
    """Bring one resident block over; False when it does not have its checksum. Blocks; OSError of the target, reading
    errors are BlockUnreadable."""
    try:
        data = tier_files.read_block(file, index)
    except OSError as error:
        raise BlockUnreadable(error) from error
    if data is None:
        return False
    tier_files.write_at(copy.descriptor, data, index * file.map.block_size_bytes)
    copy.map.add(index, crc32c(data))
    return True


def take_place(copy: CachedFile, staging: Path) -> None:
    """Show a finished copy under its name, bytes first, then the map that makes them count; a few system calls; OSError
    leaves nothing under the name."""
    copy.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging.rename(copy.path)
    copy.written_ns = os.fstat(copy.descriptor).st_mtime_ns
    try:
        with copy.lock:
            tier_files.save_map(copy, 0, whole=True)
    except OSError:
        tier_files.unlink_file(copy)
        raise


def discard_copy(copy: CachedFile, staging: Path) -> None:
    """Close and remove a copy that did not take its place."""
    tier_files.close_file(copy)
    with suppress(OSError):
        staging.unlink()
