"""The scheduler's record as sentences."""

from __future__ import annotations

from typing import Any

from api import names
from api.decision import Candidate, Decision, SourceBytes
from headrace.cli.explain import explain_pod, explain_pods

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
        "1 pods have no node: headrace-scheduler has not looked at it yet; is it running?",
    ]
