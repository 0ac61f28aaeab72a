"""Ends a user or a clock brings about: stopped, too long, suspended when the work was done, and the grace they give."""

from __future__ import annotations

from typing import Any

import pytest

from api import names
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import DeletePod, Plan
from jobcontroller.core.observed import Checkpoints, CheckpointView, DatasetView
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, ended, job, observed, running, state, with_status, workers

NOW = CREATED_AT + 110


def stopped(one: TrainingJob) -> TrainingJob:
    one.metadata.annotations[names.STOP_ANNOTATION] = "2023-11-14T22:15:00Z"
    return one


def after(one: TrainingJob, plan: Plan) -> TrainingJob:
    return one.model_copy(update={"status": plan.status or one.status})


def ended_pods(plan: Plan) -> set[str]:
    return {action.name for action in plan.actions if isinstance(action, DeletePod)}


@pytest.mark.parametrize("policy", ["All", "Running", "None"])
def test_a_stopped_job_has_failed_for_good_and_nothing_of_it_runs(policy: str) -> None:
    one = stopped(with_status(job(runPolicy={"cleanPodPolicy": policy})))
    plan = reconcile(observed(one, running(0), ended(0, 1)), NOW)
    assert state(plan) == ("Failed", "StoppedByUser")
    assert plan.status is not None and plan.status.replica_statuses["Worker"].active == 0
    last = reconcile(observed(after(one, plan), running(0), ended(0, 1)), NOW + 1)
    assert ended_pods(last) == {"tj-worker-0-a0"} | ({"tj-worker-1-a0"} if policy == "All" else set())
    resumed = after(one, plan)
    resumed.metadata.annotations.clear()
    assert reconcile(observed(resumed), NOW + 2).status is None, "it never comes back"


@pytest.mark.parametrize("suspend", [True, False])
def test_a_job_is_stopped_also_when_it_is_suspended_or_has_not_begun(suspend: bool) -> None:
    assert state(reconcile(observed(stopped(job(runPolicy={"suspend": suspend}))), NOW)) == ("Failed", "StoppedByUser")


def test_a_job_that_succeeded_stays_so() -> None:
    one = with_status(job())
    plan = reconcile(observed(one, ended(0, 0), ended(0, 1)), NOW)
    assert state(plan)[0] == "Succeeded"
    assert reconcile(observed(stopped(after(one, plan)), ended(0, 0), ended(0, 1)), NOW + 1).status is None


def test_a_job_that_ran_for_too_long_holds_no_nodes_whatever_its_clean_pod_policy() -> None:
    one = with_status(job(runPolicy={"cleanPodPolicy": "None", "activeDeadlineSeconds": 60}))
    plan = reconcile(observed(one, running(0), running(1)), NOW)
    assert state(plan) == ("Failed", "DeadlineExceeded")
    last = reconcile(observed(after(one, plan), running(0), running(1)), NOW + 1)
    assert ended_pods(last) == {"tj-worker-0-a0", "tj-worker-1-a0"}


def test_what_a_failed_program_left_running_stays_with_policy_none() -> None:
    one = with_status(job(runPolicy={"cleanPodPolicy": "None"}))
    plan = reconcile(observed(one, ended(1, 0), running(1)), NOW)
    assert state(plan) == ("Failed", "UserError")
    assert not ended_pods(reconcile(observed(after(one, plan), ended(1, 0), running(1)), NOW + 1))


def test_work_that_was_done_before_the_suspension_is_not_done_again() -> None:
    one = with_status(job(runPolicy={"suspend": True}))
    assert state(reconcile(observed(one, ended(0, 0), ended(0, 1)), NOW))[0] == "Succeeded"


def test_pods_that_save_and_end_well_because_of_a_suspension_are_no_success() -> None:
    one = with_status(job(runPolicy={"suspend": True}))
    plan = reconcile(observed(one, running(0), running(1)), NOW)
    assert state(plan)[0] == "Suspended"
    moved = after(one, plan)
    assert state(reconcile(observed(moved, ended(0, 0), ended(0, 1)), NOW + 5))[0] == "Suspended"


def saving(**template: Any) -> TrainingJob:
    specs = workers()
    specs["Worker"]["template"]["spec"] |= template
    return with_status(
        job(
            runPolicy={"suspend": True},
            replicaSpecs=specs,
            datasets=[{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
            checkpoint={"dataset": "ckpt", "path": "run"},
        ),
        checkpoints=[{"step": 7, "complete": True, "durable": True, "bytes": 10 << 30, "path": "run/7"}],
    )


def suspension(one: TrainingJob) -> set[int | None]:
    found = Checkpoints((CheckpointView(7, "run/7", True, size_bytes=10 << 30, completed_at=CREATED_AT + 50),))
    seen = observed(
        one,
        running(0),
        running(1),
        checkpoints=found,
        datasets={"ckpt": DatasetView("ckpt", "Bound", 0.0)},
        bytes_per_second=100e6,
    )
    return {action.grace_seconds for action in reconcile(seen, NOW).actions if isinstance(action, DeletePod)}


def test_a_first_attempt_gets_the_time_its_checkpoint_takes_when_it_is_suspended() -> None:
    assert suspension(saving()) == {172}, "10 s and 1.5 times 10 GiB at 100 MB/s; its pods were made with 30 s"


def test_a_grace_of_the_template_is_the_users() -> None:
    assert suspension(saving(terminationGracePeriodSeconds=5)) == {None}
