"""Nodes where members were lost are avoided for a time, and never forbidden."""

from __future__ import annotations

from typing import Any

import pytest

from api.conditions import timestamp
from api.training_v1alpha1 import SuspectNode, TrainingJob
from jobcontroller.core import suspects
from jobcontroller.core.actions import CreatePod, EmitEvent, Plan
from jobcontroller.core.observed import PodPhase, PodView
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, ended, job, observed, running, with_status, workers

NOW = CREATED_AT + 110


def lost(index: int = 0, attempt: int = 0, **fields: Any) -> PodView:
    """A pod whose node the node life-cycle controller gave up."""
    return running(index, attempt, **{"disruption": "DeletionByTaintManager", "deletion_at": NOW, **fields})


def after(one: TrainingJob, plan: Plan) -> TrainingJob:
    return one.model_copy(update={"status": plan.status or one.status})


def avoided(plan: Plan) -> list[str]:
    assert plan.status is not None
    return [one.node for one in plan.status.suspect_nodes if one.strikes >= suspects.STRIKES_TO_AVOID]


def terms(action: CreatePod) -> list[Any]:
    affinity = action.body["spec"].get("affinity", {}).get("nodeAffinity", {})
    return list(affinity.get("preferredDuringSchedulingIgnoredDuringExecution", []))


def test_pods_of_the_next_attempt_stay_off_the_node_that_was_lost() -> None:
    one = with_status(job())
    plan = reconcile(observed(one, lost(0, node="bad"), running(1, node="good")), NOW)
    assert avoided(plan) == ["bad"]
    (note,) = [
        action.note for action in plan.actions if isinstance(action, EmitEvent) and action.reason == "NodeAvoided"
    ]
    assert note.startswith(f"node bad is avoided until {timestamp(NOW + suspects.AVOID_SECONDS)}: pod tj-worker-0-a0")
    plan = reconcile(observed(after(one, plan)), NOW + 40)
    created = [action for action in plan.actions if isinstance(action, CreatePod)]
    assert len(created) == 2
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}]
    assert [terms(action) for action in created] == [[{"weight": 100, "preference": {"matchFields": fields}}]] * 2


def test_after_a_time_the_node_is_used_again() -> None:
    one = with_status(job())
    moved = after(one, reconcile(observed(one, lost(0, node="bad"), running(1)), NOW))
    plan = reconcile(observed(moved), NOW + suspects.AVOID_SECONDS)
    assert plan.status is not None and plan.status.suspect_nodes == []
    assert all(not terms(action) for action in plan.actions if isinstance(action, CreatePod))


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (ended(1, node="n"), []),
        (ended(137, node="n", end_reason="OOMKilled"), []),
        (running(node="n", disruption="PreemptionByScheduler", deletion_at=NOW), []),
        (running(node="n", deletion_at=NOW), []),
        (ended(137, node="n"), []),
        (running(node="n", phase=PodPhase.FAILED, reason="NodeShutdown"), ["n"]),
        (running(node="n", phase=PodPhase.FAILED, reason="Evicted", message="low on disk"), ["n"]),
        (running(node="n", phase=PodPhase.FAILED, reason="Evicted", message="Pod exceeds its limit 1Gi"), []),
        (running(node="n", phase=PodPhase.FAILED), ["n"]),
    ],
)
def test_only_what_tells_of_the_node_counts(pod: PodView, expected: list[str]) -> None:
    one = with_status(job(replicaSpecs=workers(1, restartPolicy="OnFailure")))
    assert avoided(reconcile(observed(one, pod), NOW)) == expected


def test_two_kills_from_outside_on_one_node_are_the_nodes() -> None:
    one = with_status(job(replicaSpecs=workers(1)))
    first = reconcile(observed(one, ended(137, node="n")), NOW)
    assert avoided(first) == []
    again = with_status(job(replicaSpecs=workers(1)), suspect_nodes=first.status.suspect_nodes if first.status else [])
    assert avoided(reconcile(observed(again, ended(137, node="n")), NOW + 100)) == ["n"]
    assert avoided(reconcile(observed(again, ended(137, node="n")), NOW + suspects.AVOID_SECONDS)) == []


def test_what_the_template_prefers_stays() -> None:
    own = {"weight": 1, "preference": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}}
    spec: dict[str, Any] = {
        "affinity": {
            "podAffinity": {"x": 1},
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [own], "required": {}},
        }
    }
    until = timestamp(NOW)
    status = with_status(job(), suspect_nodes=[SuspectNode(node="b", strikes=2, until=until)]).status
    assert status is not None
    suspects.avoid(status, spec)
    assert spec["affinity"]["podAffinity"] == {"x": 1}
    found = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert found[0] == own and len(found) == 2


@pytest.mark.parametrize("affinity", [None, "text", [], {"nodeAffinity": "text"}])
def test_a_template_that_is_wrong_is_left_to_the_api_server(affinity: Any) -> None:
    status = with_status(job(), suspect_nodes=[SuspectNode(node="b", strikes=2, until=timestamp(NOW))]).status
    assert status is not None
    spec: dict[str, Any] = {"affinity": affinity}
    suspects.avoid(status, spec)
    assert spec["affinity"] == affinity or (affinity in (None, []) and "nodeAffinity" in spec["affinity"])


def test_no_more_nodes_are_remembered_than_the_status_holds() -> None:
    count = suspects.MAX_NODES + 4
    one = with_status(job(replicaSpecs=workers(count)))
    plan = reconcile(observed(one, *(lost(index, node=f"n{index}") for index in range(count))), NOW)
    assert len(avoided(plan)) == suspects.MAX_NODES
