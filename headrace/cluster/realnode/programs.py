"""The command lines of a real node's processes and of the cluster's DNS.

Owns how a program is started inside a node's namespaces, the argv contract, and how we know that each answers. Does
not start anything (nodes.py). Invariant: what runs in a node ends when the process that is recorded for it does."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.cluster import probes
from headrace.cluster.components import Component, Probe
from headrace.cluster.realnode import configs, holder
from headrace.cluster.realnode.addresses import Network

DNS = "coredns"
READY_SECONDS = 90.0
#: Of an answer to SIGTERM; containers have been ended before, or are ended with the node.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """The files of one real node."""

    name: str
    folder: Path

    @property
    def conf(self) -> Path:
        """Configurations, and the kubeconfigs of kubelet and kube-proxy."""
        return self.folder / "conf"

    @property
    def cni(self) -> Path:
        """Where containerd looks for the network's configuration."""
        return self.conf / "cni"

    @property
    def etc(self) -> Path:
        """What the node has in /etc on top of the machine's; to be filled before the node starts."""
        return self.folder / "etc"

    @property
    def trust(self) -> Path:
        """What the node has as /etc/headrace: its identities. May be changed while it runs."""
        return self.folder / "etc-headrace"

    @property
    def imported(self) -> Path:
        """Names the archive of images that containerd has."""
        return self.folder / "images-imported"

    def init_pid(self) -> int | None:
        """The node's first process, as seen from here; None while there is none."""
        try:
            return int((self.folder / holder.INIT_FILE).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def inside(self, path: str) -> Path:
        """A path of the node's file system, from here. Needs a running node."""
        return Path(f"/proc/{self.init_pid()}/root{path}")

    def enter(self) -> tuple[str, ...]:
        """The beginning of a command line that runs inside the node. What it starts is killed when it is."""
        return (
            *("nsenter", "--target", str(self.init_pid()), "--mount", "--net", "--uts", "--pid", "--wd=/", "--"),
            *("setpriv", "--pdeathsig", "KILL", "--"),
        )


def namespaces(node: NodeFolder) -> Component:
    """The process that holds the node's namespaces; ending it ends all of the node."""
    script = Path(holder.__file__)
    return Component(
        name=f"{node.name}/namespaces",
        argv=(sys.executable, "-I", "-S", str(script), str(node.folder), node.name),
        node=node.name,
        probe=lambda: None if node.init_pid() is not None else "its namespaces are not arranged",
        ready_seconds=READY_SECONDS,
        grace_seconds=GRACE_SECONDS,
    )


def containerd(node: NodeFolder, binaries: Mapping[str, Path]) -> Component:
    """The container runtime."""
    socket_file = node.inside(configs.CONTAINERD_SOCKET)
    return _inside(
        node,
        "containerd",
        (str(binaries["containerd"]), "--config", str(node.conf / "containerd.toml")),
        address=configs.CONTAINERD_SOCKET,
        probe=lambda: _accepts(socket_file),
    )


def import_images(node: NodeFolder, binaries: Mapping[str, Path], archive: Path) -> tuple[str, ...]:
    """The command that gives containerd the images of an archive."""
    return (*node.enter(), str(binaries["ctr"]), "--namespace", "k8s.io", "images", "import", str(archive))


def kubelet(node: NodeFolder, binaries: Mapping[str, Path], kubeconfig: Path, address: str) -> Component:
    """The node agent of Kubernetes. That the Node is Ready is asked of the API."""
    flags = (
        f"--config={node.conf / 'kubelet.yaml'}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        f"--node-ip={address}",
        "--root-dir=/var/lib/kubelet",
        f"--cert-dir={node.conf}",
        "--v=2",
    )
    return _inside(
        node,
        "kubelet",
        (str(binaries["kubelet"]), *flags),
        address=f"{address}:{configs.KUBELET_PORT}",
        probe=lambda: probes.plain(configs.KUBELET_HEALTH_PORT, "/healthz", host=address),
    )


def kube_proxy(node: NodeFolder, binaries: Mapping[str, Path], address: str) -> Component:
    """What makes the addresses of Services lead to pods."""
    return _inside(
        node,
        "kube-proxy",
        (str(binaries["kube-proxy"]), f"--config={node.conf / 'kube-proxy.yaml'}", "--v=1"),
        address=address,
        probe=lambda: probes.plain(configs.KUBE_PROXY_HEALTH_PORT, "/livez", host=address),
    )


def dns(network: Network, binaries: Mapping[str, Path], corefile: Path, health_port: int) -> Component:
    """The names of Services and pods; listens for the nodes on the bridge."""
    return Component(
        name=DNS,
        argv=(str(binaries["coredns"]), "-conf", str(corefile)),
        address=f"{network.host}:{configs.DNS_PORT}",
        probe=lambda: probes.plain(health_port, "/health", host=network.host),
        ready_seconds=READY_SECONDS,
    )


def _inside(node: NodeFolder, name: str, argv: Sequence[str], *, address: str, probe: Probe) -> Component:
    return Component(
        name=f"{node.name}/{name}",
        argv=(*node.enter(), *argv),
        node=node.name,
        address=address,
        # runc, nft, conntrack and mount are in folders that users' paths lack.
        env={"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        probe=probe,
        ready_seconds=READY_SECONDS,
        grace_seconds=GRACE_SECONDS,
    )


def _accepts(path: Path) -> str | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(probes.PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return None
