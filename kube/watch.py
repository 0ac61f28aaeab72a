"""List, then watch, without end: the one way Headrace follows a kind of object.

Owns positions (resourceVersions), reconnecting and relisting. Does not keep objects
(kube/store.py does) and runs no callbacks. Invariants: batches come in the server's order;
nothing after the last yielded batch is skipped: a watch resumes from the last
resourceVersion seen, and when that is too old a new Listed says everything that is.
Changes may repeat after a reconnect; the store drops repeats.

    no position ──list──► Listed ──► watching ──chunk──► Changes …
         ▲                              │ ended, silent for 70 s, connection error
         │ 410 Gone                     ▼ jittered backoff, resume from the position
         └──────────────────────────────┘

The API server sends a bookmark about once a minute on an idle watch, so a longer silence
means the connection is dead, whatever TCP believes.
"""

import asyncio
import enum
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from kube import metrics
from kube.client import KubeClient, selector_params
from kube.decoding import LineSplitter, decode_or_report
from kube.errors import Gone, Invalid, KubeError, Status, Unavailable, error_from_event
from kube.identity import JsonObject, identity_of
from kube.resources import Resource
from kube.retries import backoff_seconds

T = TypeVar("T")
_log = structlog.get_logger(__name__)

SILENCE_SECONDS = 70.0
# A big list (100,000 pods in pages) may take long; a page of it may not.
LIST_PAGE_SECONDS = 60.0
LIST_PAGE_OBJECTS = 2000
# The server ends a watch after this; spread, so that all clients do not come back at once.
WATCH_MIN_SECONDS, WATCH_MAX_SECONDS = 300, 600
RECONNECT_FIRST_SECONDS, RECONNECT_MAX_SECONDS = 0.2, 30.0
# A watch that lived this long counts as a success: the next failure starts the backoff anew.
HEALTHY_SECONDS = 5.0


class ChangeKind(enum.StrEnum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Change(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One change; for DELETED `object` is its last state."""

    kind: ChangeKind
    object: T


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """Everything that is, as of `resource_version`; what it leaves out is gone."""

    objects: list[T]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Changes(Generic[T]):
    """Changes in order: all that one read of the socket brought, never empty."""

    events: list[Change[T]]


WatchBatch = Listed[T] | Changes[T]


class _Event(msgspec.Struct, Generic[T], tag_field="type", gc=False):
    object: T


class _Added(_Event[T], Generic[T], tag="ADDED", gc=False):
    pass


class _Modified(_Event[T], Generic[T], tag="MODIFIED", gc=False):
    pass


class _Deleted(_Event[T], Generic[T], tag="DELETED", gc=False):
    pass


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _BookmarkObject(msgspec.Struct):
    metadata: _BookmarkMeta = msgspec.field(default_factory=_BookmarkMeta)


class _Bookmark(msgspec.Struct, tag_field="type", tag="BOOKMARK"):
    object: _BookmarkObject


class _Error(msgspec.Struct, tag_field="type", tag="ERROR"):
    object: Status


_KINDS: dict[type[Any], ChangeKind] = {
    _Added: ChangeKind.ADDED,
    _Modified: ChangeKind.MODIFIED,
    _Deleted: ChangeKind.DELETED,
}


@lru_cache(maxsize=64)
def _event_decoder(decode: Any) -> msgspec.json.Decoder[Any]:
    union = _Added[decode] | _Modified[decode] | _Deleted[decode] | _Bookmark | _Error
    return msgspec.json.Decoder(union)


class WatchDecoder(Generic[T]):
    """Turns the chunks of a watch's body into changes, keeping the position. No I/O.

    `resource_version` is the position after everything fed so far.
    """

    def __init__(self, decode: Any, plural: str, resource_version: str) -> None:
        """`decode` is a struct, or dict[str, Any] for plain dicts."""
        self.resource_version = resource_version
        self._decode = decode
        self._decoder = _event_decoder(decode)
        self._plural = plural
        self._lines = LineSplitter()

    def feed(self, chunk: bytes) -> tuple[list[Change[T]], KubeError | None]:
        """Changes completed by `chunk`, and the error the server reported after them, if any.

        Raises Unavailable when the stream is no watch stream.
        """
        try:
            block = self._lines.feed(chunk)
        except ValueError as error:
            raise Unavailable(0, "BadStream", f"watch of {self._plural}: {error}") from error
        if not block:
            return [], None
        try:
            events = self._decoder.decode_lines(block)
        except msgspec.DecodeError:
            events = self._decode_one_by_one(block)
        return self._changes(events)

    def _changes(self, events: list[Any]) -> tuple[list[Change[T]], KubeError | None]:
        changes: list[Change[T]] = []
        position = self.resource_version
        error: KubeError | None = None
        for event in events:
            kind = _KINDS.get(type(event))
            if kind is not None:
                changes.append(Change(kind, event.object))
                position = ""
            elif isinstance(event, _Bookmark):
                position = event.object.metadata.resource_version or position
            else:
                error = error_from_event(event.object)
                break
        if changes and not position:
            position = identity_of(changes[-1].object).resource_version
        self.resource_version = position or self.resource_version
        return changes, error

    def _decode_one_by_one(self, block: bytes) -> list[Any]:
        raw_decoder = _event_decoder(msgspec.Raw)
        events: list[Any] = []
        for line in block.splitlines():
            if not line:
                continue
            try:
                event = raw_decoder.decode(line)
            except msgspec.DecodeError as error:
                raise Unavailable(0, "BadStream", f"watch of {self._plural}: {error}") from error
            if type(event) in _KINDS:
                raw = event.object
                event.object = decode_or_report(raw, self._decode, self._plural)
                if event.object is None:
                    # The position moves on past the object that is left out.
                    events.append(_Bookmark(msgspec.json.decode(raw, type=_BookmarkObject)))
                    continue
            events.append(event)
        return events


async def list_watch(
    client: KubeClient,
    resource: Resource,
    decode: type[T],
    *,
    namespace: str | None = None,
    label_selector: str | None = None,
    field_selector: str | None = None,
    silence_seconds: float = SILENCE_SECONDS,
    jitter: Random,
) -> AsyncIterator[WatchBatch[T]]:
    """Yield Listed, then Changes for ever; Listed again whenever the position was lost.

    `decode` is a struct of kube/objects.py, or dict for plain dicts. Errors are logged, counted
    and survived by backing off, also Forbidden and NotFound, since RBAC or a CRD may come later;
    only Invalid (a malformed selector) is raised. Wrap it in `contextlib.aclosing` when leaving early.
    """
    selectors = selector_params(label_selector, field_selector)
    watched: Any = JsonObject if decode is dict else decode
    version: str | None = None
    failures = 0
    while True:
        opened_at = time.monotonic()
        try:
            if version is None:
                listed: Any = await client.list(
                    resource,
                    namespace,
                    label_selector=label_selector,
                    field_selector=field_selector,
                    decode=watched,
                    limit=LIST_PAGE_OBJECTS,
                    timeout_seconds=LIST_PAGE_SECONDS,
                )
                version = listed.resource_version
                yield Listed(listed.items, listed.resource_version)
                opened_at = time.monotonic()
            decoder: WatchDecoder[T] = WatchDecoder(watched, resource.plural, version)
            cause = "ended"
            params = selectors | _watch_params(version, jitter)
            async with client.stream(resource.path(namespace), params=params) as stream:
                while True:
                    chunk = await stream.read(silence_seconds)
                    if chunk is None:
                        cause = "silence"
                        break
                    if not chunk:
                        break
                    changes, error = decoder.feed(chunk)
                    version = decoder.resource_version
                    if changes:
                        yield Changes(changes)
                    if error is not None:
                        raise error
            failures = 0 if time.monotonic() - opened_at >= HEALTHY_SECONDS else failures + 1
            metrics.WATCH_RESTARTS.labels(resource.plural, cause).inc()
            if failures <= 1:
                continue
            delay = _backoff(failures, jitter)
        except Gone as error:
            # The position is older than the server's memory: read everything again.
            version = None
            failures += 1
            metrics.WATCH_RESTARTS.labels(resource.plural, "gone").inc()
            _log.info("watch_relists", resource=resource.plural, cause=error.message)
            if failures <= 1:
                continue
            delay = _backoff(failures, jitter)
        except Invalid:
            raise
        except KubeError as error:
            if time.monotonic() - opened_at >= HEALTHY_SECONDS:
                failures = 0
            failures += 1
            delay = max(_backoff(failures, jitter), error.retry_after_seconds or 0.0)
            metrics.WATCH_RESTARTS.labels(resource.plural, "error").inc()
            _log.warning(
                "watch_interrupted",
                resource=resource.plural,
                failures=failures,
                retry_in_seconds=round(delay, 3),
                error=str(error),
            )
        await asyncio.sleep(delay)


def _watch_params(version: str, jitter: Random) -> dict[str, str]:
    return {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(jitter.randint(WATCH_MIN_SECONDS, WATCH_MAX_SECONDS)),
    }


def _backoff(failures: int, jitter: Random) -> float:
    return backoff_seconds(failures, jitter, first_seconds=RECONNECT_FIRST_SECONDS, max_seconds=RECONNECT_MAX_SECONDS)
