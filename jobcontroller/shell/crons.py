"""One turn of a CronTrainingJob: read it and its jobs from the API server, decide, act, store the status.

Owns the order of these, and what a refusal means. Decides nothing (core/cron.py). Invariants: nothing is taken from a
cache, so a job that was just made is seen; every write is harmless when repeated (deterministic names, uid
preconditions); the status is stored with the object's resourceVersion as precondition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pydantic import ValidationError

from api import names
from api.conditions import parse_timestamp
from api.cron_v1alpha1 import CronTrainingJob
from api.training_v1alpha1 import FAILED, SUCCEEDED
from jobcontroller.core import reasons
from jobcontroller.core.cron import CreateRun, CronPlan, DeleteRun, Run, decide
from jobcontroller.core.observed import Problem
from jobcontroller.shell import metrics
from jobcontroller.shell.caches import Key
from kube.client import KubeClient
from kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from kube.events import EventRecorder
from kube.objects import ObjectRef
from kube.resources import CRON_TRAINING_JOBS, TRAINING_JOBS

_log = structlog.get_logger(__name__)

#: clocks are set anew, machines sleep: the schedule is looked at again this often
MAX_SLEEP_SECONDS = 600.0
RETRY_REFUSED_SECONDS = 10.0
CONFLICT_SECONDS = 0.1
FIELD_MANAGER = "headrace-jobcontroller"


class Crons:
    """One for the whole process; never two calls for one key at a time (kube/workqueue.py)."""

    def __init__(
        self, client: KubeClient, recorder: EventRecorder, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._wall_clock = wall_clock

    async def reconcile(self, key: Key) -> float | None:
        """Handle one CronTrainingJob; seconds until it wants to be looked at again.

        Raises KubeError for what the queue should try again."""
        namespace, name = key
        try:
            raw = await self._client.get(CRON_TRAINING_JOBS, name, namespace)
        except NotFound:
            return None
        try:
            one = CronTrainingJob.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            _log.error("cron_unreadable", namespace=namespace, cron=name, error=f"{where}: {first['msg']}")
            return MAX_SLEEP_SECONDS
        selector = f"{names.CRON_UID_LABEL}={one.metadata.uid}"
        listed = await self._client.list(TRAINING_JOBS, namespace, label_selector=selector)
        runs = [_run(body) for body in listed.items if _is_owned(body, one.metadata.uid)]
        plan = decide(one, runs, self._wall_clock())
        await asyncio.gather(*(self._delete(namespace, deletion) for deletion in plan.deletions))
        if plan.creation is not None:
            problem = await self._create(one, plan.creation)
            if problem is not None:
                plan = decide(one, runs, self._wall_clock(), problem)
        if not await self._store(one, raw, plan):
            return CONFLICT_SECONDS
        sleep = plan.wake_after_seconds
        return MAX_SLEEP_SECONDS if sleep is None else min(sleep, MAX_SLEEP_SECONDS)

    async def _delete(self, namespace: str, deletion: DeleteRun) -> None:
        try:
            await self._client.delete(
                TRAINING_JOBS,
                deletion.name,
                namespace,
                uid=deletion.uid,
                propagation="Foreground" if deletion.with_pods else "Background",
            )
        except (NotFound, Conflict):
            # It is gone, or another object has its name now.
            return
        metrics.ACTIONS.labels("DeleteRun", "done").inc()

    async def _create(self, one: CronTrainingJob, creation: CreateRun) -> Problem | None:
        namespace = one.metadata.namespace
        try:
            await self._client.create(TRAINING_JOBS, creation.body, namespace, field_manager=FIELD_MANAGER)
        except AlreadyExists:
            try:
                stored = await self._client.get(TRAINING_JOBS, creation.name, namespace)
            except NotFound:
                stored = {}
            if _is_owned(stored, one.metadata.uid):
                return None
            text = f"TrainingJob {creation.name} exists and is not this CronTrainingJob's; delete or rename it"
            return self._refused(text, is_permanent=False)
        except Invalid as error:
            text = f"TrainingJob {creation.name} was refused by the API server: {error.message}"
            return self._refused(text, is_permanent=True)
        except (Forbidden, NotFound) as error:
            text = f"TrainingJob {creation.name} was refused by the API server: {error.message}"
            return self._refused(text, is_permanent=False)
        metrics.ACTIONS.labels("CreateRun", "done").inc()
        return None

    def _refused(self, text: str, *, is_permanent: bool) -> Problem:
        metrics.ACTIONS.labels("CreateRun", "refused").inc()
        _log.warning("run_refused", message=text)
        return Problem(reasons.RUN_REFUSED, text, is_permanent, retry_at=self._wall_clock() + RETRY_REFUSED_SECONDS)

    async def _store(self, one: CronTrainingJob, raw: Mapping[str, Any], plan: CronPlan) -> bool:
        """Store the status, then tell; False = somebody else wrote the object meanwhile."""
        if plan.status is not None:
            body = {**raw, "status": plan.status.to_wire()}
            metadata = one.metadata
            try:
                await self._client.replace(
                    CRON_TRAINING_JOBS, metadata.name, body, metadata.namespace, subresource="status"
                )
            except (Conflict, NotFound):
                return False
        for event in plan.events:
            self._recorder.record(_reference(one), event.reason, event.note, kind=event.kind)
        return True


def _is_owned(body: Mapping[str, Any], uid: str) -> bool:
    owners = body.get("metadata", {}).get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def _run(body: Mapping[str, Any]) -> Run:
    metadata, status = body["metadata"], body.get("status") or {}
    conditions = status.get("conditions") or []
    ended = [one["type"] for one in conditions if one["type"] in (SUCCEEDED, FAILED) and one["status"] == "True"]
    finished = status.get("completionTime")
    return Run(
        name=metadata["name"],
        uid=metadata["uid"],
        created_at=parse_timestamp(metadata["creationTimestamp"]),
        state=ended[0] if ended else "",
        finished_at=parse_timestamp(finished) if finished else None,
        is_being_deleted="deletionTimestamp" in metadata,
    )


def _reference(one: CronTrainingJob) -> ObjectRef:
    return ObjectRef(
        api_version=CRON_TRAINING_JOBS.api_version,
        kind=CRON_TRAINING_JOBS.kind,
        namespace=one.metadata.namespace,
        name=one.metadata.name,
        uid=one.metadata.uid,
    )
