"""Opening files below a directory so that no name can lead out of it.

Owns the `openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)` call, and on kernels before 5.6 a walk that refuses
every symbolic link. Invariant: a returned descriptor is of something below `root_fd`.
"""

import ctypes
import errno
import os
from typing import Final

_SYS_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
# EAGAIN: something was renamed while the kernel resolved the path; it cannot vouch for the result.
_RENAME_RACE_TRIES: Final = 16


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` below `root_fd` and return a close-on-exec descriptor; OSError as open(2) would.

    EXDEV: the path, or a symbolic link on it, leads out of the root. Blocks.
    """
    flags |= os.O_CLOEXEC
    for _ in range(_RENAME_RACE_TRIES):
        descriptor = _openat2(root_fd, path or ".", flags, mode)
        if descriptor >= 0:
            return descriptor
        if descriptor == -errno.ENOSYS:
            return _walk(root_fd, path, flags, mode)
        if descriptor not in (-errno.EAGAIN, -errno.EINTR):
            raise OSError(-descriptor, os.strerror(-descriptor), path)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def _openat2(root_fd: int, path: str, flags: int, mode: int) -> int:
    creates = flags & (os.O_CREAT | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY)
    how = _OpenHow(flags, mode if creates else 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        return -errno.EINVAL
    result = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root_fd),
        ctypes.c_char_p(encoded),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    return int(result) if result >= 0 else -ctypes.get_errno()


def _walk(root_fd: int, path: str, flags: int, mode: int) -> int:
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names or path.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    current = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        for name in names[:-1]:
            following = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = following
        return os.open(names[-1] if names else ".", flags | os.O_NOFOLLOW, mode, dir_fd=current)
    finally:
        os.close(current)
