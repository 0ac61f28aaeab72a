"""Reads a cached block from the medium itself and compares its checksum.

Owns reading past the page cache: what is there may be older than what the medium has become, and a check of a whole
cache must not push out the pages that readers use. Media and block sizes that cannot be read so are read as usual.
"""

import errno
import mmap
import os
from typing import Final

from cacheruntime.core.checksums import crc32c
from cacheruntime.worker.tier_files import CachedFile

PIECE_BYTES: Final = 1 << 20
"""Bytes a read; direct reads begin at multiples of it, or of the block."""


def is_sound(file: CachedFile, index: int) -> bool:
    """Whether a block of a held, open file has its checksum; True when it is not resident. Blocks; OSError.

    Bytes that the medium cannot give back (EIO) do not have their checksum.
    """
    # Another look before it is called damaged: between map and bytes somebody may have dropped and stored it again.
    return _has_checksum(file, index) or _has_checksum(file, index)


def _has_checksum(file: CachedFile, index: int) -> bool:
    with file.lock:
        if not file.map.has(index):
            return True
        expected, length = file.map.checksum(index), file.map.length(index)
    offset = index * file.map.block_size_bytes
    try:
        return _checksum(file.descriptor, offset, length, os.O_DIRECT) == expected
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        if error.errno != errno.EINVAL:
            raise
    try:
        return _checksum(file.descriptor, offset, length, 0) == expected
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise


def _checksum(opened: int, offset: int, length: int, flags: int) -> int | None:
    """CRC32C of the range, None when the file is shorter; read through a descriptor of its own with these flags."""
    descriptor = os.open(f"/proc/self/fd/{opened}", os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        # Anonymous memory begins at a page, as direct reads want it.
        with mmap.mmap(-1, PIECE_BYTES) as buffer:
            checksum = 0
            while length:
                # A whole piece also at the end of the file, which need not be a multiple of the device's sector.
                count = os.preadv(descriptor, [buffer], offset)
                if count == 0:
                    return None
                taken = min(count, length)
                checksum = crc32c(buffer[:taken], checksum)
                offset, length = offset + taken, length - taken
            return checksum
    finally:
        os.close(descriptor)
