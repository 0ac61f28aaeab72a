"""Gathers what is known of one job.

Owns the reads: the job fresh from the API server (its resourceVersion is the precondition of the next write),
pods and the rest from the caches, checkpoints from the metadata service. Decides nothing. Invariant: a pod is
called missing only when the API server itself says so, as caches may lag behind another replica's writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import ValidationError

from api.training_v1alpha1 import CheckpointSpec, TrainingJob, TrainingJobStatus, is_finished
from jobcontroller.core import attempts, checkpoints, elastic, retention
from jobcontroller.core.framework import Framework
from jobcontroller.core.observed import Checkpoints, Observed, PodView, Problem
from jobcontroller.errors import MetadataUnavailable
from jobcontroller.shell.caches import Caches, Key
from jobcontroller.shell.checkpoint_client import CheckpointClient
from jobcontroller.shell.directories import Directories
from jobcontroller.shell.pod_view import owner_uid, view_of
from jobcontroller.shell.queues import Queues
from jobcontroller.shell.signs import SignReader
from kube.client import KubeClient
from kube.errors import NotFound
from kube.objects import Pod
from kube.resources import PODS, TRAINING_JOBS


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A job whose fields do not fit the model: an older or newer CRD is installed."""

    raw: Mapping[str, Any]
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed, and the job's wire form for writing the status back."""

    raw: Mapping[str, Any]
    observed: Observed


class Observer:
    """One for the whole process; `clock` is monotonic seconds, `wall_clock` seconds since 1970."""

    def __init__(
        self,
        client: KubeClient,
        caches: Caches,
        queues: Queues,
        frameworks: Mapping[str, Framework],
        checkpoints: CheckpointClient | None,
        *,
        signs: SignReader,
        directories: Directories,
        checkpoint_seconds: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._caches = caches
        self._queues = queues
        self._directories = directories
        self._frameworks = frameworks
        self._checkpoints = checkpoints
        self._signs = signs
        self._checkpoint_seconds = checkpoint_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: dict[Key, tuple[float, Checkpoints]] = {}
        self._asked_at_end: set[Key] = set()  # finished jobs whose last checkpoints were looked at

    def forget_checkpoints(self, key: Key) -> None:
        """The next look asks anew: some were just removed."""
        self._known.pop(key, None)

    async def observe(
        self,
        key: Key,
        problem: Problem | None,
        removal_problem: Problem | None = None,
        fence_problem: Problem | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> Seen | Unreadable | None:
        """Return what is known of the job; None when there is no such job. Raises KubeError.

        `raw` is the job as the API server just answered a write of it; None = it is to be read."""
        namespace, name = key
        try:
            raw = raw if raw is not None else await self._client.get(TRAINING_JOBS, name, namespace)
        except NotFound:
            self._known.pop(key, None)
            self._asked_at_end.discard(key)
            self._signs.forget(key)
            return None
        try:
            job = TrainingJob.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return Unreadable(raw, f"{where}: {first['msg']}")
        pods = self._caches.pods_of(job.metadata.uid)
        await self._look_for_missing(job, pods)
        observed = Observed(
            job=job,
            framework=self._frameworks.get(job.spec.framework),
            supported_frameworks=tuple(sorted(self._frameworks)),
            pods=tuple(pods.values()),
            gone_pods=self._caches.gone_pods_of(job.metadata.uid),
            lost_pods=self._caches.lost_pods_of(job.metadata.uid),
            groups=self._caches.groups_of(job.metadata.uid),
            has_service=self._caches.has_service(job.metadata.uid),
            datasets=self._datasets(job, key),
            checkpoints=await self._checkpoints_of(job, key, pods),
            notices=self._caches.notices,
            bytes_per_second=self._caches.bytes_per_second(),
            problem=problem,
            checkpoint_sharers=self._directories.others(job),
            removal_problem=removal_problem,
            fence_problem=fence_problem,
            signs=await self._signs.of(key, job, tuple(pods.values())),
            admission=self._queues.admission(job),
        )
        return Seen(raw, observed)

    def _datasets(self, job: TrainingJob, key: Key) -> dict[str, Any]:
        views = (self._caches.dataset(job.metadata.namespace, one.name, key) for one in job.spec.datasets)
        return {view.name: view for view in views if view is not None}

    async def _look_for_missing(self, job: TrainingJob, pods: dict[str, PodView]) -> None:
        status = job.status
        if status is None or status.created_attempt != status.attempt or is_finished(status):
            return
        wanted = elastic.members(status)
        if status.elastic is not None and status.elastic.reserves_created:
            wanted += [(elastic.ROLE, index) for index in elastic.reserves(status)]
        for role, index in wanted:
            name = attempts.pod_name(job.metadata.name, role, index, status.attempt)
            if name not in pods:
                await self._look_for(job, name, pods)

    async def _look_for(self, job: TrainingJob, name: str, pods: dict[str, PodView]) -> None:
        try:
            pod = msgspec.convert(await self._client.get(PODS, name, job.metadata.namespace), Pod)
        except NotFound:
            return
        view = view_of(pod)
        if view is not None and owner_uid(pod) == job.metadata.uid:
            pods[name] = view

    async def _checkpoints_of(self, job: TrainingJob, key: Key, pods: Mapping[str, PodView]) -> Checkpoints | None:
        spec, status = job.spec.checkpoint, job.status
        if spec is None or spec.dataset is None or status is None or status.started_attempt is None:
            return None
        if is_finished(status):
            return await self._last_checkpoints_of(job, spec, status, key)
        if self._checkpoints is None:
            return Checkpoints(error="no metadata service is configured; start the controller with --metadata")
        is_about_to_start = _is_about_to_start(status, pods)
        known = self._known.get(key)
        if known is not None and not is_about_to_start and self._clock() - known[0] < self._checkpoint_seconds:
            return known[1]
        answer = await _ask(self._checkpoints, job, spec)
        self._known[key] = (self._clock(), answer)
        return answer

    async def _last_checkpoints_of(
        self, job: TrainingJob, spec: CheckpointSpec, status: TrainingJobStatus, key: Key
    ) -> Checkpoints | None:
        """Return what a finished job left, until that was looked at once and nothing of it is being removed."""
        is_looked_at = key in self._asked_at_end and not status.retiring_checkpoints
        if self._checkpoints is None or is_looked_at:
            return None
        if not retention.concerns(job, status) and not checkpoints.is_last_look_due(status, self._wall_clock()):
            return None
        answer = await _ask(self._checkpoints, job, spec)
        if not answer.error:
            self._asked_at_end.add(key)
        return answer


async def _ask(client: CheckpointClient, job: TrainingJob, spec: CheckpointSpec) -> Checkpoints:
    try:
        return Checkpoints(found=await client.newest_first(job.metadata.namespace, spec))
    except MetadataUnavailable as error:
        return Checkpoints(error=str(error))


def _is_about_to_start(status: TrainingJobStatus, pods: Mapping[str, PodView]) -> bool:
    """Whether the next step chooses a checkpoint: that choice must not rest on an old answer."""
    return status.started_attempt != status.attempt and all(pod.attempt == status.attempt for pod in pods.values())
