"""`checkpoint.keep` in a job's life: what goes, when, and what is said."""

from __future__ import annotations

from typing import Any

from api.conditions import Condition, timestamp
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import EmitEvent, Plan, RemoveCheckpoint
from jobcontroller.core.observed import Checkpoints, CheckpointView, DatasetView, Problem
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, conditions, ended, job, observed, running, with_status

NOW = CREATED_AT + 110
BOUND = {"ckpt": DatasetView("ckpt", "Bound", 0)}


def keeping(keep: int, **status: Any) -> TrainingJob:
    spec: dict[str, Any] = {
        "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        "checkpoint": {"dataset": "ckpt", "path": "run", "keep": keep},
    }
    return with_status(job(**spec), **status)


def saved(*steps: int, torn: tuple[int, ...] = ()) -> Checkpoints:
    """Checkpoints of these steps, complete a second after the one before."""
    complete = [CheckpointView(n, f"run/{n}", True, 5, {}, CREATED_AT + 20 + i) for i, n in enumerate(steps)]
    return Checkpoints((*(CheckpointView(step, f"run/{step}", False) for step in torn), *complete[::-1]))


def look(one: TrainingJob, seen: Checkpoints, **fields: Any) -> Plan:
    return reconcile(observed(one, running(0), running(1), checkpoints=seen, datasets=BOUND, **fields), NOW)


def removals(plan: Plan) -> list[str]:
    return [action.path for action in plan.actions if isinstance(action, RemoveCheckpoint)]


def events(plan: Plan) -> dict[str, str]:
    return {action.reason: action.note for action in plan.actions if isinstance(action, EmitEvent)}


def after(one: TrainingJob, plan: Plan) -> TrainingJob:
    return one.model_copy(update={"status": plan.status or one.status})


def test_older_complete_checkpoints_go_and_what_was_removed_is_said() -> None:
    one = keeping(2)
    plan = look(one, saved(10, 20, 30, 40, torn=(5, 50)))
    assert removals(plan) == ["run/10", "run/20"], "a torn one neither counts nor goes"
    assert plan.status is not None
    assert plan.status.retiring_checkpoints == ["run/10", "run/20"]
    assert conditions(plan)["CheckpointRetention"] == ("True", "Kept")
    assert "FieldsWithoutEffect" not in events(plan)
    one = after(one, plan)
    plan = look(one, saved(20, 30, 40))
    assert events(plan)["CheckpointRemoved"] == "run/10: removed, as spec.checkpoint.keep is 2"
    assert removals(plan) == ["run/20"]
    one = after(one, plan)
    plan = look(one, saved(30, 40))
    assert removals(plan) == []
    assert plan.status is not None
    assert plan.status.retiring_checkpoints == []
    assert removals(look(after(one, plan), saved(30, 40))) == []


def test_a_removal_that_was_cut_off_is_finished() -> None:
    one = keeping(1, retiring_checkpoints=["run/10"])
    assert removals(look(one, saved(20, torn=(10,)))) == ["run/10"], "its marker is gone, the rest is not"


def test_what_was_begun_is_finished_when_keep_is_taken_back() -> None:
    one = keeping(1, retiring_checkpoints=["run/10"])
    assert one.spec.checkpoint is not None
    checkpoint = one.spec.checkpoint.model_copy(update={"keep": None})
    one = one.model_copy(update={"spec": one.spec.model_copy(update={"checkpoint": checkpoint})})
    plan = look(one, saved(20, 30, torn=(10,)))
    assert removals(plan) == ["run/10"]
    plan = look(after(one, plan), saved(20, 30))
    assert events(plan)["CheckpointRemoved"] == "run/10: removed, as spec.checkpoint.keep said"
    assert plan.status is not None
    assert plan.status.retiring_checkpoints == []
    assert look(after(one, plan), saved(20, 30)).status is None


def test_the_checkpoint_an_attempt_resumed_from_stays_while_it_lives() -> None:
    one = keeping(1, attempt=1, started_attempt=1, created_attempt=1, resume_step=10, resume_path="run/10")
    seen = saved(10, 20, 30)
    pods = (running(0, 1), running(1, 1))
    plan = reconcile(observed(one, *pods, checkpoints=seen, datasets=BOUND), NOW)
    assert removals(plan) == ["run/20"]


def test_no_attempt_resumes_from_what_is_being_removed() -> None:
    one = keeping(1, attempt=1, retiring_checkpoints=["run/20"])
    plan = reconcile(observed(one, checkpoints=saved(10, 20), datasets=BOUND), NOW)
    assert plan.status is not None
    assert plan.status.resume_path == "run/10"


def test_what_an_earlier_run_wrote_stays() -> None:
    foreign = CheckpointView(5, "run/5", True, completed_at=CREATED_AT - 60)
    in_doubt = (CheckpointView(6, "run/6", True, completed_at=CREATED_AT + 1), CheckpointView(7, "run/7", True))
    seen = Checkpoints((*saved(10, 20).found, foreign, *in_doubt))
    assert removals(look(keeping(1), seen)) == ["run/10"]


def test_nothing_goes_before_the_old_attempt_is_gone_nor_while_the_service_is_silent() -> None:
    one = keeping(1, attempt=1)
    seen = saved(10, 20)
    plan = reconcile(observed(one, running(0), checkpoints=seen, datasets=BOUND), NOW)
    assert removals(plan) == []
    assert removals(look(keeping(1), Checkpoints(error="it answered UNAVAILABLE"))) == []


def test_a_removal_that_fails_is_said_once_and_tried_again() -> None:
    one = keeping(1)
    one = after(one, look(one, saved(10, 20)))
    text = "checkpoint run/10 in Dataset ckpt is not removed: no live cache worker may remove it"
    problem = Problem("CheckpointNotRemoved", text, False, retry_at=NOW + 15)
    plan = look(one, saved(10, 20), removal_problem=problem)
    assert conditions(plan)["CheckpointRetention"] == ("False", "CheckpointNotRemoved")
    assert events(plan)["CheckpointNotRemoved"] == text
    assert removals(plan) == []
    assert plan.wake_after_seconds == 15
    one = after(one, plan)
    assert events(look(one, saved(10, 20), removal_problem=problem)) == {}
    due = Problem("CheckpointNotRemoved", text, False, retry_at=NOW)
    assert removals(look(one, saved(10, 20), removal_problem=due)) == ["run/10"]
    plan = look(one, saved(20))
    assert conditions(plan)["CheckpointRetention"] == ("True", "Kept")


def finished(**status: Any) -> TrainingJob:
    succeeded = Condition(type="Succeeded", status="True", reason="Succeeded")
    return keeping(1, conditions=[succeeded], completion_time=timestamp(CREATED_AT + 100), **status)


def test_what_was_saved_last_counts_when_the_job_has_ended() -> None:
    later_run = CheckpointView(90, "run/90", True, completed_at=CREATED_AT + 500)
    seen = Checkpoints((later_run, *saved(10, 20).found))
    one = finished(resume_path="run/10", resume_step=10)
    plan = reconcile(observed(one, ended(0), checkpoints=seen), NOW)
    assert removals(plan) == ["run/10"]
    assert plan.status is not None
    assert [entry.step for entry in plan.status.checkpoints] == [90, 20, 10]
    one = after(one, plan)
    plan = reconcile(observed(one, ended(0), checkpoints=saved(20)), NOW)
    assert "CheckpointRemoved" in events(plan)
    assert reconcile(observed(after(one, plan), ended(0)), NOW) == Plan(None)


def test_a_job_without_keep_keeps_all() -> None:
    spec: dict[str, Any] = {
        "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        "checkpoint": {"dataset": "ckpt", "path": "run"},
    }
    plan = look(with_status(job(**spec)), saved(*range(10, 300, 10)))
    assert removals(plan) == []
    assert "CheckpointRetention" not in conditions(plan)


def test_nothing_goes_while_another_job_writes_to_the_same_directory() -> None:
    plan = look(keeping(1), saved(10, 20), checkpoint_sharers=("other",))
    assert removals(plan) == []
    assert conditions(plan)["CheckpointRetention"] == ("False", "SharedDirectory")
    one = after(keeping(1), plan)
    alone = look(one, saved(10, 20))
    assert removals(alone) == ["run/10"]
    assert conditions(alone)["CheckpointRetention"] == ("True", "Kept")
    shared = look(after(one, alone), saved(10, 20, 30), checkpoint_sharers=("other",))
    assert removals(shared) == ["run/10"], "what was begun is finished"
    assert "while other write to the same directory" in events(shared)["SharedDirectory"]
