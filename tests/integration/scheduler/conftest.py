"""A control plane of the scheduler's own: nodes are cluster-wide, and every other test's would be candidates.

No controllers run, so taints and service accounts that only they would settle are switched off; what a test
creates is all there is. Each test starts without nodes, pods, gangs, caches and datasets."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from headrace.cluster import ports
from headrace.cluster.control_plane import ControlPlane
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import NotFound
from kube.identity import JsonObject
from kube.resources import (
    CSI_NODES,
    DATASETS,
    NODE_CACHES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS,
    POD_GROUPS,
    PODS,
    STORAGE_CLASSES,
    Resource,
)
from kube.tls import tls_context
from tests.builders import audit
from tests.builders.api_servers import api_server, grant

# Of a machine that does much else: a process of ours may take half of it to start.
PATIENCE_SECONDS = 90.0
ADMISSION = "--disable-admission-plugins=TaintNodesByCondition,ServiceAccount,DefaultTolerationSeconds"
NAMESPACE = "default"
GROUP_LABEL = "scheduling.x-k8s.io/pod-group"


@dataclass
class Cluster:
    """Short ways to create and look at things. `scheduler_kubeconfig` has the scheduler's own rights only."""

    client: KubeClient
    kubeconfig: Path
    scheduler_kubeconfig: Path
    binaries: Mapping[str, Path]
    folder: Path
    audit: Path | None = None

    @property
    def kube_scheduler(self) -> Path:
        """The real one."""
        return self.binaries["kube-scheduler"]

    async def node(self, name: str, **room: str) -> None:
        """A node; keyword arguments are allocatable, `gpu` among them."""
        labels = {"kubernetes.io/hostname": name}
        amounts = {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"}
        gpu = room.pop("gpu", "")
        amounts |= room | ({"nvidia.com/gpu": gpu} if gpu else {})
        await self.client.create(
            NODES,
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels},
                "status": {"allocatable": amounts, "capacity": amounts},
            },
        )

    async def pod(
        self,
        name: str,
        requests: Mapping[str, str] | None = None,
        *,
        scheduler: str = "headrace-scheduler",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        container: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> JsonObject:
        """A pod of one container."""
        asked = dict(requests or {"cpu": "100m"})
        limits = {key: value for key, value in asked.items() if "/" in key}
        main = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": asked, "limits": limits}}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})},
            "spec": {"schedulerName": scheduler, "containers": [main | dict(container or {})], **spec},
        }
        return await self.client.create(PODS, body, NAMESPACE)

    async def gang(self, name: str, members: int, requests: Mapping[str, str], **pod: Any) -> None:
        """A PodGroup with minMember = members, and its pods `NAME-0` …"""
        group = {"metadata": {"name": name}, "spec": {"minMember": members}}
        await self.create(POD_GROUPS, group, NAMESPACE)
        for index in range(members):
            await self.pod(f"{name}-{index}", requests, labels={GROUP_LABEL: name}, **pod)

    async def create(self, resource: Resource, body: JsonObject, namespace: str | None = None) -> JsonObject:
        """Any object; apiVersion and kind are filled in."""
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        created = await self.client.create(resource, whole, namespace)
        if "status" in body:
            created = await self.client.patch(
                resource, body["metadata"]["name"], {"status": body["status"]}, namespace, subresource="status"
            )
        return created

    async def bind(self, name: str, node: str) -> None:
        """Bind a pod as another scheduler would."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self.client.create(Resource("", "v1", f"pods/{name}/binding", "Binding", True), body, NAMESPACE)

    async def pods(self) -> dict[str, JsonObject]:
        """All pods by name."""
        return {pod["metadata"]["name"]: pod for pod in (await self.client.list(PODS, NAMESPACE)).items}

    async def wait(self, condition: Callable[[dict[str, JsonObject]], Any], what: str) -> dict[str, JsonObject]:
        """Poll the pods until the condition holds; fails with what was seen last."""
        found: dict[str, JsonObject] = {}
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not condition(found := await self.pods()):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            seen = {name: (node_of(pod), message_of(pod)) for name, pod in found.items()}
            pytest.fail(f"{what} did not happen; pods: {seen}")
        return found

    async def bound(self, *names: str) -> dict[str, str]:
        """Wait until these pods are bound; pod -> node."""
        pods = await self.wait(
            lambda found: all(name in found and node_of(found[name]) for name in names), f"binding {names}"
        )
        return {name: node_of(pods[name]) for name in names}

    async def message(self, name: str, contains: str = "") -> str:
        """Wait until the pod's PodScheduled is False with a message that contains the text."""
        pods = await self.wait(
            lambda found: message_of(found.get(name, {})) and contains in message_of(found[name]),
            f"a message with {contains!r} on {name}",
        )
        return message_of(pods[name])

    @asynccontextmanager
    async def scheduler(
        self, *arguments: str, kubeconfig: Path | None = None, **environment: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Our scheduler as a process; `environment` sets HEADRACE_SCHEDULER_<name>."""
        argv = [sys.executable, "-m", "scheduler", "--kubeconfig", str(kubeconfig or self.scheduler_kubeconfig)]
        extra = {f"HEADRACE_SCHEDULER_{key.upper()}": value for key, value in environment.items()}
        if not any("leader-elect" in argument for argument in arguments):
            argv.append("--no-leader-elect")
        async with running([*argv, *arguments], self.folder / "scheduler.log", extra) as process:
            yield process

    @asynccontextmanager
    async def kube_scheduler_running(self) -> AsyncIterator[None]:
        """The real kube-scheduler, for pods with its name."""
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": str(self.kubeconfig), "qps": 1000, "burst": 1000},
            "leaderElection": {"leaderElect": False},
        }
        file = self.folder / "kube-scheduler.yaml"
        file.write_text(yaml.safe_dump(config))
        argv = [str(self.kube_scheduler), f"--config={file}", "--secure-port=0"]
        async with running(argv, self.folder / "kube-scheduler.log", {}):
            yield

    @asynccontextmanager
    async def controller_running(self, controller: str) -> AsyncIterator[None]:
        """One controller of the real kube-controller-manager."""
        argv = [
            str(self.binaries["kube-controller-manager"]),
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={controller}",
        ]
        argv += ["--leader-elect=false", "--secure-port=0"]
        async with running(argv, self.folder / "controllers.log", {}):
            yield


def node_of(pod: JsonObject) -> str:
    return str(pod.get("spec", {}).get("nodeName") or "")


def message_of(pod: JsonObject) -> str:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", ""))
    return ""


@asynccontextmanager
async def running(
    argv: list[str], log: Path, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ended on leaving; its log is shown when the test fails inside."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        yield process
    except BaseException:
        sys.stdout.write(log.read_text(errors="replace")[-6000:])
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


@dataclass
class Proxy:
    """Plain HTTP in front of the API server; `before` may answer a request itself, or hold it."""

    kubeconfig: Path
    before: Callable[[web.Request], Any] | None = None
    seen: list[str] = field(default_factory=list)


@asynccontextmanager
async def proxied(cluster: Cluster) -> AsyncIterator[Proxy]:
    """A proxy with the scheduler's credentials."""
    config = load_config(cluster.scheduler_kubeconfig)
    context = tls_context(config)
    assert context is not None
    port = ports.pick_free(())
    file = cluster.folder / f"proxy-{port}.kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    proxy = Proxy(file)
    async with ClientSession(
        connector=TCPConnector(ssl=context, limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
    ) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            proxy.seen.append(f"{request.method} {request.path}")
            if proxy.before is not None:
                answer = await proxy.before(request)
                if answer is not None:
                    return answer  # type: ignore[no-any-return]
            body = await request.read()
            headers = {key: value for key, value in request.headers.items() if key not in ("Host", "Content-Length")}
            url = f"{config.server}{request.path_qs}"
            async with session.request(request.method, url, data=body or None, headers=headers) as upstream:
                kept = ("Content-Type", "Content-Encoding", "Retry-After")
                response = web.StreamResponse(
                    status=upstream.status,
                    headers={key: value for key, value in upstream.headers.items() if key in kept},
                )
                await response.prepare(request)
                with contextlib.suppress(ConnectionError):
                    async for chunk in upstream.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
                return response

        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{tail:.*}", forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield proxy
        finally:
            await runner.cleanup()


@pytest.fixture(scope="session")
def scheduler_plane(
    control_plane_binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("scheduler-plane")
    flags = [ADMISSION, *audit.flags(folder, "headrace:scheduler")]
    with api_server(folder, control_plane_binaries, "scheduler-tests", flags=flags) as plane:
        grant(plane, "scheduler")
        yield plane


@pytest.fixture
async def cluster(
    scheduler_plane: ControlPlane, control_plane_binaries: Mapping[str, Path], tmp_path: Path
) -> AsyncIterator[Cluster]:
    async with KubeClient(load_config(scheduler_plane.kubeconfig), user_agent="test") as client:
        await _empty(client)
        yield Cluster(
            client,
            scheduler_plane.kubeconfig,
            scheduler_plane.kubeconfig_for("scheduler"),
            control_plane_binaries,
            tmp_path,
            scheduler_plane.folder.root / audit.LOG,
        )


async def _empty(client: KubeClient) -> None:
    storage = (PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES, CSI_NODES)
    for resource in (PODS, POD_GROUPS, POD_DISRUPTION_BUDGETS, DATASETS, NODE_CACHES, *storage, NODES):
        found = [item["metadata"] for item in (await client.list(resource)).items]
        for meta in found:
            if meta.get("finalizers"):
                with contextlib.suppress(NotFound):
                    free = {"metadata": {"finalizers": None}}
                    await client.patch(resource, meta["name"], free, meta.get("namespace"))
        for namespace in {meta.get("namespace") for meta in found}:
            # All that is in it by one request: some tests leave a thousand pods.
            await client.request("DELETE", resource.path(namespace), body=b'{"gracePeriodSeconds": 0}')
