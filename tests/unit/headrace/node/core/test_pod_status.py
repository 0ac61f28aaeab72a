"""The status users see, in kubelet's words."""

from __future__ import annotations

from typing import Any

from headrace.node.core.pod_model import (
    ContainerExited,
    ContainerRules,
    ContainerStarted,
    Event,
    PodRules,
    PodState,
    Rejected,
    SandboxReady,
    Terminated,
    Verdict,
    VolumesReady,
)
from headrace.node.core.pod_spec import ContainerKind
from headrace.node.core.pod_state import handle, initial
from headrace.node.core.pod_status import build
from kube.identity import Condition

RULES = PodRules(
    "ns",
    "p",
    "u1",
    "Never",
    (ContainerRules("i", ContainerKind.INIT, "busybox"), ContainerRules("a", ContainerKind.MAIN, "train")),
    readiness_gates=("example.com/warm",),
)


def state_after(*events: Event) -> PodState:
    state = initial(RULES, 0.0)
    for event in events:
        state = handle(RULES, state, event, 5.0)
    return state


def status_after(*events: Event, conditions: tuple[Condition, ...] = (), ip: str = "127.16.0.2") -> dict[str, Any]:
    return build(RULES, state_after(*events), conditions=conditions, pod_ip=ip, host_ip="127.0.0.1", now=10.0)


def conditions_of(status: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


RAN_INIT = (
    SandboxReady(),
    VolumesReady(),
    ContainerStarted("i", 0, 1.0),
    ContainerExited("i", 0, Terminated(0, "Completed", 1.0, 2.0)),
)


def test_a_new_pod_waits_for_its_init_containers() -> None:
    status = status_after(SandboxReady())
    assert status["phase"] == "Pending"
    assert status["podIPs"] == [{"ip": "127.16.0.2"}]
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert conditions_of(status) == {
        "PodReadyToStartContainers": ("True", None),
        "Initialized": ("False", "ContainersNotInitialized"),
        "Ready": ("False", "ContainersNotReady"),
        "ContainersReady": ("False", "ContainersNotReady"),
    }


def test_no_address_before_the_sandbox() -> None:
    assert "podIP" not in status_after(ip="")


def test_the_scheduler_s_condition_is_left_alone() -> None:
    assert "PodScheduled" not in conditions_of(status_after(SandboxReady()))


def test_readiness_gates_hold_ready_back_but_not_containers_ready() -> None:
    running = (*RAN_INIT, ContainerStarted("a", 0, 3.0))
    found = conditions_of(status_after(*running))
    assert found["ContainersReady"] == ("True", None)
    assert found["Ready"] == ("False", "ReadinessGatesNotReady")
    warm = (Condition(type="example.com/warm", status="True"),)
    assert conditions_of(status_after(*running, conditions=warm))["Ready"] == ("True", None)


def test_transition_times_change_only_with_the_status() -> None:
    old = (Condition(type="Ready", status="False", last_transition_time="2020-01-01T00:00:00Z"),)
    status = status_after(SandboxReady(), conditions=old)
    times = {one["type"]: one["lastTransitionTime"] for one in status["conditions"]}
    assert times["Ready"] == "2020-01-01T00:00:00Z"
    assert times["Initialized"] == "1970-01-01T00:00:10Z"


def test_a_terminated_container_tells_code_reason_and_identity() -> None:
    events = (
        *RAN_INIT,
        ContainerStarted("a", 0, 3.0),
        ContainerExited("a", 0, Terminated(3, "Error", 3.0, 4.0, "bye")),
    )
    status = status_after(*events)
    assert status["phase"] == "Failed"
    assert status["containerStatuses"][0]["state"]["terminated"] == {
        "exitCode": 3,
        "reason": "Error",
        "startedAt": "1970-01-01T00:00:03Z",
        "finishedAt": "1970-01-01T00:00:04Z",
        "containerID": "process://u1/a/0",
        "message": "bye",
    }
    assert conditions_of(status)["Ready"] == ("False", "PodFailed")


def test_a_completed_pod_is_initialized_and_not_ready() -> None:
    events = (*RAN_INIT, ContainerStarted("a", 0, 3.0), ContainerExited("a", 0, Terminated(0, "Completed", 3.0, 4.0)))
    found = conditions_of(status_after(*events))
    assert found["Initialized"] == ("True", "PodCompleted")
    assert found["Ready"] == ("False", "PodCompleted")


def test_a_rejected_pod_has_a_reason_and_no_containers() -> None:
    status = status_after(Rejected(Verdict("Failed", "OutOfcpu", "Pod was rejected: …")), ip="")
    assert (status["phase"], status["reason"]) == ("Failed", "OutOfcpu")
    assert "containerStatuses" not in status
