"""Pods as the API server has them → the core's views.

Owns that one translation, and nothing else."""

from __future__ import annotations

from typing import Any

from api import names
from api.conditions import parse_timestamp
from jobcontroller.core.hang import parse_heartbeat
from jobcontroller.core.observed import ContainerEnd, PodPhase, PodView
from kube.objects import Condition, ContainerStatus, Pod

_PHASES = {str(phase): phase for phase in PodPhase}


def view_of(pod: Pod) -> PodView | None:
    """Return the view of a pod of a TrainingJob; None when its labels do not say which member it is."""
    labels = pod.metadata.labels
    try:
        index, attempt = int(labels[names.JOB_INDEX_LABEL]), int(labels[names.JOB_ATTEMPT_LABEL])
        role = labels[names.JOB_ROLE_LABEL]
    except (KeyError, ValueError):
        return None
    status = pod.status
    disruption = _condition(status.conditions, "DisruptionTarget", "True")
    unplaced = _condition(status.conditions, "PodScheduled", "False")
    placed = _condition(status.conditions, "PodScheduled", "True")
    statuses = [*status.init_container_statuses, *status.container_statuses]
    ends = tuple(end for end in map(_end, statuses) if end is not None)
    phase = _PHASES.get(status.phase, PodPhase.PENDING)
    finished = [end.finished_at for end in ends if end.finished_at is not None]
    return PodView(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        role=role,
        index=index,
        attempt=attempt,
        phase=phase,
        reason=status.reason,
        message=status.message,
        node=pod.spec.node_name,
        is_ready=_condition(status.conditions, "Ready", "True") is not None,
        is_running=_is_running(phase, status.container_statuses),
        may_run=any(_state(one, "running") is not None for one in statuses),
        created_at=_seconds(pod.metadata.creation_timestamp) or 0.0,
        scheduled_at=_seconds(placed.last_transition_time) if placed else None,
        started_at=_started_at(status.container_statuses),
        finished_at=max(finished, default=None) if phase in (PodPhase.SUCCEEDED, PodPhase.FAILED) else None,
        deletion_at=_seconds(pod.metadata.deletion_timestamp),
        disruption=disruption.reason or "Unknown" if disruption else "",
        disruption_message=disruption.message if disruption else "",
        unschedulable=unplaced.message if unplaced else "",
        waiting=_waiting(statuses),
        ends=ends,
        checkpointed_at=pod.metadata.annotations.get(names.CHECKPOINTED_AT_ANNOTATION, ""),
        heartbeat=parse_heartbeat(pod.metadata.annotations.get(names.HEARTBEAT_ANNOTATION, "")),
        is_held=pod.metadata.annotations.get(names.START_ANNOTATION) == "",
    )


def owner_uid(pod: Pod) -> str:
    """Return the uid of the pod's controlling owner; "" when it has none."""
    return next((owner.uid for owner in pod.metadata.owner_references if owner.controller), "")


def _condition(conditions: list[Condition], type_: str, status: str) -> Condition | None:
    return next((one for one in conditions if one.type == type_ and one.status == status), None)


def _seconds(text: Any) -> float | None:
    if not isinstance(text, str) or not text:
        return None
    try:
        return parse_timestamp(text)
    except ValueError:
        return None


def _state(status: ContainerStatus, name: str) -> dict[str, Any] | None:
    state = status.state.get(name)
    return state if isinstance(state, dict) else None


def _end(status: ContainerStatus) -> ContainerEnd | None:
    ended = _state(status, "terminated")
    if ended is None:
        return None
    return ContainerEnd(
        container=status.name,
        exit_code=int(ended.get("exitCode") or 0),
        signal=int(ended.get("signal") or 0),
        reason=str(ended.get("reason") or ""),
        message=str(ended.get("message") or ""),
        finished_at=_seconds(ended.get("finishedAt")),
    )


def _is_running(phase: PodPhase, statuses: list[ContainerStatus]) -> bool:
    if phase is not PodPhase.RUNNING or not statuses:
        return False
    if not any(_state(status, "running") is not None for status in statuses):
        return False
    ends = [end for end in map(_end, statuses) if end is not None]
    started = sum(_state(status, "running") is not None for status in statuses) + len(ends)
    return started == len(statuses) and all(end.exit_code == 0 for end in ends)


def _started_at(statuses: list[ContainerStatus]) -> float | None:
    starts = []
    for status in statuses:
        state = _state(status, "running") or _state(status, "terminated")
        started_at = _seconds(state.get("startedAt")) if state else None
        if started_at is None:
            return None
        starts.append(started_at)
    return max(starts, default=None)


def _waiting(statuses: list[ContainerStatus]) -> tuple[str, str] | None:
    for status in statuses:
        state = _state(status, "waiting")
        # Every container waits so before its turn; that is no news.
        if state and state.get("reason") not in (None, "", "PodInitializing", "ContainerCreating"):
            return str(state["reason"]), str(state.get("message") or "")
    return None
