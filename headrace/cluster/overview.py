"""What a local cluster looks like now: its processes and its nodes.

Owns collecting it; `overview_text.py` shows it. Changes nothing and takes no lock. A part that does not answer is
told as such, never guessed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.names import GPU_RESOURCE
from headrace.cluster import processes
from headrace.cluster.components import is_running
from headrace.cluster.local_cluster import LocalCluster
from headrace.cluster.state import ComponentState
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import KubeError
from kube.resources import NODE_CACHES, NODES, PODS


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """One component. `last_log` is its last line when it is down."""

    name: str
    pid: int
    is_running: bool
    restarts: int
    address: str
    memory_bytes: int | None
    last_log: str = ""


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One node, as the API server has it."""

    name: str
    is_ready: bool
    gpus_used: int
    gpus_total: int
    pods: int
    cached_bytes: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything `headrace status` shows. `problem`: why nodes could not be read."""

    name: str
    folder: str
    kubeconfig: str
    processes: list[ProcessLine]
    nodes: list[NodeLine] = field(default_factory=list)
    problem: str = ""

    @property
    def is_healthy(self) -> bool:
        """Whether every component runs and every node is Ready."""
        return (
            not self.problem
            and all(one.is_running for one in self.processes)
            and all(one.is_ready for one in self.nodes)
        )


def look(name: str, root: Path) -> Overview:
    """Collect the overview. Raises ClusterError when there is no such cluster."""
    cluster = LocalCluster(name, root)
    state = cluster.load()
    lines = [_process(part, component) for part, component in state.components.items()]
    if not lines:
        return Overview(
            name, str(root), str(cluster.kubeconfig), [], problem="it is stopped; start it with `headrace up`"
        )
    try:
        nodes, problem = asyncio.run(_nodes(cluster.kubeconfig)), ""
    except KubeError as error:
        nodes, problem = [], f"the API server does not answer: {error}"
    return Overview(name, str(root), str(cluster.kubeconfig), lines, nodes, problem)


def _process(name: str, component: ComponentState) -> ProcessLine:
    alive = is_running(component)
    tail = [] if alive else processes.log_tail(Path(component.log), lines=1)
    return ProcessLine(
        name=name,
        pid=component.process.pid,
        is_running=alive,
        restarts=component.starts - 1,
        address=component.address,
        memory_bytes=processes.rss_bytes(component.process),
        last_log=tail[0] if tail else "",
    )


async def _nodes(kubeconfig: Path) -> list[NodeLine]:
    async with KubeClient(
        load_config(kubeconfig), user_agent="headrace-status", retries=0, timeout_seconds=5
    ) as client:
        nodes = (await client.list(NODES)).items
        pods = (await client.list(PODS)).items
        caches = {one["metadata"]["name"]: one for one in (await client.list(NODE_CACHES)).items}
    return [_node(node, pods, caches.get(node["metadata"]["name"], {})) for node in nodes]


def _node(node: dict[str, Any], pods: list[dict[str, Any]], cache: dict[str, Any]) -> NodeLine:
    name, status = node["metadata"]["name"], node.get("status", {})
    conditions = status.get("conditions") or []
    mine = [
        pod
        for pod in pods
        if pod["spec"].get("nodeName") == name and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]
    datasets = cache.get("status", {}).get("datasets") or []
    return NodeLine(
        name=name,
        is_ready=any(one["type"] == "Ready" and one["status"] == "True" for one in conditions),
        gpus_used=sum(_gpus(container) for pod in mine for container in pod["spec"]["containers"]),
        gpus_total=int(status.get("allocatable", {}).get(GPU_RESOURCE, 0)),
        pods=len(mine),
        cached_bytes=sum(sum(one["residentBytes"].values()) for one in datasets),
    )


def _gpus(container: dict[str, Any]) -> int:
    resources = container.get("resources") or {}
    return int({**(resources.get("limits") or {}), **(resources.get("requests") or {})}.get(GPU_RESOURCE, 0))
