"""Volumes on the real API server, with the real volume controller: the scheduler chooses nodes, it binds claims."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kube.errors import Conflict
from kube.identity import JsonObject
from kube.resources import CSI_NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, POD_GROUPS, PODS, STORAGE_CLASSES
from tests.integration.scheduler.conftest import NAMESPACE, PATIENCE_SECONDS, Cluster

pytestmark = pytest.mark.cluster

SELECTED = "volume.kubernetes.io/selected-node"
VOLUME_CONTROLLER = "persistentvolume-binder-controller"


async def _class(cluster: Cluster, name: str, provisioner: str) -> None:
    body = {"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}
    await cluster.create(STORAGE_CLASSES, body)


async def _claim(cluster: Cluster, name: str, storage_class: str, mode: str = "ReadWriteOnce") -> JsonObject:
    spec = {
        "accessModes": [mode],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return await cluster.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": name}, "spec": spec}, NAMESPACE)


async def _volume(cluster: Cluster, name: str, storage_class: str, node: str, **spec: Any) -> None:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    body = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "local": {"path": "/disk"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        **spec,
    }
    await cluster.create(PERSISTENT_VOLUMES, {"metadata": {"name": name}, "spec": body})
    # A volume nobody has looked at yet is Pending, and then nobody's choice.
    await cluster.client.patch(PERSISTENT_VOLUMES, name, {"status": {"phase": "Available"}}, subresource="status")


async def _pod(cluster: Cluster, name: str, *claims: str) -> None:
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    await cluster.pod(name, volumes=volumes)


async def _claim_now(cluster: Cluster, name: str) -> JsonObject:
    return await cluster.client.get(PERSISTENT_VOLUME_CLAIMS, name, NAMESPACE)


async def _until(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := await look()):
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{what} did not happen")
    return found


async def _selected(cluster: Cluster, name: str) -> str:
    async def look() -> str:
        claim = await _claim_now(cluster, name)
        return str(claim["metadata"].get("annotations", {}).get(SELECTED, ""))

    return str(await _until(look, f"choosing a node for claim {name}"))


async def test_local_volumes_are_given_out_once_each_and_pods_follow_them(cluster: Cluster) -> None:
    for index in range(4):
        await cluster.node(f"n{index}")
    await _class(cluster, "local", "kubernetes.io/no-provisioner")
    async with cluster.controller_running(VOLUME_CONTROLLER), cluster.scheduler():
        for node in ("n1", "n3"):
            await _volume(cluster, f"disk-{node}", "local", node)
        for name in ("a", "b", "c"):
            await _claim(cluster, name, "local")
        await _pod(cluster, "pod-a", "a")
        await _pod(cluster, "pod-b", "b")
        placed = await cluster.bound("pod-a", "pod-b")
        assert sorted(placed.values()) == ["n1", "n3"]
        for name, node in (("a", placed["pod-a"]), ("b", placed["pod-b"])):
            claim = await _claim_now(cluster, name)
            assert claim["spec"]["volumeName"] == f"disk-{node}"
            assert claim["status"]["phase"] == "Bound"
        await _pod(cluster, "pod-c", "c")
        message = await cluster.message("pod-c", "persistent volumes to bind")
        assert message.startswith(
            "0/4 nodes are available: 4 node(s) didn't find available persistent volumes to bind."
        )
        await _volume(cluster, "disk-n0", "local", "n0")
        assert await cluster.bound("pod-c") == {"pod-c": "n0"}


async def test_a_volume_is_made_on_the_chosen_node_and_elsewhere_when_that_fails(cluster: Cluster) -> None:
    await cluster.node("n0", cpu="1")
    await cluster.node("n1", cpu="8")
    await _class(cluster, "made", "test.example.com")
    await _claim(cluster, "data", "made")
    async with cluster.controller_running(VOLUME_CONTROLLER), cluster.scheduler():
        await _pod(cluster, "p", "data")
        first = await _selected(cluster, "data")
        other = "n0" if first == "n1" else "n1"
        assert (await cluster.pods())["p"]["spec"].get("nodeName") is None
        # A provisioner that cannot gives the choice back; the node is full by then.
        await cluster.pod("filler", {"cpu": "7950m" if first == "n1" else "950m"}, scheduler="nobody")
        await cluster.bind("filler", first)
        await cluster.client.patch(
            PERSISTENT_VOLUME_CLAIMS, "data", {"metadata": {"annotations": {SELECTED: None}}}, NAMESPACE
        )
        assert await _selected(cluster, "data") == other
        claim = await _claim_now(cluster, "data")
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": NAMESPACE,
            "name": "data",
            "uid": claim["metadata"]["uid"],
        }
        await _volume(cluster, "made-1", "made", other, claimRef=reference)
        assert await cluster.bound("p") == {"p": other}
        assert (await _claim_now(cluster, "data"))["spec"]["volumeName"] == "made-1"


async def test_volumes_that_are_not_bound_in_time_send_the_pod_back(cluster: Cluster) -> None:
    await cluster.node("n0")
    await _class(cluster, "made", "test.example.com")
    await _claim(cluster, "data", "made")
    async with cluster.scheduler(volume_bind_seconds="1"):
        await _pod(cluster, "p", "data")
        assert await _selected(cluster, "data") == "n0"

        async def log() -> bool:
            return "its volumes were not bound within 1 s" in (cluster.folder / "scheduler.log").read_text()

        await _until(log, "giving up")
        assert not (await cluster.pods())["p"]["spec"].get("nodeName")
        # The room it was promised is free again.
        await cluster.pod("other", {"cpu": "8"})
        assert await cluster.bound("other") == {"other": "n0"}


async def test_an_exclusive_claim_has_one_pod_at_a_time(cluster: Cluster) -> None:
    await cluster.node("n0")
    await cluster.node("n1")
    await _class(cluster, "local", "kubernetes.io/no-provisioner")
    await _claim(cluster, "once", "local", "ReadWriteOncePod")
    async with cluster.controller_running(VOLUME_CONTROLLER), cluster.scheduler():
        await _volume(cluster, "disk", "local", "n0", accessModes=["ReadWriteOncePod"])
        await _pod(cluster, "first", "once")
        assert await cluster.bound("first") == {"first": "n0"}
        await _pod(cluster, "second", "once")
        assert "ReadWriteOncePod access mode already in-use" in await cluster.message("second")
        await cluster.client.delete(PODS, "first", NAMESPACE, grace_period_seconds=0)
        assert await cluster.bound("second") == {"second": "n0"}


async def test_a_node_takes_as_many_volumes_as_its_driver_says(cluster: Cluster) -> None:
    await cluster.node("n0")
    driver = {"name": "disk.example.com", "nodeID": "n0", "topologyKeys": [], "allocatable": {"count": 2}}
    await cluster.create(CSI_NODES, {"metadata": {"name": "n0"}, "spec": {"drivers": [driver]}})
    await _class(cluster, "disks", "disk.example.com")
    async with cluster.controller_running(VOLUME_CONTROLLER), cluster.scheduler():
        for index in range(3):
            csi = {"driver": "disk.example.com", "volumeHandle": f"h{index}"}
            await _volume(cluster, f"disk-{index}", "disks", "n0", csi=csi, local=None)
            await _claim(cluster, f"c{index}", "disks")
        await _pod(cluster, "p0", "c0")
        await _pod(cluster, "p1", "c1")
        await cluster.bound("p0", "p1")
        await _pod(cluster, "p2", "c2")
        assert "1 node(s) exceed max volume count" in await cluster.message("p2")
        await cluster.client.delete(PODS, "p0", NAMESPACE, grace_period_seconds=0)
        assert await cluster.bound("p2") == {"p2": "n0"}


async def test_a_gang_with_a_local_volume_each_lands_where_the_volumes_are(cluster: Cluster) -> None:
    for index in range(5):
        await cluster.node(f"n{index}")
    await _class(cluster, "local", "kubernetes.io/no-provisioner")
    async with cluster.controller_running(VOLUME_CONTROLLER), cluster.scheduler():
        for node in ("n0", "n2", "n4"):
            await _volume(cluster, f"disk-{node}", "local", node)
        for index in range(3):
            await _claim(cluster, f"shard-{index}", "local")
        group = {"metadata": {"name": "g"}, "spec": {"minMember": 3}}
        await cluster.create(POD_GROUPS, group, NAMESPACE)
        for index in range(3):
            volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": f"shard-{index}"}}]
            await cluster.pod(f"g-{index}", labels={"scheduling.x-k8s.io/pod-group": "g"}, volumes=volumes)
        placed = await cluster.bound("g-0", "g-1", "g-2")
        assert sorted(placed.values()) == ["n0", "n2", "n4"]


async def test_a_volume_taken_meanwhile_is_not_overwritten(cluster: Cluster) -> None:
    """What the write's resourceVersion is for: the API server refuses it."""
    await cluster.node("n0")
    await _volume(cluster, "disk", "local", "n0")
    old = await cluster.client.get(PERSISTENT_VOLUMES, "disk")
    await cluster.client.patch(PERSISTENT_VOLUMES, "disk", {"metadata": {"labels": {"x": "y"}}})
    metadata = {"resourceVersion": old["metadata"]["resourceVersion"]}
    with pytest.raises(Conflict):
        await cluster.client.patch(PERSISTENT_VOLUMES, "disk", {"metadata": metadata, "spec": {"claimRef": None}})
