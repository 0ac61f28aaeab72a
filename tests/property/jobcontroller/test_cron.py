"""Histories of a CronTrainingJob: time passes, jobs end, writes get lost, a user edits; none is made twice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from hypothesis import given, settings

from api.cron import parse
from api.cron_v1alpha1 import CronTrainingJob
from jobcontroller.core.cron import Run, decide
from tests.builders.cron_jobs import cron_job
from tests.builders.training_jobs import CREATED_AT

WAIT, END, DECIDE, LOSE, SUSPEND, GO, REAP = "wait", "end", "decide", "lose status", "suspend", "go on", "reap"
moves = st.lists(
    st.one_of(
        st.tuples(st.just(WAIT), st.integers(1, 9000)),
        st.sampled_from([(END, 0), (DECIDE, 0), (DECIDE, 0), (LOSE, 0), (SUSPEND, 0), (GO, 0), (REAP, 0)]),
    ),
    max_size=50,
)


@dataclass
class World:
    """The API server's side: jobs as they are; `made` tells every name that was ever created, with its moment."""

    one: CronTrainingJob
    now: float = CREATED_AT
    runs: dict[str, Run] = field(default_factory=dict)
    made: dict[str, float] = field(default_factory=dict)

    def decide(self, *, loses_status: bool = False) -> None:
        plan = decide(self.one, list(self.runs.values()), self.now)
        spec = self.one.spec
        for deletion in plan.deletions:
            run = self.runs[deletion.name]
            assert run.state or spec.concurrency_policy == "Replace", "a running job is deleted only to be replaced"
            if run.state:
                del self.runs[deletion.name]
            else:
                self.runs[deletion.name] = replace(run, is_being_deleted=True)
        if plan.creation is not None:
            name = plan.creation.name
            assert not spec.suspend
            assert name not in self.made, "a job is made twice"
            if spec.concurrency_policy != "Allow":
                assert all(run.state for run in self.runs.values()), "two jobs run at once"
            due = int(name.rpartition("-")[2]) * 60
            assert due <= self.now
            if spec.starting_deadline_seconds is not None:
                assert self.now - due <= spec.starting_deadline_seconds
            self.made[name] = self.now
            self.runs[name] = Run(name, f"uid-{name}", self.now)
        if plan.status is not None and not loses_status:
            self.one = self.one.model_copy(update={"status": plan.status})

    def suspend(self, value: bool) -> None:
        self.one = self.one.model_copy(update={"spec": self.one.spec.model_copy(update={"suspend": value})})

    def end_first(self) -> None:
        running = [run for run in self.runs.values() if not run.state]
        if running:
            self.runs[running[0].name] = replace(running[0], state="Succeeded", finished_at=self.now)

    def reap(self) -> None:
        self.runs = {name: run for name, run in self.runs.items() if not run.is_being_deleted}


@given(
    moves,
    st.sampled_from(("Allow", "Forbid", "Replace")),
    st.sampled_from((None, 30, 5000)),
    st.sampled_from(("*/20 * * * *", "0 * * * *", "30 2 * * *")),
    # a history of none deletes what tells that a job was made, if the status is lost as well
    st.integers(1, 3),
)
@settings(deadline=None)
def test_no_job_is_made_twice_and_in_the_end_every_time_is_settled(
    history: list[tuple[str, int]], policy: str, late: int | None, schedule: str, keep: int
) -> None:
    one = cron_job(
        concurrencyPolicy=policy, startingDeadlineSeconds=late, schedule=schedule, successfulJobsHistoryLimit=keep
    )
    world = World(one)
    for move, argument in history:
        match move:
            case "wait":
                world.now += argument
            case "end":
                world.end_first()
            case "reap":
                world.reap()
            case "suspend" | "go on":
                world.suspend(move == SUSPEND)
            case _:
                world.decide(loses_status=move == LOSE)
    world.suspend(False)
    for _ in range(4):
        for _ in range(len(world.runs)):
            world.end_first()
        world.reap()
        world.decide()
    assert world.one.status is not None
    due = parse(schedule).last_until(world.now)
    assert due is not None
    name = f"hourly-{int(due) // 60}"
    was_missed = late is not None and world.now - due > late
    assert due <= CREATED_AT or name in world.made or was_missed
    assert len([run for run in world.runs.values() if run.state]) <= keep
