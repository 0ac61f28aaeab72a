"""Times a job must keep: activeDeadlineSeconds, and the pause before a new attempt when attempts end at once.

Owns the arithmetic; returns verdicts, mutates nothing."""

from __future__ import annotations

from api.conditions import parse_timestamp
from api.training_v1alpha1 import RunPolicy, TrainingJobStatus

#: an attempt that trained for less than this brought nothing
FAST_ATTEMPT_SECONDS = 60.0
MAX_PAUSE_SECONDS = 60.0


def deadline_at(policy: RunPolicy, status: TrainingJobStatus) -> float | None:
    """Return when activeDeadlineSeconds is over, counted from the start or the last resume; None = never."""
    if policy.active_deadline_seconds is None or status.start_time is None:
        return None
    return parse_timestamp(status.start_time) + policy.active_deadline_seconds


def next_attempt_at(status: TrainingJobStatus) -> float:
    """Return when the current attempt may be started.

    At once after the first failure, then 1, 2, 4 … 60 s after attempts that ended soon: a job that cannot run
    must not keep the cluster busy."""
    if status.attempt_began_at is None:
        return 0.0
    fast = 0
    for past in reversed([entry for entry in status.goodput if entry.attempt < status.attempt]):
        if past.training + past.lost >= FAST_ATTEMPT_SECONDS:
            break
        fast += 1
    began_at = parse_timestamp(status.attempt_began_at)
    if fast <= 1:
        return began_at
    # The exponent is bounded: 64 attempts are remembered.
    return began_at + min(2.0 ** (fast - 2), MAX_PAUSE_SECONDS)
