"""When a DataLoad runs: schedules, snapshots, chains. The clock is a number here."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.conditions import parse_timestamp, timestamp
from api.dataload_v1alpha1 import DataLoad, DataLoadStatus
from api.gen import metadata_pb2
from cacheruntime.controller import dataload, load_turns
from cacheruntime.controller.load_turns import Key, Turn, next_turn

BORN = parse_timestamp("2026-03-02T10:00:30Z")
HOURLY = {"policy": "Cron", "schedule": "0 * * * *"}


def a_load(name: str = "l", **spec: Any) -> DataLoad:
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "creationTimestamp": timestamp(BORN)}
    return DataLoad.model_validate({"metadata": metadata, "spec": {"dataset": {"name": "d"}, **spec}})


def turn(load: DataLoad, now: float, *others: DataLoad, snapshot: int = 1) -> Turn:
    known: dict[Key, DataLoad] = {(one.metadata.namespace, one.metadata.name): one for one in (load, *others)}
    taken = next_turn(load, known.get, snapshot, now)
    if taken.status is not None:
        load.status = taken.status
    return taken


def phase_of(load: DataLoad) -> str:
    assert load.status is not None
    return load.status.phase


def end(load: DataLoad, now: float, phase: str = "Complete", snapshot: int = 1) -> None:
    assert load.status is not None
    update = {"phase": phase, "finished_at": timestamp(now), "snapshot_version": snapshot}
    load.status = load.status.model_copy(update=update)


def test_once_runs_once() -> None:
    load = a_load()
    assert turn(load, BORN).runs
    assert turn(load, BORN + 5).runs
    end(load, BORN + 9)
    assert turn(load, BORN + 10, snapshot=9) == Turn(runs=False)


def test_a_schedule_begins_at_its_times_and_not_before() -> None:
    load = a_load(**HOURLY)
    first = turn(load, BORN)
    assert not first.runs and first.again_seconds == load_turns.LONGEST_REST_SECONDS
    assert load.status is not None and phase_of(load) == "Pending"
    assert load.status.next_schedule_time == "2026-03-02T11:00:00Z"
    due = parse_timestamp("2026-03-02T11:00:00Z")
    assert turn(load, due - 100).again_seconds == 100
    assert turn(load, due).runs
    assert (phase_of(load), load.status.last_schedule_time) == ("Executing", "2026-03-02T11:00:00Z")
    end(load, due + 60)
    assert not turn(load, due + 61).runs
    assert phase_of(load) == "Complete", "until the next run one sees how the last one ended"
    assert turn(load, due + 3600).runs
    assert load.status.progress.bytes_loaded == 0 and load.status.finished_at is None


def test_times_that_passed_meanwhile_are_one_run() -> None:
    load = a_load(**HOURLY)
    late = parse_timestamp("2026-03-02T15:20:00Z")
    assert turn(load, late).runs
    assert load.status is not None and load.status.last_schedule_time == "2026-03-02T15:00:00Z"
    assert turn(load, late + 7200).runs, "the first run goes on, and no second one begins"
    assert load.status.last_schedule_time == "2026-03-02T15:00:00Z"
    end(load, late + 7300)
    assert turn(load, late + 7301).runs
    assert load.status.last_schedule_time == "2026-03-02T17:00:00Z"


def test_each_run_of_a_schedule_asks_workers_anew() -> None:
    load, info = a_load(**HOURLY), metadata_pb2.DatasetInfo(uid="u", snapshot_version=1)
    turn(load, BORN + 3600)
    first = dataload.requests(load, info, [])[0]
    end(load, BORN + 3700)
    turn(load, BORN + 7200)
    second = dataload.requests(load, info, [])[0]
    assert first.load_id == second.load_id and first.run != second.run


def test_a_schedule_that_cannot_be_read_is_refused_until_it_is_mended() -> None:
    load = a_load(policy="Cron", schedule="61 * * * *")
    refused = turn(load, BORN)
    assert not refused.runs and load.status is not None and load.status.phase == "Failed"
    assert "spec.schedule '61 * * * *' cannot be read" in load.status.conditions[-1].message
    before = load.status
    turn(load, BORN + 10)
    assert load.status == before, "what is said already is not written again"
    load.spec = a_load(**HOURLY).spec
    turn(load, BORN + 20)
    assert (load.status.phase, load.status.conditions) == ("Pending", [])
    assert turn(load, BORN + 3600).runs


def test_on_event_runs_for_every_new_snapshot() -> None:
    load = a_load(policy="OnEvent")
    assert turn(load, BORN).runs
    end(load, BORN + 1, snapshot=1)
    assert turn(load, BORN + 2, snapshot=1) == Turn(runs=False)
    assert turn(load, BORN + 3, snapshot=2).runs


@pytest.mark.parametrize("phase", ["absent", "Pending", "Executing", "Failed", "Complete"])
def test_run_after_begins_when_the_other_is_complete(phase: str) -> None:
    first = a_load("first")
    first.status = DataLoadStatus(phase=phase) if phase != "absent" else None  # type: ignore[arg-type]
    load = a_load(runAfter={"kind": "DataLoad", "name": "first"})
    taken = turn(load, BORN, *([] if phase == "absent" else [first]))
    assert taken.runs == (phase == "Complete")
    assert load.status is not None
    if phase != "Complete":
        assert load.status.phase == "Pending" and taken.again_seconds == load_turns.WAIT_SECONDS
        assert load.status.waiting_for is not None and load.status.waiting_for.operation_complete
        assert "ns/first" in load.status.conditions[-1].message
        first.status = DataLoadStatus(phase="Complete")
        assert turn(load, BORN + 5, first).runs
    assert load.status.waiting_for is None


def test_a_run_that_has_begun_waits_for_nobody() -> None:
    first = a_load("first")
    first.status = DataLoadStatus(phase="Complete")
    load = a_load(runAfter={"name": "first"})
    assert turn(load, BORN, first).runs
    assert turn(load, BORN + 1).runs


@given(st.integers(1, 12), st.integers(0, 12))
def test_a_circle_is_refused_by_all_in_it_and_a_chain_by_none(length: int, tail: int) -> None:
    names = [f"l{index}" for index in range(length)]
    circle = [a_load(name, runAfter={"name": names[(index + 1) % length]}) for index, name in enumerate(names)]
    chain = [
        a_load(f"t{index}", runAfter={"name": f"t{index + 1}" if index + 1 < tail else "l0"}) for index in range(tail)
    ]
    for load in circle:
        turn(load, BORN, *circle, *chain)
        assert load.status is not None and load.status.phase == "Failed"
        assert load.status.conditions[-1].reason == load_turns.RUN_AFTER_CYCLE
        assert load.status.conditions[-1].message.count(" after ") == length
    for load in chain:
        turn(load, BORN, *circle, *chain)
        assert load.status is not None and load.status.phase == "Pending", "it waits for one that is in a circle"
    opened = a_load("l0")
    assert turn(opened, BORN, *circle[1:]).runs
    if length > 1:
        opened.status = DataLoadStatus(phase="Complete")
        assert turn(circle[-1], BORN + 10, opened, *circle[1:-1]).runs
