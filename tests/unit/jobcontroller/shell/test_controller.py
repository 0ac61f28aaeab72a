"""How often a job is read and looked at; no server."""

from __future__ import annotations

from random import Random
from typing import Any, cast

from prometheus_client import Histogram

from api.conditions import timestamp
from jobcontroller.core.turn import Policy
from jobcontroller.frameworks.registry import FRAMEWORKS
from jobcontroller.shell import metrics
from jobcontroller.shell.caches import Caches
from jobcontroller.shell.controller import Controller
from jobcontroller.shell.directories import Directories
from jobcontroller.shell.executor import Executor
from jobcontroller.shell.fences import Fences
from jobcontroller.shell.observe import Observer
from jobcontroller.shell.queues import Queues
from jobcontroller.shell.retention import Retention
from jobcontroller.shell.signs import SignReader
from kube.client import KubeClient
from kube.errors import NotFound
from kube.events import EventRecorder
from kube.resources import PODS
from tests.builders.training_jobs import CREATED_AT, job

KEY = ("ns", "tj")
NOW = CREATED_AT + 30


class FakeServer:
    """Holds one job; gives what it is asked to create a uid."""

    def __init__(self) -> None:
        self.job: dict[str, Any] | None = job().to_wire()
        self.reads = 0
        self.created: list[str] = []
        self.pod_statuses: list[dict[str, Any]] = []

    async def get(self, resource: Any, name: str, namespace: str) -> Any:
        self.reads += 1
        if self.job is None:
            raise NotFound(404, "NotFound", "it is gone")
        return self.job

    async def replace(self, resource: Any, name: str, body: Any, namespace: str, **_: Any) -> Any:
        assert self.job is not None
        assert body["metadata"]["resourceVersion"] == self.job["metadata"]["resourceVersion"]
        version = str(int(self.job["metadata"]["resourceVersion"]) + 1)
        self.job = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        return self.job

    async def create(self, resource: Any, body: Any, namespace: str, **_: Any) -> Any:
        self.created.append(resource.kind)
        found = {**body, "metadata": {**body["metadata"], "uid": f"uid-{len(self.created)}"}}
        return found | ({"status": self.pod_statuses.pop()} if resource is PODS and self.pod_statuses else {})


def _controller(server: FakeServer) -> Controller:
    client = cast(KubeClient, server)
    caches = Caches(client, lambda _: None, lambda: 0.0, Random(0))
    recorder = EventRecorder(client, "tests", "tests")
    directories = Directories()
    queues = Queues(client, lambda _: None, Random(0), directories)
    return Controller(
        client,
        Observer(
            client,
            caches,
            queues,
            FRAMEWORKS,
            None,
            signs=SignReader(client, None),
            directories=directories,
            checkpoint_seconds=10.0,
            clock=lambda: 0.0,
        ),
        Executor(client, caches, recorder, creations=50),
        Retention(None),
        Fences(None, caches),
        policy=Policy(),
        resync_seconds=30.0,
        checkpoint_seconds=10.0,
        wall_clock=lambda: NOW,
    )


async def test_a_new_job_is_read_once_and_looked_at_until_its_pods_are_there() -> None:
    server = FakeServer()
    controller = _controller(server)
    assert await controller.reconcile(KEY) == 30.0
    assert server.reads == 1
    assert sorted(server.created) == ["Pod", "Pod", "PodGroup", "Service"]
    assert server.job is not None
    assert server.job["status"]["createdAttempt"] == 0
    version = server.job["metadata"]["resourceVersion"]
    assert controller.has_written(KEY, version), "the watch's word of that version is no news"
    assert not controller.has_written(KEY, str(int(version) - 1))
    assert await controller.reconcile(KEY) == 30.0
    assert server.reads == 2, "another look reads it anew"


async def test_what_is_known_of_a_job_is_forgotten_with_it() -> None:
    server = FakeServer()
    controller = _controller(server)
    await controller.reconcile(KEY)
    assert server.job is not None
    version = server.job["metadata"]["resourceVersion"]
    server.job = None
    assert await controller.reconcile(KEY) is None
    assert not controller.has_written(KEY, version)


def observed_by(histogram: Histogram) -> tuple[float, float]:
    """How often, and all together."""
    values = {
        sample.name.rpartition("_")[2]: sample.value for metric in histogram.collect() for sample in metric.samples
    }
    return values["count"], values["sum"]


async def test_the_launch_of_the_first_attempt_is_measured_once() -> None:
    """KubeDL's two: until its first pod ran, and until all did."""
    server = FakeServer()
    for seconds in (12, 20):
        state = {"running": {"startedAt": timestamp(CREATED_AT + seconds)}}
        status = {"phase": "Running", "containerStatuses": [{"name": "main", "state": state}]}
        server.pod_statuses.append(status)
    controller = _controller(server)
    before = observed_by(metrics.FIRST_POD_SECONDS), observed_by(metrics.ALL_PODS_SECONDS)
    for _ in range(2):
        await controller.reconcile(KEY)
        assert server.job is not None
        assert server.job["status"]["conditions"][-1]["type"] == "Running"
        after = observed_by(metrics.FIRST_POD_SECONDS), observed_by(metrics.ALL_PODS_SECONDS)
        changes = [(new[0] - old[0], new[1] - old[1]) for old, new in zip(before, after, strict=True)]
        assert changes == [(1.0, 12.0), (1.0, 30.0)]
