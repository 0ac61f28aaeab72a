"""What follows from who uses a Dataset, deletion and reclaiming: on a real API server, with the real controller,
metadata service and worker.

What running containers see of it is tested on a real node (../../e2e)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from api import names
from api.gen import metadata_pb2 as pb
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import NotFound
from kube.resources import (
    DATASETS,
    NAMESPACES,
    NODE_CACHES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SERVICE_ACCOUNTS,
    TRAINING_JOBS,
    Resource,
)
from tests.builders.cache_cluster import ROOT, CacheCluster, LocalClient
from tests.builders.training_jobs import job_body, workers
from tests.conftest import ApiServer

pytestmark = pytest.mark.cluster

PATIENCE_SECONDS = 60.0
NAMESPACE = "deletion"
NODE = "users-node"
Body = dict[str, Any]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path_factory.mktemp("deletion"))
    try:
        made.put_origin({"a": b"x" * 1000})
        made.add_workers(NODE)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def controller(api_server: ApiServer, cache: CacheCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("controller")
    words = ["--kubeconfig", str(api_server.kubeconfig), "--metadata", cache.address, "--no-leader-elect"]
    words += ["--credentials-dir", str(folder / "secrets")]
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "cacheruntime", "controller", *words]
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
        asyncio.run(_remove_node_cache(api_server))


async def _remove_node_cache(api_server: ApiServer) -> None:
    """What the worker's node had is not of this API server's next test."""
    async with KubeClient(load_config(api_server.kubeconfig), user_agent="tests") as client:
        with suppress(NotFound):
            await client.delete(NODE_CACHES, NODE)


class Bench:
    """Datasets and their users in one namespace."""

    def __init__(self, client: KubeClient, cache: CacheCluster) -> None:
        self.client = client
        self._cache = cache

    async def until(self, what: str, probe: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (found := await probe()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            datasets = (await self.client.list(DATASETS, NAMESPACE)).items
            told = {one["metadata"]["name"]: one.get("status", {}).get("conditions") for one in datasets}
            raise AssertionError(f"{what} did not come to pass: {told}") from None
        return found

    async def get(self, resource: Resource, name: str) -> Body:
        """One object, {} when there is none."""
        try:
            return await self.client.get(resource, name, NAMESPACE if resource.namespaced else None)
        except NotFound:
            return {}

    async def dataset(self, name: str, **spec: Any) -> str:
        """Make a Dataset and wait for its claim; its uid."""
        mounts = [{"mountPoint": f"file://{self._cache.origin}", "name": name}]
        body = {"apiVersion": DATASETS.api_version, "kind": "Dataset", "metadata": {"name": name}}
        made = await self.client.create(DATASETS, body | {"spec": {"mounts": mounts, **spec}}, NAMESPACE)
        await self.until(f"{name} has a claim", lambda: self.get(PERSISTENT_VOLUME_CLAIMS, name))
        return str(made["metadata"]["uid"])

    async def pod(self, name: str, *volumes: Body, annotations: Body | None = None) -> None:
        spec = {"containers": [{"name": "main", "image": "none"}], "volumes": [{"name": "data"} | v for v in volumes]}
        meta = {"name": name, "annotations": annotations or {}}
        await self.client.create(PODS, {"metadata": meta, "spec": spec}, NAMESPACE)

    async def remove(self, name: str) -> None:
        await self.client.delete(PODS, name, NAMESPACE, grace_period_seconds=0)

    async def waits(self, name: str, *users: str, reason: str = "InUse") -> str:
        """Delete the Dataset, if that is not done, and wait until it says that these use it; the message."""
        await self.client.delete(DATASETS, name, NAMESPACE)

        async def says() -> str | None:
            status = (await self.get(DATASETS, name))["status"]
            told = [f"{one['kind']} {one['name']}" for one in status.get("references", ())]
            for one in status.get("conditions", ()):
                if one["type"] == "Deleting" and one["reason"] == reason and told == list(users):
                    return str(one["message"])
            return None

        return str(await self.until(f"{name} waits for {users}", says))

    async def goes(self, name: str, uid: str) -> None:
        async def is_gone() -> bool:
            return bool((await self.get(DATASETS, name)).get("metadata", {}).get("uid") != uid)

        await self.until(f"{name} is gone", is_gone)
        infos = self._cache.namespace.ListDatasets(pb.ListDatasetsRequest(), timeout=10).datasets
        assert uid not in {info.uid for info in infos}, "metadata still knows it"

    def read(self, uid: str) -> None:
        """Read all of it through the worker, which keeps it."""
        client = LocalClient(self._cache.workers[NODE].socket)
        try:
            client.read(uid, self._cache.entries(uid)["a"])
        finally:
            client.close()

    def cached_bytes(self, uid: str) -> int:
        infos = self._cache.namespace.ListDatasets(pb.ListDatasetsRequest(), timeout=10).datasets
        return next(info.cached_bytes for info in infos if info.uid == uid)

    def is_served(self, uid: str) -> bool:
        infos = self._cache.namespace.ListDatasets(pb.ListDatasetsRequest(), timeout=10).datasets
        return any(info.uid == uid and info.snapshot_version for info in infos)

    async def mountable(self, name: str) -> str | None:
        """What its status says of its volumes; None while it says nothing."""
        conditions = (await self.get(DATASETS, name)).get("status", {}).get("conditions", ())
        return next((str(one["status"]) for one in conditions if one["type"] == "Mountable"), None)

    async def claim_is_leaving(self, name: str) -> bool:
        meta = (await self.get(PERSISTENT_VOLUME_CLAIMS, name)).get("metadata", {"deletionTimestamp": "gone"})
        return bool(meta.get("deletionTimestamp"))


@pytest.fixture
async def bench(api_server: ApiServer, cache: CacheCluster, controller: None) -> AsyncIterator[Bench]:
    async with KubeClient(load_config(api_server.kubeconfig), user_agent="tests") as client:
        for resource, name in ((NAMESPACES, NAMESPACE), (SERVICE_ACCOUNTS, "default")):
            namespace = NAMESPACE if resource.namespaced else None
            try:
                await client.get(resource, name, namespace)
            except NotFound:
                await client.create(resource, {"metadata": {"name": name}}, namespace)
        yield Bench(client, cache)


def by_claim(name: str) -> Body:
    return {"persistentVolumeClaim": {"claimName": name}}


async def test_it_waits_for_every_kind_of_user_and_goes_with_the_last(bench: Bench) -> None:
    uid = await bench.dataset("used")
    inline = {"csi": {"driver": names.CSI_DRIVER, "volumeAttributes": {"dataset": "used"}}}
    await bench.pod("claims", by_claim("used"))
    await bench.pod("inlines", inline)
    await bench.pod("says", annotations={names.DATASETS_ANNOTATION: '[{"name": "used"}]'})
    await bench.pod("other", annotations={names.DATASETS_ANNOTATION: '[{"name": "else"}]'})
    job = job_body("trains", replicaSpecs=workers(1), datasets=[{"name": "used", "mountPath": "/data"}])
    await bench.client.create(TRAINING_JOBS, job, NAMESPACE)

    message = await bench.waits("used", "TrainingJob trains", "Pod claims", "Pod inlines", "Pod says")
    assert message.startswith("used by TrainingJob deletion/trains, Pod deletion/claims, Pod deletion/inlines")
    assert names.FORCE_DELETE_ANNOTATION in message
    for name in ("inlines", "says"):
        await bench.remove(name)
    ended = {"status": {"conditions": [{"type": "Succeeded", "status": "True", "reason": "Done", "message": ""}]}}
    await bench.client.patch(TRAINING_JOBS, "trains", ended, NAMESPACE, subresource="status")
    await bench.waits("used", "Pod claims")
    assert bench.is_served(uid) and not await bench.claim_is_leaving("used"), "a pod that starts again has its volume"

    # A pod that has ended is no user, though it is still there.
    await bench.client.patch(PODS, "claims", {"status": {"phase": "Succeeded"}}, NAMESPACE, subresource="status")
    await bench.goes("used", uid)
    assert await bench.claim_is_leaving("used")


async def test_a_claim_of_another_name_counts_too(bench: Bench) -> None:
    """A PersistentVolume that an administrator made by hand, as in manifests/examples/volumes.yaml."""
    uid = await bench.dataset("byhand")
    capacity, modes = {"storage": "1Gi"}, ["ReadOnlyMany"]
    reference = {"namespace": NAMESPACE, "name": "mine"}
    spec = {"capacity": capacity, "accessModes": modes, "claimRef": reference}
    csi = {"driver": names.CSI_DRIVER, "volumeHandle": f"{NAMESPACE}/byhand"}
    await bench.client.create(PERSISTENT_VOLUMES, {"metadata": {"name": "mine"}, "spec": spec | {"csi": csi}})
    await bench.pod("reads-mine", by_claim("mine"))
    await bench.waits("byhand", "Pod reads-mine")
    await bench.remove("reads-mine")
    await bench.goes("byhand", uid)
    assert await bench.get(PERSISTENT_VOLUMES, "mine"), "what we did not make stays"


async def test_forced_it_goes_though_it_is_used(bench: Bench) -> None:
    uid = await bench.dataset("forced")
    await bench.pod("holds", by_claim("forced"))
    await bench.waits("forced", "Pod holds")
    annotations = {"metadata": {"annotations": {names.FORCE_DELETE_ANNOTATION: "true"}}}
    await bench.client.patch(DATASETS, "forced", annotations, NAMESPACE)
    await bench.goes("forced", uid)
    # Kubernetes' own protection of claims in use takes over from here.
    claim = await bench.get(PERSISTENT_VOLUME_CLAIMS, "forced")
    assert claim["metadata"]["deletionTimestamp"]
    assert claim["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]


async def test_one_of_the_same_name_gets_its_own_volumes_once_the_old_ones_are_gone(bench: Bench) -> None:
    uid = await bench.dataset("again")
    await bench.client.delete(DATASETS, "again", NAMESPACE)
    await bench.goes("again", uid)
    assert (await bench.get(PERSISTENT_VOLUME_CLAIMS, "again"))["metadata"]["deletionTimestamp"]
    new = await bench.dataset("again")

    assert await bench.until("it says that it cannot be mounted yet", lambda: bench.mountable("again")) == "False"
    # What the controllers of PersistentVolumes do, which do not run here.
    volume = f"{NAMESPACE}-again"
    for resource, name in ((PERSISTENT_VOLUME_CLAIMS, "again"), (PERSISTENT_VOLUMES, volume)):
        namespace = NAMESPACE if resource.namespaced else None
        await bench.client.patch(resource, name, {"metadata": {"finalizers": []}}, namespace)

    async def has_its_own() -> bool:
        spec = (await bench.get(PERSISTENT_VOLUMES, volume)).get("spec")
        owners = (await bench.get(PERSISTENT_VOLUME_CLAIMS, "again")).get("metadata", {}).get("ownerReferences")
        return bool(spec and owners and spec["csi"]["volumeHandle"] == new == owners[0]["uid"])

    await bench.until("it has volumes of its own", has_its_own)

    async def is_true() -> bool:
        return await bench.mountable("again") == "True"

    await bench.until("it says so", is_true)


async def test_somebody_elses_claim_of_that_name_is_left_alone(bench: Bench) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await bench.client.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "theirs"}, "spec": spec}, NAMESPACE)
    uid = await bench.dataset("theirs")
    await bench.pod("uses-theirs", by_claim("theirs"))
    await bench.until("it says that it has no claim", lambda: bench.mountable("theirs"))
    await bench.client.delete(DATASETS, "theirs", NAMESPACE)
    await bench.goes("theirs", uid)
    assert not await bench.claim_is_leaving("theirs")


async def test_bytes_that_nobody_uses_are_given_back_after_the_idle_time(bench: Bench) -> None:
    reclaim = {"policy": "WhenUnused", "idleTTL": "2s"}
    uid, kept = await bench.dataset("idle", reclaim=reclaim), await bench.dataset("kept")
    await bench.pod("reads", by_claim("idle"))

    async def used() -> bool:
        status = (await bench.get(DATASETS, "idle"))["status"]
        return bool(status.get("references")) and "unusedSince" not in status

    await bench.until("the pod counts as a user", used)
    for one in (uid, kept):
        bench.read(one)

    async def both_held() -> bool:
        return bench.cached_bytes(uid) == bench.cached_bytes(kept) == 1000

    await bench.until("both are cached", both_held)
    await asyncio.sleep(4)
    assert bench.cached_bytes(uid) == 1000, "it is in use"
    await bench.remove("reads")

    async def reclaimed() -> Body | None:
        status = (await bench.get(DATASETS, "idle"))["status"]
        return status if status.get("reclaimedAt") and not bench.cached_bytes(uid) else None

    status = await bench.until("its bytes are given back", reclaimed)
    assert status["unusedSince"] < status["reclaimedAt"]
    assert bench.is_served(uid) and status["snapshot"]["files"] == 1, "what it is made of stays known"
    assert bench.cached_bytes(kept) == 1000
    # Read again by somebody Kubernetes does not know of, it is given back again, an idle time later.
    bench.read(uid)
    first = status["reclaimedAt"]

    async def again() -> bool:
        at = (await bench.get(DATASETS, "idle"))["status"]["reclaimedAt"]
        return at > first and not bench.cached_bytes(uid)

    await bench.until("they are given back again", again)
