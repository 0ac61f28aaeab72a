"""What can go wrong at an under store, as one tree with reasons a person can act on.

Owns the words; each store maps its world to them in one table.
Invariants: `message` is one sentence that names the bucket, key or field and holds no secret and no text sent
by the server; `reason` is CamelCase and bounded (it goes into status and metric labels).

    UnderStoreError
    ├── NotFound          no object of that key
    ├── BucketNotFound    the bucket, or the directory behind file://, does not exist
    ├── AccessDenied      credentials missing, wrong or without the right
    ├── Changed           the object is no longer the version that was asked for
    ├── InvalidMount      a mount's field cannot be used as written
    ├── InvalidKey        a key the store cannot address
    ├── NoSpace           the store is full or over its quota
    ├── ReadOnly          a store that cannot be written at all
    ├── AlreadyExists     a directory in the place of a file, or the reverse
    ├── NotEmpty          a directory that still has entries
    ├── Unreachable       no connection, no name, no answer in time (retryable)
    ├── Throttled         the store asks to slow down (retryable)
    ├── ShortBody         fewer bytes arrived than the range has (retryable)
    ├── BytesLost         the medium did not take what was written, and would not say so a second time
    └── StoreFailed       any other failure of the store; retryable when it is a 5xx
"""

from typing import ClassVar


class UnderStoreError(Exception):
    """A request to an under store that did not succeed; `retryable` says whether the same may work later.

    `retry_after_seconds` is how long the store itself asked to wait (Retry-After), 0 when it said nothing.
    """

    reason: ClassVar[str] = "StoreFailed"
    default_retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retryable: bool | None = None, retry_after_seconds: float = 0.0) -> None:
        self.message = message
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class NotFound(UnderStoreError):
    """No object of that key."""

    reason = "NotFound"


class BucketNotFound(UnderStoreError):
    """The bucket, or the directory behind a file:// mount, does not exist."""

    reason = "BucketNotFound"


class AccessDenied(UnderStoreError):
    """Credentials are missing, wrong, or lack the right for this request."""

    reason = "AccessDenied"


class Changed(UnderStoreError):
    """The object is no longer the version that was asked for; never retried, the caller must look again."""

    reason = "Changed"


class InvalidMount(UnderStoreError):
    """A field of the mount cannot be used as written; the message names it and what is accepted."""

    reason = "InvalidMount"


class InvalidKey(UnderStoreError):
    """A key this store cannot address: empty names, `..`, or a path that leaves the mount."""

    reason = "InvalidKey"


class NoSpace(UnderStoreError):
    """The store is full, read-only or over its quota."""

    reason = "NoSpace"


class ReadOnly(UnderStoreError):
    """The store cannot be written at all, whoever asks (HTTP)."""

    reason = "ReadOnly"


class BytesLost(UnderStoreError):
    """The medium did not take what was written. Asked again, it would say that all is well."""

    reason = "BytesLost"


class AlreadyExists(UnderStoreError):
    """A directory stands where a file should go, or the reverse."""

    reason = "AlreadyExists"


class NotEmpty(UnderStoreError):
    """A directory to be removed still has entries."""

    reason = "NotEmpty"


class Unreachable(UnderStoreError):
    """No connection, no such host, or no answer in time."""

    reason = "Unreachable"
    default_retryable = True


class Throttled(UnderStoreError):
    """The store asks to slow down (429, 503 SlowDown)."""

    reason = "Throttled"
    default_retryable = True


class ShortBody(UnderStoreError):
    """Fewer bytes arrived than the range has; they were not handed out."""

    reason = "ShortBody"
    default_retryable = True


class StoreFailed(UnderStoreError):
    """Any other failure of the store; retryable when the store says it is its own fault."""

    reason = "StoreFailed"
