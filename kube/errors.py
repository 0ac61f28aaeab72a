"""Errors of the Kubernetes API, mapped in one place from status code and reason.

Owns the tree below and the mapping from an answer to it. Does not decide whether
to try again (kube/retries.py does). Invariants: a message is one line of bounded
length and never holds request headers, so no token can leak through it.

    KubeError
    ├── NotFound          404
    ├── AlreadyExists     409, reason AlreadyExists
    ├── Conflict          409 otherwise: a resourceVersion or uid precondition failed
    ├── Gone              410: the resourceVersion or the continue token is too old
    ├── TooManyRequests   429: comes back with retry_after_seconds
    ├── Unauthorized      401
    ├── Forbidden         403
    ├── Invalid           every other 4xx: the request itself is wrong (permanent)
    └── Unavailable       5xx, no answer, or an answer that could not be read

ConfigError stands apart: a kubeconfig that cannot be used. So does BadName: no request can be made of it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

# Validation messages of large objects run to many kilobytes; the first part names the field.
MAX_MESSAGE_CHARACTERS = 1024


class KubeError(Exception):
    """An answer of the API server that is not a success.

    `status` is the HTTP code (0: no answer arrived), `reason` the machine-readable word
    of the answer, `retry_after_seconds` the server's wish or None.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after_seconds: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = truncate_message(message)
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})" if self.reason else self.message


class BadName(ValueError):
    """A name or namespace that cannot stand in a path, given by a user or a file."""


class NotFound(KubeError):
    """No such object, or no such kind (a CRD that is not installed)."""


class AlreadyExists(KubeError):
    """An object of that name is there already."""


class Conflict(KubeError):
    """A precondition (resourceVersion, uid, field ownership) did not hold: re-read and decide."""


class Gone(KubeError):
    """The resourceVersion or continue token is older than what the server remembers: list again."""


class TooManyRequests(KubeError):
    """The server sheds load, nothing was done; `retry_after_seconds` says when to come back."""


class Forbidden(KubeError):
    """Authenticated, but not allowed (RBAC, admission, a namespace being deleted)."""


class Unauthorized(KubeError):
    """The credentials were not accepted."""


class Invalid(KubeError):
    """The request is wrong; the same request will fail again."""


class Unavailable(KubeError):
    """The server failed or did not answer.

    `reached_server` is False when it is certain that the request was never sent.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        reached_server: bool = True,
    ) -> None:
        super().__init__(status, reason, message, retry_after_seconds=retry_after_seconds)
        self.reached_server = reached_server


class ConfigError(ValueError):
    """A kubeconfig or in-cluster environment that cannot be used; the text says what to change."""


class _StatusDetails(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class Status(msgspec.Struct, rename="camel"):
    """The fields read of a `v1 Status`, the body of every refusal and of watch ERROR events."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _StatusDetails | None = None


_BY_STATUS: dict[int, type[KubeError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    429: TooManyRequests,
}
_BY_REASON: dict[str, type[KubeError]] = {
    "AlreadyExists": AlreadyExists,
    "Conflict": Conflict,
    "Expired": Gone,
    "Gone": Gone,
    "TooManyRequests": TooManyRequests,
}
_STATUS_DECODER = msgspec.json.Decoder(Status)


def truncate_message(message: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Make `message` one line of at most `limit` characters."""
    line = " ".join(message.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def error_from_status(code: int, reason: str, message: str, *, retry_after_seconds: float | None = None) -> KubeError:
    """Build the error for an HTTP code and a `Status.reason`; an unknown reason falls back to the code."""
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(code)
    if kind is None:
        kind = Invalid if 400 <= code < 500 and code != 408 else Unavailable
    return kind(code, reason, message or f"HTTP {code}", retry_after_seconds=retry_after_seconds)


def error_from_response(code: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """Build the error for a refused request from its answer.

    A body that is no `Status` (a proxy's page, a plain line) is quoted in part.
    """
    status = _decode_status(body)
    retry_after = _parse_retry_after(headers.get("Retry-After"))
    if retry_after is None and status.details is not None:
        retry_after = status.details.retry_after_seconds
    return error_from_status(code, status.reason, status.message, retry_after_seconds=retry_after)


def error_from_event(status: Status) -> KubeError:
    """Build the error for a watch event of type ERROR."""
    retry_after = status.details.retry_after_seconds if status.details else None
    return error_from_status(status.code, status.reason, status.message, retry_after_seconds=retry_after)


def _decode_status(body: bytes) -> Status:
    try:
        return _STATUS_DECODER.decode(body)
    except msgspec.DecodeError:
        return Status(message=body[: MAX_MESSAGE_CHARACTERS * 4].decode("utf-8", "replace"))


def _parse_retry_after(value: Any) -> float | None:
    # The API server only sends whole seconds; the HTTP-date form of proxies is ignored.
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
