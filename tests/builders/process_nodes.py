"""Node agents as processes, for jobs whose pods really run; a test places the pods itself."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from headrace.cluster.control_plane import ControlPlane
from kube.client import KubeClient
from kube.errors import NotFound
from kube.resources import NODES
from tests.builders.job_cluster import PATIENCE_SECONDS, ROOT, Cluster, controller


class ProcessNode:
    """A node agent as a process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def log_of(self, pod: dict[str, Any]) -> str:
        file = self.folder / "pods" / pod["metadata"]["uid"] / "main" / "0.log"
        return file.read_text() if file.exists() else ""


@asynccontextmanager
async def process_node(
    client: KubeClient,
    kubeconfig: Path,
    folder: Path,
    index: int,
    plane: ControlPlane | None = None,
    *,
    flags: Sequence[str] = (),
) -> AsyncIterator[ProcessNode]:
    """Start an agent, wait for its Node; at the end it ends its pods. With `plane` its logs can be read through it."""
    name = f"node-{index}-{secrets.token_hex(3)}"
    place = folder / name
    place.mkdir()
    flags = [*flags, "--network-index", str(40 + index), "--taint-patience-seconds", "0"]
    if plane is not None:
        files = plane.kubelet_files(name)
        flags += ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--client-ca", str(files.client_ca)]
    with (folder / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace.node", "--name", name, "--kubeconfig", str(kubeconfig)),
            *("--dir", str(place), "--mount", str(place / "mnt"), *flags),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        async with asyncio.timeout(60):
            while not await is_ready(client, name):
                await asyncio.sleep(0.1)
        yield ProcessNode(name, place)
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await process.wait()
        print((folder / f"{name}.log").read_text()[-3000:])
        await client.delete(NODES, name)


async def is_ready(client: KubeClient, name: str) -> bool:
    try:
        node = await client.get(NODES, name)
    except NotFound:
        return False
    found = node.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found)


@asynccontextmanager
async def two_nodes(cluster: Cluster, kubeconfig: Path, folder: Path) -> AsyncIterator[list[ProcessNode]]:
    """Two agents and, beside them, the job controller, whose log is `folder`'s `log`."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(process_node(cluster.client, kubeconfig, folder, index))
            for index in range(2)
        ]
        await stack.enter_async_context(controller(cluster, folder / "log", "--no-leader-elect"))
        yield nodes


async def logs_of_job(
    cluster: Cluster, kubeconfig: Path, folder: Path, body: dict[str, Any], seconds: float = PATIENCE_SECONDS
) -> dict[str, str]:
    """Run a job on two nodes, its pods in turn on the one and the other, until it succeeds; each pod's log."""
    name = body["metadata"]["name"]
    count = sum(role["replicas"] for role in body["spec"]["replicaSpecs"].values())
    async with two_nodes(cluster, kubeconfig, folder) as nodes:
        await cluster.submit(body)
        pods = await cluster.wait_for_pods(name, 0, count)
        places = [nodes[number % 2] for number in range(count)]
        for pod, node in zip(pods, places, strict=True):
            await cluster.place_pod(pod, node.name)
        await cluster.wait_for_state(name, "Succeeded", seconds=seconds)
        return {pod["metadata"]["name"]: node.log_of(pod) for pod, node in zip(pods, places, strict=True)}
