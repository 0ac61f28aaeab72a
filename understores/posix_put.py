"""One object on its way into a directory: a temporary file that gets its name when it is whole.

Owns the temporary file and what makes it durable. Blocks; raises OSError. Invariant: what `finish` did not name is gone
after `close`, which waits for a write another thread has begun.
"""

import ctypes
import errno
import os
import secrets
from contextlib import suppress
from threading import Lock
from typing import Final

from understores.base import Piece

TEMPORARY_PREFIX: Final = ".headrace-tmp-"
WRITE_BYTES_MAX: Final = 256 << 10
"""Of one write: the kernel takes page-cache memory in pieces as large as a write, and large ones are what a virtual
machine has the least of: what was free as a whole for seconds is its host's, and comes back bit by bit. A megabyte at
once took three times as long as this."""
# SYNC_FILE_RANGE_WRITE, and with WAIT_BEFORE and WAIT_AFTER (linux/fs.h); os has no sync_file_range.
_START: Final = 2
_COMPLETE: Final = 1 | 2 | 4
_NOT_POSSIBLE: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.ESPIPE})
# No hard links at all, none of this file, too many of it, another device, no /proc.
_NO_LINK: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.ENOENT}
)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class Putting:
    """See the module's docstring."""

    def __init__(self, directory_fd: int, name: str) -> None:
        """Make the temporary file; `directory_fd` is closed by `close`, not when this raises."""
        self._directory_fd, self._name = directory_fd, name
        self._temporary = _temporary_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._temporary, flags, 0o644, dir_fd=directory_fd)
        self._is_named = self._is_closed = False
        self._size_bytes = 0
        self._lock = Lock()

    def add(self, piece: Piece, *, to_medium: bool = False) -> None:
        """Append; `to_medium`: and have the medium take it while the next piece comes, so that little is left for the
        end. No more than two pieces are under way there."""
        with self._lock:
            left = memoryview(piece)
            while left:
                left = left[os.write(self._descriptor, left[:WRITE_BYTES_MAX]) :]
            before, self._size_bytes = self._size_bytes, self._size_bytes + len(piece)
            if to_medium and not _write_back(self._descriptor, before, len(piece), _START):
                os.fdatasync(self._descriptor)
            elif to_medium and before:
                _write_back(self._descriptor, 0, before, _COMPLETE)

    def finish(self) -> os.stat_result:
        """Make it durable and visible under its name."""
        with self._lock:
            os.fsync(self._descriptor)
            os.rename(self._temporary, self._name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
            self._is_named = True
            os.fsync(self._directory_fd)
            return os.fstat(self._descriptor)

    def close(self) -> None:
        """Leave nothing behind that has no name. May be called twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if not self._is_named:
                with suppress(OSError):
                    os.unlink(self._temporary, dir_fd=self._directory_fd)
            os.close(self._descriptor)
            os.close(self._directory_fd)


def link(descriptor: int, directory_fd: int, name: str) -> bool:
    """Give an open file another name, over whatever file has it, whole and durable; False where that is not possible
    and the bytes must be copied. OSError; blocks."""
    # Its bytes may have been written by somebody who did not wait for the medium.
    os.fdatasync(descriptor)
    temporary = _temporary_name()
    try:
        os.link(f"/proc/self/fd/{descriptor}", temporary, dst_dir_fd=directory_fd, follow_symlinks=True)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    try:
        os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    finally:
        # Between two names of one file rename(2) does nothing.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory_fd)
    os.fsync(directory_fd)
    return True


def _temporary_name() -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def _write_back(descriptor: int, offset_bytes: int, size_bytes: int, how: int) -> bool:
    """Start or complete the writing of a range; False where the kernel cannot. OSError: a write failed, and no later
    fsync would tell of it again."""
    if size_bytes and _libc.sync_file_range(descriptor, offset_bytes, size_bytes, how) != 0:
        number = ctypes.get_errno()
        if number in _NOT_POSSIBLE:
            return False
        raise OSError(number, os.strerror(number))
    return True
