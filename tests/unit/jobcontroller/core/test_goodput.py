"""Seconds of an attempt by activity."""

from __future__ import annotations

from api.training_v1alpha1 import Goodput
from jobcontroller.core.goodput import measure, record
from tests.builders.training_jobs import CREATED_AT, pod, running


def test_a_failed_attempt_loses_what_it_did_since_its_last_checkpoint() -> None:
    pods = [
        running(0, created_at=CREATED_AT + 3, scheduled_at=CREATED_AT + 7, started_at=CREATED_AT + 10),
        running(1, created_at=CREATED_AT + 4, scheduled_at=CREATED_AT + 8, started_at=CREATED_AT + 15),
    ]
    found = measure(
        attempt=0,
        began_at=CREATED_AT,
        pods=pods,
        wanted_pods=2,
        until=CREATED_AT + 115,
        has_ended=True,
        last_checkpoint_at=CREATED_AT + 95,
    )
    assert found == Goodput(attempt=0, queued=3, placing=5, staging=2, starting=5, training=80, lost=20)
    assert sum((found.queued, found.placing, found.staging, found.starting, found.training, found.lost)) == 115


def test_a_pending_attempt_shows_only_what_is_over() -> None:
    pods = [pod(0, created_at=CREATED_AT + 3), running(1)]
    found = measure(attempt=1, began_at=CREATED_AT, pods=pods, wanted_pods=2, until=CREATED_AT + 50, has_ended=False)
    assert found == Goodput(attempt=1, queued=0)


def test_an_attempt_that_waits_for_hours_shows_whole_minutes_of_it() -> None:
    waits = [pod(0, created_at=CREATED_AT + 3), pod(1, created_at=CREATED_AT + 3)]

    def at(seconds: float) -> Goodput:
        until = CREATED_AT + 3 + seconds
        return measure(attempt=0, began_at=CREATED_AT, pods=waits, wanted_pods=2, until=until, has_ended=False)

    assert at(7250) == at(7201) == Goodput(attempt=0, queued=3, placing=7200)


def test_a_running_attempt_changes_once_a_minute() -> None:
    def at(seconds: float) -> Goodput:
        return measure(
            attempt=0,
            began_at=CREATED_AT,
            pods=[running(0)],
            wanted_pods=1,
            until=CREATED_AT + 5 + seconds,
            has_ended=False,
        )

    assert at(59) == at(1)
    assert at(61).training == 60


def test_the_newest_attempts_are_kept() -> None:
    entries: list[Goodput] = []
    for attempt in range(70):
        entries = record(entries, Goodput(attempt=attempt))
    entries = record(entries, Goodput(attempt=69, training=1))
    assert len(entries) == 64
    assert entries[-1].training == 1
