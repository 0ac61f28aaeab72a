"""What the controller does when a pool is scaled: its datasets follow, and come back by themselves."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic import ValidationError

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from api.data_v1alpha1 import Dataset
from api.gen import metadata_pb2
from cacheruntime.controller.dataset_reconciler import SYNC_POLL_SECONDS
from cacheruntime.controller.objects import Objects
from cacheruntime.controller.pool_workloads import PoolWorkloads
from cacheruntime.controller.reconciler import Reconciler
from cacheruntime.controller.settings import ControllerSettings
from kube.client import ListResult
from kube.errors import AlreadyExists, Unavailable
from kube.events import EventRecorder
from kube.resources import Resource

KEY, POOL = ("ns", "d"), ("ns", "default")
SPEC = {"mounts": [{"mountPoint": "s3://b", "name": "d"}]}


class FakeClient:
    """An API server of statuses."""

    def __init__(self) -> None:
        self.bodies: dict[str, dict[str, Any]] = {}

    async def patch(self, resource: Resource, name: str, patch: Any, namespace: str, *, subresource: str = "") -> Any:
        body = self.bodies[resource.kind]
        changed = {**body.get("status", {}), **patch["status"]}
        self.bodies[resource.kind] = {**body, "status": changed}
        return self.bodies[resource.kind]

    async def create(self, resource: Resource, body: Any, namespace: str | None = None, **_: Any) -> None:
        raise AlreadyExists(409, "AlreadyExists", resource.kind)

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Any:
        return {"metadata": {"ownerReferences": [{"uid": "u"}]}, "spec": {}}


class FakeServices:
    """Metadata and workers in one: three nodes."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []

    async def workers(self) -> list[metadata_pb2.Worker]:
        tiers = [metadata_pb2.Tier(medium="SSD", capacity_bytes=1 << 30)]
        return [metadata_pb2.Worker(node=node, alive=True, tiers=tiers) for node in ("n1", "n2", "n3")]

    async def by_node(self) -> list[metadata_pb2.NodeResidency]:
        return []

    async def keep_only(self, endpoints: set[str]) -> None: ...

    async def sync(self, request: metadata_pb2.SyncRequest) -> metadata_pb2.DatasetInfo:
        self.told.append(list(request.eligible_nodes))
        return metadata_pb2.DatasetInfo(uid="u", snapshot_version=1, bytes=5)


class NoCredentials:
    """No Dataset here names a Secret."""

    async def write(self, namespace: str, wanted: Any) -> None:
        assert not wanted


class Bench:
    """A Dataset, and its pool when there is one."""

    def __init__(self) -> None:
        self.client, self.services = FakeClient(), FakeServices()
        self.objects = Objects(cast(Any, self.client))
        doubles: Any = self.client, self.objects, NoCredentials(), self.services, self.services
        recorder = EventRecorder(doubles[0], "tests", "tests")
        self.reconciler = Reconciler(*doubles, recorder=recorder, poll_seconds=1.0)
        self.objects.node_cache_names = _none  # type: ignore[method-assign]
        self.put("Dataset", "d", SPEC)

    def put(self, kind: str, name: str, spec: Any) -> None:
        old = self.client.bodies.get(kind, {})
        meta = {"namespace": "ns", "name": name, "uid": "u", "finalizers": [names.DATASET_FINALIZER]}
        meta["resourceVersion"] = str(spec)
        body = {**old, "metadata": meta, "spec": spec}
        self.client.bodies[kind] = body
        kinds: dict[str, Any] = {"Dataset": Dataset, "CacheRuntime": CacheRuntime}
        self.objects.see(kinds[kind], body, is_deleted=False)

    async def turn(self) -> tuple[str, str]:
        """Poll, then reconcile the Dataset if that was asked for; return its phase and the room it says it has."""
        await self.reconciler.nodes.poll()
        await self.reconciler.datasets.reconcile(KEY)
        status = self.client.bodies["Dataset"]["status"]
        return status["phase"], status.get("cacheStates", {}).get("cacheCapacity", "")


async def _none() -> list[str]:
    return []


async def test_datasets_follow_their_pool_and_come_back_by_themselves() -> None:
    bench = Bench()
    assert await bench.turn() == ("Bound", "3.0 GiB")
    bench.put("CacheRuntime", "default", {"replicas": 2})
    assert await bench.reconciler.datasets.reconcile(KEY) == SYNC_POLL_SECONDS, "who is in it is not decided yet"
    assert await bench.turn() == ("Bound", "2.0 GiB")
    bench.put("CacheRuntime", "default", {"replicas": 0})
    assert (await bench.turn())[0] == "Failed"
    bench.put("CacheRuntime", "default", {"replicas": 1})
    assert await bench.turn() == ("Bound", "1.0 GiB")
    bench.objects.see(CacheRuntime, bench.client.bodies["CacheRuntime"], is_deleted=True)
    assert await bench.turn() == ("Bound", "3.0 GiB")
    assert bench.services.told == [[], ["n1", "n2"], ["n1"], []]


async def test_a_change_of_the_pool_wakes_its_datasets_and_nobody_elses() -> None:
    bench = Bench()
    other = {"metadata": {"namespace": "ns", "name": "other", "resourceVersion": "1"}, "spec": SPEC | {"runtime": "x"}}
    bench.objects.see(Dataset, other, is_deleted=False)
    assert bench.objects.datasets_of(POOL) == [KEY]
    woken: list[tuple[str, str]] = []
    bench.reconciler.queues.datasets.add = lambda key, *_: woken.append(key)  # type: ignore[method-assign]
    bench.put("CacheRuntime", "default", {"replicas": 2})
    await bench.reconciler.nodes.poll()
    await bench.reconciler.nodes.poll()
    assert woken == [KEY]


async def test_where_workers_are_no_pods_a_cache_runtime_hears_that_its_tiers_have_no_effect() -> None:
    bench = Bench()
    level = {"mediumtype": "SSD", "path": "/var/lib/headrace/cache", "quota": "1Gi"}
    bench.put("CacheRuntime", "default", {"tieredstore": {"levels": [level]}})
    await bench.reconciler.workloads.turn()
    assert await bench.turn() == ("Bound", "3.0 GiB")
    conditions = {one["type"]: one for one in bench.client.bodies["CacheRuntime"]["status"]["conditions"]}
    assert (conditions["Applied"]["status"], conditions["Applied"]["reason"]) == ("False", "WorkersAreNoPods")


async def test_what_cannot_be_looked_at_is_said_and_looked_at_again() -> None:
    class Server:
        down = True

        async def list(self, resource: Resource, namespace: str | None = None, **_: Any) -> Any:
            if self.down:
                raise Unavailable(0, "", "no answer")
            return ListResult([], "1")

    server = Server()
    workloads = PoolWorkloads(cast(Any, server), ("headrace-node", "headrace-worker"))
    level = {"mediumtype": "SSD", "path": "/var/lib/headrace/cache", "quota": "1Gi"}
    spec = {"tieredstore": {"levels": [level]}}
    body = {"metadata": {"namespace": "ns", "name": "default"}, "spec": spec}
    asks = CacheRuntime.model_validate(body)
    assert workloads.condition(asks) is None, "the first turn is not over"
    with pytest.raises(Unavailable):
        await workloads.turn()
    told = workloads.condition(asks)
    assert told is not None and (told.status, told.reason) == ("Unknown", "NotKnown") and "no answer" in told.message
    server.down = False
    await workloads.turn()
    assert workloads.condition(asks) is None, "it came after the list"
    assert workloads.condition(CacheRuntime.model_validate(body | {"spec": {"replicas": 1}})) is None


def test_the_installed_workers_are_named_by_namespace_and_name() -> None:
    must: dict[str, Any] = {"metadata": "127.0.0.1:1", "credentials_dir": "/x"}
    assert ControllerSettings(**must, workers="a/b").installed_workers == ("a", "b")
    assert ControllerSettings(**must).installed_workers is None
    with pytest.raises(ValidationError, match="'b' is not NAMESPACE/NAME"):
        ControllerSettings(**must, workers="b")
