"""Preemption through the process, with its own rights, on a real API server: gangs, restarts, nominations."""

import asyncio

import pytest
from aiohttp import web

from kube.resources import EVENTS, PODS, PRIORITY_CLASSES
from tests.integration.scheduler.conftest import NAMESPACE, PATIENCE_SECONDS, Cluster, message_of, node_of, proxied

pytestmark = pytest.mark.cluster


async def _classes(cluster: Cluster) -> None:
    known = {item["metadata"]["name"] for item in (await cluster.client.list(PRIORITY_CLASSES)).items}
    lower = "PreemptLowerPriority"
    for name, value, policy in (("low", 1, lower), ("high", 1000, lower), ("high-never", 1000, "Never")):
        if f"test-{name}" not in known:
            body = {"metadata": {"name": f"test-{name}"}, "value": value, "preemptionPolicy": policy}
            await cluster.create(PRIORITY_CLASSES, body)


async def _low(cluster: Cluster, name: str, node: str, *, grace_seconds: int, cpu: str = "8") -> None:
    """A pod of low priority on a node, which needs so long to end (no kubelet ends it)."""
    await cluster.pod(
        name,
        {"cpu": cpu},
        scheduler="nobody",
        nodeName=node,
        priorityClassName="test-low",
        terminationGracePeriodSeconds=grace_seconds,
    )


async def _preempted_events(cluster: Cluster) -> list[str]:
    items = (await cluster.client.list(EVENTS, NAMESPACE)).items
    return [item["regarding"]["uid"] for item in items if item["reason"] == "Preempted"]


async def test_a_gang_evicts_for_all_its_members_and_takes_their_nodes(cluster: Cluster) -> None:
    await _classes(cluster)
    for index in range(3):
        await cluster.node(f"n{index}")
        await _low(cluster, f"low-{index}", f"n{index}", grace_seconds=0)
    async with cluster.scheduler():
        await cluster.gang("team", 2, {"cpu": "8"}, priorityClassName="test-high")
        placed = await cluster.bound("team-0", "team-1")
        pods = await cluster.pods()
        assert len(set(placed.values())) == 2
        left = {name for name in pods if name.startswith("low")}
        assert len(left) == 1
        assert {f"n{name.removeprefix('low-')}" for name in left}.isdisjoint(placed.values())
        assert all(not pods[name]["status"].get("nominatedNodeName") for name in placed)


async def test_a_gang_without_room_for_all_evicts_nobody(cluster: Cluster) -> None:
    await _classes(cluster)
    for index in range(2):
        await cluster.node(f"n{index}")
        await _low(cluster, f"low-{index}", f"n{index}", grace_seconds=0)
    async with cluster.scheduler():
        await cluster.gang("team", 3, {"cpu": "8"}, priorityClassName="test-high")
        await cluster.message("team-0", "PodGroup default/team needs 3 members placed together")
        # Somebody who can be placed is a sign that the gang's try is over and done with.
        await cluster.pod("other", {"cpu": "8"}, priorityClassName="test-high")
        await cluster.bound("other")
        assert sum(name.startswith("low") for name in await cluster.pods()) == 1
        assert not any(
            pod["status"].get("nominatedNodeName") for name, pod in (await cluster.pods()).items() if "team" in name
        )


async def test_a_scheduler_that_takes_over_evicts_nobody_anew(cluster: Cluster) -> None:
    await _classes(cluster)
    for index in range(2):
        await cluster.node(f"n{index}")
        await _low(cluster, f"low-{index}", f"n{index}", grace_seconds=3600)
    async with cluster.scheduler():
        await cluster.pod("high", {"cpu": "8"}, priorityClassName="test-high")
        await cluster.wait(lambda pods: pods["high"]["status"].get("nominatedNodeName"), "the nomination")
        found = await cluster.wait(
            lambda pods: any(pod["metadata"].get("deletionTimestamp") for pod in pods.values()), "the eviction"
        )
        nominated = found["high"]["status"]["nominatedNodeName"]
    async with cluster.scheduler():
        await cluster.message("high", "not eligible due to a terminating pod on the nominated node")
        pods = await cluster.pods()
        leaving = [name for name, pod in pods.items() if pod["metadata"].get("deletionTimestamp")]
        assert len(leaving) == 1
        assert pods["high"]["status"]["nominatedNodeName"] == nominated == node_of(pods[leaving[0]])
        # The room is kept for it while the victim goes, and it takes it then.
        await cluster.pod("equal", {"cpu": "8"}, priorityClassName="test-high-never")
        await cluster.message("equal")
        await cluster.client.delete(PODS, leaving[0], NAMESPACE, grace_period_seconds=0)
        assert await cluster.bound("high") == {"high": nominated}
        assert not node_of((await cluster.pods())["equal"])


async def test_a_nomination_from_outside_is_tried_first(cluster: Cluster) -> None:
    await cluster.node("roomy", cpu="64")
    await cluster.node("small", cpu="1")
    for index in range(4):
        await cluster.pod(f"p{index}", {"cpu": "1"}, schedulingGates=[{"name": "example.com/wait"}])
    nominated = {"status": {"nominatedNodeName": "small"}}
    await cluster.client.patch(PODS, "p3", nominated, NAMESPACE, subresource="status")
    async with cluster.scheduler():
        for index in range(4):
            gates: dict[str, dict[str, list[str]]] = {"spec": {"schedulingGates": []}}
            await cluster.client.patch(PODS, f"p{index}", gates, NAMESPACE)
        placed = await cluster.bound(*(f"p{index}" for index in range(4)))
    assert [name for name, node in placed.items() if node == "small"] == ["p3"]


async def test_an_eviction_the_api_server_refuses_is_tried_again(cluster: Cluster) -> None:
    await _classes(cluster)
    await cluster.node("n0")
    await _low(cluster, "low", "n0", grace_seconds=0)
    refused: list[str] = []
    async with proxied(cluster) as proxy:

        async def refuse_twice(request: web.Request) -> web.Response | None:
            if request.method == "DELETE" and request.path.endswith("/pods/low") and len(refused) < 2:
                refused.append(request.path)
                return web.json_response({"kind": "Status", "code": 403, "reason": "Forbidden"}, status=403)
            return None

        proxy.before = refuse_twice
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig):
            await cluster.pod("high", {"cpu": "8"}, priorityClassName="test-high")
            assert await cluster.bound("high") == {"high": "n0"}
    assert len(refused) == 2
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await _preempted_events(cluster):
            await asyncio.sleep(0.1)
    assert message_of((await cluster.pods())["high"]) == ""
