"""One turn of a CronTrainingJob against an API server that answers as told: order of writes, refusals, conflicts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobcontroller.shell.crons import CONFLICT_SECONDS, MAX_SLEEP_SECONDS, RETRY_REFUSED_SECONDS, Crons
from kube.client import KubeClient
from kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, KubeError, NotFound
from kube.events import EventRecorder
from kube.resources import CRON_TRAINING_JOBS
from tests.builders.cron_jobs import cron_job

KEY = ("ns", "hourly")
#: 2023-11-14 23:00:05 UTC
NOW = 1_700_002_805.0
NAME = "hourly-28333380"


class FakeServer:
    """Holds the CronTrainingJob and its jobs; `writes` tells what was asked for, in order."""

    def __init__(self, *, create: KubeError | None = None, replace: KubeError | None = None, jobs: Any = ()) -> None:
        self.cron: dict[str, Any] | None = cron_job().model_dump(mode="json", by_alias=True, exclude_none=True)
        self.jobs: dict[str, dict[str, Any]] = {job["metadata"]["name"]: job for job in jobs}
        self.listed = list(self.jobs.values())
        self.writes: list[str] = []
        self._create, self._replace = create, replace

    async def get(self, resource: Any, name: str, namespace: str) -> Any:
        found = self.cron if resource is CRON_TRAINING_JOBS else self.jobs.get(name)
        if found is None:
            raise NotFound(404, "NotFound", f"{name} is not there")
        return found

    async def list(self, resource: Any, namespace: str, label_selector: str) -> Any:
        assert label_selector == "training.headrace.dev/cron-uid=cron-uid"
        return SimpleNamespace(items=self.listed)

    async def create(self, resource: Any, body: Any, namespace: str, **_: Any) -> Any:
        self.writes.append(f"create {body['metadata']['name']}")
        if self._create is not None:
            raise self._create
        return body

    async def delete(self, resource: Any, name: str, namespace: str, *, uid: str, propagation: str) -> None:
        self.writes.append(f"delete {name} {uid} {propagation}")
        raise NotFound(404, "NotFound", "gone meanwhile")

    async def replace(self, resource: Any, name: str, body: Any, namespace: str, *, subresource: str) -> Any:
        self.writes.append(f"store {subresource}")
        if self._replace is not None:
            raise self._replace
        self.cron = body
        return body


class Told:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def record(self, _: Any, reason: str, note: str, **__: Any) -> None:
        self.reasons.append(reason)


async def turn(server: FakeServer) -> tuple[float | None, list[str]]:
    told = Told()
    crons = Crons(cast(KubeClient, server), cast(EventRecorder, told), wall_clock=lambda: NOW)
    return await crons.reconcile(KEY), told.reasons


def ready(server: FakeServer) -> tuple[str, str]:
    assert server.cron is not None
    (condition,) = server.cron["status"]["conditions"]
    return condition["reason"], condition["message"]


async def test_the_job_is_made_before_its_time_counts_as_settled() -> None:
    server = FakeServer()
    assert await turn(server) == (MAX_SLEEP_SECONDS, ["JobCreated"])
    assert server.writes == [f"create {NAME}", "store status"]
    assert server.cron is not None
    assert server.cron["status"]["decidedTime"] == "2023-11-14T23:00:00Z"


async def test_a_status_somebody_else_wrote_is_decided_on_anew_and_nothing_is_told() -> None:
    server = FakeServer(replace=Conflict(409, "Conflict", "changed"))
    assert await turn(server) == (CONFLICT_SECONDS, [])


@pytest.mark.parametrize(
    ("error", "sleep", "is_settled"),
    [
        (Forbidden(403, "Forbidden", "exceeded quota"), RETRY_REFUSED_SECONDS, False),
        (NotFound(404, "NotFound", "namespace is going"), RETRY_REFUSED_SECONDS, False),
        (Invalid(422, "Invalid", "spec.jax.port: too large"), MAX_SLEEP_SECONDS, True),
    ],
)
async def test_a_refusal_is_said_with_its_words(error: KubeError, sleep: float, is_settled: bool) -> None:
    server = FakeServer(create=error)
    assert await turn(server) == (sleep, ["JobRefused"])
    assert ready(server) == ("JobRefused", f"TrainingJob {NAME} was refused by the API server: {error.message}")
    assert server.cron is not None
    assert ("decidedTime" in server.cron["status"]) is is_settled


def stored_job(name: str, owner: str, **status: Any) -> dict[str, Any]:
    owners = [{"kind": "CronTrainingJob", "uid": owner, "controller": True}]
    created = "2023-11-14T22:30:00Z"
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": created, "ownerReferences": owners}
    return {"metadata": metadata, "status": status}


async def test_a_job_of_that_name_is_looked_at() -> None:
    exists = AlreadyExists(409, "AlreadyExists", "exists")
    server = FakeServer(create=exists, jobs=[stored_job(NAME, "somebody-else")])
    assert (await turn(server))[1] == ["JobRefused"]
    assert "exists and is not this CronTrainingJob's" in ready(server)[1]
    # Our own that somebody took the label off: it is not listed, and is ours all the same.
    server = FakeServer(create=exists, jobs=[stored_job(NAME, "cron-uid")])
    server.listed = []
    assert (await turn(server))[1] == ["JobCreated"]


async def test_old_jobs_are_deleted_by_uid_and_those_that_are_gone_are_fine() -> None:
    ended = {"conditions": [{"type": "Succeeded", "status": "True"}], "completionTime": "2023-11-14T22:40:00Z"}
    server = FakeServer(jobs=[stored_job(f"hourly-{i}", "cron-uid", **ended) for i in range(5)])
    await turn(server)
    assert server.writes[:2] == ["delete hourly-1 uid-hourly-1 Background", "delete hourly-0 uid-hourly-0 Background"]


async def test_one_that_is_gone_or_cannot_be_read_writes_nothing() -> None:
    server = FakeServer()
    server.cron = None
    assert await turn(server) == (None, [])
    server = FakeServer()
    assert server.cron is not None
    server.cron["spec"]["concurrencyPolicy"] = "Later"
    assert await turn(server) == (MAX_SLEEP_SECONDS, [])
    assert server.writes == []
