"""Answers of S3 and OSS → reasons: one table by the store's code, one by HTTP status.

Owns the mapping and the sentences. Invariant: a sentence is built from the mount's own words; text that the
server or the HTTP library wrote never gets into it.
"""

import re
from typing import Final, Protocol

from understores.errors import (
    AccessDenied,
    BucketNotFound,
    Changed,
    InvalidKey,
    InvalidMount,
    NoSpace,
    NotFound,
    StoreFailed,
    Throttled,
    UnderStoreError,
    Unreachable,
)


class BucketMount(Protocol):
    """What a sentence needs of a mount."""

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        ...

    @property
    def region(self) -> str:
        """The region requests are signed for."""
        ...

    @property
    def endpoint(self) -> str:
        """The store's URL."""
        ...

    @property
    def url(self) -> str:
        """Scheme, bucket and prefix, with a slash at the end."""
        ...


_KIND_BY_CODE: Final[dict[str, type[UnderStoreError]]] = {
    "NoSuchBucket": BucketNotFound,
    "NoSuchKey": NotFound,
    "AccessDenied": AccessDenied,
    "AccessKeyIdAndSecurityTokenNotMatch": AccessDenied,
    "AllAccessDisabled": AccessDenied,
    "AuthorizationHeaderMalformed": InvalidMount,
    "ExpiredToken": AccessDenied,
    "InvalidAccessKeyId": AccessDenied,
    "InvalidBucketName": InvalidMount,
    "InvalidObjectName": InvalidKey,
    "InvalidSecurityToken": AccessDenied,
    "InvalidToken": AccessDenied,
    "SecurityTokenExpired": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "RequestTimeTooSkewed": AccessDenied,
    "PermanentRedirect": InvalidMount,
    "PreconditionFailed": Changed,
    "QuotaExceeded": NoSpace,
    "XMinioStorageFull": NoSpace,
    "SlowDown": Throttled,
    "RequestLimitExceeded": Throttled,
    "TooManyRequests": Throttled,
    "KeyTooLongError": InvalidKey,
}
_KIND_BY_STATUS: Final[dict[int, type[UnderStoreError]]] = {
    301: InvalidMount,
    307: InvalidMount,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    412: Changed,
    416: Changed,  # the range is not inside the object: it is not the version we know
    429: Throttled,
    503: Throttled,
    507: NoSpace,
}
_WHY_DENIED: Final[dict[str, str]] = {
    "AccessKeyIdAndSecurityTokenNotMatch": "the access key and the session token are not of one set",
    "ExpiredToken": "the session token has expired",
    "InvalidAccessKeyId": "the access key id is not known to the store",
    "InvalidSecurityToken": "the session token is not valid",
    "InvalidToken": "the session token is not valid",
    "SecurityTokenExpired": "the session token has expired",
    "SignatureDoesNotMatch": "the access key secret is wrong",
    "RequestTimeTooSkewed": "this machine's clock is more than 15 minutes off",
}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_TRANSPORT = re.compile(r"kind: (Connect|Timeout|Request|Interrupted|Decode|Unknown)\b")


def from_answer(
    mount: BucketMount, key: str, status: int, code: str, *, retry_after_seconds: float = 0.0
) -> UnderStoreError:
    """The error for an HTTP status and the `<Code>` of its body ("" when it has none)."""
    kind = _KIND_BY_CODE.get(code) or _KIND_BY_STATUS.get(status)
    if kind is None:
        detail = f"HTTP {status}{f' {code}' if code else ''}"
        return StoreFailed(
            f"{_where(mount, key)} failed: {detail}.",
            retryable=status >= 500 or status == 408,
            retry_after_seconds=retry_after_seconds,
        )
    return kind(_sentence(kind, mount, key, code), retry_after_seconds=retry_after_seconds)


def from_text(mount: BucketMount, key: str, text: str) -> UnderStoreError:
    """The error for what obstore says; it gives the status, the body and the transport's kind only as text."""
    if status := _STATUS.search(text):
        code = _CODE.search(text)
        return from_answer(mount, key, int(status[1]), code[1] if code else "")
    if _TRANSPORT.search(text):
        return unreachable(mount)
    return StoreFailed(f"{_where(mount, key)} failed: the store's answer could not be used.", retryable=True)


def unreachable(mount: BucketMount) -> UnderStoreError:
    """No connection, or no answer in time."""
    return Unreachable(f"the endpoint {mount.endpoint} of bucket {mount.bucket!r} cannot be reached.")


def _where(mount: BucketMount, key: str) -> str:
    return f"{mount.url}{key}"


def _sentence(kind: type[UnderStoreError], mount: BucketMount, key: str, code: str) -> str:
    where = _where(mount, key)
    if kind is BucketNotFound:
        return f"the bucket {mount.bucket!r} does not exist at {mount.endpoint}."
    if kind is AccessDenied:
        why = _WHY_DENIED.get(code, "the credentials lack the right, or none were given")
        return f"{mount.endpoint} refused access to {where}: {why}."
    if kind is NotFound:
        return f"there is no object {where}."
    if kind is Changed:
        return f"{where} is no longer the version that was asked for."
    if kind is InvalidMount:
        return f"the store refused bucket {mount.bucket!r} with region {mount.region!r}: check both, and the endpoint."
    if kind is Throttled:
        return f"{mount.endpoint} asks to slow down."
    if kind is NoSpace:
        return f"bucket {mount.bucket!r} is full or over its quota."
    return f"{where} was refused: {code or 'the key is not valid'}."
