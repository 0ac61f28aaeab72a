"""A whole local cluster: the control plane, our parts, and N process nodes or real ones.

Owns the order things are started and stopped in, and their recovery. How one process is kept running is decided in
`components.py`, command lines in `parts.py`. Blocking. Invariants: the folder's lock is held while anything is
started or stopped; `up` may be called again at any time and brings back what is missing; `down` leaves no process and
no mount of this cluster.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from api.trust.files import TrustFiles
from headrace.cluster import components, leftovers, manifests, mounts, parts, processes
from headrace.cluster.binaries import require
from headrace.cluster.components import Component
from headrace.cluster.control_plane import DEFAULT_COMPONENTS, KNOWN_COMPONENTS, ControlPlane, choose_port
from headrace.cluster.options import ClusterOptions, check_name
from headrace.cluster.realnode import install, wiring
from headrace.cluster.realnode import nodes as real_nodes
from headrace.cluster.realnode.programs import DNS
from headrace.cluster.state import ClusterFolder, ClusterState
from headrace.errors import ClusterError, ComponentFailed
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import KubeError, NotFound
from kube.resources import NODES

NODES_READY_SECONDS = 90.0
POLL_SECONDS = 0.3
SETTLE_SECONDS = 3.0
#: The agent ends its containers first: their own grace, then some.
AGENT_GRACE_SECONDS = 40.0
#: What is installed where nodes are real, with and without trust between the parts.
INSTALLED, INSTALLED_WITHOUT_TRUST = "overlays/local-trust", "overlays/local"

Progress = Callable[[str], None]


class LocalCluster:
    """One cluster folder. `progress` is told each step in a few words."""

    def __init__(self, name: str, root: Path, progress: Progress = lambda _: None) -> None:
        self.name = check_name(name)
        self.folder = ClusterFolder(root)
        self._progress = progress

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig. Exists after `up`."""
        return self.folder.kubeconfig

    def trust(self) -> TrustFiles | None:
        """What the user's own commands show to our parts; None when trust is off. Exists after `up`."""
        options = ClusterOptions.merged(self.load().options, {})
        return (
            TrustFiles(parts.Layout(self.name, self.folder.root, options).trust(parts.ADMIN)) if options.trust else None
        )

    def load(self) -> ClusterState:
        """The recorded state. Raises ClusterError when there is no such cluster."""
        state = self.folder.load()
        if state is None:
            raise ClusterError(f"there is no cluster in {self.folder.root}; start it with `headrace up`")
        return state

    def up(self, given: dict[str, Any]) -> ClusterOptions:
        """Start what is not running; `given` are the options the user named. Returns the options in force."""
        with self.folder.locked():
            state = self.folder.load() or ClusterState(name=self.name)
            options = ClusterOptions.merged(state.options, given)
            # kube-scheduler is for DaemonSets, whose pods nobody else may bind.
            wanted = KNOWN_COMPONENTS if options.real else DEFAULT_COMPONENTS
            binaries = require(wanted)
            layout = parts.Layout(self.name, self.folder.root, options)
            layout.check()
            if options.real:
                real_nodes.check()
                real_nodes.check_folder(self.folder.root)
                wiring.ensure_bridge(layout.network)
            self._remove_stale_mounts(state, layout)
            layout.create()
            if options.parts and options.trust:
                layout.issue()
            state.options = options.to_dict()
            plane = ControlPlane(
                self.folder.root,
                binaries,
                name=self.name,
                components=wanted,
                api_port=options.port,
                host=layout.host,
                state=state,
            )
            self._progress("control plane: etcd, kube-apiserver, kube-controller-manager, kwok")
            plane.start()
            self._progress("CRDs and access rules")
            files = [*manifests.crd_files(), *manifests.rbac_files(), *manifests.admission_files()]
            manifests.apply(plane.kubeconfig, files)
            if options.real:
                self._start_real_nodes(state, layout, plane)
            elif layout.has_processes:
                self._start_parts(state, layout, plane)
            self._stop_unwanted(state, layout)
        return options

    def _remove_stale_mounts(self, state: ClusterState, layout: parts.Layout) -> None:
        for node in layout.nodes:
            daemon = state.components.get(f"{node.name}/fuse")
            if (daemon is None or not components.is_running(daemon)) and mounts.is_mounted(node.mount):
                mounts.unmount(node.mount)

    def _start_parts(self, state: ClusterState, layout: parts.Layout, plane: ControlPlane) -> None:
        metadata_port = self._port(state, "metadata")
        first = [
            parts.metadata(layout, metadata_port, self._port(state, "metadata-metrics")),
        ]
        second = [
            parts.cache_controller(layout, plane.kubeconfig_for("cacheruntime"), metadata_port),
            parts.job_controller(layout, plane.kubeconfig_for("jobcontroller"), metadata_port),
            parts.scheduler(plane.kubeconfig_for("scheduler")),
        ]
        used = state.ports.setdefault("network-index", choose_network_block(layout))
        for index, node in enumerate(layout.nodes):
            port = self._port(state, f"{node.name}/worker")
            second.append(parts.worker(layout, node, metadata_port, port))
            second.append(parts.fuse(layout, node, metadata_port))
            config = plane.kubeconfig_for("node", user=f"headrace:node:{node.name}")
            tls = plane.kubelet_files(node.name)
            network = layout.network_index(index, used)
            second.append(
                parts.agent(layout, node, config, network_index=network, tls=tls, metadata_port=metadata_port)
            )
        self._progress("metadata")
        self._start(state, first)
        self._progress(f"controllers, scheduler and {len(layout.nodes)} process nodes")
        self._start(state, second)
        started = time.monotonic()
        self._wait_nodes([node.name for node in layout.nodes], state)
        # Some parts have no port to ask: a wrong setting or a missing module shows in their first seconds.
        time.sleep(max(0.0, started + SETTLE_SECONDS - time.monotonic()))
        check_all_run(state)

    def _start_real_nodes(self, state: ClusterState, layout: parts.Layout, plane: ControlPlane) -> None:
        real = real_nodes.RealNodes(layout.network, layout.real_nodes, self._progress)
        real.start_dns(state, plane)
        is_trusted = layout.options.parts and layout.options.trust
        if is_trusted:
            layout.bring_identities()
        real.start(state, plane)
        self._wait_nodes([node.name for node in layout.real_nodes], state)
        check_all_run(state)
        if layout.options.parts:
            self._progress("our parts, as pods")
            if is_trusted:
                asyncio.run(manifests.apply_objects(plane.kubeconfig, layout.trust_secrets()))
            overlay = INSTALLED if is_trusted else INSTALLED_WITHOUT_TRUST
            install.apply_kustomization(plane.kubeconfig, manifests.MANIFESTS / overlay)
            install.wait_ready(plane.kubeconfig, self._progress)

    def _port(self, state: ClusterState, listener: str) -> int:
        component = listener.removesuffix("-metrics")
        known = state.components.get(component)
        if known is not None and components.is_running(known) and listener in state.ports:
            return state.ports[listener]
        return choose_port(state, listener)

    def _start(self, state: ClusterState, wanted: list[Component]) -> None:
        for component in wanted:
            components.ensure_started(self.folder, state, component)
        for component in wanted:
            components.wait_ready(state, component)

    def _stop_unwanted(self, state: ClusterState, layout: parts.Layout) -> None:
        """Stop what an earlier `up` started and this one does not want; its nodes leave the API too."""
        kept = {node.name for node in layout.nodes} | {node.name for node in layout.real_nodes}
        unwanted = {
            name: component
            for name, component in state.components.items()
            if (component.node and component.node not in kept)
            or (not layout.has_processes and not component.node and name not in (*KNOWN_COMPONENTS, DNS))
        }
        if not unwanted:
            return
        self._stop(state, unwanted)
        for name in sorted({component.node for component in unwanted.values() if component.node}):
            leftovers.end(self.folder.root / "nodes" / name)
            real_nodes.remove_group(layout.network, name)
            mounts.unmount_below(self.folder.root / "nodes" / name)
            shutil.rmtree(layout.memory_tier(name), ignore_errors=True)
            asyncio.run(forget_node(self.kubeconfig, name))

    def _wait_nodes(self, names: list[str], state: ClusterState) -> None:
        deadline = time.monotonic() + NODES_READY_SECONDS
        while missing := asyncio.run(not_ready(self.kubeconfig, names)):
            self._progress(f"waiting for {', '.join(missing)} to be Ready")
            check_all_run(state)
            if time.monotonic() > deadline:
                logs = [one.log for one in state.components.values() if one.node == missing[0]]
                raise ComponentFailed(
                    f"{', '.join(missing)} not Ready after {NODES_READY_SECONDS:.0f} s; see {', '.join(logs)}"
                )
            time.sleep(POLL_SECONDS)

    def down(self, *, purge: bool = False) -> None:
        """Stop everything in reverse order of its start and unmount; `purge` removes the folder too."""
        if not self.folder.root.exists():
            return
        with self.folder.locked():
            state = self.folder.load()
            if state is not None:
                self._stop(state, state.components)
            nodes = self.folder.root / "nodes"
            leftovers.end(nodes)
            mounts.unmount_below(nodes)
            if state is not None:
                layout = parts.Layout(state.name, self.folder.root, ClusterOptions())
                layout.remove_memory_tiers()
                real_nodes.remove(layout.network)
            if purge:
                shutil.rmtree(self.folder.root)

    def _stop(self, state: ClusterState, names: Collection[str]) -> None:
        # Nodes first: they end the containers that use everything else.
        agents = [name for name in names if name.endswith(("/agent", "/namespaces"))]
        rest = [name for name in reversed(list(names)) if name not in agents]
        for name in [*agents, *rest]:
            self._progress(f"stopping {name}")
            components.stop(self.folder, state, name, grace_seconds=AGENT_GRACE_SECONDS if name in agents else 15.0)


def check_all_run(state: ClusterState) -> None:
    """Raise ComponentFailed naming the first component that is not running, with its log's end."""
    for name, component in state.components.items():
        if not components.is_running(component):
            tail = "\n".join(f"  {line}" for line in processes.log_tail(Path(component.log)))
            raise ComponentFailed(f"{name} ended while starting; the end of {component.log}:\n{tail}")


def choose_network_block(layout: parts.Layout) -> int:
    """The first block of loopback addresses of a cluster: by its folder, so that two clusters rarely meet."""
    return int(layout.digest, 16) % parts.NETWORK_INDEXES


async def forget_node(kubeconfig: Path, name: str) -> None:
    """Delete a Node whose agent is gone for good; its pods are then collected by the controller manager."""
    async with KubeClient(load_config(kubeconfig), user_agent="headrace") as client:
        try:
            await client.delete(NODES, name)
        except NotFound:
            return


async def not_ready(kubeconfig: Path, names: list[str]) -> list[str]:
    """Which of these nodes are not Ready, or still carry a taint that keeps pods away."""
    async with KubeClient(load_config(kubeconfig), user_agent="headrace") as client:
        try:
            nodes = {body["metadata"]["name"]: body for body in (await client.list(NODES)).items}
        except KubeError:
            return names
    return [name for name in names if not _is_ready(nodes.get(name))]


def _is_ready(node: dict[str, Any] | None) -> bool:
    if node is None or node.get("spec", {}).get("taints"):
        return False
    conditions = node.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
