"""Suspending and resuming.

Owns the two verdicts. A suspended job has no pods and no PodGroup; its attempt number stays. Resuming makes
the next attempt (if the job had ever started one), which costs no restart budget. Kueue relies on this."""

from __future__ import annotations

from api.conditions import find_condition
from api.training_v1alpha1 import SUSPENDED, TrainingJob, TrainingJobStatus


def wants_suspension(job: TrainingJob) -> bool:
    """Whether the user (or a queue) holds the job back."""
    return job.spec.run_policy.suspend


def is_suspended(status: TrainingJobStatus) -> bool:
    """Whether the job was held back when its status was last written."""
    condition = find_condition(status.conditions, SUSPENDED)
    return condition is not None and condition.status == "True"


def attempt_after_resume(status: TrainingJobStatus) -> int:
    """Return the attempt to go on with: the same one if its pods were never created."""
    was_started = status.started_attempt is not None and status.started_attempt >= status.attempt
    return status.attempt + 1 if was_started else status.attempt
