"""The scheduler's record as sentences."""

from __future__ import annotations

from typing import Any

from api import names
from api.decision import Candidate, Decision, SourceBytes
from headrace.cli.explain import explain_outlook, explain_pod, explain_pods
from scheduler.core.outlook import Outlook

GIB = 1 << 30
DECISION = Decision(
    node="n1",
    stage_in_seconds=0.5,
    bytes_by_source=SourceBytes(local={"SSD": GIB}, peers=0, origin=0),
    feasible_nodes=3,
    total_nodes=5,
    runner_up=Candidate(node="n2", stage_in_seconds=12.25, bytes_by_source=SourceBytes(peers=GIB)),
    coldest=Candidate(node="n3", stage_in_seconds=240, bytes_by_source=SourceBytes(origin=GIB)),
    gang="ns/tj-a0",
)


def pod(node: str | None = "n1", decision: str | None = None, message: str | None = None) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "False", "message": message}] if message else []
    annotations = {names.DECISION_ANNOTATION: decision} if decision else {}
    spec = {"schedulerName": "headrace-scheduler"} | ({"nodeName": node} if node else {})
    return {"metadata": {"name": "p", "annotations": annotations}, "spec": spec, "status": {"conditions": conditions}}


def test_a_placed_pod() -> None:
    assert explain_pod(pod(decision=DECISION.model_dump_json(by_alias=True))) == [
        "p runs on n1.",
        "  Its data: 1.0 GiB here (SSD), 0 B on peers, 0 B from the origin; expected 0.5 s of stage-in.",
        "  The runner-up, n2, would have had 0 B here, 1.0 GiB on peers, 0 B from the origin; "
        "expected 12.2 s of stage-in.",
        "  The coldest node that could run it, n3, would have had 0 B here, 0 B on peers, 1.0 GiB from the origin; "
        "expected 240 s of stage-in.",
        "  3 of 5 nodes could run it.",
        "  It was placed with its gang ns/tj-a0.",
    ]


def test_a_pod_without_a_record() -> None:
    assert explain_pod(pod()) == ["p runs on n1; headrace-scheduler left no record of its decision."]
    assert "cannot be read" in explain_pod(pod(decision="{"))[0]


def test_pending_pods_are_grouped_by_what_the_scheduler_says() -> None:
    text = "0/3 nodes are available: 3 Insufficient cpu."
    assert explain_pods([pod(None, message=text), pod(None, message=text), pod(None)]) == [
        f"2 pods have no node: {text}",
        "1 pod has no node: headrace-scheduler has not looked at it yet; is it running?",
    ]


def with_phase(one: dict[str, Any], phase: str, **meta: str) -> dict[str, Any]:
    return one | {"metadata": one["metadata"] | meta, "status": one["status"] | {"phase": phase}}


def test_a_pod_that_ended_or_leaves_or_starts_does_not_run() -> None:
    record = "headrace-scheduler left no record of its decision."
    leaving = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert explain_pod(with_phase(pod(), "Succeeded")) == [f"p ran on n1 and succeeded; {record}"]
    assert explain_pod(with_phase(pod(), "Failed")) == [f"p ran on n1 and failed; {record}"]
    assert explain_pod(with_phase(pod(), "Pending")) == [f"p is bound to n1 and not running yet; {record}"]
    assert explain_pod(with_phase(pod(), "Running", **leaving)) == [f"p is being deleted; it is on n1; {record}"]
    assert explain_pod(with_phase(pod(None), "Failed")) == ["p ended (Failed) and never had a node."]
    assert explain_pod(with_phase(pod(None), "Pending", **leaving)) == ["p is being deleted and has no node."]


def test_a_node_that_is_gone_is_told() -> None:
    assert explain_pod(pod(), is_node_gone=True)[0].endswith(" There is no node n1 any more.")
    assert explain_pods([pod()], {"n1"}) == explain_pod(pod(), is_node_gone=True)


def test_a_record_of_another_decision_is_not_told_as_this_one() -> None:
    (line,) = explain_pod(pod("n9", decision=DECISION.model_dump_json(by_alias=True)))
    assert line == "p runs on n9; the record it carries is of another decision, for n1."


def test_a_pod_without_data_is_not_told_seconds() -> None:
    second = Candidate(node="n2", stage_in_seconds=0)
    plain = Decision(node="n1", stage_in_seconds=0, feasible_nodes=3, total_nodes=5, runner_up=second)
    assert explain_pod(pod(decision=plain.model_dump_json(by_alias=True))) == [
        "p runs on n1.",
        "  It asks for no data.",
        "  The runner-up was n2.",
        "  3 of 5 nodes could run it.",
    ]


def test_what_a_pod_that_would_fit_waits_for() -> None:
    alone = Outlook("", ("n1", "n2"), (), ())
    assert explain_outlook(pod(None), alone) == [
        "Looked at alone, p would fit now on 2 nodes: n1, n2. It waits for its turn, or for headrace-scheduler to run."
    ]
    gated = Outlook("", ("n1",), (), (), ("It waits for its scheduling gate a.",))
    assert explain_outlook(pod(None), gated) == [
        "It waits for its scheduling gate a.",
        "Looked at alone, p would fit now on 1 node: n1.",
    ]


def test_another_schedulers_pod_is_judged_under_that_name() -> None:
    other = pod(None) | {"spec": {"schedulerName": "default-scheduler"}}
    lines = explain_outlook(other, Outlook("", ("n1",), (), ()))
    assert lines[0] == (
        "p names schedulerName default-scheduler; what follows is how headrace-scheduler, with its default settings, "
        "would judge it."
    )
    assert lines[-1].endswith("It waits for its turn, or for default-scheduler to run.")
