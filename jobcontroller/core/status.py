"""The next status of a job, put together from what the steps say.

Owns the conditions' order and which of them exclude each other. Invariants: exactly one state (Queued,
Running, Restarting, Suspended, Succeeded, Failed) is true and the last condition of the list is it, except
that Queued may be true beside Restarting to tell what the new attempt waits for; Succeeded and Failed are
never left; a condition's transition time changes only with its status."""

from __future__ import annotations

from api.conditions import Condition, find_condition, set_condition, timestamp
from api.training_v1alpha1 import (
    CHECKPOINT_RETENTION,
    CREATED,
    DATA_READY,
    FAILED,
    PODS_SCHEDULED,
    QUEUED,
    RESTARTING,
    RUNNING,
    SUCCEEDED,
    SUSPENDED,
    TrainingJob,
    TrainingJobStatus,
)

_STATES = (QUEUED, RUNNING, RESTARTING, SUSPENDED, SUCCEEDED, FAILED)
_ORDER = (CREATED, DATA_READY, CHECKPOINT_RETENTION, PODS_SCHEDULED, *_STATES)
MAX_MESSAGE_CHARACTERS = 2048


def _own_copy(status: TrainingJobStatus) -> TrainingJobStatus:
    """A copy a decision may write to: steps replace what a field holds, but for the two that are copied here.

    A copy of everything to its leaves was a quarter of a decision's cost."""
    copied = status.model_copy()
    copied.started_replicas = dict(status.started_replicas)
    copied.elastic = status.elastic.model_copy() if status.elastic is not None else None
    return copied


class StatusDraft:
    """A status under construction; `build` returns it."""

    def __init__(self, job: TrainingJob, now: float) -> None:
        self.value = _own_copy(job.status) if job.status else TrainingJobStatus()
        self._now = now
        self._generation = job.metadata.generation
        current = self.value.conditions[-1].type if self.value.conditions else CREATED
        self._state = current if current in _STATES else CREATED

    def is_true(self, condition_type: str) -> bool:
        """Whether that condition is true now."""
        found = find_condition(self.value.conditions, condition_type)
        return found is not None and found.status == "True"

    def set(self, condition_type: str, is_true: bool, reason: str, message: str) -> None:
        """Set one condition that is no state."""
        condition = Condition(
            type=condition_type,
            status="True" if is_true else "False",
            reason=reason,
            message=message[:MAX_MESSAGE_CHARACTERS],
            observed_generation=self._generation,
        )
        self.value.conditions = set_condition(self.value.conditions, condition, self._now)

    def unplace(self, reason: str, message: str) -> None:
        """The pods that had nodes are none of the attempt that counts now."""
        if self.is_true(PODS_SCHEDULED):
            self.set(PODS_SCHEDULED, False, reason, message)

    def enter(self, state: str, reason: str, message: str) -> None:
        """Make `state` the job's one state."""
        if self._state in (SUCCEEDED, FAILED) and state != self._state:
            raise AssertionError(f"a job that is {self._state} was to become {state}: {reason}, {message}")
        for other in _STATES:
            if other != state and self.is_true(other):
                self.set(other, False, reason, f"the job is {state}")
        self.set(state, True, reason, message)
        self._state = state
        self.value.message = message[:MAX_MESSAGE_CHARACTERS]

    def wait(self, reason: str, message: str) -> None:
        """Say what the job waits for: Queued, and Restarting stays the state if it is."""
        if self._state == RESTARTING:
            self.set(QUEUED, True, reason, message)
            self.value.message = message[:MAX_MESSAGE_CHARACTERS]
        else:
            self.enter(QUEUED, reason, message)

    def finish(self, state: str, reason: str, message: str) -> None:
        """Enter Succeeded or Failed for good."""
        self.enter(state, reason, message)
        self.value.completion_time = timestamp(self._now)

    def build(self) -> TrainingJobStatus:
        """Return the status, conditions in their order and the state last."""

        def rank(condition: Condition) -> tuple[bool, int]:
            known = _ORDER.index(condition.type) if condition.type in _ORDER else len(_ORDER)
            return condition.type == self._state, known

        self.value.conditions = sorted(self.value.conditions, key=rank)
        self.value.observed_generation = self._generation
        return self.value
