"""One turn of a job: observe it, decide, store the status, act.

Owns the order of these and what an error of each means for the job's next turn. Invariant: nothing is acted on
unless the status the decision rests on was stored, with the job's resourceVersion as precondition; so a second
leader's decision, or a stale one, does nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from api.conditions import parse_timestamp
from api.training_v1alpha1 import RUNNING, TrainingJob, TrainingJobStatus, is_finished
from jobcontroller.core.actions import CreatePod, Plan
from jobcontroller.core.observed import PodView, Problem
from jobcontroller.core.reconcile import reconcile
from jobcontroller.core.turn import Policy
from jobcontroller.errors import StatusConflict
from jobcontroller.shell import metrics
from jobcontroller.shell.caches import Key
from jobcontroller.shell.executor import Executor
from jobcontroller.shell.fences import Fences
from jobcontroller.shell.observe import Observer, Seen, Unreadable
from jobcontroller.shell.retention import Retention
from kube.client import KubeClient
from kube.errors import Conflict, KubeError, NotFound
from kube.identity import JsonObject
from kube.resources import TRAINING_JOBS

_log = structlog.get_logger(__name__)

#: a job somebody else just wrote is read again after this
CONFLICT_SECONDS = 0.1
#: turns a job gets at once, after the first, while each changes its status; then others have theirs
MAX_MORE_TURNS = 3


class Controller:
    """Reconciles one key at a call; never two calls for one key at a time (kube/workqueue.py)."""

    def __init__(
        self,
        client: KubeClient,
        observer: Observer,
        executor: Executor,
        retention: Retention,
        fences: Fences,
        *,
        policy: Policy,
        resync_seconds: float,
        checkpoint_seconds: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._observer = observer
        self._executor = executor
        self._retention = retention
        self._fences = fences
        self._policy = policy
        self._resync_seconds = resync_seconds
        self._checkpoint_seconds = checkpoint_seconds
        self._wall_clock = wall_clock
        self._problems: dict[Key, Problem] = {}
        self._written: dict[Key, str] = {}  # the resourceVersion of our last write

    async def reconcile(self, key: Key) -> float | None:
        """Handle one job; seconds until it wants to be looked at again, None = when something happens.

        Raises KubeError for what the queue should try again."""
        with metrics.RECONCILE_SECONDS.time():
            try:
                again_seconds = await self._handle(key)
            except StatusConflict:
                metrics.RECONCILES.labels("conflict").inc()
                return CONFLICT_SECONDS
            except KubeError:
                metrics.RECONCILES.labels("retry").inc()
                raise
        metrics.RECONCILES.labels("done").inc()
        return again_seconds

    def has_written(self, key: Key, resource_version: str) -> bool:
        """Whether that version of the job is our own last write: after each of them it is looked at anyway."""
        return self._written.get(key) == resource_version

    async def _handle(self, key: Key) -> float | None:
        again_seconds, stored = await self._turn(key, None)
        for _ in range(MAX_MORE_TURNS):
            if stored is None or again_seconds != 0.0:
                break
            # What the API server answered is as fresh as what it would be asked for now.
            again_seconds, stored = await self._turn(key, stored)
        return again_seconds

    async def _turn(self, key: Key, raw: JsonObject | None) -> tuple[float | None, JsonObject | None]:
        """Observe, decide, store and act once; seconds until the next look, and the job if its status was stored."""
        seen = await self._observer.observe(
            key, self._problems.get(key), self._retention.problem(key), self._fences.problem(key), raw
        )
        if seen is None:
            self._retention.forget(key)
            self._fences.forget(key)
            self._problems.pop(key, None)
            self._written.pop(key, None)
            return None, None
        if isinstance(seen, Unreadable):
            _log.error("job_unreadable", namespace=key[0], job=key[1], error=seen.message)
            return self._resync_seconds, None
        job, stored = seen.observed.job, None
        plan = reconcile(seen.observed, self._wall_clock(), self._policy)
        if plan.status is not None:
            stored = await self._store_status(seen, plan.status)
            self._written[key] = stored["metadata"]["resourceVersion"]
            self._tell(key, job, seen.observed.pods, plan)
        actions = await self._fences.perform(key, job, plan.actions)
        problem = await self._executor.perform(job, actions)
        if await self._retention.perform(key, job, plan.actions):
            self._observer.forget_checkpoints(key)
        self._remember(key, problem, plan)
        again_seconds = self._next_look_seconds(key, job, plan, problem)
        return again_seconds, stored if problem is None else None

    async def _store_status(self, seen: Seen, status: TrainingJobStatus) -> JsonObject:
        body: dict[str, Any] = {**_without_status(seen.raw), "status": status.to_wire()}
        metadata = seen.observed.job.metadata
        try:
            return await self._client.replace(
                TRAINING_JOBS, metadata.name, body, metadata.namespace, subresource="status"
            )
        except (Conflict, NotFound) as error:
            raise StatusConflict(f"TrainingJob {metadata.namespace}/{metadata.name}: {error}") from error

    def _remember(self, key: Key, problem: Problem | None, plan: Plan) -> None:
        if problem is not None:
            self._problems[key] = problem
        elif any(isinstance(action, CreatePod) for action in plan.actions) or is_finished(plan.status):
            # What was refused before went through, or is not asked for any more.
            self._problems.pop(key, None)

    def _next_look_seconds(self, key: Key, job: TrainingJob, plan: Plan, problem: Problem | None) -> float | None:
        if plan.status is not None or problem is not None:
            return 0.0
        looks = [plan.wake_after_seconds]
        fence = self._fences.problem(key)
        if fence is not None:
            looks.append(max(0.0, fence.retry_at - self._wall_clock()))
        if not is_finished(job.status):
            has_checkpoints = job.spec.checkpoint is not None and job.spec.checkpoint.dataset is not None
            looks.append(self._checkpoint_seconds if has_checkpoints else self._resync_seconds)
        return min((seconds for seconds in looks if seconds is not None), default=None)

    def _tell(self, key: Key, job: TrainingJob, pods: Sequence[PodView], plan: Plan) -> None:
        status = plan.status
        if status is None:
            return
        if plan.outcome:
            metrics.OUTCOMES.labels(plan.outcome).inc()
            _log.info(
                "job_changed",
                namespace=key[0],
                job=key[1],
                outcome=plan.outcome,
                attempt=status.attempt,
                message=status.message,
            )
        was_running = job.status is not None and _is_running(job.status)
        if status.attempt == 0 and _is_running(status) and not was_running and job.metadata.creation_timestamp:
            created_at = parse_timestamp(job.metadata.creation_timestamp)
            now = self._wall_clock()
            first = min((pod.started_at for pod in pods if pod.started_at is not None), default=now)
            metrics.FIRST_POD_SECONDS.observe(max(0.0, first - created_at))
            metrics.ALL_PODS_SECONDS.observe(max(0.0, now - created_at))


def _is_running(status: TrainingJobStatus) -> bool:
    return any(condition.type == RUNNING and condition.status == "True" for condition in status.conditions)


def _without_status(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name != "status"}
