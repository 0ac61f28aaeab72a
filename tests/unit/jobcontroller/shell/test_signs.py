"""Whose signs of life are read; no server."""

from __future__ import annotations

from typing import Any, cast

from api.conditions import timestamp
from api.training_v1alpha1 import ElasticStatus
from jobcontroller.shell.signs import SignReader
from kube.client import KubeClient
from tests.builders.training_jobs import CREATED_AT, job, pod, running, with_status, workers

KEY = ("ns", "tj")
NOW = CREATED_AT + 500


class FakeServer:
    """Answers for logs with one old line."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        self.asked.append(path)
        return f"{timestamp(CREATED_AT + 20)} a line\n".encode()


async def test_pods_that_look_for_room_do_not_keep_an_elastic_job_from_being_looked_at() -> None:
    one = with_status(
        job(
            framework="PyTorch",
            replicaSpecs=workers(2),
            pytorch={"elastic": {"min": 1, "max": 4}},
            runPolicy={"hangDetection": {"timeoutSeconds": 60}},
        ),
        elastic=ElasticStatus(replicas=2, members="0-1", reserves="2-3", reserves_created=True, next_index=4),
    )
    server = FakeServer()
    reader = SignReader(cast(KubeClient, server), None, wall_clock=lambda: NOW)
    leaving = running(1, deletion_at=NOW)
    signs = await reader.of(KEY, one, (running(0), leaving, pod(2, is_held=True), pod(3, is_held=True)))
    assert signs is None, "a member that is leaving is waited for"
    signs = await reader.of(KEY, one, (running(0), running(1), pod(2, is_held=True), pod(3, is_held=True)))
    assert signs is not None and [sign.at for sign in signs.found] == [CREATED_AT + 20]
    assert len(server.asked) == 2
