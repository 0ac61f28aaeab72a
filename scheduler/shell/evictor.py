"""Evictions for pods of higher priority, in kube-scheduler's form.

Owns the calls: first the victim's condition DisruptionTarget (reason PreemptionByScheduler), then its deletion with
its own grace period, then the event `Preempted` on it (preemption/executor.go of kube-scheduler 1.36). Does not
choose victims. Invariants: both calls name the victim's uid, so another pod of its name is never hit; the last
victim is evicted only after all others were; every Preempt given ends in exactly one PreemptionEnded.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from kube.client import KubeClient, PatchKind
from kube.errors import Conflict, KubeError, NotFound
from kube.events import EventRecorder
from kube.identity import ObjectRef
from kube.resources import PODS
from scheduler.core.decisions import Preempt, Victim
from scheduler.core.events import Event, PreemptionEnded
from scheduler.shell import metrics

_log = structlog.get_logger(__name__)


class Evictor:
    """Performs Preempt decisions."""

    def __init__(
        self,
        client: KubeClient,
        recorder: EventRecorder,
        in_flight: int,
        report: Callable[[Event], None],
    ) -> None:
        """`in_flight` bounds evictions at once; `report` takes PreemptionEnded and must not block."""
        self._client = client
        self._recorder = recorder
        self._in_flight = asyncio.Semaphore(in_flight)
        self._report = report
        self._queue: asyncio.Queue[Preempt] = asyncio.Queue()

    async def join(self) -> None:
        """Wait until nothing waits and nothing is in flight."""
        await self._queue.join()

    def submit(self, work: Preempt) -> None:
        """Take a preemption; returns at once."""
        self._queue.put_nowait(work)

    async def run(self) -> None:
        """Evict until cancelled; preemptions run side by side."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                work = await self._queue.get()
                metrics.PREEMPTION_VICTIMS.observe(work.count)
                tasks.create_task(self._preempt(work))

    async def _preempt(self, work: Preempt) -> None:
        did_all = False
        try:
            *others, last = work.victims
            did_all = await self._evict_all(work, others) and await self._evict(work, last)
        finally:
            self._queue.task_done()
            self._report(PreemptionEnded(work.unit, failed=not did_all))

    async def _evict_all(self, work: Preempt, victims: Sequence[Victim]) -> bool:
        return all(await asyncio.gather(*(self._evict(work, victim) for victim in victims)))

    async def _evict(self, work: Preempt, victim: Victim) -> bool:
        """Evict one victim; returns False when it could not be."""
        preemptor = f"{work.namespace}/{work.name}"
        pod = f"{victim.namespace}/{victim.name}"
        async with self._in_flight:
            try:
                await self._mark(work, victim)
                await self._client.delete(PODS, victim.name, victim.namespace, uid=victim.uid)
            except (NotFound, Conflict):
                metrics.EVICTIONS.labels("gone").inc()
                _log.info("victim_was_gone", pod=pod, preemptor=preemptor)
                return True
            except KubeError as error:
                metrics.EVICTIONS.labels("failed").inc()
                _log.warning("victim_not_evicted", pod=pod, preemptor=preemptor, error=str(error))
                return False
        metrics.EVICTIONS.labels("evicted").inc()
        _log.info("victim_evicted", pod=pod, node=victim.node, preemptor=preemptor)
        self._tell(work, victim)
        return True

    async def _mark(self, work: Preempt, victim: Victim) -> None:
        condition: dict[str, Any] = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": f"{work.profile}: preempting to accommodate a higher priority {_kind(work)}",
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if victim.generation:
            condition["observedGeneration"] = victim.generation
        body = {"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}
        await self._client.patch(
            PODS, victim.name, body, victim.namespace, kind=PatchKind.STRATEGIC, subresource="status"
        )

    def _tell(self, work: Preempt, victim: Victim) -> None:
        about = ObjectRef(kind=PODS.kind, namespace=victim.namespace, name=victim.name, uid=victim.uid)
        note = f"Preempted by {_kind(work)} {work.uid} on node {victim.node}"
        self._recorder.record(about, "Preempted", note, kind="Normal", action="Preempting", component=work.profile)


def _kind(work: Preempt) -> str:
    return "podgroup" if work.is_group else "pod"
