"""When the metadata service is asked for a job's checkpoints; no server."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest

from api.conditions import timestamp
from jobcontroller.core.observed import CheckpointView
from jobcontroller.core.reconcile import reconcile
from jobcontroller.errors import MetadataUnavailable
from jobcontroller.frameworks.registry import FRAMEWORKS
from jobcontroller.shell.caches import Caches
from jobcontroller.shell.checkpoint_client import CheckpointClient
from jobcontroller.shell.directories import Directories
from jobcontroller.shell.observe import Observer, Seen
from jobcontroller.shell.queues import Queues
from jobcontroller.shell.signs import SignReader
from kube.client import KubeClient
from tests.builders.training_jobs import CREATED_AT, job, with_status

KEY = ("ns", "tj")
ENDED_AT = CREATED_AT + 30
LAST = CheckpointView(7, "run/7", True, 5, {}, ENDED_AT - 0.1)


class FakeServer:
    """Holds one job that ended, whose status knows of no checkpoint."""

    async def get(self, resource: Any, name: str, namespace: str) -> Any:
        spec: dict[str, Any] = {
            "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
            "checkpoint": {"dataset": "ckpt", "path": "run"},
        }
        conditions = [{"type": "Succeeded", "status": "True", "reason": "AllSucceeded", "message": ""}]
        status: dict[str, Any] = {
            "attempt": 0,
            "startedAttempt": 0,
            "conditions": conditions,
            "completionTime": timestamp(ENDED_AT),
        }
        return with_status(job(**spec), **status).to_wire()


class FakeMetadata:
    """Knows one checkpoint, unless it is down."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_down = False

    async def newest_first(self, namespace: str, spec: Any) -> tuple[CheckpointView, ...]:
        self.asked += 1
        if self.is_down:
            raise MetadataUnavailable("it is down")
        return (LAST,)


def _observer(metadata: FakeMetadata, now: float) -> Observer:
    client = cast(KubeClient, FakeServer())
    directories = Directories()
    return Observer(
        client,
        Caches(client, lambda _: None, lambda: 0.0, Random(0)),
        Queues(client, lambda _: None, Random(0), directories),
        FRAMEWORKS,
        cast(CheckpointClient, metadata),
        signs=SignReader(client, None),
        directories=directories,
        checkpoint_seconds=15.0,
        clock=lambda: 0.0,
        wall_clock=lambda: now,
    )


async def test_a_job_that_ended_between_two_looks_tells_of_its_last_checkpoint() -> None:
    metadata = FakeMetadata()
    observer = _observer(metadata, ENDED_AT + 1)
    seen = await observer.observe(KEY, None)
    assert isinstance(seen, Seen)
    plan = reconcile(seen.observed, ENDED_AT + 1)
    assert plan.status is not None
    assert [(one.step, one.complete) for one in plan.status.checkpoints] == [(7, True)]
    again = await observer.observe(KEY, None)
    assert isinstance(again, Seen)
    assert again.observed.checkpoints is None, "once is enough"
    assert metadata.asked == 1


async def test_it_is_asked_again_while_the_metadata_service_is_down() -> None:
    metadata = FakeMetadata()
    metadata.is_down = True
    observer = _observer(metadata, ENDED_AT + 1)
    seen = await observer.observe(KEY, None)
    assert isinstance(seen, Seen)
    plan = reconcile(seen.observed, ENDED_AT + 1)
    assert plan.wake_after_seconds is not None
    assert plan.status is None or not plan.status.checkpoints
    metadata.is_down = False
    seen = await observer.observe(KEY, None)
    assert isinstance(seen, Seen)
    assert seen.observed.checkpoints is not None
    assert seen.observed.checkpoints.found == (LAST,)


@pytest.mark.parametrize("later_seconds", [3600.0, 86400.0])
async def test_a_controller_that_starts_long_after_does_not_ask(later_seconds: float) -> None:
    metadata = FakeMetadata()
    await _observer(metadata, ENDED_AT + later_seconds).observe(KEY, None)
    assert metadata.asked == 0
