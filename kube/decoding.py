"""Bytes of the API server to typed objects, at the speed of the C decoder.

Owns list pages, watch lines and the rule for objects that do not fit their type: they are
left out, logged and counted, so that one bad object cannot blind a controller. Does not
define the types (kube/objects.py).
"""

from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from kube import metrics

T = TypeVar("T")
_log = structlog.get_logger(__name__)

# etcd refuses values above 1.5 MiB and the API server requests above 3 MiB, so a longer line is no event.
MAX_LINE_BYTES = 32 * 1024 * 1024


class ListMeta(msgspec.Struct, rename="camel"):
    """Metadata of a list page."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class ListPage(msgspec.Struct, Generic[T]):
    """One page of a list; Go writes an empty one as null."""

    metadata: ListMeta
    items: list[T] | None = None


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


def decode_page(body: bytes, decode: Any, plural: str) -> ListPage[Any]:
    """Decode a list page into `decode`, leaving out items that do not fit it.

    Raises msgspec.DecodeError when the body is no list at all.
    """
    try:
        page: ListPage[Any] = _page_decoder(decode).decode(body)
    except msgspec.ValidationError:
        raw: ListPage[msgspec.Raw] = _page_decoder(msgspec.Raw).decode(body)
        fitting = [decode_or_report(item, decode, plural) for item in raw.items or ()]
        page = ListPage(raw.metadata, [item for item in fitting if item is not None])
    return page


def decode_or_report(raw: msgspec.Raw | bytes, decode: Any, plural: str) -> Any | None:
    """Decode one object, or log and count it and return None."""
    try:
        return _decoder(decode).decode(raw)
    except msgspec.ValidationError as error:
        try:
            metadata = _decoder(_Named).decode(raw).metadata
        except msgspec.DecodeError:
            metadata = _Meta()
        metrics.UNDECODABLE_OBJECTS.labels(plural).inc()
        _log.warning(
            "undecodable_object",
            resource=plural,
            namespace=metadata.namespace,
            name=metadata.name,
            resource_version=metadata.resource_version,
            error=str(error),
        )
        return None


class LineSplitter:
    """Joins chunks of a stream into whole lines; `feed` returns a block of complete lines or b""."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """Take the next chunk; returns all complete lines so far, newlines included.

        Raises ValueError when a line grows past the limit.
        """
        end = chunk.rfind(b"\n") + 1
        if end == 0:
            self._hold(chunk)
            return b""
        block = b"".join((*self._parts, chunk[:end])) if self._parts else chunk[:end]
        self._parts, self._held_bytes = [], 0
        if end < len(chunk):
            self._hold(chunk[end:])
        return block

    @property
    def held_bytes(self) -> int:
        """Bytes of the incomplete line at the end."""
        return self._held_bytes

    def _hold(self, part: bytes) -> None:
        if not part:
            return
        self._held_bytes += len(part)
        if self._held_bytes > self._max_line_bytes:
            raise ValueError(f"a line of the stream is longer than {self._max_line_bytes} bytes")
        self._parts.append(part)


@lru_cache(maxsize=64)
def _page_decoder(decode: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(ListPage[decode])


@lru_cache(maxsize=64)
def _decoder(decode: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(decode)
