"""The queues and every job that claims something of one, kept by watches; asked by the observer.

Owns the copies, and what was just granted: a job that was told it may run counts as admitted from that moment, before
its status says so, so that two jobs decided at once are never given the same GPUs. Decides nothing (core/queueing.py).
Invariants: one event loop, and no await between a decision and its grant; a grant ends when the job's stored status
holds it, asks for nothing any more, or the job is gone. A job that was told to give its GPUs back counts as leaving
from then on, for the same reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import structlog
from pydantic import ValidationError

from api.training_v1alpha1 import QueueSpec, QueueStatus, TrainingJob
from jobcontroller.core import quota, reasons
from jobcontroller.core.observed import Admission
from jobcontroller.core.queueing import Admissions, Claim, Hold, JobKey, Quota, decide
from jobcontroller.core.reclaiming import Reclaim, Reclaims, reclaim
from jobcontroller.shell.directories import Directories
from kube.client import KubeClient
from kube.errors import KubeError, NotFound
from kube.objects import Object, ObjectMeta
from kube.resources import QUEUES, TRAINING_JOBS
from kube.store import Store
from kube.watch import Change, ChangeKind, list_watch

_log = structlog.get_logger(__name__)

#: counts in a Queue's status are for people: not written more often than this
REPORT_SECONDS = 1.0
#: what a job is told that was read before its watch reported it so
NOT_SEEN = Hold(reasons.WAITING_FOR_QUOTA, "the job was not counted for its queue yet")


class Watched(Object, frozen=True):
    """A Queue or TrainingJob whose fields are read by its model."""

    metadata: ObjectMeta = ObjectMeta()
    spec: dict[str, Any] = {}  # noqa: RUF012  (msgspec copies an empty default for each struct)
    status: dict[str, Any] = {}  # noqa: RUF012


class Queues:
    """Fed by `run`; `touched` is called with the key of each job that was told to wait and should ask again."""

    def __init__(
        self,
        client: KubeClient,
        touched: Callable[[JobKey], None],
        jitter: Random,
        directories: Directories,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._directories = directories
        self._client = client
        self._touched = touched
        self._jitter = jitter
        self._quotas: dict[str, Quota] = {}
        self._claims: dict[JobKey, Claim] = {}
        self._granted: dict[JobKey, Claim] = {}
        self._leaving: dict[JobKey, tuple[Claim, Reclaim]] = {}  # told to give back, and not yet seen to
        self._wall_clock = wall_clock
        self._told: dict[JobKey, str] = {}  # jobs that were told to wait, and the reason; "" = not counted yet
        self._decision: tuple[Admissions, Reclaims] | None = None
        self._is_noted = False
        self._reported: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Event()
        self._synced = (asyncio.Event(), asyncio.Event())

    async def run(self) -> None:
        """Watch and report until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_queues())
            tasks.create_task(self._follow_jobs())
            tasks.create_task(self._report_changes())

    async def wait_synced(self) -> None:
        """Return when queues and jobs were listed once."""
        for synced in self._synced:
            await synced.wait()

    def admission(self, job: TrainingJob) -> Admission | None:
        """Return whether the job may run, and take what it needs if so; None = it asks nothing of a queue."""
        claim = quota.claim_of(job)
        if claim is None:
            return None
        if claim.is_admitted:
            return self._held(claim)
        granted = self._granted.get(claim.key)
        if granted is None:
            # Only what the watch reported is counted: a job deleted since it was read would hold GPUs for ever.
            is_known = self._claims.get(claim.key) == claim
            hold = self._hold(claim.key) if is_known else NOT_SEEN
            if hold is not None:
                self._told[claim.key] = hold.reason if is_known else ""
                return Admission(claim.queue, claim.gpus, hold)
            granted = self._granted[claim.key] = replace(claim, is_admitted=True)
        self._told.pop(claim.key, None)
        return Admission(granted.queue, granted.gpus)

    def _held(self, claim: Claim) -> Admission:
        """What an admitted job is told: to go on, or to give back."""
        if claim.is_leaving:
            return Admission(claim.queue, claim.gpus)
        # It may be told again: its status could not be stored the first time.
        _, found = self._leaving.get(claim.key, (claim, self._decide()[1].victims.get(claim.key)))
        if found is not None:
            self._leaving[claim.key] = replace(claim, is_leaving=True), found
        return Admission(claim.queue, claim.gpus, reclaim=found)

    def _hold(self, key: JobKey) -> Hold | None:
        admissions, reclaims = self._decide()
        return reclaims.waiting.get(key) or admissions.held.get(key)

    def _decide(self) -> tuple[Admissions, Reclaims]:
        if self._decision is None:
            leaving = {key: claim for key, (claim, _) in self._leaving.items()}
            claims = {**self._claims, **self._granted, **leaving}.values()
            admissions = decide(self._quotas.values(), claims)
            self._decision = admissions, reclaim(self._quotas.values(), claims, admissions, self._wall_clock())
        return self._decision

    def _note(self) -> None:
        """Something changed: decide anew, once for all that came together."""
        self._decision = None
        if not self._is_noted:
            self._is_noted = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._is_noted = False
        self._changed.set()
        if not all(synced.is_set() for synced in self._synced):
            return
        for key, reason in self._told.items():
            hold = self._hold(key)
            if key in self._claims and (hold is None or hold.reason != reason):
                self._touched(key)
        for key in self._decide()[1].victims:
            self._touched(key)

    # ---- watches -------------------------------------------------------------------------------

    async def _follow_queues(self) -> None:
        store: Store[Watched] = Store()
        async for batch in list_watch(self._client, QUEUES, Watched, jitter=self._jitter):
            for change in store.apply(batch):
                self._queue_changed(change)
            self._synced[0].set()
            self._note()

    def _queue_changed(self, change: Change[Watched]) -> None:
        name = change.object.metadata.name
        if change.kind is ChangeKind.DELETED:
            self._quotas.pop(name, None)
            self._reported.pop(name, None)
            return
        try:
            spec = QueueSpec.model_validate(change.object.spec)
        except ValidationError as error:
            _log.error("queue_unreadable", queue=name, error=str(error.errors()[0]["msg"]))
            return
        self._quotas[name] = Quota(
            name, spec.nominal_gpus, spec.borrowing_limit, spec.weight, spec.priority, spec.take_back
        )
        self._reported[name] = change.object.status

    async def _follow_jobs(self) -> None:
        store: Store[Watched] = Store()
        async for batch in list_watch(self._client, TRAINING_JOBS, Watched, jitter=self._jitter):
            for change in store.apply(batch):
                self._job_changed(change)
            self._synced[1].set()

    def _job_changed(self, change: Change[Watched]) -> None:
        metadata = change.object.metadata
        key = (metadata.namespace, metadata.name)
        is_gone = change.kind is ChangeKind.DELETED
        self._directories.job_changed(key, {} if is_gone else change.object.spec, change.object.status)
        claim = None if is_gone else _claim_of(change.object)
        if claim is None or claim.is_admitted:
            self._granted.pop(key, None)
        if claim is None or not claim.is_admitted or claim.is_leaving:
            self._leaving.pop(key, None)
        if claim is None:
            self._told.pop(key, None)
        if claim == self._claims.get(key):
            if claim is not None:
                self._claims[key] = claim  # what does not count for equality
            return
        if claim is None:
            del self._claims[key]
        else:
            self._claims[key] = claim
        self._note()

    # ---- counts --------------------------------------------------------------------------------

    async def _report_changes(self) -> None:
        await self.wait_synced()
        while True:
            await self._changed.wait()
            self._changed.clear()
            for name, use in list(self._decide()[0].uses.items()):
                status = QueueStatus(
                    usedGPUs=use.used_gpus,
                    borrowedGPUs=use.borrowed_gpus,
                    admitted_jobs=use.admitted_jobs,
                    waiting_jobs=use.waiting_jobs,
                ).to_wire()
                if self._reported.get(name) != status:
                    await self._report(name, status)
            await asyncio.sleep(REPORT_SECONDS)

    async def _report(self, name: str, status: dict[str, Any]) -> None:
        try:
            await self._client.patch(QUEUES, name, {"status": status}, subresource="status")
            self._reported[name] = status
        except NotFound:
            return
        except KubeError as error:
            _log.warning("queue_status_not_written", queue=name, error=str(error))
            self._changed.set()


def _claim_of(seen: Watched) -> Claim | None:
    policy = (seen.spec.get("runPolicy") or {}).get("schedulingPolicy") or {}
    if not policy.get("queue") and not seen.status.get("admittedQueue"):
        return None
    metadata = {
        "name": seen.metadata.name,
        "namespace": seen.metadata.namespace,
        "creationTimestamp": seen.metadata.creation_timestamp,
        "deletionTimestamp": seen.metadata.deletion_timestamp,
    }
    try:
        return quota.claim_of(
            TrainingJob.model_validate({"metadata": metadata, "spec": seen.spec, "status": seen.status or None})
        )
    except ValidationError:
        # shell/observe.py says so when the job's turn comes.
        return None
