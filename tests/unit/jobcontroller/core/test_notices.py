"""Nodes that will be taken away: who leaves, with how much grace, and what is made ready meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.training_v1alpha1 import CheckpointStatus, TrainingJob
from jobcontroller.core import drain, elastic, notices
from jobcontroller.core.actions import ApplyDataLoad, CreatePod, DeletePod, EmitEvent, Plan
from jobcontroller.core.observed import Checkpoints, CheckpointView, PodView
from jobcontroller.core.pod_builder import build_pod
from jobcontroller.core.reconcile import reconcile
from jobcontroller.frameworks.registry import FRAMEWORKS
from tests.builders.training_jobs import CREATED_AT, job, observed, pod, running, state, with_status, workers

NOW = CREATED_AT + 1000
GIB = 1 << 30
TAINT = notices.TAINTS[0]
SEEN = Checkpoints((CheckpointView(7, "runs/7", True, GIB, {"n1": GIB}, NOW - 50),))


def _job(framework: str = "PyTorch", **more: Any) -> TrainingJob:
    spec: dict[str, Any] = {
        "framework": framework,
        "replicaSpecs": workers(3),
        "datasets": [{"name": "c", "mountPath": "/c", "readOnly": False}],
        "checkpoint": {"dataset": "c", "path": "runs"},
    }
    if framework == "PyTorch":
        spec["pytorch"] = {"elastic": {"min": 1, "coolDownSeconds": 60}}
    one = with_status(job(**{**spec, **more}))
    assert one.status is not None
    elastic.begin(one, one.status)
    return one


def _look(one: TrainingJob, *pods: PodView, now: float = NOW, **fields: Any) -> Plan:
    usual = {"groups": frozenset({"tj-a0"}), "has_service": True, "checkpoints": SEEN, "notices": {"n9": TAINT}}
    return reconcile(observed(one, *pods, **{**usual, **fields}), now)


@pytest.mark.parametrize(
    ("taints", "found"),
    [
        ([(TAINT, "NoSchedule")], TAINT),
        ([("node.kubernetes.io/unschedulable", "NoSchedule"), ("karpenter.sh/disrupted", "NoSchedule")],
         "karpenter.sh/disrupted"),
        ([(TAINT, "PreferNoSchedule")], None),
        ([("dedicated", "NoExecute")], None),
        ([], None),
    ],
)  # fmt: skip
def test_a_taint_that_is_a_notice(taints: list[tuple[str, str]], found: str | None) -> None:
    assert notices.taint_of(taints, notices.TAINTS) == found


def test_the_others_go_on_and_the_replacement_is_looked_for_while_the_old_pod_drains() -> None:
    leaving = running(2, node="n9")
    plan = _look(_job(), running(0), running(1), leaving)
    assert plan.status is not None
    assert plan.status.elastic is not None
    assert (plan.status.attempt, plan.status.elastic.members, plan.status.elastic.reserves) == (0, "0-1", "3")
    assert state(plan)[0] == "Running"
    assert [action.name for action in plan.actions if isinstance(action, DeletePod)] == [leaving.name]
    assert TAINT in next(action.note for action in plan.actions if isinstance(action, EmitEvent))
    one = _job().model_copy(update={"status": plan.status})
    draining = replace(leaving, deletion_at=NOW + 30)
    made = _look(one, running(0), running(1), draining, now=NOW + 1)
    assert [action.name for action in made.actions if isinstance(action, CreatePod)] == ["tj-worker-3-a0"]
    held = pod(3, is_held=True, node="n2", scheduled_at=NOW + 2)
    warmed = _look(one, running(0), running(1), draining, held, now=NOW + 2)
    load = next(action.body for action in warmed.actions if isinstance(action, ApplyDataLoad))
    target = load["spec"]["target"][0]
    assert (load["spec"]["dataset"]["name"], target["path"], target["nodes"]) == ("c", "/runs/7", ["n2"])
    assert warmed.status is not None
    assert warmed.status.elastic is not None
    assert warmed.status.elastic.members == "0-1", "it joins when the old one has left"
    one = one.model_copy(update={"status": warmed.status})
    joined = _look(one, running(0), running(1), held, now=NOW + 9)
    assert not [action for action in joined.actions if isinstance(action, ApplyDataLoad)], "asked for once"
    assert joined.status is not None
    assert joined.status.elastic is not None
    assert joined.status.elastic.members == "0-1,3"


def test_a_framework_that_is_not_elastic_saves_and_begins_again() -> None:
    one = _job("JAX", checkpoint={"dataset": "c", "path": "runs", "graceSeconds": 77})
    pods = [running(0), running(1), running(2, node="n9")]
    plan = _look(one, *pods)
    assert state(plan) == ("Restarting", "Preempted")
    assert plan.status is not None
    assert plan.status.restarts.preemption == 1
    ended = [action for action in plan.actions if isinstance(action, DeletePod)]
    assert {action.grace_seconds for action in ended} == {77}
    assert len(ended) == 3


def test_a_disruption_that_was_announced_is_not_waited_for() -> None:
    plan = _look(_job(), running(0), running(1), running(2, disruption="PreemptionByScheduler"), notices={})
    assert plan.status is not None
    assert plan.status.elastic is not None
    assert plan.status.elastic.members == "0-1"


def test_a_pod_that_tolerates_the_taint_by_name_stays() -> None:
    spot = {"spotReplicaNumber": 1, "tolerations": [{"key": TAINT, "operator": "Exists"}]}
    plan = _look(_job(replicaSpecs=workers(3, spotReplicaSpec=spot)), running(0), running(1), running(2, node="n9"))
    assert plan.status is not None
    assert plan.status.elastic is not None
    assert plan.status.elastic.members == "0-2"


@pytest.mark.parametrize(
    ("size", "rate", "given", "grace"),
    [
        (100 * GIB, GIB, None, 160),
        (GIB, GIB, None, drain.LEAST_SECONDS),
        (9000 * GIB, GIB, None, drain.MOST_SECONDS),
        (100 * GIB, None, None, None),
        (100 * GIB, GIB, 45, 45),
    ],
)
def test_the_grace_is_as_long_as_a_checkpoint_takes(size: int, rate: int | None, given: int | None, grace: int) -> None:
    checkpoint = {"dataset": "c", "path": "runs"} | ({"graceSeconds": given} if given else {})
    one = _job("JAX", checkpoint=checkpoint)
    assert one.status is not None
    one.status.checkpoints = [
        CheckpointStatus(step=9, complete=False, durable=False, bytes=5, path="runs/9"),
        CheckpointStatus(step=7, complete=True, durable=True, bytes=size, path="runs/7"),
    ]
    one.status.grace_seconds = drain.grace_seconds(one, one.status, rate)
    assert one.status.grace_seconds == grace
    built = build_pod(one, one.status, FRAMEWORKS["JAX"], "Worker", 0)["spec"]
    assert built.get("terminationGracePeriodSeconds") == grace
