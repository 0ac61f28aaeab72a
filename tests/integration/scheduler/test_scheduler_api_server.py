"""The scheduler as a process, with its own rights only, on a real API server."""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from api import names
from api.decision import Decision
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import AlreadyExists
from kube.resources import (
    DATASETS,
    EVENTS,
    NODE_CACHES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_GROUPS,
    PRIORITY_CLASSES,
)
from tests.builders.api_servers import api_server
from tests.integration.scheduler.conftest import (
    ADMISSION,
    NAMESPACE,
    PATIENCE_SECONDS,
    Cluster,
    message_of,
    node_of,
    proxied,
    running,
)

pytestmark = pytest.mark.cluster

MIB = 1 << 20
GPU = "nvidia.com/gpu"


async def _events(cluster: Cluster, name: str, reason: str) -> list[str]:
    """Wait for events of a pod; earlier tests had pods of the same name."""
    uid = (await cluster.pods())[name]["metadata"]["uid"]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            items = (await cluster.client.list(EVENTS, NAMESPACE)).items
            notes = [item["note"] for item in items if item["regarding"]["uid"] == uid and item["reason"] == reason]
            if notes:
                return notes
            await asyncio.sleep(0.1)


async def _warm(cluster: Cluster, dataset: str, size: int, **resident: Mapping[str, int]) -> None:
    """A Dataset of that size, and NodeCaches: node (`_` for `-`) -> medium -> bytes."""
    spec = {"mounts": [{"mountPoint": "s3://bucket/x", "name": "x"}]}
    created = await cluster.create(DATASETS, {"metadata": {"name": dataset}, "spec": spec}, NAMESPACE)
    snapshot = {"version": 1, "files": 1, "bytes": size}
    await cluster.client.patch(DATASETS, dataset, {"status": {"snapshot": snapshot}}, NAMESPACE, subresource="status")
    for node, held in resident.items():
        entry = {
            "namespace": NAMESPACE,
            "name": dataset,
            "uid": created["metadata"]["uid"],
            "snapshot": 1,
            "residentBytes": dict(held),
        }
        status = {"worker": {"endpoint": "127.0.0.1:1", "epoch": 1}, "datasets": [entry]}
        await cluster.create(NODE_CACHES, {"metadata": {"name": node.replace("_", "-")}, "status": status})


async def test_pods_are_bound_with_a_decision_and_an_event(cluster: Cluster) -> None:
    for index in range(3):
        await cluster.node(f"n{index}")
    for index in range(6):
        await cluster.pod(f"p{index}", {"cpu": "1"})
    await cluster.pod("foreign", scheduler="someone-else")
    async with cluster.scheduler():
        placed = await cluster.bound(*(f"p{index}" for index in range(6)))
        notes = await _events(cluster, "p0", "Scheduled")
    assert Counter(placed.values()) == {"n0": 2, "n1": 2, "n2": 2}
    pods = await cluster.pods()
    verdict = Decision.model_validate_json(pods["p0"]["metadata"]["annotations"][names.DECISION_ANNOTATION])
    assert verdict.node == placed["p0"]
    assert (verdict.feasible_nodes, verdict.total_nodes) == (3, 3)
    assert verdict.runner_up is not None
    assert notes == [f"Successfully assigned default/p0 to {placed['p0']}"]
    assert not node_of(pods["foreign"])


async def _shapes(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Pods nobody can place, by name; and the cluster in which that is so."""
    await cluster.node("plain", cpu="2", pods="3")
    await cluster.node("gpu", gpu="1", memory="1Gi")
    await cluster.node("tainted", gpu="8")
    await cluster.client.patch(NODES, "tainted", {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})
    await cluster.node("cordoned")
    await cluster.client.patch(NODES, "cordoned", {"spec": {"unschedulable": True}})
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
    anti = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    port = {"ports": [{"containerPort": 80, "hostPort": 80}]}
    await cluster.pod("holder-port", container=port, scheduler="nobody")
    await cluster.bind("holder-port", "gpu")
    await cluster.pod("holder-anti", affinity=anti, labels={"app": "db"}, scheduler="nobody")
    await cluster.bind("holder-anti", "plain")
    never = {"metadata": {"name": "shapes-never"}, "value": 5, "preemptionPolicy": "Never"}
    with contextlib.suppress(AlreadyExists):
        await cluster.create(PRIORITY_CLASSES, never)
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    await cluster.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "unbound"}, "spec": claim}, NAMESPACE)
    await _bound_volume(cluster, claim)

    def volumes(name: str) -> dict[str, Any]:
        return {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]}

    def affinity(**term: Any) -> dict[str, Any]:
        required = {"nodeSelectorTerms": [term]}
        return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}

    def pods(kind: str, app: str, **more: Any) -> dict[str, Any]:
        about = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname", **more}
        return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [about]}}}

    def evenly(key: str, **more: Any) -> dict[str, Any]:
        about = {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": key, "maxSkew": 1}
        return {"topologySpreadConstraints": [{**about, "whenUnsatisfiable": "DoNotSchedule", **more}]}

    def named(name: str) -> dict[str, Any]:
        return {"key": "metadata.name", "operator": "In", "values": [name]}

    exists = {"key": "disk", "operator": "Exists"}
    tolerate = {"tolerations": [{"operator": "Exists"}]}
    return {
        "gpus": {"requests": {GPU: "9"}},
        "gpus-tolerated": {"requests": {GPU: "9"}, **tolerate},
        "huge": {"requests": {"cpu": "100", "memory": "1Ti"}},
        "selector": {"nodeSelector": {"disk": "ssd"}},
        "affinity": affinity(matchExpressions=[exists]),
        "named-full": {"requests": {"cpu": "50"}, **affinity(matchFields=[named("plain")])},
        "named-absent": affinity(matchFields=[named("absent")]),
        "named-twice": affinity(matchFields=[named("gpu"), named("plain")]),
        "port": {"container": port, "nodeSelector": {"kubernetes.io/hostname": "gpu"}},
        "web": {"labels": {"app": "web"}, "nodeSelector": {"kubernetes.io/hostname": "plain"}},
        "near-nobody": pods("podAffinity", "absent"),
        "near-elsewhere": pods(
            "podAffinity", "db", namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
        ),
        "apart": {**pods("podAntiAffinity", "db"), "nodeSelector": {"kubernetes.io/hostname": "plain"}},
        "apart-everywhere": {
            **pods("podAntiAffinity", "db", namespaceSelector={}),
            "nodeSelector": {"kubernetes.io/hostname": "plain"},
        },
        "no-rack": evenly("rack"),
        "uneven": {
            **evenly("kubernetes.io/hostname", nodeAffinityPolicy="Ignore", nodeTaintsPolicy="Honor"),
            "labels": {"app": "db"},
            "nodeSelector": {"kubernetes.io/hostname": "plain"},
        },
        "no-claim": volumes("absent"),
        "unbound-claim": volumes("unbound"),
        "local-claim": {**volumes("local"), "nodeSelector": {"kubernetes.io/hostname": "gpu"}},
        "never": {"requests": {"cpu": "100"}, "priorityClassName": "shapes-never"},
        "strange": {"requests": {"example.com/unheard-of": "1"}, **tolerate},
    }


async def _bound_volume(cluster: Cluster, claim: Mapping[str, Any]) -> None:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["plain"]}
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "local": {"path": "/x"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        "claimRef": {"namespace": NAMESPACE, "name": "local"},
    }
    await cluster.create(PERSISTENT_VOLUMES, {"metadata": {"name": "local-pv"}, "spec": volume})
    bound = {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}
    spec = {**claim, "volumeName": "local-pv"}
    body = {"metadata": {"name": "local", "annotations": bound}, "spec": spec, "status": {"phase": "Bound"}}
    await cluster.create(PERSISTENT_VOLUME_CLAIMS, body, NAMESPACE)


async def test_messages_equal_kube_schedulers(cluster: Cluster) -> None:
    shapes = await _shapes(cluster)
    async with cluster.scheduler(), cluster.kube_scheduler_running():
        for name, shape in shapes.items():
            await cluster.pod(f"ours-{name}", **shape)
            await cluster.pod(f"theirs-{name}", scheduler="default-scheduler", **shape)
        pods = await cluster.wait(
            lambda found: all(message_of(found[f"{whose}-{name}"]) for name in shapes for whose in ("ours", "theirs")),
            "a message on every pod",
        )
    ours = {name: message_of(pods[f"ours-{name}"]) for name in shapes}
    theirs = {name: message_of(pods[f"theirs-{name}"]) for name in shapes}
    assert ours == theirs


async def test_no_nodes_is_said_as_kube_scheduler_says_it(cluster: Cluster) -> None:
    await cluster.pod("p")
    async with cluster.scheduler():
        assert await cluster.message("p") == "no nodes available to schedule pods"
        await cluster.node("late")
        assert await cluster.bound("p") == {"p": "late"}


async def test_a_gang_is_bound_whole_and_a_gang_too_big_stays_wholly_unbound(cluster: Cluster) -> None:
    for index in range(2):
        await cluster.node(f"n{index}", gpu="4")
    async with cluster.scheduler():
        await cluster.gang("big", 9, {GPU: "1"})
        message = await cluster.message("big-0", "needs 9 members")
        await cluster.gang("fits", 8, {GPU: "1"})
        placed = await cluster.bound(*(f"fits-{index}" for index in range(8)))
        group = await _group(cluster, "fits", "Scheduled")
        pods = await cluster.wait(
            lambda found: all(message_of(found[f"big-{index}"]) for index in range(9)), "a reason on every member"
        )
    assert message.endswith("PodGroup default/big needs 9 members placed together, 8 fit.")
    assert message.startswith("0/2 nodes are available: 2 Insufficient nvidia.com/gpu. ")
    assert Counter(placed.values()) == {"n0": 4, "n1": 4}
    assert not any(node_of(pods[f"big-{index}"]) for index in range(9))
    assert group["status"]["scheduled"] == 8
    annotation = json.loads(pods["fits-0"]["metadata"]["annotations"][names.DECISION_ANNOTATION])
    assert annotation["gang"] == "default/fits"


async def _group(cluster: Cluster, name: str, phase: str) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            group = await cluster.client.get(POD_GROUPS, name, NAMESPACE)
            if group.get("status", {}).get("phase") == phase:
                return group
            await asyncio.sleep(0.1)


async def test_data_draws_a_pod_and_a_gang_to_the_warm_node(cluster: Cluster) -> None:
    for name in ("cold-0", "warm", "cold-1"):
        await cluster.node(name)
    await _warm(cluster, "imagenet", 1000 * MIB, warm={"MEM": 1000 * MIB}, cold_0={"SSD": 10 * MIB})
    reads = {names.DATASETS_ANNOTATION: '[{"name":"imagenet"}]'}
    async with cluster.scheduler():
        await cluster.pod("reader", {"cpu": "1"}, annotations=reads)
        await cluster.gang("job", 2, {"cpu": "1"}, annotations=reads)
        placed = await cluster.bound("reader", "job-0", "job-1")
        (note,) = await _events(cluster, "reader", "Scheduled")
    assert set(placed.values()) == {"warm"}
    verdict = Decision.model_validate_json(
        (await cluster.pods())["reader"]["metadata"]["annotations"][names.DECISION_ANNOTATION]
    )
    assert verdict.bytes_by_source.local == {"MEM": 1000 * MIB}
    assert verdict.coldest is not None
    assert verdict.coldest.node == "cold-1"
    assert verdict.coldest.stage_in_seconds > verdict.stage_in_seconds
    assert note.startswith("Successfully assigned default/reader to warm; data: 1000.0 MiB local MEM")


async def test_a_wrong_annotation_is_told_on_the_pod(cluster: Cluster) -> None:
    await cluster.node("n")
    async with cluster.scheduler():
        await cluster.pod("p", annotations={names.DATASETS_ANNOTATION: "imagenet"})
        message = await cluster.message("p")
        notes = await _events(cluster, "p", "FailedScheduling")
    assert f"annotation {names.DATASETS_ANNOTATION} is not valid JSON" in message
    assert notes == [message]


async def test_a_bind_that_is_refused_is_told_on_the_pod(cluster: Cluster) -> None:
    """A policy on pods/binding, say: the pod's owner sees no other sign of it."""
    await cluster.node("n")
    async with proxied(cluster) as proxy:

        async def deny(request: web.Request) -> web.Response | None:
            if request.path.endswith("/binding"):
                status = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "denied by policy"}
                return web.json_response(status, status=403)
            return None

        proxy.before = deny
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig):
            await cluster.pod("p")
            message = await cluster.message("p")
            notes = await _events(cluster, "p", "FailedScheduling")
            conditions = (await cluster.pods())["p"]["status"]["conditions"]
            (condition,) = (item for item in conditions if item["type"] == "PodScheduled")
            proxy.before = None
            await cluster.bound("p")
    assert condition["reason"] == "SchedulerError"
    assert message == "binding to n failed: denied by policy (Forbidden)"
    assert notes == [message]


async def test_a_foreign_bind_between_decision_and_bind_does_not_overcommit(cluster: Cluster) -> None:
    await cluster.node("small", cpu="1")
    await cluster.node("big", cpu="2")
    release = asyncio.Event()
    await cluster.pod("foreign", {"cpu": "1"}, scheduler="nobody")
    async with proxied(cluster) as proxy:

        async def hold_first_bind(request: web.Request) -> None:
            if request.path.endswith("/first/binding"):
                await release.wait()

        proxy.before = hold_first_bind
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig, binds_in_flight="1"):
            await cluster.pod("first", {"cpu": "2"})
            await _seen(proxy.seen, "/first/binding")
            # Decided for `small`, and waiting behind `first` in the binder.
            await cluster.pod("second", {"cpu": "1"})
            await _settled()
            await cluster.bind("foreign", "small")
            await _settled()
            release.set()
            await cluster.bound("first")
            message = await cluster.message("second")
            assert not any(line.endswith("/second/binding") for line in proxy.seen)
            assert "2 Insufficient cpu" in message
            await cluster.node("more", cpu="1")
            assert await cluster.bound("second") == {"second": "more"}


async def _seen(lines: list[str], ending: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any(line.endswith(ending) for line in lines):
            await asyncio.sleep(0.02)


async def _settled() -> None:
    """Give a watch event time to arrive; the assertions hold without it too, but would prove less."""
    await asyncio.sleep(1.0)


async def test_it_goes_on_after_being_killed(cluster: Cluster) -> None:
    await cluster.node("n", cpu="4")
    async with cluster.scheduler() as first:
        await cluster.pod("before", {"cpu": "2"})
        await cluster.bound("before")
        first.send_signal(signal.SIGKILL)
        await first.wait()
    await cluster.pod("meanwhile", {"cpu": "1"})
    await cluster.pod("too-much", {"cpu": "2500m"})
    async with cluster.scheduler():
        await cluster.bound("meanwhile")
        assert "1 Insufficient cpu" in await cluster.message("too-much")


async def test_a_standby_takes_over_when_the_leader_stops(cluster: Cluster) -> None:
    await cluster.node("n")
    async with cluster.scheduler("--leader-elect") as leader:
        await cluster.pod("p0")
        await cluster.bound("p0")
        async with cluster.scheduler("--leader-elect"):
            leader.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(leader.wait(), PATIENCE_SECONDS) == 0
            await cluster.pod("p1")
            await cluster.bound("p1")


async def test_a_gang_whose_kth_bind_fails_once_is_completed(cluster: Cluster) -> None:
    await cluster.node("n", gpu="4")
    failed: list[str] = []
    async with proxied(cluster) as proxy:

        async def fail_third(request: web.Request) -> web.Response | None:
            if request.path.endswith("/binding") and len(failed) < 1 and _binds(proxy.seen) >= 3:
                failed.append(request.path)
                return web.json_response({"kind": "Status", "code": 403, "message": "injected"}, status=403)
            return None

        proxy.before = fail_third
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig):
            await cluster.gang("g", 4, {GPU: "1"})
            await cluster.bound(*(f"g-{index}" for index in range(4)))
            await _group(cluster, "g", "Scheduled")
    assert len(failed) == 1


def _binds(lines: list[str]) -> int:
    return sum(line.endswith("/binding") for line in lines)


@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_a_gang_that_cannot_be_bound_whole_is_undone(cluster: Cluster, failing: int) -> None:
    await cluster.node("n", gpu="4")
    refused: list[str] = []
    async with proxied(cluster) as proxy:

        async def refuse(request: web.Request) -> web.Response | None:
            if any(request.path.endswith(f"/g-{index}/binding") for index in range(failing)):
                refused.append(request.path)
                return web.json_response({"kind": "Status", "code": 403, "message": "injected"}, status=403)
            return None

        proxy.before = refuse
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig, gang_bind_seconds="2"):
            await cluster.gang("g", 4, {GPU: "1"})
            pods = await cluster.wait(
                lambda found: (
                    len(refused) > 0 and sum(_is_leaving(found, f"g-{index}") for index in range(4)) == 4 - failing
                ),
                "taking the bound members back",
            )
    staying = [name for name, pod in pods.items() if node_of(pod) and not pod["metadata"].get("deletionTimestamp")]
    assert staying == []


def _is_leaving(pods: Mapping[str, Any], name: str) -> bool:
    return name not in pods or bool(pods[name]["metadata"].get("deletionTimestamp"))


async def test_it_works_without_any_of_the_custom_resources(
    control_plane_binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    with api_server(tmp_path / "bare", control_plane_binaries, "bare", flags=[ADMISSION], crds=False) as plane:
        async with KubeClient(load_config(plane.kubeconfig), user_agent="test") as client:
            bare = Cluster(client, plane.kubeconfig, plane.kubeconfig, {}, tmp_path)
            await bare.node("n")
            await bare.pod("p")
            async with bare.scheduler():
                assert await bare.bound("p") == {"p": "n"}


async def test_metrics_and_health_are_served(cluster: Cluster) -> None:
    from aiohttp import ClientSession

    from headrace.cluster import ports

    port = ports.pick_free(())
    await cluster.node("n")
    await cluster.pod("p")
    async with cluster.scheduler("--metrics", f"127.0.0.1:{port}"), ClientSession() as session:
        await cluster.bound("p")
        for path in ("healthz", "readyz"):
            async with session.get(f"http://127.0.0.1:{port}/{path}") as response:
                assert response.status == 200
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    assert 'scheduler_schedule_attempts_total{profile="headrace-scheduler",result="scheduled"} 1.0' in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kubeconfig", "/nonexistent"], "/nonexistent"),
        (["--config", "/nonexistent.yaml"], "--config /nonexistent.yaml"),
        (["--metrics", "80", "--kubeconfig", "{kubeconfig}"], "must be HOST:PORT"),
        (["--qps", "-1"], "qps"),
    ],
)
async def test_what_cannot_be_used_is_said_in_one_line(cluster: Cluster, arguments: list[str], says: str) -> None:
    import sys

    argv = [argument.format(kubeconfig=cluster.kubeconfig) for argument in arguments]
    log = cluster.folder / "refused.log"
    async with running([sys.executable, "-m", "scheduler", *argv], log, {}) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 2
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("scheduler: ")
    assert says in last


def test_the_rbac_file_names_nothing_secret_and_no_wildcards() -> None:
    from headrace.cluster import manifests

    text = manifests.rbac_file("scheduler").read_text()
    assert "*" not in text
    assert "secrets" not in text
