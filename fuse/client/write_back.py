"""Has the medium take what is written while more comes, so that little is left for fsync.

Owns how far a growing file has been handed on. Asks for nothing to be waited for: what fails is told by fsync, as ever.
"""

import asyncio
import ctypes
import os
from typing import Final

PIECE_BYTES: Final = 4 << 20
"""Handed on at once. Less, and a disk gets many small writes; more, and the last of them is long."""
WRITE_BYTES_MAX: Final = 256 << 10
"""Of one write, as in understores/posix_put.py: of a larger one a virtual machine has less memory at hand."""
_START: Final = 2  # SYNC_FILE_RANGE_WRITE (linux/fs.h); os has no sync_file_range
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class WriteBack:
    """Of one file. What is written again behind its end is left to fsync: it may be written yet again."""

    def __init__(self) -> None:
        self._handed_on = 0
        self._under_way: asyncio.Task[None] | None = None

    def wrote(self, descriptor: int, end_bytes: int) -> None:
        """Bytes up to `end_bytes` are in the file. Returns at once."""
        start, ready = self._handed_on, end_bytes - end_bytes % PIECE_BYTES
        if ready > start and self._under_way is None:
            try:
                own = os.dup(descriptor)  # the file may be closed meanwhile
            except OSError:
                return  # no descriptor left: the bytes are written all the same
            self._handed_on = ready
            # In a thread: a full queue of the disk is waited for.
            self._under_way = asyncio.get_running_loop().create_task(self._start(own, start, ready))

    async def _start(self, descriptor: int, start: int, end: int) -> None:
        try:
            await asyncio.to_thread(_libc.sync_file_range, descriptor, start, end - start, _START)
        finally:
            os.close(descriptor)
            self._under_way = None
