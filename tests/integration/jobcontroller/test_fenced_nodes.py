"""A node that confirms nothing: its pods are deleted by force, and its worker saves for them no more.

The real job controller, metadata service and worker; the test plays kubelet, and its silence."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from kube.resources import PODS, TRAINING_JOBS
from tests.builders.cache_cluster import CacheCluster, WorkerRefused
from tests.builders.job_cluster import Cluster, controller
from tests.builders.process_nodes import process_node
from tests.builders.training_jobs import job_body, workers

pytestmark = pytest.mark.cluster
NODE = "node-1"


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[CacheCluster]:
    made = await asyncio.to_thread(
        CacheCluster,
        tmp_path / "cache",
        {"HEADRACE_WORKER_DATASET_SECONDS": "0.000001"},
        metadata_environment={"HEADRACE_METADATA_FENCE_SETTLE_SECONDS": "0"},
    )
    try:
        made.put_origin({"data": b"x"})
        await asyncio.to_thread(made.add_workers, NODE)
        yield made
    finally:
        await asyncio.to_thread(made.stop)


def saving(name: str) -> dict[str, Any]:
    replicas = workers(1)
    replicas["Worker"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    return job_body(
        name,
        replicaSpecs=replicas,
        datasets=[{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        checkpoint={"dataset": "ckpt", "path": "run"},
    )


def save(cache: CacheCluster, path: str) -> None:
    with closing(cache.workers[NODE].client()) as client:
        client.write("u-1", path, b"weights")


async def test_a_silent_node_is_fenced_before_its_pods_are_deleted_by_force(
    cluster: Cluster, cache: CacheCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(cache.sync, namespace=cluster.namespace, name="ckpt", writable=True)
    await cluster.bound_dataset("ckpt")
    monkeypatch.setenv("HEADRACE_JOBCONTROLLER_FORCE_AFTER_SECONDS", "0.5")
    monkeypatch.setenv("HEADRACE_JOBCONTROLLER_REQUEST_SECONDS", "1")
    async with controller(cluster, tmp_path / "log", "--no-leader-elect", "--metadata", cache.address):
        await cluster.submit(saving("silent"))
        (pod,) = await cluster.wait_for_pods("silent", 0, 1)
        await cluster.run_pod(pod, NODE)
        await cluster.wait_for_state("silent", "Running")
        save(cache, "run/1/w")

        assert cache.metadata is not None
        cache.metadata.send_signal(signal.SIGSTOP)
        try:
            patch = {"spec": {"runPolicy": {"suspend": True}}}
            await cluster.client.patch(TRAINING_JOBS, "silent", patch, cluster.namespace)

            async def is_held_up() -> bool | None:
                return "fence_not_raised" in (tmp_path / "log").read_text() or None

            await cluster.until("the fence is tried", is_held_up)
            left = await cluster.client.get(PODS, pod["metadata"]["name"], cluster.namespace)
            assert left["metadata"]["uid"] == pod["metadata"]["uid"], "it may run and save"
        finally:
            cache.metadata.send_signal(signal.SIGCONT)

        async def is_gone() -> bool | None:
            return await cluster.gone(PODS, pod["metadata"]["name"])

        await cluster.until("the pod is deleted by force", is_gone)
        info = cache.namespace.GetDataset(pb.DatasetRequest(uid="u-1"), timeout=10)
        (fence,) = info.fences
        assert (fence.node, fence.path, list(fence.pods)) == (NODE, "run", [pod["metadata"]["uid"]])
        assert f"may still run on node {NODE}" in await cluster.wait_for_event("silent", "Fenced")
        with pytest.raises(WorkerRefused) as refused:
            save(cache, "run/2/w")
        assert refused.value.errno == errno.EACCES
        assert not (cache.origin / "run/2/w").exists()
        save(cache, "elsewhere")


async def test_a_pod_somebody_deletes_by_force_is_fenced_before_the_next_attempt_begins(
    cluster: Cluster, cache: CacheCluster, tmp_path: Path
) -> None:
    await asyncio.to_thread(cache.sync, namespace=cluster.namespace, name="ckpt", writable=True)
    await cluster.bound_dataset("ckpt")
    async with controller(cluster, tmp_path / "log", "--no-leader-elect", "--metadata", cache.address):
        await cluster.submit(saving("lost"))
        (pod,) = await cluster.wait_for_pods("lost", 0, 1)
        await cluster.run_pod(pod, NODE)
        await cluster.wait_for_state("lost", "Running")
        await cluster.client.delete(PODS, pod["metadata"]["name"], cluster.namespace, grace_period_seconds=0)
        await cluster.wait_for_pods("lost", 1, 1)
        info = cache.namespace.GetDataset(pb.DatasetRequest(uid="u-1"), timeout=10)
        assert [(fence.node, list(fence.pods)) for fence in info.fences] == [(NODE, [pod["metadata"]["uid"]])]


async def test_a_process_node_says_which_of_its_pods_have_ended(
    cluster: Cluster, cache: CacheCluster, api_server: Any, tmp_path: Path
) -> None:
    await asyncio.to_thread(cache.sync, namespace=cluster.namespace, name="ckpt", writable=True)
    body = {
        "metadata": {"name": "runs"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "python", "command": ["sleep", "600"]}],
        },
    }
    flags = ("--metadata", cache.address)
    async with process_node(cluster.client, api_server.kubeconfig, tmp_path, 0, flags=flags) as node:
        pod = await cluster.client.create(PODS, body, cluster.namespace)
        await cluster.place_pod(pod, node.name)

        async def is_running() -> bool | None:
            seen = await cluster.client.get(PODS, "runs", cluster.namespace)
            return seen["status"].get("phase") == "Running" or None

        await cluster.until("the pod runs", is_running)
        uid = pod["metadata"]["uid"]
        fence = pb.Fence(node=node.name, path="run", pods=[uid, "uid-of-no-pod"])
        stub = metadata_pb2_grpc.FencesStub(cache.channel)
        stub.Raise(pb.RaiseFencesRequest(uid="u-1", fences=[fence]), timeout=10)

        def fenced(pods: list[str]) -> Callable[[], Awaitable[bool | None]]:
            async def probe() -> bool | None:
                listed = stub.List(pb.ListFencesRequest(node=node.name), timeout=10)
                return [one for fence in listed.fences for one in fence.pods] == pods or None

            return probe

        await cluster.until("the fence is lifted for the pod that is not here", fenced([uid]))
        await cluster.client.delete(PODS, "runs", cluster.namespace, grace_period_seconds=0)
        await cluster.until("the fence is lifted", fenced([]))
