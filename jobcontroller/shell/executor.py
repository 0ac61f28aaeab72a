"""Performs a plan's actions, but for removals of checkpoints (shell/retention.py).

Owns the writes and what their refusals mean. Decides nothing about the job. Invariants: every write is
harmless when repeated (deterministic names, uid preconditions); an object of our name that is not ours is
never touched; at most `creations` creations are in flight; a refusal ends the plan's creations, as the other
pods would be refused alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from api import names
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core import reasons
from jobcontroller.core.actions import (
    Action,
    AnnotatePod,
    ApplyConfigMap,
    ApplyDataLoad,
    ApplyPodGroup,
    ApplyService,
    ApplySshKeys,
    CreatePod,
    DeleteJob,
    DeletePod,
    DeletePodGroup,
    EmitEvent,
    RequestListing,
)
from jobcontroller.core.observed import Problem
from jobcontroller.shell import metrics, ssh_keys
from jobcontroller.shell.caches import Caches
from kube.client import KubeClient
from kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, KubeError, NotFound
from kube.events import EventRecorder
from kube.objects import ObjectRef
from kube.resources import (
    CONFIG_MAPS,
    DATA_LOADS,
    DATASETS,
    POD_GROUPS,
    PODS,
    SECRETS,
    SERVICES,
    TRAINING_JOBS,
    Resource,
)

T = TypeVar("T")

_log = structlog.get_logger(__name__)

#: a quota or an admission webhook may let the pods in later
RETRY_REFUSED_SECONDS = 10.0
#: Kubernetes' default, when the pod's own grace is not known here
DEFAULT_GRACE_SECONDS = 30.0
FIELD_MANAGER = "headrace-jobcontroller"


class Executor:
    """One for the whole process. `wall_clock` is seconds since 1970."""

    def __init__(
        self,
        client: KubeClient,
        caches: Caches,
        recorder: EventRecorder,
        *,
        creations: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._creations = asyncio.Semaphore(creations)
        self._wall_clock = wall_clock

    async def perform(self, job: TrainingJob, actions: Sequence[Action]) -> Problem | None:
        """Perform all actions; returns the first refusal. Raises KubeError for what is worth a retry."""
        for action in actions:
            if isinstance(action, EmitEvent):
                self._recorder.record(_reference(job), action.reason, action.note, kind=action.kind)
        await self._all(self._change(job, action) for action in actions if not _is_creation(action))
        found = await self._all(self._prepare(job, action) for action in actions if not isinstance(action, CreatePod))
        problems = [problem for problem in found if problem is not None]
        if problems:
            return min(problems, key=lambda problem: not problem.is_permanent)
        return await self._create_pods(job, [action for action in actions if isinstance(action, CreatePod)])

    async def _prepare(self, job: TrainingJob, action: Action) -> Problem | None:
        """Create what has to be there before the pods are."""
        match action:
            case ApplyService():
                return await self._create(job, SERVICES, action.name, action.body)
            case ApplyPodGroup():
                return await self._create(job, POD_GROUPS, action.name, action.body)
            case ApplyConfigMap():
                return await self._create_own(job, CONFIG_MAPS, action.name, action.body)
            case ApplySshKeys():
                body = {**action.body, "stringData": ssh_keys.new_files()}
                return await self._create_own(job, SECRETS, action.name, body)
            case ApplyDataLoad():
                # It only saves time: a refusal is logged and counted, and holds nothing up.
                await self._create_own(job, DATA_LOADS, action.name, action.body)
                return None
            case _:
                return None

    async def _create_pods(self, job: TrainingJob, pods: Sequence[CreatePod]) -> Problem | None:
        refused: list[Problem] = []

        async def create(action: CreatePod) -> None:
            async with self._creations:
                if not refused:
                    problem = await self._create(job, PODS, action.name, action.body)
                    if problem is not None:
                        refused.append(problem)

        await self._all(create(action) for action in pods)
        return min(refused, key=lambda problem: not problem.is_permanent, default=None)

    async def _all(self, writes: Iterable[Awaitable[T]]) -> list[T]:
        """Wait for all writes, then raise the first error: one failed write must not cut off the others."""
        results = await asyncio.gather(*writes, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]

    async def _change(self, job: TrainingJob, action: Action) -> None:
        match action:
            case DeletePod():
                await self._delete_pod(job, action)
            case AnnotatePod():
                body = {"metadata": {"uid": action.uid, "annotations": dict(action.annotations)}}
                change = self._client.patch(PODS, action.name, body, job.metadata.namespace)
                await self._tolerating_absence(action, change)
            case RequestListing():
                body = {"metadata": {"annotations": {names.DATASET_SYNC_ANNOTATION: action.since}}}
                change = self._client.patch(DATASETS, action.dataset, body, job.metadata.namespace)
                await self._tolerating_absence(action, change)
            case DeletePodGroup():
                write = self._client.delete(POD_GROUPS, action.name, job.metadata.namespace)
                if await self._tolerating_absence(action, write):
                    self._caches.deleted_group(job.metadata.uid, action.name)
            case DeleteJob():
                write = self._client.delete(
                    TRAINING_JOBS,
                    job.metadata.name,
                    job.metadata.namespace,
                    uid=action.uid,
                    propagation="Background",
                )
                await self._tolerating_absence(action, write)
            case _:
                return

    async def _delete_pod(self, job: TrainingJob, action: DeletePod) -> None:
        write = self._client.delete(
            PODS,
            action.name,
            job.metadata.namespace,
            uid=action.uid,
            grace_period_seconds=action.grace_seconds,
        )
        if await self._tolerating_absence(action, write):
            grace = DEFAULT_GRACE_SECONDS if action.grace_seconds is None else action.grace_seconds
            self._caches.deleted_pod(action.uid, self._wall_clock() + grace)

    async def _tolerating_absence(self, action: Action, write: Awaitable[object]) -> bool:
        """Await a deletion or a change; what is gone, or another object of that name, is none of our business."""
        kind = type(action).__name__
        try:
            await write
        except (NotFound, Conflict):
            metrics.ACTIONS.labels(kind, "done").inc()
            return True
        except KubeError:
            metrics.ACTIONS.labels(kind, "failed").inc()
            raise
        metrics.ACTIONS.labels(kind, "done").inc()
        return True

    async def _create(self, job: TrainingJob, resource: Resource, name: str, body: Any) -> Problem | None:
        namespace = job.metadata.namespace

        async def create() -> Problem | None:
            try:
                stored = await self._client.create(resource, body, namespace, field_manager=FIELD_MANAGER)
            except AlreadyExists:
                stored = await self._client.get(resource, name, namespace)
                if _owner_uid(stored) != job.metadata.uid:
                    return self._refused(resource, reasons.NAME_TAKEN, _taken_text(resource, name, stored), False)
            self._show(job.metadata.uid, resource, name, stored)
            return None

        return await self._judged(resource, name, create())

    async def _create_own(self, job: TrainingJob, resource: Resource, name: str, body: Any) -> Problem | None:
        """Create an object whose name has the job's uid in it: one that is there is the job's, and is not read."""

        async def create() -> None:
            with suppress(AlreadyExists):
                await self._client.create(resource, body, job.metadata.namespace, field_manager=FIELD_MANAGER)

        return await self._judged(resource, name, create())

    async def _judged(self, resource: Resource, name: str, creation: Awaitable[Problem | None]) -> Problem | None:
        """Await a creation; what the API server's refusal of it means."""
        try:
            problem = await creation
        except Invalid as error:
            text = f"{resource.kind} {name} was refused by the API server: {error.message}"
            return self._refused(resource, reasons.INVALID_SPEC, text, True)
        except Forbidden as error:
            text = f"{resource.kind} {name} was refused by the API server: {error.message}"
            return self._refused(resource, reasons.PODS_REFUSED, text, False)
        except NotFound:
            # The namespace, or the object that was in the way, is just going: the next look will see.
            return None
        except KubeError:
            metrics.ACTIONS.labels(f"Create{resource.kind}", "failed").inc()
            raise
        if problem is None:
            metrics.ACTIONS.labels(f"Create{resource.kind}", "done").inc()
        return problem

    def _show(self, job_uid: str, resource: Resource, name: str, stored: dict[str, Any]) -> None:
        if resource is PODS:
            self._caches.created_pod(job_uid, stored)
        elif resource is POD_GROUPS:
            self._caches.created_group(job_uid, name)
        else:
            self._caches.created_service(job_uid, name)

    def _refused(self, resource: Resource, reason: str, text: str, is_permanent: bool) -> Problem:
        metrics.ACTIONS.labels(f"Create{resource.kind}", "refused").inc()
        _log.warning("creation_refused", kind=resource.kind, reason=reason, message=text)
        return Problem(reason, text, is_permanent, retry_at=self._wall_clock() + RETRY_REFUSED_SECONDS)


_CREATIONS = CreatePod | ApplyPodGroup | ApplyService | ApplyConfigMap | ApplyDataLoad | ApplySshKeys | EmitEvent


def _is_creation(action: Action) -> bool:
    return isinstance(action, _CREATIONS)


def _owner_uid(stored: dict[str, Any]) -> str:
    owners = stored.get("metadata", {}).get("ownerReferences") or []
    return next((str(owner.get("uid", "")) for owner in owners if owner.get("controller")), "")


def _taken_text(resource: Resource, name: str, stored: dict[str, Any]) -> str:
    owners = stored.get("metadata", {}).get("ownerReferences") or []
    whose = f"it belongs to {owners[0].get('kind')} {owners[0].get('name')}" if owners else "it has no owner"
    return f"{resource.kind} {name} exists and is not this job's ({whose}); delete it, or give the job another name"


def _reference(job: TrainingJob) -> ObjectRef:
    return ObjectRef(
        api_version=TRAINING_JOBS.api_version,
        kind=TRAINING_JOBS.kind,
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
    )
