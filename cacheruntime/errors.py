"""What can go wrong in a worker, as errno and one sentence; clients get exactly these two.

Owns the words and the tables from under store reasons and gRPC codes. Kinds: retryable (`is_retryable`), permanent
(the rest), bug (anything that is not a CacheError).

    CacheError(errno)
    ├── VersionChanged  ESTALE   the object is no longer the version that was asked for
    ├── Missing         ENOENT   no such dataset, path or object
    ├── Denied          EACCES   the under store refused us, or a fence of the path is up
    ├── NotAuthorised   ENOKEY   no token for the dataset was shown, or (EKEYEXPIRED, EKEYREJECTED) none that is good
    ├── ReadOnly        EROFS    the dataset or its mount may not be written
    ├── NotResident     ENODATA  a peer asked for resident bytes only
    ├── NoRoom          ENOBUFS  no tier can hold the bytes even for a moment; READ serves them inline
    │   └── MediumFailed     the medium gives or takes no bytes now: others have them
    ├── BadRequest      EINVAL   a field of the request cannot be
    ├── PeerFailed      EIO      a peer is gone, late or answered nonsense (retryable elsewhere)
    └── others by errno: EIO (retryable or not), ENOSPC, EEXIST, ENOTEMPTY, ENOTDIR, EISDIR, ...
"""

import errno
from typing import ClassVar, Final

import grpc

from understores import errors as store


class CacheError(Exception):
    """A request that did not succeed: `errno` for the client, one sentence for its log."""

    default_errno: ClassVar[int] = errno.EIO
    default_retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, number: int | None = None, is_retryable: bool | None = None) -> None:
        self.message = message
        self.errno = self.default_errno if number is None else number
        self.is_retryable = self.default_retryable if is_retryable is None else is_retryable
        super().__init__(message)


class VersionChanged(CacheError):
    """The object is no longer the version that was asked for."""

    default_errno = errno.ESTALE


class Missing(CacheError):
    """No such dataset, path or object."""

    default_errno = errno.ENOENT


class Denied(CacheError):
    """The under store refused the credentials or the right, or the node is fenced off from the path."""

    default_errno = errno.EACCES


class NotAuthorised(CacheError):
    """No token that is good for the request was shown; the errno says whether another may help."""

    default_errno = errno.ENOKEY


class ReadOnly(CacheError):
    """The dataset or the mount behind the path may not be written."""

    default_errno = errno.EROFS


class NotResident(CacheError):
    """Only resident bytes were asked for, and these are not."""

    default_errno = errno.ENODATA


class NoRoom(CacheError):
    """No tier can hold the bytes, not even until the reader closes."""

    default_errno = errno.ENOBUFS


class MediumFailed(NoRoom):
    """A medium failed or is too slow: what lies on it can be had from elsewhere, and inline."""


class BadRequest(CacheError):
    """A field of the request that cannot be."""

    default_errno = errno.EINVAL


class PeerFailed(CacheError):
    """A peer is gone, late, or answered what it should not; others can be asked."""

    default_retryable = True


_FROM_STORE: Final[dict[type[store.UnderStoreError], tuple[type[CacheError], int]]] = {
    store.Changed: (VersionChanged, errno.ESTALE),
    store.NotFound: (Missing, errno.ENOENT),
    store.AccessDenied: (Denied, errno.EACCES),
    store.NoSpace: (CacheError, errno.ENOSPC),
    store.ReadOnly: (ReadOnly, errno.EROFS),
    store.AlreadyExists: (CacheError, errno.EEXIST),
    store.NotEmpty: (CacheError, errno.ENOTEMPTY),
    store.InvalidKey: (BadRequest, errno.EINVAL),
}

_FROM_RPC: Final[dict[grpc.StatusCode, tuple[type[CacheError], int]]] = {
    grpc.StatusCode.NOT_FOUND: (Missing, errno.ENOENT),
    grpc.StatusCode.ALREADY_EXISTS: (CacheError, errno.EEXIST),
    grpc.StatusCode.INVALID_ARGUMENT: (BadRequest, errno.EINVAL),
    grpc.StatusCode.PERMISSION_DENIED: (Denied, errno.EACCES),
    grpc.StatusCode.UNIMPLEMENTED: (CacheError, errno.EOPNOTSUPP),
}
_RETRYABLE_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        # What grpc's aio server answers to calls that arrive while it stops; giving up ourselves is no AioRpcError.
        grpc.StatusCode.CANCELLED,
    }
)


def from_store(error: store.UnderStoreError) -> CacheError:
    """Return what an under store's failure means to a reader or writer; unlisted reasons are EIO."""
    kind, number = _FROM_STORE.get(type(error), (CacheError, errno.EIO))
    return kind(error.message, number=number, is_retryable=error.retryable)


def from_rpc(error: grpc.aio.AioRpcError, what: str) -> CacheError:
    """Return what a failed call of the metadata service means; FAILED_PRECONDITION is the caller's to read."""
    code = error.code()
    kind, number = _FROM_RPC.get(code, (CacheError, errno.EIO))
    detail = error.details() or code.name
    message = detail if number != errno.EIO else f"metadata did not answer {what}: {detail}"
    return kind(message, number=number, is_retryable=code in _RETRYABLE_CODES)
