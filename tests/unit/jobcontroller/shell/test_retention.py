"""Performing removals of checkpoints: what is asked for, and what a failure leaves behind."""

from __future__ import annotations

from typing import Any

from api.training_v1alpha1 import CheckpointSpec, TrainingJob
from jobcontroller.core.actions import Action, DeleteJob, RemoveCheckpoint
from jobcontroller.errors import RemovalFailed
from jobcontroller.shell.retention import RETRY_SECONDS, Retention
from tests.builders.training_jobs import job

KEY = ("ns", "tj")


class Worker:
    """Removes what it is told to, but for what is stuck."""

    def __init__(self, stuck: str = "") -> None:
        self.stuck = stuck
        self.asked: list[tuple[str, str, str]] = []

    async def remove(self, namespace: str, spec: CheckpointSpec, path: str, first: str) -> None:
        self.asked.append((namespace, spec.marker, path))
        if path == self.stuck:
            raise RemovalFailed(f"checkpoint {path} is not removed: a cache worker answered PERMISSION_DENIED")


def keeping() -> TrainingJob:
    spec: dict[str, Any] = {
        "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        "checkpoint": {"dataset": "ckpt", "marker": "DONE", "keep": 1},
    }
    return job(**spec)


async def test_a_failure_is_kept_until_the_next_try_and_ends_the_round() -> None:
    worker = Worker(stuck="20")
    retention = Retention(worker, wall_clock=lambda: 100.0)
    actions: list[Action] = [*map(RemoveCheckpoint, ("10", "20", "30")), DeleteJob("uid")]
    assert await retention.perform(KEY, keeping(), actions)
    assert worker.asked == [("ns", "DONE", "10"), ("ns", "DONE", "20")]
    problem = retention.problem(KEY)
    assert problem is not None
    assert (problem.reason, problem.retry_at) == ("CheckpointNotRemoved", 100.0 + RETRY_SECONDS)
    assert "PERMISSION_DENIED" in problem.message
    worker.stuck = ""
    assert await retention.perform(KEY, keeping(), actions)
    assert retention.problem(KEY) is None


async def test_nothing_is_asked_for_without_a_removal_or_a_metadata_service() -> None:
    worker = Worker()
    assert not await Retention(worker).perform(KEY, keeping(), [DeleteJob("uid")])
    assert not await Retention(None).perform(KEY, keeping(), [RemoveCheckpoint("10")])
    assert worker.asked == []
