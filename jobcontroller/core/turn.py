"""One look at a job: what was observed, the status being written, and the actions gathered so far.

Owns how steps hand on their results. A step returns a finished Plan to end the turn, or None to go on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from api.training_v1alpha1 import PodPlacement, TrainingJob, TrainingJobStatus
from jobcontroller.core import checkpoints, elastic, goodput, roles
from jobcontroller.core.actions import Action, EmitEvent, Plan
from jobcontroller.core.observed import Observed, PodView
from jobcontroller.core.status import StatusDraft

MAX_PLACEMENTS = 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the core.

    `settle_seconds`: how long after a program's error the controller looks for a disruption that caused it;
    `force_after_seconds`: how long after its grace a pod's node may confirm its end (core/fencing.py)."""

    settle_seconds: float = 3.0
    force_after_seconds: float = 30.0


@dataclass(slots=True)
class Turn:
    """Working state of one `reconcile` call; never outlives it."""

    observed: Observed
    now: float
    policy: Policy
    draft: StatusDraft
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    outcome: str = ""

    @property
    def job(self) -> TrainingJob:
        """The job as read."""
        return self.observed.job

    @property
    def status(self) -> TrainingJobStatus:
        """The status as it will be written."""
        return self.draft.value

    @property
    def attempt(self) -> int:
        """The attempt that counts after this turn."""
        return self.draft.value.attempt

    def current_pods(self) -> list[PodView]:
        """Members of that attempt."""
        own = [pod for pod in self.observed.pods if pod.attempt == self.attempt]
        if self.status.elastic is None or self.status.started_attempt != self.attempt:
            return own
        members = frozenset(self.members())
        return [pod for pod in own if pod.key in members]

    def other_workers(self) -> list[PodView]:
        """Pods of that attempt that are no members: reserves, and those an elastic job goes on without."""
        if self.status.elastic is None or self.status.started_attempt != self.attempt:
            return []
        members = frozenset(self.members())
        return [pod for pod in self.observed.pods if pod.attempt == self.attempt and pod.key not in members]

    def other_pods(self) -> list[PodView]:
        """Pods of every other attempt."""
        return [pod for pod in self.observed.pods if pod.attempt != self.attempt]

    def members(self) -> list[tuple[str, int]]:
        """(role, index) of every pod the started attempt has."""
        return elastic.members(self.status)

    def act(self, actions: Iterable[Action]) -> None:
        """Add actions, performed in this order once the status is stored."""
        self.actions.extend(actions)

    def event(self, reason: str, note: str, kind: Literal["Normal", "Warning"] = "Normal") -> None:
        """Tell the user."""
        self.actions.append(EmitEvent(reason=reason, note=note, kind=kind))

    def wake_at(self, at: float | None) -> None:
        """Look again at that time at the latest."""
        if at is not None:
            self.wakes.append(max(0.0, at - self.now))

    def plan(self) -> Plan:
        """End the turn: fill in what every status shows."""
        pods = self.current_pods()
        status = self.draft.value
        status.replica_statuses = roles.statuses(self.job.spec, pods)
        placed = sorted((pod.name, pod.node) for pod in pods if pod.node)
        status.placement = [PodPlacement(pod=pod, node=node) for pod, node in placed[:MAX_PLACEMENTS]]
        seen = self.observed.checkpoints
        if seen is not None and not seen.error:
            status.checkpoints = checkpoints.statuses(seen.found)
        return Plan(
            status=self._changed_status(),
            actions=tuple(self.actions),
            wake_after_seconds=min(self.wakes, default=None),
            outcome=self.outcome,
        )

    def plan_of_finished(self) -> Plan:
        """End the turn of a finished job: only what steps wrote changes; its pods count as they did at the end."""
        seen = self.observed.checkpoints
        if seen is None:
            # A finished job's status is left alone.
            return Plan(None, actions=tuple(self.actions), wake_after_seconds=min(self.wakes, default=None))
        if not seen.error:
            self.draft.value.checkpoints = checkpoints.statuses(seen.found)
        status = self._changed_status()
        return Plan(status, actions=tuple(self.actions), wake_after_seconds=min(self.wakes, default=None))

    def _changed_status(self) -> TrainingJobStatus | None:
        built = self.draft.build()
        is_changed = self.job.status is None or built.to_wire() != self.job.status.to_wire()
        return built if is_changed else None

    def _first_pods(self, pods: list[PodView]) -> tuple[list[PodView], int]:
        """The pods the attempt began with, and how many it needs: one that joins while others train starts nothing."""
        state = self.status.elastic
        if state is None or self.status.created_attempt != self.status.started_attempt:
            return pods, sum(self.status.started_replicas.values())
        first = [pod for pod in pods if pod.role != elastic.ROLE or pod.index < state.replicas] or pods
        return first, len(first)

    def record_goodput(self, pods: list[PodView], began_at: float, *, until: float, ended: bool, failed: bool) -> None:
        """Write down the seconds of the attempt `pods` belong to."""
        pods, wanted = self._first_pods(pods)
        if not pods:
            return
        newest = None
        if failed:
            complete = [one for one in self.status.checkpoints if one.complete and one.completed_at]
            newest = max((checkpoints.completed_at(one) for one in complete), default=began_at)
        entry = goodput.measure(
            attempt=pods[0].attempt,
            began_at=began_at,
            pods=pods,
            wanted_pods=wanted,
            until=until,
            has_ended=ended,
            last_checkpoint_at=newest,
        )
        self.status.goodput = goodput.record(self.status.goodput, entry)
