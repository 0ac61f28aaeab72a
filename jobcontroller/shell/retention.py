"""Has checkpoints removed that `checkpoint.keep` no longer keeps.

Owns the calls and the memory of the last one that failed. Decides nothing (core/retention.py). Invariant: a removal is
harmless when repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from api.training_v1alpha1 import CheckpointSpec, TrainingJob
from jobcontroller.core import reasons
from jobcontroller.core.actions import Action, RemoveCheckpoint
from jobcontroller.core.observed import Problem
from jobcontroller.errors import MetadataUnavailable, RemovalFailed
from jobcontroller.shell import metrics
from jobcontroller.shell.caches import Key

_log = structlog.get_logger(__name__)

#: a worker that was away may be back, a directory's stray files gone
RETRY_SECONDS = 15.0
_KIND = RemoveCheckpoint.__name__


class Remover(Protocol):
    """What is asked of the checkpoint client."""

    async def remove(self, namespace: str, spec: CheckpointSpec, path: str, first: str) -> None:
        """Remove a share of a checkpoint. Raises MetadataUnavailable and RemovalFailed."""
        ...


class Retention:
    """One for the whole process; `remover` None = no metadata service, then nothing is ever asked for."""

    def __init__(self, remover: Remover | None, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._remover = remover
        self._wall_clock = wall_clock
        self._problems: dict[Key, Problem] = {}

    def problem(self, key: Key) -> Problem | None:
        """Return why the job's last removal failed; None = it did not."""
        return self._problems.get(key)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._problems.pop(key, None)

    async def perform(self, key: Key, job: TrainingJob, actions: Sequence[Action]) -> bool:
        """Remove what the plan says; whether anything was to be removed."""
        spec = job.spec.checkpoint
        removals = [action for action in actions if isinstance(action, RemoveCheckpoint)]
        if not removals or spec is None or self._remover is None:
            return False
        self._problems.pop(key, None)
        for action in removals:
            try:
                await self._remover.remove(job.metadata.namespace, spec, action.path, action.first or spec.marker)
            except (MetadataUnavailable, RemovalFailed) as error:
                metrics.ACTIONS.labels(_KIND, "failed").inc()
                _log.warning("checkpoint_not_removed", namespace=key[0], job=key[1], error=str(error))
                retry_at = self._wall_clock() + RETRY_SECONDS
                self._problems[key] = Problem(reasons.CHECKPOINT_NOT_REMOVED, str(error), False, retry_at)
                break
            metrics.ACTIONS.labels(_KIND, "done").inc()
        return True
