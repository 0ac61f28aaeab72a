"""Elastic jobs on a real API server: a member is lost, the others go on, another joins; the test is the kubelet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api import names
from kube.resources import NODES, POD_GROUPS
from tests.builders.job_cluster import Cluster, controller
from tests.builders.training_jobs import job_body, workers

pytestmark = pytest.mark.cluster


def _elastic(framework: str, low: int, high: int) -> dict[str, Any]:
    return {"framework": framework, framework.lower(): {"elastic": {"min": low, "max": high, "coolDownSeconds": 1}}}


async def test_the_attempt_goes_on_without_a_lost_member_and_takes_another_in(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.submit(job_body("rubber", replicaSpecs=workers(3), **_elastic("PyTorch", 2, 3)))
        pods = await cluster.wait_for_pods("rubber", 0, 3)
        group = await cluster.client.get(POD_GROUPS, "rubber-a0", cluster.namespace)
        assert group["spec"]["minMember"] == 2
        for pod in pods:
            await cluster.run_pod(pod)
        await cluster.wait_for_state("rubber", "Running", "AllPodsRunning")
        last = next(pod for pod in pods if pod["metadata"]["name"] == "rubber-worker-2-a0")
        await cluster.end_pod(last, 137)

        async def reserve() -> dict[str, Any] | None:
            found = {pod["metadata"]["name"]: pod for pod in await cluster.pods("rubber", 0)}
            return found.get("rubber-worker-3-a0")

        held = await cluster.until("a pod that looks for room", reserve)
        assert held["metadata"]["annotations"][names.START_ANNOTATION] == ""
        status = (await cluster.job("rubber"))["status"]
        assert (status["attempt"], status["elastic"]["members"], status["elastic"]["reserves"]) == (0, "0-1", "3")
        assert status["restarts"] == {"userError": 0, "infrastructure": 0, "preemption": 0}
        assert status["conditions"][-1]["type"] == "Running"
        await cluster.place_pod(held, "node-9")

        async def joined() -> bool | None:
            found = await reserve()
            return found is not None and found["metadata"]["annotations"][names.START_ANNOTATION] != ""

        await cluster.until("the word that lets it start", joined)
        status = (await cluster.job("rubber"))["status"]
        assert (status["attempt"], status["elastic"]["members"]) == (0, "0-1,3")
        await cluster.run_pod(held)
        for name in ("rubber-worker-0-a0", "rubber-worker-1-a0", "rubber-worker-3-a0"):
            await cluster.end_pod({"metadata": {"name": name}}, 0)
        await cluster.wait_for_state("rubber", "Succeeded")
        assert "goes on with 2 workers of 2 to 3" in await cluster.wait_for_event("rubber", "Shrunk")
        assert "has 3 workers of 2 to 3" in await cluster.wait_for_event("rubber", "Grown")


async def test_processes_that_count_each_other_begin_again_with_another_number(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.submit(job_body("stiff", replicaSpecs=workers(3), **_elastic("JAX", 1, 3)))
        for pod in await cluster.wait_for_pods("stiff", 0, 3):
            await cluster.run_pod(pod)
        await cluster.wait_for_state("stiff", "Running")
        await cluster.end_pod({"metadata": {"name": "stiff-worker-0-a0"}}, 137)
        fresh = await cluster.wait_for_pods("stiff", 1, 2)
        for pod in fresh:
            environment = {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}
            assert environment["JAX_NUM_PROCESSES"] == "2"


async def test_a_member_leaves_a_node_that_will_be_taken_away_and_its_successor_waits_until_it_has_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    node = f"spot-{cluster.namespace}"
    await cluster.client.create(NODES, {"metadata": {"name": node}})
    try:
        async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
            options = _elastic("PyTorch", 1, 2)
            await cluster.submit(job_body("spot", replicaSpecs=workers(2), **options))
            for pod in await cluster.wait_for_pods("spot", 0, 2):
                await cluster.run_pod(pod, node if pod["metadata"]["name"] == "spot-worker-1-a0" else "node-1")
            await cluster.wait_for_state("spot", "Running")
            taint = {"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}
            await cluster.client.patch(NODES, node, {"spec": {"taints": [taint]}})
            pods = {pod["metadata"]["name"]: pod for pod in await cluster.wait_for_pods("spot", 0, 3)}
            assert pods["spot-worker-1-a0"]["metadata"]["deletionTimestamp"], "it has its grace to save what it holds"
            await cluster.place_pod(pods["spot-worker-2-a0"], "node-2")
            status = (await cluster.job("spot"))["status"]
            assert (status["attempt"], status["elastic"]["members"], status["elastic"]["reserves"]) == (0, "0", "2")
            await cluster.reap()

            async def joined() -> bool | None:
                return (await cluster.job("spot"))["status"]["elastic"]["members"] == "0,2" or None

            await cluster.until("the successor joins", joined)
            said = await cluster.wait_for_event("spot", "Shrunk")
            assert "taint cloud.google.com/impending-node-termination" in said
    finally:
        await cluster.client.delete(NODES, node)
