"""Kubernetes' own PodGroups and Volcano's on real API servers, and gangs that drain where others deadlock."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from headrace.cluster import binaries
from headrace.cluster.control_plane import ControlPlane
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import NotFound
from kube.resources import CRDS, POD_GROUPS, PODS, UPSTREAM_POD_GROUPS, VOLCANO_POD_GROUPS, Resource
from tests.builders.api_servers import api_server, grant
from tests.integration.scheduler.conftest import ADMISSION, NAMESPACE, PATIENCE_SECONDS, Cluster, node_of, proxied

GPU = "nvidia.com/gpu"
GATES = "GenericWorkload=true,GangScheduling=true,TopologyAwareWorkloadScheduling=true,WorkloadAwarePreemption=true"
VOLCANO_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podgroups.scheduling.volcano.sh"},
    "spec": {
        "group": "scheduling.volcano.sh",
        "scope": "Namespaced",
        "names": {"plural": "podgroups", "singular": "podgroup", "kind": "PodGroup", "listKind": "PodGroupList"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


@contextlib.contextmanager
def _plane(folder: Path, found: Mapping[str, Path], gates: str, version: str) -> Iterator[ControlPlane]:
    flags = [ADMISSION, f"--feature-gates={gates}", f"--runtime-config=scheduling.k8s.io/{version}=true"]
    with api_server(folder, found, "gang-tests", flags=flags) as plane:
        asyncio.run(_add_volcano(plane.kubeconfig))
        grant(plane, "scheduler")
        yield plane


async def _add_volcano(kubeconfig: Path) -> None:
    async with KubeClient(load_config(kubeconfig), user_agent="test") as client:
        await client.create(CRDS, VOLCANO_CRD)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    await client.list(VOLCANO_POD_GROUPS, NAMESPACE)
                    return
                except NotFound:
                    await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def gang_plane(
    control_plane_binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    with _plane(tmp_path_factory.mktemp("gang-plane"), control_plane_binaries, GATES, "v1alpha2") as plane:
        yield plane


@pytest.fixture(scope="module")
def next_plane(
    control_plane_binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    name = binaries.NEXT_APISERVER.name
    found = binaries.locate(names=(name,)).found
    if name not in found:
        pytest.skip("build it once with `python tools/bootstrap.py --next-apiserver`")
    both = {**control_plane_binaries, "kube-apiserver": found[name]}
    gates = "GenericWorkload=true,TopologyAwareWorkloadScheduling=true"
    with _plane(tmp_path_factory.mktemp("next-plane"), both, gates, "v1beta1") as plane:
        yield plane


@contextlib.asynccontextmanager
async def _cluster(plane: ControlPlane, found: Mapping[str, Path], folder: Path) -> AsyncIterator[Cluster]:
    async with KubeClient(load_config(plane.kubeconfig), user_agent="test") as client:
        kubeconfig = plane.kubeconfig_for("scheduler")
        yield Cluster(client, plane.kubeconfig, kubeconfig, found, folder)


async def _status(cluster: Cluster, resource: Resource, name: str, condition: Any) -> dict[str, Any]:
    """Wait until a PodGroup's status is as wanted."""
    status: dict[str, Any] = {}
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition(status):
                await asyncio.sleep(0.1)
                status = (await cluster.client.get(resource, name, NAMESPACE)).get("status", {})
    except TimeoutError:
        pytest.fail(f"PodGroup {name} has status {status}")
    return status


def _conditions(status: Mapping[str, Any]) -> dict[str, str]:
    return {item["type"]: item["status"] for item in status.get("conditions", ())}


async def _upstream(cluster: Cluster, resource: Resource, condition: str) -> None:
    rack = "example.com/rack"
    for index in range(4):
        await cluster.node(f"n{index}", gpu="2")
        labels = {"metadata": {"labels": {rack: f"r{index // 2}"}}}
        await cluster.client.patch(Resource("", "v1", "nodes", "Node", False), f"n{index}", labels)
    async with cluster.scheduler():
        constraints = {"topology": [{"key": rack}]}
        spec = {"schedulingPolicy": {"gang": {"minCount": 4}}, "schedulingConstraints": constraints}
        await cluster.create(resource, {"metadata": {"name": "fits"}, "spec": spec}, NAMESPACE)
        for index in range(4):
            group = {"podGroupName": "fits"}
            await cluster.pod(f"fits-{index}", {GPU: "1"}, schedulingGroup=group)
        bound = await cluster.bound(*(f"fits-{index}" for index in range(4)))
        assert {int(node[1:]) // 2 for node in bound.values()} in ({0}, {1})
        await _status(cluster, resource, "fits", lambda status: _conditions(status).get(condition) == "True")
        big = {"schedulingPolicy": {"gang": {"minCount": 5}}, "schedulingConstraints": constraints}
        await cluster.create(resource, {"metadata": {"name": "big"}, "spec": big}, NAMESPACE)
        for index in range(5):
            await cluster.pod(f"big-{index}", {GPU: "1"}, schedulingGroup={"podGroupName": "big"})
        status = await _status(cluster, resource, "big", lambda status: condition in _conditions(status))
        (found,) = (item for item in status["conditions"] if item["type"] == condition)
        assert (found["status"], found["reason"]) == ("False", "Unschedulable")
        assert f"needs 5 members placed together in one {rack}" in found["message"]
        pods = await cluster.pods()
        assert not any(node_of(pods[f"big-{index}"]) for index in range(5))


async def test_upstream_podgroups_of_1_36(
    gang_plane: ControlPlane, control_plane_binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    async with _cluster(gang_plane, control_plane_binaries, tmp_path) as cluster:
        await _upstream(cluster, UPSTREAM_POD_GROUPS[-1], "PodGroupScheduled")


@pytest.mark.nightly
async def test_upstream_podgroups_of_1_37(
    next_plane: ControlPlane, control_plane_binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    async with _cluster(next_plane, control_plane_binaries, tmp_path) as cluster:
        await _upstream(cluster, UPSTREAM_POD_GROUPS[0], "PodGroupInitiallyScheduled")


async def test_volcanos_podgroups(
    gang_plane: ControlPlane, control_plane_binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    async with _cluster(gang_plane, control_plane_binaries, tmp_path) as cluster:
        await cluster.node("volcano", gpu="8", cpu="8")
        async with cluster.scheduler():
            spec = {"minMember": 2, "minTaskMember": {"ps": 1, "worker": 1}}
            await cluster.create(VOLCANO_POD_GROUPS, {"metadata": {"name": "v"}, "spec": spec}, NAMESPACE)
            annotations = {"scheduling.k8s.io/group-name": "v", "volcano.sh/task-spec": "ps"}
            await cluster.pod("ps", annotations=annotations)
            await _status(cluster, VOLCANO_POD_GROUPS, "v", lambda status: status.get("phase") == "Inqueue")
            assert not node_of((await cluster.pods())["ps"])
            await cluster.pod("worker", annotations=annotations | {"volcano.sh/task-spec": "worker"})
            await cluster.bound("ps", "worker")
            for name in ("ps", "worker"):
                await cluster.client.patch(
                    PODS, name, {"status": {"phase": "Running"}}, NAMESPACE, subresource="status"
                )
            status = await _status(cluster, VOLCANO_POD_GROUPS, "v", lambda status: status.get("phase") == "Running")
            assert _conditions(status) == {"Scheduled": "True"}


async def test_sixty_jobs_of_one_to_eight_pods_drain_on_two_nodes(cluster: Cluster) -> None:
    """scheduler-plugins#117 and #114: groups interleave, each holds a part, and nobody goes on."""
    for name in ("n0", "n1"):
        await cluster.node(name, gpu="8", cpu="64")
    left = {f"j{index}": 1 + index * 5 % 8 for index in range(60)}
    for name, size in left.items():
        await cluster.create(POD_GROUPS, {"metadata": {"name": name}, "spec": {"minMember": size}}, NAMESPACE)
    jobs = asyncio.Semaphore(16)

    async def pod(name: str, index: int) -> None:
        async with jobs:
            await cluster.pod(f"{name}-{index}", {GPU: "2"}, labels={"scheduling.x-k8s.io/pod-group": name})

    # Members of all jobs arrive mixed.
    order = sorted((index, name) for name, size in left.items() for index in range(size))
    async with cluster.scheduler(max_backoff_seconds="1"):
        await asyncio.gather(*(pod(name, index) for index, name in order))
        async with asyncio.timeout(PATIENCE_SECONDS * 3):
            while left:
                bound: dict[str, list[str]] = {}
                for name, found in (await cluster.pods()).items():
                    if node_of(found):
                        bound.setdefault(name.rpartition("-")[0], []).append(name)
                assert sum(len(pods) for pods in bound.values()) <= 8
                for group, pods in bound.items():
                    if len(pods) == left[group]:
                        del left[group]
                        for name in pods:
                            await cluster.client.delete(PODS, name, NAMESPACE, grace_period_seconds=0)
                await asyncio.sleep(0.05)


async def test_nothing_is_held_by_a_gang_that_does_not_fit(cluster: Cluster) -> None:
    """scheduler-plugins#713 and #930: 9 of 10 fit; a later, smaller gang and a single pod take the room at once."""
    await cluster.node("n", gpu="9", cpu="64")
    async with cluster.scheduler():
        await cluster.gang("ten", 10, {GPU: "1"})
        await cluster.message("ten-0", "needs 10 members placed together, 9 fit")
        await cluster.gang("eight", 8, {GPU: "1"})
        await cluster.pod("single", {GPU: "1"})
        await cluster.bound(*(f"eight-{index}" for index in range(8)), "single")
        pods = await cluster.pods()
        assert not any(node_of(pods[f"ten-{index}"]) for index in range(10))


async def test_gangs_that_wait_for_each_other_elsewhere_drain_in_any_order(cluster: Cluster) -> None:
    """koordinator#872: A, C, B, D, each more than half of the room; whoever is first goes, the others follow."""
    await cluster.node("n", gpu="8", cpu="64")
    async with cluster.scheduler(max_backoff_seconds="1"):
        for name in "acbd":
            await cluster.create(POD_GROUPS, {"metadata": {"name": name}, "spec": {"minMember": 5}}, NAMESPACE)
        for index in range(5):
            for name in "acbd":
                await cluster.pod(f"{name}-{index}", {GPU: "1"}, labels={"scheduling.x-k8s.io/pod-group": name})
        left = set("acbd")
        while left:
            found = await cluster.wait(partial(_whole, gangs=left), "a gang")
            whole = _whole(found, left)
            assert len(whole) == 1
            for name in whole:
                for index in range(5):
                    await cluster.client.delete(PODS, f"{name}-{index}", NAMESPACE, grace_period_seconds=0)
            left = left - whole


def _whole(pods: Mapping[str, Any], gangs: Iterable[str]) -> set[str]:
    return {name for name in gangs if all(node_of(pods[f"{name}-{index}"]) for index in range(5))}


@pytest.mark.parametrize("k", [1, 3])
async def test_a_scheduler_killed_after_k_binds_leaves_a_gang_its_successor_completes(cluster: Cluster, k: int) -> None:
    await cluster.node("n", gpu="4")
    sent: list[str] = []
    async with proxied(cluster) as proxy:

        async def hold(request: web.Request) -> web.Response | None:
            if request.path.endswith("/binding"):
                sent.append(request.path)
                if len(sent) > k:
                    await asyncio.Event().wait()  # never reaches the API server
            return None

        proxy.before = hold
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig) as first:
            await cluster.gang("g", 4, {GPU: "1"})
            await cluster.wait(lambda pods: sum(bool(node_of(pod)) for pod in pods.values()) == k, f"{k} binds")
            first.kill()
            await first.wait()
        assert len(sent) > k
    async with cluster.scheduler():
        await cluster.bound(*(f"g-{index}" for index in range(4)))


@pytest.mark.parametrize("k", [0, 2])
async def test_a_bind_whose_answer_is_lost_after_it_was_applied_counts(cluster: Cluster, k: int) -> None:
    await cluster.node("n", gpu="4")
    lost: list[str] = []
    async with proxied(cluster) as proxy:

        async def lose(request: web.Request) -> web.Response | None:
            if not lost and request.path.endswith(f"/g-{k}/binding"):
                lost.append(request.path)
                await cluster.bind(f"g-{k}", "n")  # what the API server would have done
                return web.json_response({"kind": "Status", "code": 503, "message": "injected"}, status=503)
            return None

        proxy.before = lose
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig, gang_bind_seconds="3"):
            await cluster.gang("g", 4, {GPU: "1"})
            bound = await cluster.bound(*(f"g-{index}" for index in range(4)))
            await _status(cluster, POD_GROUPS, "g", lambda status: status.get("phase") == "Scheduled")
    assert len(lost) == 1
    assert len(bound) == 4
