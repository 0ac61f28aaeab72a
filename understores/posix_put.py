"""One object on its way into a directory: a temporary file that gets its name when it is whole.

Owns the temporary file and what makes it durable. Blocks; raises OSError. Invariant: what `finish` did not name is gone
after `close`, which waits for a write another thread has begun.
"""

import os
import secrets
from contextlib import suppress
from threading import Lock
from typing import Final

TEMPORARY_PREFIX: Final = ".headrace-tmp-"


class Putting:
    """See the module's docstring."""

    def __init__(self, directory_fd: int, name: str) -> None:
        """Make the temporary file; `directory_fd` is closed by `close`, not when this raises."""
        self._directory_fd, self._name = directory_fd, name
        self._temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._temporary, flags, 0o644, dir_fd=directory_fd)
        self._is_named = self._is_closed = False
        self._lock = Lock()

    def add(self, piece: bytes, *, to_medium: bool = False) -> None:
        """Append; `to_medium`: and wait until it is there, so that little is left for the end."""
        with self._lock:
            left = memoryview(piece)
            while left:
                left = left[os.write(self._descriptor, left) :]
            if to_medium:
                os.fdatasync(self._descriptor)

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
