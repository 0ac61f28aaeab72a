"""Wire pods as the core sees them."""

from __future__ import annotations

from typing import Any

import msgspec

from api import names
from jobcontroller.core.observed import PodPhase, PodView
from jobcontroller.shell.pod_view import owner_uid, view_of
from kube.objects import Pod

LABELS = {names.JOB_ROLE_LABEL: "Worker", names.JOB_INDEX_LABEL: "1", names.JOB_ATTEMPT_LABEL: "2"}
T0, T9 = "2023-11-14T22:13:20Z", "2023-11-14T22:13:29Z"


def wire(status: dict[str, Any], **metadata: Any) -> Pod:
    body = {
        "metadata": {"name": "p", "uid": "u", "labels": LABELS, "creationTimestamp": T0, **metadata},
        "spec": {"nodeName": "n1"},
        "status": status,
    }
    return msgspec.convert(body, Pod)


def view(status: dict[str, Any], **metadata: Any) -> PodView:
    found = view_of(wire(status, **metadata))
    assert found is not None
    return found


def container(state: dict[str, Any], name: str = "main") -> dict[str, Any]:
    return {"name": name, "state": state}


def test_a_running_pod() -> None:
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": T0},
        {"type": "Ready", "status": "True"},
    ]
    statuses = [container({"running": {"startedAt": T9}})]
    seen = view({"phase": "Running", "conditions": conditions, "containerStatuses": statuses})
    assert (seen.role, seen.index, seen.attempt, seen.node) == ("Worker", 1, 2, "n1")
    assert seen.is_running
    assert seen.is_ready
    assert (seen.created_at, seen.scheduled_at, seen.started_at) == (1_700_000_000, 1_700_000_000, 1_700_000_009)


def test_a_pod_with_a_container_that_waits_is_not_running() -> None:
    statuses = [
        container({"running": {"startedAt": T0}}),
        container({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, "side"),
    ]
    seen = view({"phase": "Running", "containerStatuses": statuses})
    assert not seen.is_running
    assert seen.started_at is None
    assert seen.waiting == ("ImagePullBackOff", "no such image")


def test_waiting_for_its_turn_is_no_news() -> None:
    statuses = [container({"waiting": {"reason": "ContainerCreating"}})]
    assert view({"phase": "Pending", "containerStatuses": statuses}).waiting is None


def test_a_failed_pod_tells_how_its_containers_ended() -> None:
    ended = {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled", "startedAt": T0, "finishedAt": T9}}
    seen = view({"phase": "Failed", "containerStatuses": [container(ended)]})
    assert seen.phase is PodPhase.FAILED
    assert seen.finished_at == 1_700_000_009
    (end,) = seen.ends
    assert (end.exit_code, end.signal, end.reason) == (137, 9, "OOMKilled")


def test_disruption_and_deletion_are_seen() -> None:
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m"}]
    seen = view({"phase": "Running", "conditions": conditions}, deletionTimestamp=T9)
    assert (seen.disruption, seen.disruption_message, seen.deletion_at) == (
        "PreemptionByScheduler",
        "m",
        1_700_000_009,
    )


def test_a_pod_without_the_labels_of_a_member_is_no_member() -> None:
    assert view_of(wire({}, labels={})) is None
    assert view_of(wire({}, labels={**LABELS, names.JOB_INDEX_LABEL: "x"})) is None


def test_the_owner_is_the_controlling_one() -> None:
    owners = [{"uid": "a"}, {"uid": "b", "controller": True}]
    assert owner_uid(wire({}, ownerReferences=owners)) == "b"
    assert owner_uid(wire({})) == ""
