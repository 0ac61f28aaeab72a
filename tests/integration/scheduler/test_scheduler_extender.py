"""The extender with the real kube-scheduler: pods of `default-scheduler` land where their data is."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from headrace.cluster import ports
from kube.resources import DATASETS, NODE_CACHES
from kube.resources import NODES as NODE_OBJECTS
from tests.integration.scheduler.conftest import NAMESPACE, PATIENCE_SECONDS, Cluster, running

pytestmark = pytest.mark.cluster

GIB = 1 << 30
NODES = 6
DATA = json.dumps([{"name": "big"}])
REQUIRED = json.dumps([{"name": "big", "required": True}])


@asynccontextmanager
async def _both(cluster: Cluster, *, node_cache_capable: bool) -> AsyncIterator[str]:
    """Our scheduler serving the extender, and a kube-scheduler that asks it; yields the extender's URL."""
    port = ports.pick_free(())
    url = f"http://127.0.0.1:{port}"
    async with cluster.scheduler("--extender", f"127.0.0.1:{port}"):
        await _answering(url)
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": str(cluster.kubeconfig), "qps": 1000, "burst": 1000},
            "leaderElection": {"leaderElect": False},
            "extenders": [
                {
                    "urlPrefix": url,
                    "filterVerb": "filter",
                    "prioritizeVerb": "prioritize",
                    "weight": 5,
                    "nodeCacheCapable": node_cache_capable,
                    "httpTimeout": "5s",
                }
            ],
        }
        file: Path = cluster.folder / "extended.yaml"
        file.write_text(yaml.safe_dump(config))
        # kube-scheduler 1.36 reuses the scores of the pod before, for half a second, for one that looks alike, and
        # neither annotations nor extenders count as looks (framework/runtime/batch.go); README says to turn it off.
        argv = [str(cluster.kube_scheduler), f"--config={file}", "--secure-port=0"]
        argv.append("--feature-gates=OpportunisticBatching=false")
        async with running(argv, cluster.folder / "extended.log", {}):
            yield url


async def _answering(url: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), aiohttp.ClientSession() as session:
        while True:
            try:
                body = {"Pod": {"metadata": {"name": "p"}, "spec": {}}, "NodeNames": []}
                async with session.post(f"{url}/prioritize", json=body) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(0.1)


async def _cluster_with_data(cluster: Cluster) -> None:
    """Six equal nodes; only the last holds the dataset, but it is busier than the others, and asks to be avoided.

    The taint is what kube-scheduler goes by: under load it may score before its watch showed it the busy pod, and
    then all six are equal to it. 300 points against the extender's 500.
    """
    for index in range(NODES):
        await cluster.node(f"n{index}")
    await cluster.pod("busy", {"cpu": "3"}, scheduler="nobody")
    await cluster.bind("busy", f"n{NODES - 1}")
    taints = [{"key": "avoid", "effect": "PreferNoSchedule"}]
    await cluster.client.patch(NODE_OBJECTS, f"n{NODES - 1}", {"spec": {"taints": taints}})
    spec = {"mounts": [{"mountPoint": "s3://bucket/x", "name": "x"}]}
    created = await cluster.create(DATASETS, {"metadata": {"name": "big"}, "spec": spec}, NAMESPACE)
    snapshot = {"version": 1, "files": 1, "bytes": 10 * GIB}
    await cluster.client.patch(DATASETS, "big", {"status": {"snapshot": snapshot}}, NAMESPACE, subresource="status")
    entry = {
        "namespace": NAMESPACE,
        "name": "big",
        "uid": created["metadata"]["uid"],
        "snapshot": 1,
        "residentBytes": {"SSD": 10 * GIB},
    }
    status = {"worker": {"endpoint": "127.0.0.1:1", "epoch": 1}, "datasets": [entry]}
    await cluster.create(NODE_CACHES, {"metadata": {"name": f"n{NODES - 1}"}, "status": status})


@pytest.mark.parametrize("node_cache_capable", [True, False])
async def test_kube_scheduler_places_by_our_score(cluster: Cluster, node_cache_capable: bool) -> None:
    await _cluster_with_data(cluster)
    async with _both(cluster, node_cache_capable=node_cache_capable):
        await cluster.pod("plain", scheduler="default-scheduler")
        placed = await cluster.bound("plain")
        for name, annotations in (("reader", DATA), ("strict", REQUIRED)):
            await cluster.pod(
                name, scheduler="default-scheduler", annotations={"data.headrace.dev/datasets": annotations}
            )
        placed |= await cluster.bound("reader", "strict")
    assert placed["reader"] == placed["strict"] == f"n{NODES - 1}"
    assert placed["plain"] != f"n{NODES - 1}"


async def test_a_required_dataset_nobody_holds_is_told_in_kube_schedulers_message(cluster: Cluster) -> None:
    await _cluster_with_data(cluster)
    await cluster.client.delete(NODE_CACHES, f"n{NODES - 1}")
    async with _both(cluster, node_cache_capable=True):
        await cluster.pod("strict", scheduler="default-scheduler", annotations={"data.headrace.dev/datasets": REQUIRED})
        message = await cluster.message("strict")
    assert f"0/{NODES} nodes are available" in message
    assert f"{NODES} node(s) didn't have all required dataset(s) resident" in message


async def test_what_is_not_understood_is_answered(cluster: Cluster) -> None:
    await _cluster_with_data(cluster)
    async with _both(cluster, node_cache_capable=True) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/filter", data=b"{}") as answer:
            assert answer.status == 400
        pod = {"metadata": {"name": "p", "annotations": {"data.headrace.dev/datasets": "{"}}, "spec": {}}
        async with session.post(f"{url}/filter", json={"Pod": pod, "NodeNames": ["n0"]}) as answer:
            found = await answer.json()
        assert "not valid JSON" in found["Error"]
