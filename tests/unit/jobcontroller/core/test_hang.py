"""Hang detection: what is silence, when it is looked at, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from api.training_v1alpha1 import TrainingJob
from jobcontroller.core import hang
from jobcontroller.core.actions import EmitEvent, Plan
from jobcontroller.core.observed import Checkpoints, CheckpointView, DatasetView, Heartbeat, PodView, Sign, Signs
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, job, observed, running, state, with_status

STARTED_AT = CREATED_AT + 5  # of running(): when its containers started
TIMEOUT = 60


def a_job(status: dict[str, Any] | None = None, **policy: Any) -> TrainingJob:
    hangs = {"timeoutSeconds": TIMEOUT, "signals": ["Log"], **policy}
    spec: dict[str, Any] = {
        "runPolicy": {"hangDetection": hangs},
        "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        "checkpoint": {"dataset": "ckpt", "path": "run"},
    }
    return with_status(job(**spec), **(status or {}))


def look(one: TrainingJob, now: float, signs: Signs | None, *pods: PodView, steps: tuple[int, ...] = ()) -> Plan:
    found = tuple(CheckpointView(step, f"run/{step}", True, completed_at=CREATED_AT + 1) for step in steps)
    return reconcile(
        observed(
            one,
            *(pods or (running(0), running(1))),
            signs=signs,
            datasets={"ckpt": DatasetView("ckpt", "Bound", 0.0)},
            checkpoints=Checkpoints(found),
        ),
        now,
    )


def restarting(plan: Plan) -> str:
    return next((action.note for action in plan.actions if isinstance(action, EmitEvent)), "")


def is_restarted(plan: Plan) -> bool:
    return plan.status is not None and plan.status.attempt == 1


def test_a_silent_attempt_is_restarted_and_counted_as_the_infrastructures() -> None:
    now = STARTED_AT + 300
    last = Sign("Log", STARTED_AT + 200, "pod tj-worker-1-a0")
    plan = look(a_job(), now, Signs(now, (last,)))
    assert is_restarted(plan)
    assert plan.status is not None
    assert (plan.status.restarts.infrastructure, plan.status.restarts.user_error) == (1, 0)
    assert plan.status.goodput[0].training + plan.status.goodput[0].lost == 200, "silence is no training"
    assert "attempt 0 hangs: no log line for 100 s (the last: pod tj-worker-1-a0)" in restarting(plan)
    assert "runPolicy.hangDetection.timeoutSeconds is 60" in restarting(plan)
    assert state(plan) == ("Restarting", "InfrastructureFailure")


@pytest.mark.parametrize(
    ("signs", "why"),
    [
        (None, "nothing was read"),
        (Signs(STARTED_AT + 59, ()), "what was read is older than the silence"),
        (Signs(STARTED_AT + 300, error="no answer"), "the reading failed"),
        (Signs(STARTED_AT + 300, (Sign("Log", STARTED_AT + 290),)), "a line was read"),
    ],
)
def test_without_a_reading_that_says_so_nothing_hangs(signs: Signs | None, why: str) -> None:
    assert not is_restarted(look(a_job(), STARTED_AT + 300, signs)), why


def test_a_start_has_its_own_time() -> None:
    now = STARTED_AT + 300
    assert not is_restarted(look(a_job(startSeconds=301), now, Signs(now)))
    plan = look(a_job(startSeconds=300), now, Signs(now))
    assert is_restarted(plan)
    assert "no log line since all pods run, 300 s" in restarting(plan)


def test_nothing_hangs_before_all_pods_run_or_while_one_is_ending() -> None:
    now = STARTED_AT + 300
    waiting = running(1, is_running=False)
    assert not is_restarted(look(a_job(), now, Signs(now), running(0), waiting))
    one = a_job()
    assert hang.due_at(one, [running(0), waiting], None) is None
    assert hang.due_at(one, [running(0), running(1, deletion_at=now)], None) is None
    assert hang.due_at(one, [running(0), running(1)], None) == STARTED_AT + TIMEOUT


def test_one_sign_of_any_kind_is_enough() -> None:
    now = STARTED_AT + 300
    one = a_job(signals=["Log", "Heartbeat"])
    alive = running(1, heartbeat=Heartbeat(now - 10))
    silent = Signs(now, (Sign("Log"),))
    assert not is_restarted(look(one, now, silent, running(0), alive))
    plan = look(one, now, silent, running(0), running(1, heartbeat=Heartbeat(now - 100)))
    assert is_restarted(plan)
    assert "no log line since all pods run, 300 s and no heartbeat for 100 s (the last: pod tj-wo" in restarting(plan)


def test_heartbeats_need_no_reading() -> None:
    now = STARTED_AT + 300
    assert is_restarted(look(a_job(signals=["Heartbeat"]), now, None))
    assert not hang.needs_reading(a_job(signals=["Heartbeat"]), [running(0)], None, now)


def test_signs_are_read_once_a_silence() -> None:
    one, pods = a_job(), [running(0), running(1)]
    due = STARTED_AT + TIMEOUT
    assert not hang.needs_reading(one, pods, None, due - 1)
    assert hang.needs_reading(one, pods, None, due)
    spoke = Signs(due, (Sign("Log", due - 20),))
    assert not hang.needs_reading(one, pods, spoke, due + 39)
    assert hang.needs_reading(one, pods, spoke, due + 40)
    failed = Signs(due, error="no answer")
    assert not hang.needs_reading(one, pods, failed, due + 4)
    assert hang.needs_reading(one, pods, failed, due + 5)


def test_a_second_hang_at_the_same_step_is_the_programs() -> None:
    now = STARTED_AT + 300
    first = look(a_job(), now, Signs(now), steps=(20,))
    assert first.status is not None
    assert first.status.hung_at_step == 20
    again = look(a_job({"hung_at_step": 20}), now, Signs(now), steps=(20,))
    assert state(again) == ("Failed", "UserError")
    assert again.status is not None
    assert "hangs at step 20, as the attempt before did there" in (again.status.message or "")
    later = look(a_job({"hung_at_step": 20}), now, Signs(now), steps=(20, 30))
    assert later.status is not None
    assert (later.status.restarts.infrastructure, later.status.hung_at_step) == (1, 30)


def test_without_a_known_step_no_two_hangs_are_at_the_same() -> None:
    now = STARTED_AT + 300
    plan = look(a_job({"hung_at_step": None}), now, Signs(now))
    assert is_restarted(plan)
    assert plan.status is not None
    assert plan.status.hung_at_step is None


@pytest.mark.parametrize(
    ("text", "beat"),
    [
        ("2023-11-14T22:13:20Z", Heartbeat(CREATED_AT)),
        ("2023-11-14T22:13:20.5Z/120", Heartbeat(CREATED_AT + 0.5, 120)),
        ("2023-11-14T22:13:20Z/", Heartbeat(CREATED_AT)),
        ("2023-11-14T22:13:20Z/x", None),
        ("now", None),
        ("", None),
    ],
)
def test_a_heartbeat_is_a_time_and_perhaps_a_step(text: str, beat: Heartbeat | None) -> None:
    assert hang.parse_heartbeat(text) == beat


def test_news_of_a_heartbeat_alone_is_no_news_of_the_pod() -> None:
    assert running(0) == running(0, heartbeat=Heartbeat(CREATED_AT))


def test_an_elastic_job_that_hangs_is_not_shrunk() -> None:
    now = STARTED_AT + 300
    spec: dict[str, Any] = {
        "framework": "PyTorch",
        "pytorch": {"elastic": {"min": 1, "max": 2}},
        "runPolicy": {"hangDetection": {"timeoutSeconds": TIMEOUT}},
    }
    elastic = {"replicas": 2, "members": "0-1", "next_index": 2}
    plan = reconcile(observed(with_status(job(**spec), elastic=elastic), running(0), running(1), signs=Signs(now)), now)
    assert is_restarted(plan)
