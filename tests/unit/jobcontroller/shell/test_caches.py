"""The caches: own actions show at once, and end with the watch's word; no server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any, cast

import msgspec
import pytest

from jobcontroller.core.notices import TAINTS
from jobcontroller.core.pod_builder import build_pod
from jobcontroller.frameworks.registry import FRAMEWORKS
from jobcontroller.shell import caches as caches_module
from jobcontroller.shell.caches import OVERLAY_SECONDS, Caches, dataset_view
from kube.client import KubeClient
from kube.objects import Dataset
from kube.watch import Change, ChangeKind, Changes, Listed, WatchBatch
from tests.builders.training_jobs import job, with_status

NAME = "tj-worker-0-a0"


def body(version: int = 1, **metadata: Any) -> dict[str, Any]:
    one = with_status(job())
    assert one.status is not None
    pod = build_pod(one, one.status, FRAMEWORKS["JAX"], "Worker", 0)
    pod["metadata"] |= {"uid": "pod-uid", "resourceVersion": str(version), **metadata}
    return pod


class Watched:
    """Caches whose watches bring what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.touched: list[tuple[str, str]] = []
        self.batches: dict[str, list[WatchBatch[Any]]] = {}
        self.caches = Caches(cast(KubeClient, None), self.touched.append, lambda: self.now, Random(0))
        monkeypatch.setattr(caches_module, "list_watch", self._list_watch)

    async def _list_watch(self, _: Any, resource: Any, decode: Any, **__: Any) -> AsyncIterator[WatchBatch[Any]]:
        for batch in self.batches.get(resource.plural, [Listed([], "1")]):
            yield convert(batch, decode)

    async def play(self, plural: str, *batches: WatchBatch[Any]) -> None:
        self.batches = {plural: list(batches)}
        await self.caches.run()


def convert(batch: WatchBatch[Any], decode: Any) -> WatchBatch[Any]:
    if isinstance(batch, Listed):
        return Listed([msgspec.convert(item, decode) for item in batch.objects], batch.resource_version)
    return Changes([Change(event.kind, msgspec.convert(event.object, decode)) for event in batch.events])


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


async def test_a_pod_of_a_job_is_kept_and_touches_it(watched: Watched) -> None:
    await watched.play("pods", Listed([body()], "1"))
    await watched.caches.wait_synced()
    assert list(watched.caches.pods_of("job-uid")) == [NAME]
    assert watched.touched == [("ns", "tj")]


async def test_a_pod_with_the_label_but_another_owner_is_not_ours(watched: Watched) -> None:
    await watched.play("pods", Listed([body(ownerReferences=[{"uid": "x", "controller": True}])], "1"))
    assert watched.caches.pods_of("job-uid") == {}


async def test_a_created_pod_shows_before_the_watch_and_not_for_ever(watched: Watched) -> None:
    watched.caches.created_pod("job-uid", body())
    assert list(watched.caches.pods_of("job-uid")) == [NAME]
    watched.now = OVERLAY_SECONDS
    assert watched.caches.pods_of("job-uid") == {}


async def test_a_deleted_pod_is_ending_before_the_watch_says_so(watched: Watched) -> None:
    await watched.play("pods", Listed([body()], "1"))
    watched.caches.deleted_pod("pod-uid", 123.0)
    assert watched.caches.pods_of("job-uid")[NAME].deletion_at == 123.0
    watched.now = OVERLAY_SECONDS
    assert watched.caches.pods_of("job-uid")[NAME].deletion_at is None


async def test_a_pod_that_is_gone_is_remembered(watched: Watched) -> None:
    watched.caches.created_pod("job-uid", body())
    gone = Changes([Change(ChangeKind.ADDED, body()), Change(ChangeKind.DELETED, body(2))])
    await watched.play("pods", Listed([], "1"), gone)
    assert watched.caches.pods_of("job-uid") == {}
    assert watched.caches.gone_pods_of("job-uid") == {NAME}


RUNNING = {"startedAt": "2023-11-14T22:13:30Z"}
ENDED = {"exitCode": 0, "finishedAt": "2023-11-14T22:14:30Z"}


@pytest.mark.parametrize(
    ("last", "may_run"),
    [
        ({"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": RUNNING}}]}, True),
        # As the pod garbage collector leaves it.
        ({"phase": "Failed", "containerStatuses": [{"name": "main", "state": {"running": RUNNING}}]}, True),
        ({"phase": "Running", "containerStatuses": [{"name": "main", "state": {"terminated": ENDED}}]}, False),
        ({"phase": "Pending"}, False),
    ],
)
async def test_a_pod_that_went_away_while_it_ran_is_lost_until_it_is_fenced(
    watched: Watched, last: dict[str, Any], may_run: bool
) -> None:
    changes = Changes([Change(ChangeKind.ADDED, body()), Change(ChangeKind.DELETED, {**body(2), "status": last})])
    await watched.play("pods", Listed([], "1"), changes)
    assert [pod.uid for pod in watched.caches.lost_pods_of("job-uid")] == (["pod-uid"] if may_run else [])
    watched.caches.fenced_pods("job-uid", ["pod-uid"])
    assert watched.caches.lost_pods_of("job-uid") == ()


async def test_a_pod_that_was_fenced_before_it_went_away_is_not_lost(watched: Watched) -> None:
    watched.caches.fenced_pods("job-uid", ["pod-uid"])
    last = {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": RUNNING}}]}
    changes = Changes([Change(ChangeKind.ADDED, body()), Change(ChangeKind.DELETED, {**body(2), "status": last})])
    await watched.play("pods", Listed([], "1"), changes)
    assert watched.caches.lost_pods_of("job-uid") == ()


async def test_a_changed_dataset_touches_the_jobs_that_name_it(watched: Watched) -> None:
    assert watched.caches.dataset("ns", "d", ("ns", "tj")) is None
    await watched.play("datasets", Listed([{"metadata": {"name": "d", "namespace": "ns", "uid": "1"}}], "1"))
    assert watched.touched == [("ns", "tj")]
    assert watched.caches.dataset("ns", "d", ("ns", "tj")) is not None


@pytest.mark.parametrize(("text", "percent"), [("42.5%", 42.5), ("7 %", 7), (None, 0), ("soon", 0)])
def test_the_cached_percentage_is_read_as_people_write_it(text: str | None, percent: float) -> None:
    states = {} if text is None else {"cachedPercentage": text}
    found = dataset_view(msgspec.convert({"status": {"phase": "Bound", "cacheStates": states}}, Dataset))
    assert found.cached_percent == percent


async def test_a_node_that_will_be_taken_away_touches_the_jobs_on_it(watched: Watched) -> None:
    placed = body() | {"spec": body()["spec"] | {"nodeName": "n1"}}
    await watched.play("pods", Listed([placed], "1"))
    watched.touched.clear()
    taint = {"key": TAINTS[0], "effect": "NoSchedule"}
    nodes = [{"metadata": {"name": name}, "spec": {"taints": taints}} for name, taints in (("n1", [taint]), ("n2", []))]
    await watched.play("nodes", Listed(nodes, "1"))
    assert watched.caches.notices == {"n1": TAINTS[0]}
    assert watched.touched == [("ns", "tj")]
    healed = {"metadata": {"name": "n1", "resourceVersion": "2"}, "spec": {}}
    await watched.play("nodes", Listed(nodes, "1"), Changes([Change(ChangeKind.MODIFIED, healed)]))
    assert watched.caches.notices == {}


async def test_the_rate_of_the_under_store_is_the_median_of_the_nodes_that_measured_one(watched: Watched) -> None:
    assert watched.caches.bytes_per_second() is None
    caches = [
        {"metadata": {"name": f"n{rate}"}, "status": {"origin": {"readBytesPerSecond": rate}}}
        for rate in (0, 100, 300, 900)
    ]
    await watched.play("nodecaches", Listed(caches, "1"))
    assert watched.caches.bytes_per_second() == 300


async def test_the_echo_of_an_own_creation_is_no_news(watched: Watched) -> None:
    watched.caches.created_pod("job-uid", body())
    await watched.play("pods", Listed([body()], "1"))
    assert watched.touched == []
    assert NAME in watched.caches.pods_of("job-uid")
    placed = body(2) | {"spec": body()["spec"] | {"nodeName": "n1"}}
    await watched.play("pods", Listed([placed], "2"))
    assert watched.touched == [("ns", "tj")]
