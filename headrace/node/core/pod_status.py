"""A pod's status as kubelet would write it.

Owns phase, conditions and container statuses as API objects. Does not decide anything
(core/pod_state.py does). Conditions of others (PodScheduled, …) are not in what is built
here: the status is patched by merging, which keeps them. Invariant: a condition's
transition time changes only when its status does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from api.conditions import timestamp
from headrace.node.core.pod_model import (
    FAILED,
    SUCCEEDED,
    ContainerRules,
    ContainerState,
    PodRules,
    PodState,
    Running,
    Terminated,
    Waiting,
)
from headrace.node.core.pod_spec import ContainerKind
from headrace.node.core.pod_state import phase
from kube.identity import Condition

#: kubelet's limit on what a container may say about its end.
MAX_MESSAGE_CHARACTERS = 4096


def build(
    rules: PodRules, state: PodState, *, conditions: Sequence[Condition], pod_ip: str, host_ip: str, now: float
) -> dict[str, Any]:
    """Return the status. `conditions` are those the pod has now; `pod_ip` is "" before the sandbox exists."""
    status: dict[str, Any] = {
        "phase": phase(rules, state),
        "reason": state.final.reason if state.final else "",
        "message": state.final.message if state.final else "",
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": timestamp(state.start_time),
        "conditions": _conditions(rules, state, conditions, now),
        "initContainerStatuses": _statuses(rules, state, main=False),
        "containerStatuses": _statuses(rules, state, main=True),
    }
    if pod_ip:
        status |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    return {key: value for key, value in status.items() if value not in ("", [])}


def _statuses(rules: PodRules, state: PodState, *, main: bool) -> list[dict[str, Any]]:
    if _was_rejected(state):
        return []
    return [
        _container_status(rules, container, state.containers[container.name])
        for container in rules.containers
        if (container.kind is ContainerKind.MAIN) == main
    ]


def _was_rejected(state: PodState) -> bool:
    return state.final is not None and not state.has_sandbox and state.stop is None


def _container_status(rules: PodRules, container: ContainerRules, current: ContainerState) -> dict[str, Any]:
    identifier = container_id(rules.uid, container.name, current.attempt)
    status: dict[str, Any] = {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": current.is_ready,
        "started": current.is_started,
        "restartCount": max(current.attempt, 0),
        "state": _state(current.state, identifier),
    }
    if current.attempt >= 0:
        status["containerID"] = identifier
    if current.last is not None:
        is_current = isinstance(current.state, Waiting)
        previous = current.attempt if is_current else current.attempt - 1
        status["lastState"] = _state(current.last, container_id(rules.uid, container.name, previous))
    return status


def container_id(uid: str, name: str, attempt: int) -> str:
    """Return the identifier of one start of a container."""
    return f"process://{uid}/{name}/{attempt}"


def _state(state: Waiting | Running | Terminated, identifier: str) -> dict[str, Any]:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        case Running(started_at):
            return {"running": {"startedAt": timestamp(started_at)}}
        case Terminated():
            body: dict[str, Any] = {
                "exitCode": state.exit_code,
                "reason": state.reason,
                "startedAt": timestamp(state.started_at),
                "finishedAt": timestamp(state.finished_at),
                "containerID": identifier,
            }
            if state.message:
                body["message"] = state.message[:MAX_MESSAGE_CHARACTERS]
            return {"terminated": body}


def _conditions(rules: PodRules, state: PodState, previous: Sequence[Condition], now: float) -> list[dict[str, Any]]:
    if _was_rejected(state):
        return []
    containers_ready = _containers_ready(rules, state)
    wanted = [
        ("PodReadyToStartContainers", _bare(state.has_sandbox and state.final is None)),
        ("Initialized", _initialized(rules, state)),
        ("Ready", _ready(rules, containers_ready, previous)),
        ("ContainersReady", containers_ready),
    ]
    known = {condition.type: condition for condition in previous}
    result = []
    for type_, (status, reason, message) in wanted:
        old = known.get(type_)
        kept = old.last_transition_time if old is not None and old.status == status else None
        condition: dict[str, Any] = {
            "type": type_,
            "status": status,
            "lastProbeTime": None,
            "lastTransitionTime": kept or timestamp(now),
            # Explicit nulls: a merge would keep the texts of an earlier status.
            "reason": reason or None,
            "message": message or None,
        }
        result.append(condition)
    return result


_Answer = tuple[str, str, str]


def _bare(is_true: bool) -> _Answer:
    return ("True" if is_true else "False", "", "")


def _initialized(rules: PodRules, state: PodState) -> _Answer:
    if state.final is not None and state.final.phase == SUCCEEDED:
        return ("True", "PodCompleted", "")
    if state.is_initialized:
        return _bare(True)
    unfinished = [
        container.name
        for container in rules.containers
        if (container.kind is ContainerKind.INIT and state.containers[container.name].exit_code != 0)
        or (container.kind is ContainerKind.SIDECAR and not state.containers[container.name].is_started)
    ]
    return ("False", "ContainersNotInitialized", f"containers with incomplete status: {_names(unfinished)}")


def _containers_ready(rules: PodRules, state: PodState) -> _Answer:
    if state.final is not None and state.final.phase == SUCCEEDED:
        return ("False", "PodCompleted", "")
    if state.final is not None and state.final.phase == FAILED:
        return ("False", "PodFailed", "")
    unready = [
        container.name
        for container in rules.containers
        if container.kind is not ContainerKind.INIT and not state.containers[container.name].is_ready
    ]
    if unready:
        return ("False", "ContainersNotReady", f"containers with unready status: {_names(unready)}")
    return _bare(True)


def _ready(rules: PodRules, containers_ready: _Answer, conditions: Sequence[Condition]) -> _Answer:
    if containers_ready[0] != "True":
        return containers_ready
    known = {condition.type: condition.status for condition in conditions}
    for gate in rules.readiness_gates:
        if gate not in known:
            return (
                "False",
                "ReadinessGatesNotReady",
                f'corresponding condition of pod readiness gate "{gate}" does not exist.',
            )
        if known[gate] != "True":
            return (
                "False",
                "ReadinessGatesNotReady",
                f'the status of pod readiness gate "{gate}" is not "True", but {known[gate]}',
            )
    return _bare(True)


def _names(names: Iterable[str]) -> str:
    return f"[{' '.join(names)}]"
