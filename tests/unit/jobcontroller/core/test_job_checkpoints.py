"""Torn and distrusted checkpoints: which one is resumed from instead, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from api.training_v1alpha1 import DistrustedCheckpoint, TrainingJob
from jobcontroller.core.actions import ApplyDataLoad, EmitEvent, Plan
from jobcontroller.core.drain import MOST_WARM_BYTES
from jobcontroller.core.observed import Checkpoints, CheckpointView, DatasetView
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, ended, job, observed, running, with_status

NOW = CREATED_AT + 1000


def a_job(**status: Any) -> TrainingJob:
    spec: dict[str, Any] = {
        "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        "checkpoint": {"dataset": "ckpt", "path": "run"},
        "runPolicy": {"restarts": {"userError": 6}},
    }
    return with_status(job(**spec), **status)


def complete(step: int, at: float | None = None) -> CheckpointView:
    return CheckpointView(step, f"run/{step}", True, 10, completed_at=CREATED_AT + step if at is None else at)


def torn(step: int) -> CheckpointView:
    return CheckpointView(step, f"run/{step}", False, 10, problem="it has no file .metadata")


def seen(one: TrainingJob, *found: CheckpointView, pods: Any = ()) -> Plan:
    datasets = {"ckpt": DatasetView("ckpt", "Bound", 0.0)}
    return reconcile(observed(one, *pods, datasets=datasets, checkpoints=Checkpoints(found)), NOW)


def notes(plan: Plan) -> dict[str, str]:
    return {action.reason: action.note for action in plan.actions if isinstance(action, EmitEvent)}


def failing(resume_step: int, failed_resumes: int, **status: Any) -> TrainingJob:
    started = {"attempt": 3, "started_attempt": 3, "created_attempt": 3}
    resumed = {"resume_step": resume_step, "resume_path": f"run/{resume_step}", "failed_resumes": failed_resumes}
    return a_job(**started, **resumed, **status)


BOTH_FAILED = (ended(1, 0, 3), ended(1, 1, 3))


def test_a_torn_newest_checkpoint_is_passed_over_and_the_event_says_why() -> None:
    plan = seen(a_job(attempt=1), complete(10), torn(20))
    assert plan.status is not None
    assert (plan.status.resume_step, plan.status.resume_path) == (10, "run/10")
    assert notes(plan)["CheckpointSkipped"] == (
        "checkpoint run/20 is not complete: it has no file .metadata; attempt 1 resumes from run/10"
    )
    assert plan.status.checkpoints[0].problem == "it has no file .metadata"
    assert "CheckpointSkipped" not in notes(seen(a_job(attempt=1), torn(10), complete(20)))


def test_a_checkpoint_from_which_two_attempts_in_a_row_fail_is_not_resumed_from_again() -> None:
    first = seen(failing(20, 0), complete(10), complete(20), pods=BOTH_FAILED)
    assert first.status is not None
    assert (first.status.failed_resumes, first.status.distrusted_checkpoints) == (1, [])
    second = seen(failing(20, 1), complete(10), complete(20), pods=BOTH_FAILED)
    assert second.status is not None
    assert [one.path for one in second.status.distrusted_checkpoints] == ["run/20"]
    assert second.status.failed_resumes == 0
    assert notes(second)["CheckpointDistrusted"].startswith("2 attempts that resumed from run/20 ended with an error")
    after = second.status.model_copy(update={"attempt": 4})
    third = seen(a_job(**dict(after)), complete(10), complete(20))
    assert third.status is not None
    assert third.status.resume_path == "run/10"


def test_saved_anew_it_counts_again() -> None:
    record = DistrustedCheckpoint(path="run/20", completed_at="2023-11-14T22:13:40Z")
    before = seen(a_job(attempt=1, distrusted_checkpoints=[record]), complete(10), complete(20))
    anew = seen(a_job(attempt=1, distrusted_checkpoints=[record]), complete(10), complete(20, CREATED_AT + 500))
    assert before.status is not None
    assert anew.status is not None
    assert (before.status.resume_step, anew.status.resume_step) == (10, 20)


def test_an_attempt_that_got_to_a_newer_checkpoint_clears_the_count() -> None:
    plan = seen(failing(20, 1), complete(20), complete(30), pods=BOTH_FAILED)
    assert plan.status is not None
    assert (plan.status.failed_resumes, plan.status.distrusted_checkpoints) == (0, [])


def test_failures_of_the_infrastructure_say_nothing_about_a_checkpoint() -> None:
    plan = seen(failing(20, 1), complete(20), pods=(ended(137, 0, 3), running(1, 3)))
    assert plan.status is not None
    assert plan.status.attempt == 4
    assert (plan.status.failed_resumes, plan.status.distrusted_checkpoints) == (1, [])


def test_the_checkpoint_is_brought_to_nodes_of_a_restarted_attempt_that_have_nothing_of_it() -> None:
    """While their containers are made; once for each node, and not where a part of it is."""
    one = a_job(attempt=1, started_attempt=1, created_attempt=1, resume_step=10, resume_path="run/10")
    found = replace(complete(10), node_bytes={"n1": 5})
    starting = [running(0, 1, node="n1", is_running=False), running(1, 1, node="n2", is_running=False)]
    plan = seen(one, found, pods=starting)
    (load,) = loads(plan)
    assert load["spec"]["dataset"] == {"name": "ckpt"}
    assert [(target["path"], target["nodes"]) for target in load["spec"]["target"]] == [("/run/10", ["n2"])]
    assert plan.status is not None
    assert plan.status.prewarmed == [load["metadata"]["name"]]
    again = seen(one.model_copy(update={"status": plan.status}), found, pods=starting)
    assert loads(again) == []


def test_nothing_is_brought_to_pods_that_run_already_nor_of_checkpoints_too_large_to_copy_whole() -> None:
    one = a_job(attempt=1, started_attempt=1, created_attempt=1, resume_step=10, resume_path="run/10")
    assert loads(seen(one, complete(10), pods=(running(0, 1), running(1, 1)))) == []
    starting = (running(0, 1), running(1, 1, node="n2", is_running=False))
    assert loads(seen(one, replace(complete(10), size_bytes=MOST_WARM_BYTES + 1), pods=starting)) == []
    first = a_job(resume_step=10, resume_path="run/10")
    assert loads(seen(first, complete(10), pods=(running(0), running(1, is_running=False)))) == []


def loads(plan: Plan) -> list[Any]:
    return [action.body for action in plan.actions if isinstance(action, ApplyDataLoad)]
