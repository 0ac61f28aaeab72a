"""The single-writer loop: events in, decisions out, everything else at its edges.

Owns the order of things and the only reference to the engine. One turn: take what came in, apply it, perform
what that decided, then decide as many binds as the binder has room for. Invariants: nobody else touches the
engine; the loop never waits for the API server; a replica that does not lead applies events and does nothing
else, so that it takes over warm.
"""

import asyncio
import gc
import time
from collections.abc import Sequence

import structlog

from kube.lease import LeaderElector
from scheduler.core.decisions import Bind, Decision, Preempt
from scheduler.core.engine import Engine
from scheduler.core.events import BindConfirmed, BindFailed, Event
from scheduler.shell import metrics
from scheduler.shell.binder import Binder
from scheduler.shell.evictor import Evictor
from scheduler.shell.figures import Figures
from scheduler.shell.publish import Publisher
from scheduler.shell.volume_binder import VolumeBinder
from scheduler.shell.watches import Watches

_log = structlog.get_logger(__name__)
HEALTHY_TURN_SECONDS = 60.0
# Gauges are for scrapes, not for every turn.
MEASURE_SECONDS = 1.0
STOP_SECONDS = 10.0


class Loop:
    """See the module's docstring. `run` once."""

    def __init__(self, engine: Engine, profile: str) -> None:
        """`profile`: the main one, for figures that are not kept apart."""
        self._engine = engine
        self._inbox: list[Event] = []
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._turned_at = time.monotonic()
        self.is_leading = False
        self.is_ready = False
        self._measured_at = 0.0
        self._figures = Figures(engine.state, profile)

    # ---- edges ------------------------------------------------------------------------------

    def deliver(self, events: Sequence[Event]) -> None:
        """Take events; returns at once. An empty batch only wakes the loop."""
        self._inbox.extend(events)
        self._wake.set()

    def report_bind(self, bind: Bind, event: Event) -> None:
        """Take a bind's result."""
        self._inbox.append(event)
        self._wake.set()
        if isinstance(event, BindConfirmed):
            metrics.SCHEDULE_ATTEMPTS.labels("scheduled", bind.profile).inc()
            self._publisher.bound(bind)
        elif isinstance(event, BindFailed):
            metrics.SCHEDULE_ATTEMPTS.labels("error", bind.profile).inc()
            _log.info("bind_not_done", pod=f"{bind.namespace}/{bind.name}", node=bind.node, cause=event.cause)

    def may_bind(self, uid: str) -> bool:
        """Asked just before a bind is sent."""
        return self.is_leading and self._engine.may_bind(uid)

    @property
    def is_healthy(self) -> bool:
        """Whether the loop turned lately."""
        return time.monotonic() - self._turned_at < HEALTHY_TURN_SECONDS

    def stop(self) -> None:
        """Decide nothing more, finish what is in flight, then let `run` return."""
        self._stopping.set()
        self._wake.set()

    # ---- the loop ---------------------------------------------------------------------------

    async def run(
        self,
        watches: Watches,
        binder: Binder,
        publisher: Publisher,
        evictor: Evictor,
        volume_binder: VolumeBinder,
        *,
        elector: LeaderElector | None,
    ) -> None:
        """Run until `stop`; binds and evictions in flight get STOP_SECONDS to finish."""
        self._binder, self._publisher, self._watches, self._evictor = binder, publisher, watches, evictor
        self._volume_binder = volume_binder
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(watches.run()),
                tasks.create_task(binder.run()),
                tasks.create_task(publisher.run()),
                tasks.create_task(evictor.run()),
            ]
            leading = tasks.create_task(self._lead(elector))
            while not self._stopping.is_set():
                await self._turn()
            await self._finish()
            leading.cancel()
            await asyncio.wait({leading})
            for task in background:
                task.cancel()

    async def _turn(self) -> None:
        self._turned_at = now = time.monotonic()
        self._wake.clear()
        events, self._inbox = self._inbox, []
        may_decide = self.is_leading and self._watches.is_synced
        self._perform(self._engine.handle(events, now, is_leading=may_decide))
        if may_decide and not self.is_ready:
            _log.info("scheduling", nodes=self._engine.state.table.count, pods=len(self._engine.state.pods))
            # What is there now mostly stays: looking through it again and again took a twelfth of the process' time.
            gc.freeze()
        self.is_ready = self.is_ready or self._watches.is_synced
        if may_decide and (room := self._binder.free):
            started = time.perf_counter()
            decisions = self._engine.decide(now, room)
            if decisions:
                metrics.ALGORITHM_SECONDS.observe(time.perf_counter() - started)
            self._figures.tries()
            self._perform(decisions)
        if now - self._measured_at > MEASURE_SECONDS:
            self._measured_at = now
            self._figures.measure()
        if may_decide and self._binder.free and self._engine.has_work:
            await asyncio.sleep(0)
            return
        await self._wait(now)

    async def _wait(self, now: float) -> None:
        due = self._engine.next_due() - now if self.is_leading else MEASURE_SECONDS
        try:
            async with asyncio.timeout(min(max(due, 0.001), MEASURE_SECONDS)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _perform(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Bind):
                self._count(decision)
                if decision.volumes is not None:
                    self._volume_binder.submit(decision, decision.volumes)
                else:
                    self._binder.submit(decision)
            elif isinstance(decision, Preempt):
                self._evictor.submit(decision)
            else:
                self._publisher.submit(decision)

    async def _finish(self) -> None:
        """Stop deciding and let the calls in flight end."""
        _log.info("stopping")
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._volume_binder.stop()
                await self._binder.join()
                await self._evictor.join()
                await self._publisher.join()
        except TimeoutError:
            _log.warning("stopped_before_all_was_written")

    async def _lead(self, elector: LeaderElector | None) -> None:
        if elector is None:
            self._set_leading(True)
            await asyncio.Event().wait()
            return
        try:
            while True:
                async with elector.lead() as lost:
                    self._set_leading(True)
                    await lost.wait()
                self._set_leading(False)
        finally:
            self._set_leading(False)

    def _set_leading(self, is_leading: bool) -> None:
        self.is_leading = is_leading
        metrics.LEADER.set(int(is_leading))
        self._wake.set()

    # ---- figures ----------------------------------------------------------------------------

    def _count(self, bind: Bind) -> None:
        metrics.POD_SLI_SECONDS.labels(str(bind.tries) if bind.tries < 15 else "15+").observe(bind.waited_seconds)
        metrics.POD_TRIES.observe(bind.tries)
        if bind.local_bytes or bind.peer_bytes or bind.origin_bytes:
            metrics.STAGE_IN_SECONDS.observe(bind.stage_in_seconds)
            metrics.DATA_BYTES.labels("local").inc(bind.local_bytes)
            metrics.DATA_BYTES.labels("peers").inc(bind.peer_bytes)
            metrics.DATA_BYTES.labels("origin").inc(bind.origin_bytes)
