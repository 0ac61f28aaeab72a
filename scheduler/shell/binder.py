"""Binds in flight: a bounded number of Binding calls, their results handed back as events.

Owns the calls and their order. Does not decide, and holds no room (the core does). Invariants: just before
a bind is sent the core is asked whether it is still right; every bind given ends in exactly one
BindConfirmed or BindFailed; a bind carries the pod's uid, so a late one cannot hit another pod.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from api import names
from kube.bind import BindResult, bind_pod
from kube.client import KubeClient
from kube.errors import KubeError
from scheduler.core.decisions import Bind
from scheduler.core.events import BindConfirmed, BindFailed, Event
from scheduler.shell import metrics

_log = structlog.get_logger(__name__)
CAUSES = {
    BindResult.BOUND_ELSEWHERE: "the pod was bound to another node meanwhile",
    BindResult.POD_GONE: "the pod is gone",
    BindResult.REFUSED: "the API server refused the bind (the pod is gated or being deleted)",
}
NOT_ANY_MORE = "its node went, the room there was taken meanwhile, or this replica leads no more"


class Binder:
    """Performs Bind decisions."""

    def __init__(
        self,
        client: KubeClient,
        in_flight: int,
        *,
        may_bind: Callable[[str], bool],
        before_bind: Callable[[str], Awaitable[None] | None],
        report: Callable[[Bind, Event], None],
    ) -> None:
        """`before_bind(uid)` may return something to wait for; `report` must not block."""
        self._client = client
        self._in_flight = in_flight
        self._may_bind = may_bind
        self._before_bind = before_bind
        self._report = report
        self._queue: asyncio.Queue[Bind] = asyncio.Queue()
        self._unfinished = 0

    @property
    def free(self) -> int:
        """How many more binds to decide now: enough to keep the calls going, no more."""
        return max(0, 2 * self._in_flight - self._unfinished)

    @property
    def is_saturated(self) -> bool:
        """Whether binds wait for a free call: then everything else should wait for them."""
        return self._unfinished > self._in_flight

    async def join(self) -> None:
        """Wait until nothing waits and nothing is in flight."""
        await self._queue.join()

    def submit(self, bind: Bind) -> None:
        """Take a bind; returns at once."""
        self._unfinished += 1
        self._queue.put_nowait(bind)

    async def run(self) -> None:
        """Bind until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._in_flight):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            bind = await self._queue.get()
            event: Event = BindFailed(bind.uid, bind.node, "the scheduler stopped")
            try:
                event = await self._bind(bind)
            finally:
                self._unfinished -= 1
                self._queue.task_done()
                self._report(bind, event)

    async def _bind(self, bind: Bind) -> Event:
        waiting = self._before_bind(bind.uid)
        if waiting is not None:
            await waiting
        if not self._may_bind(bind.uid):
            return BindFailed(bind.uid, bind.node, NOT_ANY_MORE)
        started = time.monotonic()
        status = "Success"
        try:
            result = await bind_pod(
                self._client,
                bind.namespace,
                bind.name,
                bind.uid,
                bind.node,
                annotations={names.DECISION_ANNOTATION: bind.annotation},
            )
        except KubeError as error:
            status = "Error"
            _log.warning("bind_failed", pod=f"{bind.namespace}/{bind.name}", node=bind.node, error=str(error))
            return BindFailed(bind.uid, bind.node, str(error), is_error=True)
        finally:
            metrics.BINDING_SECONDS.labels("Bind", status, bind.profile).observe(time.monotonic() - started)
        if result is BindResult.BOUND:
            return BindConfirmed(bind.uid, bind.node)
        return BindFailed(bind.uid, bind.node, CAUSES[result], is_error=result is BindResult.REFUSED)
