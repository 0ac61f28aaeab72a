"""Measures how fast a tier reads: a short real read of what it would store. Blocks; run in a thread."""

import os
import secrets
import time
from pathlib import Path

from cacheruntime.worker.tier_files import STAGING_FOLDER

_PIECE_BYTES = 1 << 20


def measure_read(directory: Path, size_bytes: int) -> int:
    """Return bytes per second of reading `size_bytes` back from the medium; OSError (a full medium, say)."""
    if size_bytes < _PIECE_BYTES:
        return 0
    folder = directory / STAGING_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / secrets.token_hex(16)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Random bytes: a medium that compresses must not look faster than it is.
        piece = secrets.token_bytes(_PIECE_BYTES)
        count = size_bytes // _PIECE_BYTES
        for _ in range(count):
            os.write(descriptor, piece)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(_PIECE_BYTES)
        started = time.perf_counter()
        for number in range(count):
            os.preadv(descriptor, [buffer], number * _PIECE_BYTES)
        return int(count * _PIECE_BYTES / max(time.perf_counter() - started, 1e-9))
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
