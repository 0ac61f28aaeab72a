"""Pods whose end nobody confirms: when they are deleted by force, and what has to be done before."""

from __future__ import annotations

from typing import Any

import pytest

from api.conditions import Condition, timestamp
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import CreatePod, DeleteJob, DeletePod, Plan, RaiseFences
from jobcontroller.core.observed import Checkpoints, DatasetView, PodPhase, PodView, Problem
from jobcontroller.core.reconcile import reconcile
from jobcontroller.core.turn import Policy
from tests.builders.training_jobs import CREATED_AT, conditions, job, observed, running, with_status

NOW = CREATED_AT + 200
BOUND = {"ckpt": DatasetView("ckpt", "Bound", 0)}
DUE = NOW - Policy().force_after_seconds


def saving(**status: Any) -> TrainingJob:
    """A job with checkpoints in the cache."""
    spec: dict[str, Any] = {
        "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        "checkpoint": {"dataset": "ckpt", "path": "run"},
    }
    return with_status(job(**spec), attempt=1, **status)


def old(index: int, *, deletion_at: float | None = DUE, **fields: Any) -> PodView:
    return running(index, deletion_at=deletion_at, **fields)


def creations(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions if isinstance(action, CreatePod)]


def fences(plan: Plan) -> list[dict[str, tuple[str, ...]]]:
    return [dict(action.pods) for action in plan.actions if isinstance(action, RaiseFences)]


def forced(plan: Plan) -> set[str]:
    return {action.uid for action in plan.actions if isinstance(action, DeletePod) and action.grace_seconds == 0}


def test_every_pod_that_is_deleted_by_force_is_fenced_first() -> None:
    plan = reconcile(observed(saving(), old(0), old(1, deletion_at=DUE + 10)), NOW)
    assert fences(plan) == [{old(0).node: (old(0).uid,)}]
    assert forced(plan) == {old(0).uid}
    kinds = [type(action) for action in plan.actions]
    assert kinds.index(RaiseFences) < kinds.index(DeletePod)
    assert plan.wake_after_seconds == pytest.approx(10)
    both = reconcile(observed(saving(), old(0), old(1, node=old(0).node)), NOW)
    assert fences(both) == [{old(0).node: (old(0).uid, old(1).uid)}]


def test_what_ends_by_itself_is_not_fenced() -> None:
    plan = reconcile(observed(saving(), old(0, deletion_at=None), old(1, deletion_at=NOW)), NOW)
    assert fences(plan) == [] and forced(plan) == set()


@pytest.mark.parametrize("fields", [{"phase": PodPhase.SUCCEEDED}, {"node": ""}])
def test_what_cannot_write_any_more_is_deleted_without_a_fence(fields: dict[str, Any]) -> None:
    plan = reconcile(observed(saving(), old(0, **fields)), NOW)
    assert (fences(plan), forced(plan)) == ([], {old(0).uid})


def test_a_job_without_checkpoints_in_the_cache_needs_no_fence() -> None:
    plan = reconcile(observed(with_status(job(), attempt=1), old(0)), NOW)
    assert (fences(plan), forced(plan)) == ([], {old(0).uid})


def test_a_failed_pod_whose_containers_ran_to_the_last_is_fenced() -> None:
    """The pod garbage collector calls the pods of a node that was removed failed."""
    plan = reconcile(observed(saving(), old(0, phase=PodPhase.FAILED, may_run=True)), NOW)
    assert fences(plan) == [{old(0).node: (old(0).uid,)}]


def test_pods_somebody_else_deleted_by_force_are_fenced_before_the_next_attempt_begins() -> None:
    lost = running(0, may_run=True)
    problem = Problem("FenceNotRaised", "the metadata service is away", False, retry_at=NOW + 3)
    held_up = reconcile(observed(saving(), lost_pods=(lost,), fence_problem=problem, datasets=BOUND), NOW)
    assert fences(held_up) == [] and creations(held_up) == []
    assert conditions(held_up)["Queued"] == ("True", "FenceNotRaised")
    plan = reconcile(observed(saving(), lost_pods=(lost,), datasets=BOUND, checkpoints=Checkpoints()), NOW)
    assert fences(plan) == [{lost.node: (lost.uid,)}]
    assert len(creations(plan)) == 2
    kinds = [type(action) for action in plan.actions]
    assert kinds.index(RaiseFences) < kinds.index(CreatePod)


def test_pods_of_a_suspended_job_are_fenced_too() -> None:
    one = saving(conditions=[Condition(type="Suspended", status="True", reason="SuspendedByUser")])
    one.spec.run_policy.suspend = True
    plan = reconcile(observed(one, running(0, 1, deletion_at=DUE)), NOW)
    assert fences(plan) == [{"n1": (running(0, 1).uid,)}]


def test_a_node_where_the_attempt_runs_is_not_fenced() -> None:
    """One of an elastic job's members is lost; the others go on, and save."""
    lost = running(1, may_run=True)
    here = reconcile(observed(saving(started_attempt=1), running(0, 1), lost_pods=(lost,), datasets=BOUND), NOW)
    assert fences(here) == []


def test_a_fence_that_was_not_raised_is_said_and_asked_for_again_after_a_while() -> None:
    problem = Problem("FenceNotRaised", "the metadata service is away", False, retry_at=NOW + 3)
    seen = observed(saving(), old(0), fence_problem=problem)
    plan = reconcile(seen, NOW)
    assert (fences(plan), forced(plan)) == ([], set())
    assert conditions(plan)["Queued"] == ("True", "FenceNotRaised")
    assert plan.status is not None and plan.status.message == "the metadata service is away"
    assert plan.wake_after_seconds == pytest.approx(3)
    again = reconcile(seen, NOW + 3)
    assert (fences(again), forced(again)) == ([{old(0).node: (old(0).uid,)}], {old(0).uid})


def test_a_pod_that_is_done_keeps_no_fence_away_from_its_node() -> None:
    """The Master ended the job; a worker beside it is given up, and may save on."""
    done = running(1, 1, phase=PodPhase.SUCCEEDED, node="n1")
    left = running(0, 1, deletion_at=DUE, node="n1")
    finished = saving(
        started_attempt=1,
        completion_time=timestamp(NOW - 100),
        conditions=[Condition(type="Succeeded", status="True", reason="Succeeded")],
    )
    plan = reconcile(observed(finished, done, left), NOW)
    assert (fences(plan), forced(plan)) == ([{"n1": (left.uid,)}], {left.uid})


def test_a_suspended_job_says_why_its_pods_do_not_end() -> None:
    problem = Problem("FenceNotRaised", "the metadata service is away", False, retry_at=NOW + 3)
    one = saving(conditions=[Condition(type="Suspended", status="True", reason="SuspendedByUser")])
    one.spec.run_policy.suspend = True
    plan = reconcile(observed(one, running(0, 1, deletion_at=DUE), fence_problem=problem), NOW)
    assert plan.status is not None
    assert plan.status.message == "1 pods are ending: the metadata service is away"


def test_a_finished_job_is_there_until_its_pods_have_ended() -> None:
    """Without the job nobody would fence them, nor delete by force what its node never confirms."""
    finished = saving(
        started_attempt=1,
        completion_time=timestamp(NOW - 100),
        conditions=[Condition(type="Succeeded", status="True", reason="Succeeded")],
    )
    finished.spec.run_policy.ttl_seconds_after_finished = 60
    left = running(0, 1, deletion_at=DUE + 10)
    waits = reconcile(observed(finished, left), NOW)
    assert not [action for action in waits.actions if isinstance(action, DeleteJob)]
    assert waits.wake_after_seconds == pytest.approx(10)
    gone = reconcile(observed(finished, running(1, 1, phase=PodPhase.SUCCEEDED)), NOW)
    assert [action for action in gone.actions if isinstance(action, DeleteJob)]
