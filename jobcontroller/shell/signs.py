"""Reads the signs of life a job's `hangDetection` asks for: the last lines of logs, the time of the progress file.

Owns the requests, their number and the memory of the last reading. Decides nothing (core/hang.py says when). Of a large
job the first pods are asked, one after another, until one of them spoke lately."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog

from api.conditions import parse_timestamp
from api.training_v1alpha1 import CheckpointSpec, HangDetection, TrainingJob
from jobcontroller.core import elastic, hang
from jobcontroller.core.observed import PodView, Sign, Signs
from jobcontroller.errors import MetadataUnavailable
from jobcontroller.shell import metrics
from jobcontroller.shell.caches import Key
from kube.client import KubeClient
from kube.errors import KubeError
from kube.resources import PODS

_log = structlog.get_logger(__name__)

#: pods whose log is asked for in one reading
MAX_PODS = 16
LOG_SECONDS = 10.0
#: enough for the time before a line, however long the line
LOG_BYTES = 4096


class Files(Protocol):
    """What is asked of the metadata service's client."""

    async def changed_at(self, namespace: str, spec: CheckpointSpec, path: str) -> float | None:
        """When a file below the checkpoint directory was changed; None = there is none. Raises MetadataUnavailable."""
        ...


class SignReader:
    """One for the whole process; `files` None = no metadata service."""

    def __init__(self, client: KubeClient, files: Files | None, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._files = files
        self._wall_clock = wall_clock
        self._known: dict[Key, tuple[int, Signs]] = {}  # attempt, reading

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._known.pop(key, None)

    async def of(self, key: Key, job: TrainingJob, pods: Sequence[PodView]) -> Signs | None:
        """Return the newest reading of the running attempt, made now if one is due; None = none was ever due."""
        policy, attempt = job.spec.run_policy.hang_detection, job.status.attempt if job.status else 0
        if policy is None:
            return None
        known = self._known.get(key)
        signs = known[1] if known is not None and known[0] == attempt else None
        running = [pod for pod in pods if pod.attempt == attempt]
        if job.status is not None and job.status.elastic is not None:
            # Those that look for room, and those that are leaving, do not run: they say nothing of the others.
            members = frozenset(elastic.members(job.status))
            running = [pod for pod in running if pod.key in members]
        if hang.needs_reading(job, running, signs, self._wall_clock()):
            signs = await self._read(job, policy, running)
            self._known[key] = (attempt, signs)
        return signs

    async def _read(self, job: TrainingJob, policy: HangDetection, pods: Sequence[PodView]) -> Signs:
        # The time before the requests: what happens during them counts for the next reading.
        read_at, found = self._wall_clock(), []
        try:
            if "Log" in policy.signals:
                found.append(await self._last_line(job, policy, pods, read_at))
            if "ProgressFile" in policy.signals:
                found.append(await self._progress_file(job, policy))
        except (KubeError, MetadataUnavailable) as error:
            metrics.SIGNS.labels("failed").inc()
            _log.warning(
                "signs_not_read", namespace=job.metadata.namespace, job=job.metadata.name, error=str(error)[:300]
            )
            return Signs(read_at, error=str(error))
        metrics.SIGNS.labels("read").inc()
        return Signs(read_at, tuple(found))

    async def _last_line(self, job: TrainingJob, policy: HangDetection, pods: Sequence[PodView], now: float) -> Sign:
        newest, failure, answers = Sign("Log"), None, 0
        for pod in sorted((one for one in pods if one.is_running), key=lambda one: (one.index, one.role))[:MAX_PODS]:
            try:
                at = await self._last_line_at(job, pod)
            except KubeError as error:
                failure = error
                continue
            answers += 1
            if at is not None and (newest.at is None or at > newest.at):
                newest = Sign("Log", at, f"pod {pod.name}")
            if newest.at is not None and newest.at > now - policy.timeout_seconds / 2:
                return newest
        if failure is not None:
            # One that did not answer may have spoken.
            raise failure
        return newest

    async def _last_line_at(self, job: TrainingJob, pod: PodView) -> float | None:
        params = {"tailLines": "1", "timestamps": "true", "limitBytes": str(LOG_BYTES)}
        container = _first_container(job, pod.role)
        if container:
            params["container"] = container
        path = PODS.path(job.metadata.namespace, pod.name, "log")
        answer = await self._client.request("GET", path, params=params, timeout_seconds=LOG_SECONDS)
        word = answer.decode(errors="replace").split(" ", 1)[0]
        try:
            return parse_timestamp(word) if word else None
        except ValueError:
            return None

    async def _progress_file(self, job: TrainingJob, policy: HangDetection) -> Sign:
        spec = job.spec.checkpoint
        if self._files is None or spec is None or policy.progress_file is None:
            raise MetadataUnavailable("no metadata service is configured; start the controller with --metadata")
        at = await self._files.changed_at(job.metadata.namespace, spec, policy.progress_file)
        return Sign("ProgressFile", at, policy.progress_file)


def _first_container(job: TrainingJob, role: str) -> str:
    replica = job.spec.replica_specs.get(role)
    containers: Any = (replica.template.get("spec") or {}).get("containers") if replica is not None else None
    return str(containers[0].get("name", "")) if containers else ""
