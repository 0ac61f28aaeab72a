"""Domain error ↔ errno: the only place that knows both.

Owns the two tables. `errno_of` is what applications see; `error_of` reads what the worker answers.
Invariant: every class of fuse/errors.py has exactly one errno (a test walks the tree).
"""

import errno
from typing import Final

from fuse import errors

ERRNOS: Final[dict[type[errors.FileSystemError], int]] = {
    errors.NotFound: errno.ENOENT,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.ReadOnly: errno.EROFS,
    errors.NotPermitted: errno.EPERM,
    errors.AccessDenied: errno.EACCES,
    errors.Unsupported: errno.ENOTSUP,
    errors.CrossDataset: errno.EXDEV,
    errors.InvalidRequest: errno.EINVAL,
    errors.BadName: errno.EILSEQ,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.Ended: errno.EBADF,
    errors.BadHandle: errno.EBADF,
    errors.NoAttribute: errno.ENODATA,
    errors.Stale: errno.ESTALE,
    errors.NoSpace: errno.ENOSPC,
    errors.TooLarge: errno.EFBIG,
    errors.Busy: errno.EBUSY,
    # Not ENOBUFS, which programs do not expect of a read; it is asked for another way before anybody sees it.
    errors.NoRoom: errno.EIO,
    # EIO, not ETIMEDOUT or EAGAIN: programs know that a read may give EIO, and must not spin on it.
    errors.Unavailable: errno.EIO,
    errors.FileSystemError: errno.EIO,
}

_SAME_MEANING: Final[dict[int, type[errors.FileSystemError]]] = {
    errno.EDQUOT: errors.NoSpace,
    errno.EOPNOTSUPP: errors.Unsupported,
    errno.ENOSYS: errors.Unsupported,
    errno.ENOBUFS: errors.NoRoom,
}

ERRORS: Final[dict[int, type[errors.FileSystemError]]] = {
    number: kind for kind, number in ERRNOS.items() if kind is not errors.FileSystemError
} | _SAME_MEANING


def errno_of(error: errors.FileSystemError) -> int:
    """Return the errno the application gets for `error`."""
    return ERRNOS[type(error)]


def error_of(number: int, message: str) -> errors.FileSystemError:
    """Return the domain error for an errno the worker answered; what has no meaning here is Unavailable."""
    return ERRORS.get(number, errors.Unavailable)(message)
