"""Answers of WebHDFS → reasons: one table by the exception's Java class, one by HTTP status.

Owns the mapping and the sentences. Reference: "WebHDFS REST API", Error Responses, of Apache Hadoop. Invariant: a
sentence is built from the mount's own words; text that the server wrote never gets into it.
"""

import json
from collections.abc import Mapping
from typing import Final

from understores.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidKey,
    NoSpace,
    NotEmpty,
    NotFound,
    StoreFailed,
    Throttled,
    UnderStoreError,
)
from understores.http_client import retry_after_seconds

_KIND_BY_EXCEPTION: Final[dict[str, type[UnderStoreError]]] = {
    "AccessControlException": AccessDenied,
    "AuthenticationException": AccessDenied,
    "AuthorizationException": AccessDenied,
    "DSQuotaExceededException": NoSpace,
    "FileAlreadyExistsException": AlreadyExists,
    "FileNotFoundException": NotFound,
    "InvalidPathException": InvalidKey,
    "InvalidToken": AccessDenied,
    "NSQuotaExceededException": NoSpace,
    "NotADirectoryException": AlreadyExists,
    "ParentNotDirectoryException": AlreadyExists,
    "PathComponentTooLongException": InvalidKey,
    "PathIsNotEmptyDirectoryException": NotEmpty,
    "QuotaByStorageTypeExceededException": NoSpace,
    "QuotaExceededException": NoSpace,
    "SecurityException": AccessDenied,
}
_KIND_BY_STATUS: Final[dict[int, type[UnderStoreError]]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    429: Throttled,
    503: Throttled,
}
# A namenode in safe mode, one that is being replaced, a file whose last block is still being recovered.
_PASSING: Final = frozenset(
    {
        "AlreadyBeingCreatedException",
        "LeaseExpiredException",
        "RecoveryInProgressException",
        "RetriableException",
        "SafeModeException",
        "StandbyException",
    }
)
_UNKNOWN: Final = frozenset({"IllegalArgumentException", "UnsupportedOperationException", "QueryParamException"})


class Refused(StoreFailed):
    """A refusal that is no more than that; what it was about stays, for those who know another way."""

    def __init__(self, message: str, exception: str, *, retryable: bool, retry_after: float = 0.0) -> None:
        super().__init__(message, retryable=retryable, retry_after_seconds=retry_after)
        self.is_standby = exception == "StandbyException"
        self.is_unknown_operation = exception in _UNKNOWN


def refusal(status: int, body: bytes, headers: Mapping[str, str], where: str) -> UnderStoreError:
    """The error for an answer that is not 2xx; `where` names the file in the sentence."""
    exception = _exception(body)
    wait_seconds = retry_after_seconds(headers)
    kind = _KIND_BY_EXCEPTION.get(exception) if exception else _KIND_BY_STATUS.get(status)
    if kind is None:
        is_retryable = exception in _PASSING or status >= 500 or status == 408
        detail = f"HTTP {status}{f' {exception}' if exception else ''}"
        return Refused(f"{where} failed: {detail}.", exception, retryable=is_retryable, retry_after=wait_seconds)
    return kind(_SENTENCES[kind].format(where=where), retry_after_seconds=wait_seconds)


_SENTENCES: Final[dict[type[UnderStoreError], str]] = {
    AccessDenied: "{where} was refused: the user or delegation token is missing, wrong or lacks the right.",
    AlreadyExists: "{where} meets a file or directory in its place.",
    InvalidKey: "{where} is not a path that HDFS can hold.",
    NoSpace: "{where} cannot be written: a quota of HDFS is used up.",
    NotEmpty: "the directory {where} is not empty.",
    NotFound: "there is no file {where}.",
    Throttled: "{where} failed: HDFS asks to slow down.",
}


def _exception(body: bytes) -> str:
    """The Java class of a RemoteException without its package, "" when the body has none."""
    try:
        remote = json.loads(body)["RemoteException"]
        name = str(remote["exception"])
    except (ValueError, TypeError, KeyError):
        return ""
    name = name.rpartition("$")[2].rpartition(".")[2]
    return name if name.isascii() and name.isidentifier() and len(name) <= 64 else ""
