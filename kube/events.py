"""Kubernetes events (events.k8s.io/v1), written off the caller's path.

Owns the queue of events to write and the series of repeats. Does not decide what is worth
an event. Invariants: `record` never blocks and never raises; the queue and the series
table are bounded, what does not fit is dropped and counted; the same event repeated within
6 minutes is one object whose `series.count` grows.

What matters more goes first: while `is_busy` says so, events wait, for PATIENCE_SECONDS at most and only as
long as the queue is not half full; while it is, RELIEF_SENDERS help, so that what comes in for minutes on end is
written and not dropped. A repeat is written with the next sweep (every few seconds), so a loop that
reports the same thing a thousand times a second costs one call a sweep.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal

import msgspec
import structlog

from kube import metrics
from kube.client import KubeClient
from kube.errors import KubeError, NotFound
from kube.identity import ObjectRef
from kube.resources import EVENTS

_log = structlog.get_logger(__name__)

EventKind = Literal["Normal", "Warning"]
# Validation limits of events.k8s.io/v1.
NOTE_MAX_BYTES = 1024
NAME_MAX_CHARACTERS = 128
# client-go ends a series after 6 minutes without a repeat.
SERIES_SECONDS = 360.0
MAX_SERIES = 4096
# Some 30 MB of them: what a burst of as many binds leaves to be told.
QUEUE_LIMIT = 50_000
# Events share the API server with binds; a few in flight keep up with thousands a second.
SENDERS = 8
# As many as would have a fair share beside the scheduler's binds.
RELIEF_SENDERS = 32
RELIEF_LOOK_SECONDS = 0.2
SWEEP_SECONDS = 5.0
# How late an event may be for the sake of what it tells about: a person hardly notices, and a burst of
# thousands of binds is over by then.
PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Record:
    regarding: ObjectRef
    reason: str
    note: str
    kind: EventKind
    action: str
    at: datetime
    component: str

    @property
    def key(self) -> tuple[str, ...]:
        ref = self.regarding
        about = (ref.kind, ref.namespace, ref.name, ref.uid)
        return (*about, self.kind, self.reason, self.action, self.note, self.component)


@dataclass(slots=True)
class _Series:
    record: _Record
    name: str
    count: int
    last_seen: float  # the recorder's monotonic clock
    last_at: datetime
    since: float = 0.0  # the recorder's clock, at the first report
    is_created: bool = False
    is_changed: bool = False


class EventRecorder:
    """Records events; `run` must run in a task for them to be written."""

    def __init__(
        self,
        client: KubeClient,
        component: str,
        instance: str,
        *,
        queue_limit: int = QUEUE_LIMIT,
        senders: int = SENDERS,
        sweep_seconds: float = SWEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`component` is the reporting controller (a qualified name), `instance` the replica; while `is_busy()`
        the API server is needed for something more urgent."""
        self._client = client
        self._component = component
        self._instance = instance[:NAME_MAX_CHARACTERS]
        self._senders = senders
        self._sweep_seconds = sweep_seconds
        self._clock = clock
        self._is_busy = is_busy
        self._half_full = max(1, queue_limit // 2)
        self._queue: asyncio.Queue[_Series] = asyncio.Queue(maxsize=queue_limit)
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        # Seeded by the system: two replicas may report on one object in the same microsecond.
        self._names = Random()
        self.dropped = 0

    def record(
        self,
        regarding: ObjectRef,
        reason: str,
        note: str,
        *,
        kind: EventKind = "Normal",
        action: str = "",
        component: str = "",
    ) -> None:
        """Take an event; returns at once. `action` defaults to the reason, `component` to the recorder's; notes are cut
        at 1024 bytes."""
        record = _Record(
            regarding,
            reason[:NAME_MAX_CHARACTERS],
            truncate_note(note),
            kind,
            (action or reason)[:NAME_MAX_CHARACTERS],
            datetime.now(UTC),
            component or self._component,
        )
        now = self._clock()
        known = self._series.get(record.key)
        if known is not None and now - known.last_seen <= SERIES_SECONDS:
            known.count += 1
            known.last_seen, known.last_at = now, record.at
            known.is_changed = True
            self._series.move_to_end(record.key)
            return
        series = _Series(record, self._event_name(record), 1, now, record.at, since=now)
        try:
            self._queue.put_nowait(series)
        except asyncio.QueueFull:
            self.dropped += 1
            metrics.EVENTS.labels("dropped").inc()
            return
        self._series[record.key] = series
        self._series.move_to_end(record.key)
        while len(self._series) > MAX_SERIES:
            self._series.popitem(last=False)

    async def run(self) -> None:
        """Write events until cancelled; what is queued then is lost (call `drain` before)."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._senders):
                tasks.create_task(self._send())
            tasks.create_task(self._relieve_for_ever())
            tasks.create_task(self._sweep_for_ever())

    async def drain(self, timeout_seconds: float) -> bool:
        """Wait until everything recorded so far was tried once; False when time ran out."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._queue.join()
                await self.sweep()
        except TimeoutError:
            return False
        return True

    async def sweep(self) -> None:
        """Write the counts of series that grew, and forget series that ended."""
        now = self._clock()
        for key, series in list(self._series.items()):
            if series.is_changed and series.is_created:
                series.is_changed = False
                await self._bump(series)
            if now - series.last_seen > SERIES_SECONDS and self._series.get(key) is series:
                del self._series[key]

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            await self.sweep()

    async def _send(self) -> None:
        while True:
            series = await self._queue.get()
            try:
                for _ in range(int(PATIENCE_SECONDS / LOOK_SECONDS)):
                    if not self._may_wait(series):
                        break
                    await asyncio.sleep(LOOK_SECONDS)
                await self._create(series)
            finally:
                self._queue.task_done()

    async def _relieve_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RELIEF_LOOK_SECONDS)
            if self._queue.qsize() >= self._half_full:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(RELIEF_SENDERS):
                        tasks.create_task(self._send_down_to_half())

    async def _send_down_to_half(self) -> None:
        while self._queue.qsize() >= self._half_full:
            series = self._queue.get_nowait()
            try:
                await self._create(series)
            finally:
                self._queue.task_done()

    def _may_wait(self, series: _Series) -> bool:
        is_late = self._clock() - series.since >= PATIENCE_SECONDS
        return not is_late and self._queue.qsize() < self._half_full and self._is_busy()

    async def _create(self, series: _Series) -> None:
        ref = series.record.regarding
        try:
            await self._client.create(EVENTS, self._body(series), ref.namespace or "default")
        except KubeError as error:
            # Forgotten, so that the next report of the same thing is written anew.
            if self._series.get(series.record.key) is series:
                del self._series[series.record.key]
            self._failed(series, error)
            return
        series.is_created = True
        metrics.EVENTS.labels("created").inc()

    async def _bump(self, series: _Series) -> None:
        namespace = series.record.regarding.namespace or "default"
        body = {"series": {"count": series.count, "lastObservedTime": micro_time(series.last_at)}}
        try:
            await self._client.patch(EVENTS, series.name, body, namespace)
        except NotFound:
            # The server forgets events after an hour; a series that still grows starts a new one.
            series.name = self._event_name(series.record)
            await self._create(series)
        except KubeError as error:
            self._failed(series, error)
        else:
            metrics.EVENTS.labels("repeated").inc()

    def _failed(self, series: _Series, error: KubeError) -> None:
        # An event is a courtesy: it must not hold up or stop its part.
        metrics.EVENTS.labels("failed").inc()
        _log.info("event_not_written", reason=series.record.reason, error=str(error))

    def _event_name(self, record: _Record) -> str:
        stem = record.regarding.name[:220].rstrip(".-")
        return f"{stem}.{self._names.getrandbits(64):016x}"

    def _body(self, series: _Series) -> dict[str, Any]:
        record = series.record
        body: dict[str, Any] = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": series.name, "namespace": record.regarding.namespace or "default"},
            "eventTime": micro_time(record.at),
            "reportingController": record.component,
            "reportingInstance": self._instance,
            "action": record.action,
            "reason": record.reason,
            "regarding": msgspec.to_builtins(record.regarding),
            "note": record.note,
            "type": record.kind,
        }
        if series.count > 1:
            body["series"] = {"count": series.count, "lastObservedTime": micro_time(series.last_at)}
            series.is_changed = False
        return body


def truncate_note(note: str) -> str:
    """Cut a note to the API's limit of bytes, at a character's border."""
    raw = note.encode("utf-8", "replace")
    if len(raw) <= NOTE_MAX_BYTES:
        return note
    return raw[: NOTE_MAX_BYTES - 3].decode("utf-8", "ignore") + "…"


def micro_time(at: datetime) -> str:
    """A datetime in UTC as Kubernetes' MicroTime."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
