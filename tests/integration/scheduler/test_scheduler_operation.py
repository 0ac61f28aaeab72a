"""Beside others: two leaders at once, a leader that sleeps, kube-scheduler on the same nodes, and its own rights.

The API server's audit log says who bound what, when and how often; it is no part of what is tested."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from headrace.cluster import manifests
from kube.errors import NotFound
from kube.identity import JsonObject
from kube.resources import (
    LEASES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PRIORITY_CLASSES,
    STORAGE_CLASSES,
)
from tests.builders import audit
from tests.builders.audit import Call
from tests.integration.scheduler.conftest import NAMESPACE, Cluster, node_of, proxied

pytestmark = pytest.mark.cluster


def _calls(cluster: Cluster, since: int) -> Iterator[Call]:
    """Our scheduler's requests after a position of the audit log."""
    assert cluster.audit is not None
    return audit.calls(cluster.audit, since)


def _position(cluster: Cluster) -> int:
    assert cluster.audit is not None
    return audit.position(cluster.audit)


def _binds(cluster: Cluster, since: int) -> Counter[str]:
    """How often each pod was bound, by whichever of our schedulers."""
    return Counter(call.name for call in _calls(cluster, since) if call.resource == "pods/binding" and call.code == 201)


def _cpu(pod: JsonObject) -> int:
    return int(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])


async def _taken(cluster: Cluster) -> dict[str, int]:
    """Cores asked for by the pods of each node."""
    taken: Counter[str] = Counter()
    for pod in (await cluster.pods()).values():
        if node_of(pod):
            taken[node_of(pod)] += _cpu(pod)
    return dict(taken)


async def test_two_live_leaders_bind_every_pod_once_and_gangs_whole(cluster: Cluster) -> None:
    since = _position(cluster)
    for index in range(6):
        await cluster.node(f"n{index}", cpu="32")
    async with cluster.scheduler(), cluster.scheduler():
        for index in range(60):
            await cluster.pod(f"p{index}", {"cpu": "1"})
        for index in range(4):
            await cluster.gang(f"g{index}", 6, {"cpu": "1"})
        names = [f"p{index}" for index in range(60)] + [f"g{group}-{index}" for group in range(4) for index in range(6)]
        await cluster.bound(*names)
    binds = _binds(cluster, since)
    assert binds == dict.fromkeys(names, 1)
    conflicts = [call for call in _calls(cluster, since) if call.resource == "pods/binding" and call.code == 409]
    assert conflicts, "the two never met: nothing was shown"
    assert not [call for call in _calls(cluster, since) if call.verb == "delete" and call.resource == "pods"]


@pytest.mark.timeout(180)
async def test_a_leader_that_slept_through_its_lease_binds_nothing_twice(cluster: Cluster) -> None:
    since = _position(cluster)
    for index in range(4):
        await cluster.node(f"n{index}", cpu="32")
    async with cluster.scheduler("--leader-elect") as leader, cluster.scheduler("--leader-elect") as standby:
        await cluster.pod("before", {"cpu": "1"})
        await cluster.bound("before")
        first, second = await _who_leads(cluster, leader, standby)
        for index in range(80):
            await cluster.pod(f"p{index}", {"cpu": "1"})
            if index == 40:
                first.send_signal(signal.SIGSTOP)
        try:
            names = [f"p{index}" for index in range(80)]
            await cluster.bound(*names)
        finally:
            first.send_signal(signal.SIGCONT)
        # It wakes with binds it had decided on, and a Lease that is not its own any more.
        await cluster.pod("after", {"cpu": "1"})
        await cluster.bound("after")
        assert await _who_leads(cluster, leader, standby) == (second, first)
    assert _binds(cluster, since) == dict.fromkeys(["before", *names, "after"], 1)
    assert max((await _taken(cluster)).values()) <= 32


async def _who_leads(
    cluster: Cluster, one: asyncio.subprocess.Process, other: asyncio.subprocess.Process
) -> tuple[asyncio.subprocess.Process, asyncio.subprocess.Process]:
    holder = (await cluster.client.get(LEASES, "headrace-scheduler", "kube-system"))["spec"]["holderIdentity"]
    return (one, other) if holder.endswith(f"_{one.pid}") else (other, one)


async def test_nodes_shared_with_kube_scheduler_are_filled_and_not_overcommitted(cluster: Cluster) -> None:
    nodes, cores = 8, 8
    for index in range(nodes):
        await cluster.node(f"n{index}", cpu=str(cores))
    async with cluster.scheduler(), cluster.kube_scheduler_running():
        # Neither is at the other's heels: rounds of half of what is left, so that each sees what the other took.
        made = 0
        for count in (16, 12, 8, 4, 2):
            for owner in ("headrace-scheduler", "default-scheduler"):
                for _ in range(count // 2):
                    await cluster.pod(f"p{made}", {"cpu": "1"}, scheduler=owner)
                    made += 1
            await cluster.bound(*(f"p{index}" for index in range(made)))
        left = nodes * cores - made
        for index in range(left):
            await cluster.pod(f"q{index}", {"cpu": "1"})
        await cluster.bound(*(f"q{index}" for index in range(left)))
        assert await _taken(cluster) == {f"n{index}": cores for index in range(nodes)}
        await cluster.pod("ours", {"cpu": "1"})
        await cluster.pod("theirs", {"cpu": "1"}, scheduler="default-scheduler")
        assert "8 Insufficient cpu" in await cluster.message("ours")
        assert "8 Insufficient cpu" in await cluster.message("theirs")


# Granted for APIs that are not served here, or that nothing made it use.
UNUSED = {
    ("list", "scheduling.volcano.sh", "podgroups"),
    ("watch", "scheduling.volcano.sh", "podgroups"),
    ("list", "scheduling.k8s.io", "podgroups"),
    ("watch", "scheduling.k8s.io", "podgroups"),
    ("patch", "scheduling.volcano.sh", "podgroups/status"),
    ("patch", "scheduling.k8s.io", "podgroups/status"),
}


async def test_its_rights_are_those_it_uses(cluster: Cluster) -> None:
    """Everything it can do is made to happen; then every right must have been used, and nothing was refused."""
    # Left by another test; making it is one of the rights.
    with contextlib.suppress(NotFound):
        await cluster.client.delete(LEASES, "headrace-scheduler", "kube-system")
    since = _position(cluster)
    await _use_everything(cluster)
    used: set[tuple[str, str, str]] = set()
    refused = []
    for call in _calls(cluster, since):
        used.add(call.right)
        if call.code == 403:
            refused.append(call)
    assert not refused
    assert audit.granted(manifests.rbac_file("scheduler")) - used <= UNUSED


async def _use_everything(cluster: Cluster) -> None:
    await cluster.node("n0", cpu="4")
    await cluster.node("n1", cpu="128")
    await cluster.client.patch(NODES, "n1", {"spec": {"unschedulable": True}})
    if not any(
        item["metadata"]["name"] == "rights-high" for item in (await cluster.client.list(PRIORITY_CLASSES)).items
    ):
        await cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "rights-high"}, "value": 1000})
    provisioning = {"provisioner": "test.example.com", "volumeBindingMode": "WaitForFirstConsumer"}
    await cluster.create(STORAGE_CLASSES, {"metadata": {"name": "made"}, **provisioning})
    claim: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": "made"}
    claim["resources"] = {"requests": {"storage": "1Gi"}}
    await cluster.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "data"}, "spec": claim}, NAMESPACE)
    await _give_a_volume(cluster)

    async def bind_first(request: web.Request) -> None:
        if request.path.endswith("/raced/binding"):
            await cluster.bind("raced", "n0")

    async with (
        proxied(cluster) as proxy,
        cluster.scheduler("--leader-elect", kubeconfig=proxy.kubeconfig, volume_bind_seconds="2"),
    ):
        proxy.before = bind_first
        await cluster.gang("g", 2, {"cpu": "1"}, terminationGracePeriodSeconds=0)
        await cluster.bound("g-0", "g-1")
        for index in range(2):
            await cluster.pod(f"low-{index}", {"cpu": "1"}, terminationGracePeriodSeconds=0)
        await cluster.bound("low-0", "low-1")
        # A pod that evicts, one that is refused, one that needs a claim's node selected.
        await cluster.pod("high", {"cpu": "1"}, priorityClassName="rights-high")
        await cluster.bound("high")
        await cluster.pod("refused", {"cpu": "64"})
        # The same refusal twice is one event, counted up.
        taint = [{"key": "k", "effect": "NoSchedule"}]
        for _ in range(2):
            await cluster.message("refused", "1 node(s) were unschedulable")
            await cluster.client.patch(NODES, "n1", {"spec": {"unschedulable": None, "taints": taint}})
            await cluster.message("refused", "1 node(s) had untolerated taint(s)")
            await cluster.client.patch(NODES, "n1", {"spec": {"unschedulable": True, "taints": None}})
        for name, pvc in (("reader", "data"), ("local", "given")):
            volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": pvc}}]
            await cluster.pod(name, {"cpu": "1m"}, volumes=volumes)
        # A pod that is bound by somebody else between decision and bind is read back.
        await cluster.pod("raced", {"cpu": "1m"})
        await cluster.bound("raced")
        await asyncio.sleep(4.0)  # volumes give up, events are written


async def _give_a_volume(cluster: Cluster) -> None:
    await cluster.create(STORAGE_CLASSES, {"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner",
                                           "volumeBindingMode": "WaitForFirstConsumer"})  # fmt: skip
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "local"}
    claim = {**spec, "resources": {"requests": {"storage": "1Gi"}}}
    await cluster.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "given"}, "spec": claim}, NAMESPACE)
    volume = {**spec, "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/disk"}}
    await cluster.create(PERSISTENT_VOLUMES, {"metadata": {"name": "disk"}, "spec": volume})
    await cluster.client.patch(PERSISTENT_VOLUMES, "disk", {"status": {"phase": "Available"}}, subresource="status")
