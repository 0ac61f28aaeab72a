"""Workers of a CacheRuntime's own nodes on a real API server with Kubernetes' DaemonSet controller: they come, change
one at a time, and go; admission lets the cache controller write nothing else.

The controller's part runs here with the token of its service account, so a right that is missing fails a test. Pods are
placed and made ready by this file, as a scheduler and kubelets would."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from api.conditions import Condition
from cacheruntime.controller import pool_workers
from cacheruntime.controller.pool_workloads import PoolWorkloads
from headrace.cluster import binaries, manifests
from headrace.cluster.control_plane import ControlPlane
from kube.client import KubeClient, PatchKind
from kube.config import load_config
from kube.errors import KubeError, NotFound
from kube.resources import CACHE_RUNTIMES, DAEMON_SETS, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS, Resource

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

Body = dict[str, Any]
SYSTEM, NODE_NAMESPACE, TEAM = "headrace-system", "headrace-node", "team"
INSTALLED = (NODE_NAMESPACE, "headrace-worker")
CACHE = "/var/lib/headrace/cache"
PATIENCE_SECONDS = 90.0


@pytest.fixture(scope="module")
def plane(
    control_plane_binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    plane = ControlPlane(
        tmp_path_factory.mktemp("pools"),
        control_plane_binaries,
        name="pools",
        components=("etcd", "kube-apiserver", "kube-controller-manager"),
        durable=False,
        dies_with_us=True,
    )
    try:
        plane.start()
        kubectl = [str(binaries.require(["kubectl"])["kubectl"]), f"--kubeconfig={plane.kubeconfig}"]
        overlay = str(manifests.MANIFESTS / "overlays" / "local")
        made = subprocess.run([*kubectl, "kustomize", overlay], capture_output=True, text=True, timeout=60, check=True)
        apply = [*kubectl, "apply", "--server-side", "-f", "-"]
        done = subprocess.run(apply, input=made.stdout, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        yield plane
    finally:
        plane.stop()


async def apply(client: KubeClient, resource: Resource, body: Body, namespace: str) -> None:
    name = body["metadata"]["name"]
    kind = PatchKind.APPLY
    await client.patch(resource, name, body, namespace, kind=kind, field_manager="tests", force=True)


@dataclass
class Cluster:
    """The administrator's client, the controller's, and nodes that run what is placed on them."""

    admin: KubeClient
    controller: KubeClient
    nodes: tuple[str, ...]
    workloads: PoolWorkloads = field(init=False)
    overlaps: list[str] = field(default_factory=list)
    """Nodes that had two workers' pods placed at once."""
    down: int = 0
    """Most of a pool's nodes without a ready worker at once, since this was set to 0."""

    def __post_init__(self) -> None:
        self.workloads = PoolWorkloads(self.controller, INSTALLED)

    async def write(self, name: str, **spec: Any) -> None:
        body = {"apiVersion": CACHE_RUNTIMES.api_version, "kind": "CacheRuntime", "metadata": {"name": name}}
        await apply(self.admin, CACHE_RUNTIMES, body | {"spec": spec}, TEAM)

    async def give(self, node: str, name: str | None) -> None:
        label = None if name is None else f"{TEAM}.{name}"
        await self.admin.patch(NODES, node, {"metadata": {"labels": {names.POOL_LABEL: label}}})

    async def told(self, name: str) -> Condition | None:
        return self.workloads.condition(CacheRuntime.model_validate(await self.admin.get(CACHE_RUNTIMES, name, TEAM)))

    async def pool(self, name: str) -> Body | None:
        with suppress(NotFound):
            return await self.admin.get(DAEMON_SETS, pool_workers.name_of(f"{TEAM}.{name}"), NODE_NAMESPACE)
        return None

    async def ready(self) -> dict[str, str]:
        """The ready worker of each node: which pool's it is, "" = the installed one."""
        found = {}
        for pod in await self.pods():
            conditions = pod.get("status", {}).get("conditions") or []
            if any((one["type"], one["status"]) == ("Ready", "True") for one in conditions):
                found[pod["spec"]["nodeName"]] = pod["metadata"]["labels"].get(names.POOL_LABEL, "")
        return found

    async def pods(self) -> list[Body]:
        selector = "app.kubernetes.io/name=headrace-worker"
        return (await self.admin.list(PODS, NODE_NAMESPACE, label_selector=selector)).items

    async def until(self, what: str, probe: Callable[[], Awaitable[Any]]) -> None:
        """Take turns until it is so."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                await self.workloads.turn()
                if await probe():
                    return
                await asyncio.sleep(0.1)

    async def until_told(self, name: str, reason: str) -> str:
        async def is_told() -> bool:
            told = await self.told(name)
            return told is not None and told.reason == reason

        await self.until(f"{name} is told {reason}", is_told)
        told = await self.told(name)
        assert told is not None
        return told.message

    async def run(self) -> None:
        """Be the scheduler and the kubelets: a worker's pod is placed where its node has no other one."""
        while True:
            with suppress(KubeError):  # a pod that went meanwhile
                await self._run_once()
            await asyncio.sleep(0.05)

    async def _run_once(self) -> None:
        pods = await self.pods()
        placed = [pod for pod in pods if pod["spec"].get("nodeName")]
        there = [pod["spec"]["nodeName"] for pod in placed]
        self.overlaps += [node for node in set(there) if there.count(node) > 1]
        for pod in pods:
            name, node = pod["metadata"]["name"], pod["spec"].get("nodeName")
            if pod["metadata"].get("deletionTimestamp"):
                await self.admin.delete(PODS, name, NODE_NAMESPACE, grace_period_seconds=0)
            elif node is None and _may_run(pod, wanted := _wanted_node(pod), placed):
                target = {"apiVersion": "v1", "kind": "Node", "name": wanted}
                binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
                path = PODS.path(NODE_NAMESPACE, name, "binding")
                await self.admin.request("POST", path, body=json.dumps(binding).encode())
                placed.append({**pod, "spec": {**pod["spec"], "nodeName": wanted}})
            elif node is not None and pod["status"]["phase"] == "Pending":
                condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                status = {"phase": "Running", "conditions": [condition]}
                await self.admin.patch(PODS, name, {"status": status}, NODE_NAMESPACE, subresource="status")
        mine = [node for node in self.nodes if node != "c"]
        self.down = max(self.down, len(mine) - len([node for node in await self.ready() if node in mine]))


def _may_run(pod: Body, node: str, placed: list[Body]) -> bool:
    """As kube-scheduler decides: a required term against a worker holds for who comes and for who is there."""
    others = [one for one in placed if one["spec"]["nodeName"] == node]
    return not others or not any("podAntiAffinity" in one["spec"]["affinity"] for one in (pod, *others))


def _wanted_node(pod: Body) -> str:
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    for term in required["nodeSelectorTerms"]:
        for one in term.get("matchFields", ()):
            if one["key"] == "metadata.name":
                return str(one["values"][0])
    raise AssertionError("a DaemonSet's pod names its node")


@pytest.fixture
async def cluster(plane: ControlPlane) -> AsyncIterator[Cluster]:
    """Nodes a, b and c, and an account's client that may do what the manifests say."""
    async with KubeClient(load_config(plane.kubeconfig), user_agent="tests") as admin, _account(plane, admin) as mine:
        found = Cluster(admin, mine, ("a", "b", "c"))
        await admin.create(NAMESPACES, {"metadata": {"name": TEAM}})
        for node in found.nodes:
            labels = {"kubernetes.io/os": "linux"}
            await admin.create(NODES, {"metadata": {"name": node, "labels": labels}})
        running = asyncio.create_task(found.run())
        try:
            yield found
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@asynccontextmanager
async def _account(plane: ControlPlane, admin: KubeClient) -> AsyncIterator[KubeClient]:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = SERVICE_ACCOUNTS.path(SYSTEM, "headrace-cacheruntime", "token")
    answer = json.loads(await admin.request("POST", path, body=json.dumps(body).encode()))
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": answer["status"]["token"]}
    target = plane.kubeconfig.with_name("controller.kubeconfig")
    target.write_text(yaml.safe_dump(config))
    async with KubeClient(load_config(target), user_agent="tests") as client:
        yield client


async def test_workers_come_change_one_at_a_time_and_go(cluster: Cluster) -> None:
    level = {"mediumtype": "SSD", "path": CACHE, "quota": "1Gi"}
    await cluster.write("fast", tieredstore={"levels": [level]})
    assert "kubectl label node NODE data.headrace.dev/pool=team.fast" in await cluster.until_told("fast", "NoNodes")

    async def are(*wanted: str) -> bool:
        return await cluster.ready() == dict(zip(cluster.nodes, wanted, strict=True))

    await cluster.until("every node has the installed worker", lambda: are("", "", ""))

    # Nodes are given to it: their workers have its tiers.
    for node in ("a", "b"):
        await cluster.give(node, "fast")
    await cluster.until("its nodes have its workers", lambda: are("team.fast", "team.fast", ""))
    assert await cluster.until_told("fast", "RolledOut") == "2 of 2 workers run as tieredstore and worker say"
    pool = await cluster.pool("fast")
    assert pool is not None
    (container,) = pool["spec"]["template"]["spec"]["containers"]
    tiers = [word for word in container["args"] if word.startswith("--tier=")]
    assert tiers == [f"--tier=SSD:/cache/tiers/0/tier:{1 << 30},high=0.95,low=0.85"]
    assert not cluster.overlaps, "one worker a node"

    # Nothing changes: nothing is written.
    await cluster.workloads.turn()
    again = await cluster.pool("fast")
    assert again is not None and again["metadata"]["resourceVersion"] == pool["metadata"]["resourceVersion"]

    # What is invalid is said, and what runs goes on running.
    await cluster.write("fast", tieredstore={"levels": [level | {"quota": 0}]})
    message = await cluster.until_told("fast", "Refused")
    assert message == "tieredstore.levels[0].quota is '0'; it must be above 0; its workers stay as they are"
    await cluster.write("fast", tieredstore={"levels": [level]}, worker={"tolerations": [{"operator": "Perhaps"}]})
    assert "the API server does not take its workers" in await cluster.until_told("fast", "Refused")
    kept = await cluster.pool("fast")
    assert kept is not None and kept["metadata"]["generation"] == pool["metadata"]["generation"]

    # A new quota rolls out, one worker at a time.
    before = {pod["metadata"]["uid"] for pod in await cluster.pods() if names.POOL_LABEL in pod["metadata"]["labels"]}
    cluster.down = 0
    await cluster.write("fast", tieredstore={"levels": [level | {"quota": "2Gi"}]})

    async def is_new() -> bool:
        mine = [pod for pod in await cluster.pods() if names.POOL_LABEL in pod["metadata"]["labels"]]
        args = [word for pod in mine for word in pod["spec"]["containers"][0]["args"] if word.startswith("--tier=")]
        fresh = f"--tier=SSD:/cache/tiers/0/tier:{2 << 30},high=0.95,low=0.85"
        return args == [fresh, fresh] and not before & {pod["metadata"]["uid"] for pod in mine}

    await cluster.until("both workers are new", is_new)
    await cluster.until_told("fast", "RolledOut")
    assert cluster.down == 1, "one at a time"

    # What somebody else makes of it is made good again.
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other:1"}]
    name = pool_workers.name_of(f"{TEAM}.fast")
    await cluster.admin.patch(DAEMON_SETS, name, patch, NODE_NAMESPACE, kind=PatchKind.JSON)

    async def has_our_image() -> bool:
        found = await cluster.pool("fast")
        assert found is not None
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"]) == "headrace:0.1.0"

    await cluster.until("the image is ours", has_our_image)

    # The CacheRuntime goes: its nodes keep a worker, as it is installed. It is not held by anything of ours.
    await cluster.admin.delete(CACHE_RUNTIMES, "fast", TEAM)
    with pytest.raises(NotFound):
        await cluster.admin.get(CACHE_RUNTIMES, "fast", TEAM)

    async def is_plain() -> bool:
        found = await cluster.pool("fast")
        assert found is not None
        args = found["spec"]["template"]["spec"]["containers"][0]["args"]
        return "--tier=SSD:/cache/disk/tier:$(DISK)" in args

    await cluster.until("its nodes' workers are as installed", is_plain)

    # Its nodes are taken back: the DaemonSet is gone, and they have the installed worker.
    for node in ("a", "b"):
        await cluster.give(node, None)
    await cluster.until("every node has the installed worker again", lambda: are("", "", ""))
    assert await cluster.pool("fast") is None
    assert not cluster.overlaps, "one worker a node, all the time"
    await cluster.admin.delete(NAMESPACES, TEAM)
    for node in cluster.nodes:
        await cluster.admin.delete(NODES, node)


async def test_admission_takes_copies_of_the_installed_workers_only(plane: ControlPlane) -> None:
    async with KubeClient(load_config(plane.kubeconfig), user_agent="tests") as admin, _account(plane, admin) as mine:
        base = await admin.get(DAEMON_SETS, INSTALLED[1], NODE_NAMESPACE)
        levels = [{"mediumtype": "MEM", "path": "/x", "quota": "1Mi"}, {"mediumtype": "SSD", "path": CACHE, "quota": 1}]
        body = {"metadata": {"namespace": TEAM, "name": "x"}, "spec": {"tieredstore": {"levels": levels}}}
        good = pool_workers.daemon_set(f"{TEAM}.x", base, CacheRuntime.model_validate(body))

        async def answer(change: Callable[[Body, Body], None]) -> str:
            changed = deepcopy(good)
            change(changed, changed["spec"]["template"]["spec"])
            try:
                await apply(mine, DAEMON_SETS, changed, NODE_NAMESPACE)
            except KubeError as error:
                return error.message
            return ""

        def name(body: Body, _: Body) -> None:
            body["metadata"]["name"] = "headrace-other"

        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await answer(name):  # a policy is in force some moments after it is stored
                await asyncio.sleep(0.2)
        assert not await answer(lambda body, spec: None), "what we make is taken"

        worker = {"name": "worker"}
        host = {"name": "tier-9", "hostPath": {"path": "/etc", "type": ""}}
        secret = {"name": "tier-9", "secret": {"secretName": "headrace-trust-metadata"}}
        refused: list[tuple[str, Callable[[Body, Body], None]]] = [
            ("begins with headrace-pool-", name),
            ("account, security context and namespaces", lambda _, spec: spec.update(hostPID=True)),
            ("account, security context and namespaces", lambda _, spec: spec.update(hostNetwork=True)),
            (
                "account, security context and namespaces",
                lambda _, spec: spec.update(serviceAccountName="headrace-csi"),
            ),
            ("account, security context and namespaces", lambda _, spec: spec["securityContext"].update(runAsUser=0)),
            ("run what DaemonSet", lambda _, spec: spec["containers"][0].update(image="other:1")),
            ("run what DaemonSet", lambda _, spec: spec["containers"][0].update(command=["sh"])),
            ("run what DaemonSet", lambda _, spec: spec["containers"][0]["args"].append("--trust=/x")),
            ("run what DaemonSet", lambda _, spec: spec["containers"][0]["env"].append({"name": "X", "value": "1"})),
            (
                "run what DaemonSet",
                lambda _, spec: spec["containers"][0].update(readinessProbe={"exec": {"command": ["x"]}}),
            ),
            (
                "account, security context and namespaces",
                lambda _, spec: spec.update(hostAliases=[{"ip": "1.2.3.4", "hostnames": ["x"]}]),
            ),
            (
                "run what DaemonSet",
                lambda _, spec: spec["containers"][0].update(
                    securityContext={"privileged": True, "allowPrivilegeEscalation": True}
                ),
            ),
            ("run what DaemonSet", lambda _, spec: spec["containers"].append(worker | {"name": "y", "image": "z"})),
            ("init containers are those", lambda _, spec: spec["initContainers"][0].update(image="other:1")),
            ("init containers are those", lambda _, spec: spec["initContainers"][0]["command"].append("/run")),
            ("init containers are those", lambda _, spec: spec["initContainers"][0].update(args=["-R"])),
            ("init containers are those", lambda _, spec: spec["initContainers"][0].update(restartPolicy="Always")),
            ("have the volumes of", lambda _, spec: spec["volumes"].append(host)),
            ("have the volumes of", lambda _, spec: spec["volumes"].append(secret)),
        ]
        for why, change in refused:
            said = await answer(change)
            assert why in said, (why, said)
        with pytest.raises(KubeError, match="begins with headrace-pool-"):
            await mine.delete(DAEMON_SETS, "headrace-csi", NODE_NAMESPACE)
        await mine.delete(DAEMON_SETS, good["metadata"]["name"], NODE_NAMESPACE)
