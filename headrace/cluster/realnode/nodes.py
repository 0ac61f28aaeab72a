"""Real nodes, started and taken away.

Owns the order: bridge, DNS, and for each node namespaces, cable, control groups, containerd, images, kubelet and
kube-proxy. Blocking. The caller holds the folder's lock. Invariant: `remove` needs no record of what was started, so
what a crash left is found too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace.cluster import components, manifests
from headrace.cluster.binaries import REAL_NODE, require
from headrace.cluster.control_plane import ControlPlane, choose_port
from headrace.cluster.realnode import cgroups, configs, holder, images, programs, wiring
from headrace.cluster.realnode.addresses import Network
from headrace.cluster.realnode.programs import NodeFolder
from headrace.cluster.state import ClusterState, write_private
from headrace.errors import ClusterError

IMPORT_SECONDS = 300.0
DNS_RBAC = Path(__file__).with_name("dns_rbac.yaml")
DNS_USER = "system:coredns"


def group_name(network: Network, node: str) -> str:
    """The name of a node's control group, right below the root of every hierarchy."""
    return f"headrace-{network.digest}-{node}"


def remove_group(network: Network, node: str) -> None:
    """Remove the control group of one node, whose processes are gone; nothing is done when it never had one."""
    cgroups.remove(group_name(network, node))


def check() -> None:
    """Raise ClusterError, in one sentence, when this machine cannot have real nodes."""
    if os.geteuid() != 0:
        raise ClusterError("--nodes real needs root: it makes namespaces, mounts and control groups; run it with sudo")
    lacking = [name for name in ("nsenter", "setpriv", "ip", "nft", "conntrack") if _which(name) is None]
    if lacking or runc() is None or not any(Path(folder, "ptp").exists() for folder in configs.CNI_FOLDERS):
        raise ClusterError(
            "--nodes real needs runc, nft, conntrack, ip, nsenter and the CNI plugins; "
            "`python tools/bootstrap.py --real-node` in the checkout installs them"
        )


def check_folder(folder: Path) -> None:
    """Raise ClusterError for a cluster's folder that nodes cannot see: they have others in those places."""
    covered = [*(machine for _, machine in holder.COVERED), "/run", "/etc"]
    above = [place for place in covered if folder.resolve().is_relative_to(place)]
    if above:
        raise ClusterError(f"--dir {folder} lies below {above[0]}, which real nodes cannot see; choose another")


def runc() -> Path | None:
    """The low-level runtime."""
    found = _which("runc")
    return Path(found) if found else None


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class RealNodes:
    """The real nodes of one cluster. `folders` are those wanted, in order; `digest` tells the cluster apart."""

    def __init__(self, network: Network, folders: Sequence[NodeFolder], progress: Callable[[str], None]) -> None:
        self.network = network
        self._folders = folders
        self._progress = progress

    def start_dns(self, state: ClusterState, plane: ControlPlane) -> None:
        """Start what gives names to Services and pods."""
        manifests.apply(plane.kubeconfig, [DNS_RBAC])
        corefile = plane.folder.root / "coredns" / "Corefile"
        port = choose_port(state, "coredns")
        kubeconfig = plane.system_kubeconfig("coredns", DNS_USER)
        write_private(corefile, configs.corefile(address=self.network.host, kubeconfig=kubeconfig, health_port=port))
        component = programs.dns(self.network, require([one.name for one in REAL_NODE]), corefile, port)
        components.ensure_started(plane.folder, state, component)
        components.wait_ready(state, component)

    def start(self, state: ClusterState, plane: ControlPlane) -> None:
        """Start the nodes. They are Ready some seconds later. Raises ClusterError, ComponentFailed."""
        binaries = require([one.name for one in REAL_NODE])
        self._progress("images")
        archive = images.ensure_archive(plane.folder.root / "images")
        for index, node in enumerate(self._folders):
            self._progress(f"real node {node.name}")
            self._configure(node, index, plane, binaries)
            self._run(plane, state, programs.namespaces(node))
            init_pid = node.init_pid()
            if init_pid is None:
                raise ClusterError(f"{node.name}'s namespaces ended while it was started")
            wiring.plug_in(self.network, index, len(self._folders), init_pid)
            cgroups.make(group_name(self.network, node.name))
            self._run(plane, state, programs.containerd(node, binaries))
            if not node.imported.exists() or node.imported.read_text(encoding="utf-8") != archive.name:
                wiring.run(programs.import_images(node, binaries, archive), IMPORT_SECONDS)
                node.imported.write_text(archive.name, encoding="utf-8")
            address = self.network.node(index)
            kubeconfig = plane.system_kubeconfig(node.name, f"system:node:{node.name}", "system:nodes")
            self._run(plane, state, programs.kubelet(node, binaries, kubeconfig, address))
            # After kubelet: it waits for its Node.
            self._run(plane, state, programs.kube_proxy(node, binaries, address))

    def _run(self, plane: ControlPlane, state: ClusterState, component: components.Component) -> None:
        components.ensure_started(plane.folder, state, component)
        components.wait_ready(state, component)

    def _configure(self, node: NodeFolder, index: int, plane: ControlPlane, binaries: Mapping[str, Path]) -> None:
        low_level = runc()
        if low_level is None:
            raise ClusterError("runc is not there any more; install it and try again")
        for name in (*(own for own, _ in holder.COVERED), "etc", "etc-work", "conf/cni"):
            (node.folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        for path, value in configs.masked_sysctls().items():
            file = node.folder / holder.SYSCTLS / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value, encoding="ascii")
        address = self.network.node(index)
        tls = plane.kubelet_files(node.name, address)
        resolv_conf = node.conf / "resolv.conf"
        texts = {
            node.conf / "containerd.toml": configs.containerd_toml(
                runc=low_level, shim=binaries["containerd-shim-runc-v2"], cni_conf=node.cni
            ),
            node.cni / "10-headrace.conflist": configs.cni_conflist(self.network.pods(index)),
            resolv_conf: f"nameserver {self.network.host}\n",
            node.conf / "kubelet.yaml": configs.kubelet_yaml(
                address=address,
                dns=self.network.host,
                cgroup_root=f"/{group_name(self.network, node.name)}",
                resolv_conf=resolv_conf,
                cert=tls.cert,
                key=tls.key,
                client_ca=tls.client_ca,
            ),
            node.conf / "kube-proxy.yaml": configs.kube_proxy_yaml(
                kubeconfig=plane.system_kubeconfig("kube-proxy", "system:kube-proxy"),
                address=address,
                node=node.name,
                all_pods=self.network.all_pods,
            ),
        }
        for file, text in texts.items():
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                write_private(file, text)


def remove(network: Network) -> None:
    """Take away what is not a process: the bridge, and the nodes' control groups. Their processes are gone.

    May be called again, and where there never was a real node. Raises ClusterError."""
    if os.geteuid() == 0:
        for name in cgroups.named(group_name(network, "")):
            cgroups.remove(name)
        wiring.remove(network)
