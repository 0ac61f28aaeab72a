"""Histories of saves, removals cut off, restarts and changes of `keep`: what must stay always stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from api.conditions import timestamp
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import RemoveCheckpoint
from jobcontroller.core.observed import Checkpoints, CheckpointView, DatasetView
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, ended, job, observed, running, with_status, workers

BOUND = {"ckpt": DatasetView("ckpt", "Bound", 0)}
SAVE, TEAR, LOOK, CUT_OFF, KEEP, RESTART = "save", "tear", "look", "cut off", "keep", "restart"
moves = st.lists(
    st.one_of(
        st.just((SAVE, 0)),
        st.just((TEAR, 0)),
        st.just((LOOK, 0)),
        st.just((CUT_OFF, 0)),
        st.tuples(st.just(KEEP), st.integers(1, 4)),
        st.just((RESTART, 0)),
    ),
    max_size=40,
)


class Run:
    """One job whose saves and removals are played; `store` is what the metadata service lists."""

    def __init__(self, keep: int, foreign: int) -> None:
        spec: dict[str, Any] = {
            "replicaSpecs": workers(1),
            "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
            "checkpoint": {"dataset": "ckpt", "path": "run", "keep": keep},
            "runPolicy": {"restarts": {"infrastructure": 1000}},
        }
        self.job: TrainingJob = with_status(job(**spec))
        self.now = CREATED_AT + 60
        self.step = 0
        old = (CheckpointView(1000 + i, f"run/{1000 + i}", True, completed_at=CREATED_AT - 100) for i in range(foreign))
        self.foreign = {one.path: one for one in old}
        self.store: dict[str, CheckpointView] = dict(self.foreign)

    def save(self, *, is_complete: bool) -> None:
        self.step += 1
        path = f"run/{self.step}"
        self.store[path] = CheckpointView(self.step, path, is_complete, completed_at=self.now if is_complete else None)

    def own_complete(self) -> list[CheckpointView]:
        own = (one for path, one in self.store.items() if one.is_complete and path not in self.foreign)
        return sorted(own, key=lambda one: -one.step)

    def turn(self, *, kill: bool = False, cut_off: bool = False) -> bool:
        """One decision and its removals; whether any is under way."""
        self.now += 10
        assert self.job.status is not None
        attempt = self.job.status.attempt
        has_pods = self.job.status.started_attempt == attempt
        pods = [ended(137, 0, attempt, at=self.now - 9) if kill else running(0, attempt)] if has_pods else []
        listed = tuple(sorted(self.store.values(), key=lambda one: -one.step))
        plan = reconcile(observed(self.job, *pods, checkpoints=Checkpoints(listed), datasets=BOUND), self.now)
        if plan.status is not None:
            self.job = self.job.model_copy(update={"status": plan.status})
        newest = self.own_complete()[:1]
        removed = [action.path for action in plan.actions if isinstance(action, RemoveCheckpoint)]
        for path in removed:
            assert path not in self.foreign
            assert path != plan_resume(self.job)
            assert [path] != [one.path for one in newest], "the last complete checkpoint goes"
            self._remove(path, cut_off=cut_off)
        assert self.job.status is not None
        return bool(removed or self.job.status.retiring_checkpoints)

    def _remove(self, path: str, *, cut_off: bool) -> None:
        if cut_off and self.store[path].is_complete:
            self.store[path] = replace(self.store[path], is_complete=False, completed_at=None)
        else:
            del self.store[path]


def plan_resume(one: TrainingJob) -> str | None:
    return one.status.resume_path if one.status is not None else None


@given(moves, st.integers(1, 4), st.integers(0, 3))
@settings(deadline=None)
def test_the_newest_the_resumed_and_the_foreign_stay_and_in_the_end_no_more(
    history: list[tuple[str, int]], keep: int, foreign: int
) -> None:
    run = Run(keep, foreign)
    for move, argument in history:
        match move:
            case "save" | "tear":
                run.save(is_complete=move == SAVE)
            case "keep":
                keep = argument
                checkpoint = run.job.spec.checkpoint
                assert checkpoint is not None
                spec = run.job.spec.model_copy(update={"checkpoint": checkpoint.model_copy(update={"keep": argument})})
                run.job = run.job.model_copy(update={"spec": spec})
            case "restart":
                had = run.own_complete()[:1]
                run.turn(kill=True)
                run.turn()
                status = run.job.status
                assert status is not None
                # One attempt after another makes the next one wait: then nothing is chosen yet.
                if had and status.started_attempt == status.attempt:
                    assert plan_resume(run.job) is not None, "there was a complete checkpoint and it was not used"
            case _:
                run.turn(cut_off=move == CUT_OFF)
        assert set(run.foreign) <= set(run.store)
    torn = {path for path, one in run.store.items() if not one.is_complete}
    run.now += 3600  # whatever the next attempt waits for between attempts is over
    run.turn()
    for _ in range(20):
        if not run.turn():
            break
    else:
        raise AssertionError(f"removals do not end: {timestamp(run.now)}, {sorted(run.store)}")
    left = [one.path for one in run.own_complete()]
    assert len([path for path in left if path != plan_resume(run.job)]) <= keep
    assert {path for path in run.store if path not in left and path not in run.foreign} <= torn
