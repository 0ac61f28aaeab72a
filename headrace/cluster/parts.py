"""The command lines of our own parts in a local cluster.

Owns the argv contract, where each part's files are, and how we know that it
answers. Does not start anything (local_cluster.py) and imports no part: they
meet in their command lines. Invariant: no secret in an argv."""

from __future__ import annotations

import hashlib
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.trust.identity import METADATA_SERVER, Identity, Role
from headrace.cluster import mounts, probes
from headrace.cluster.components import Component, Probe
from headrace.cluster.options import ClusterOptions
from headrace.cluster.ports import LOOPBACK
from headrace.cluster.realnode import identities as real_identities
from headrace.cluster.realnode.addresses import Network
from headrace.cluster.realnode.programs import NodeFolder
from headrace.errors import UsageError
from headrace.trust.authority import TOKEN_KEYS, TrustAuthority

#: sun_path of a unix socket holds 108 bytes with its final zero.
MAX_SOCKET_PATH_BYTES = 107
SHARED_MEMORY = Path("/dev/shm")
#: A part loads numpy, grpc or kopf when it starts; on a loaded machine that takes several seconds.
PART_READY_SECONDS = 90.0
#: Each node agent gives its pods addresses of its own: indexes of two clusters must not meet.
NETWORK_INDEXES = 200
CACHE_CONTROLLER = Identity(Role.CACHE_CONTROLLER, "main")
JOB_CONTROLLER = Identity(Role.JOB_CONTROLLER, "main")
ADMIN = Identity(Role.ADMIN, "main")


@dataclass(frozen=True, slots=True)
class NodePaths:
    """The files of one process node."""

    name: str
    folder: Path

    @property
    def socket(self) -> Path:
        """Where the node's worker listens for its FUSE client."""
        return self.folder / "worker.sock"

    @property
    def mount(self) -> Path:
        """Where the node's datasets appear."""
        return self.folder / "mnt"

    @property
    def ssd_tier(self) -> Path:
        """The worker's SSD tier."""
        return self.folder / "cache"


@dataclass(frozen=True, slots=True)
class Layout:
    """One cluster's folder, name and options, and the paths that follow from them."""

    name: str
    root: Path
    options: ClusterOptions

    def node(self, index: int) -> NodePaths:
        """The files of process node number `index`."""
        name = f"node-{index}"
        return NodePaths(name, self.root / "nodes" / name)

    @property
    def network(self) -> Network:
        """The network of the cluster's real nodes, if it has some."""
        return Network(self.digest)

    @property
    def host(self) -> str:
        """The address the API server listens at: where the nodes reach it."""
        return self.network.host if self.options.real else LOOPBACK

    @property
    def has_processes(self) -> bool:
        """Whether our parts are processes of this machine; on real nodes they are pods."""
        return self.options.parts and not self.options.real

    @property
    def nodes(self) -> list[NodePaths]:
        """All process nodes; none when only the control plane is wanted."""
        return [self.node(index) for index in range(self.options.nodes)] if self.has_processes else []

    @property
    def real_nodes(self) -> list[NodeFolder]:
        """All real nodes; they are there without parts of ours too."""
        names = [f"real-{index}" for index in range(self.options.nodes)] if self.options.real else []
        return [NodeFolder(name, self.root / "nodes" / name) for name in names]

    @property
    def credentials(self) -> Path:
        """Where under-store credentials are kept, for metadata and the workers only."""
        return self.root / "credentials"

    @property
    def digest(self) -> str:
        """Tells apart clusters of one name in different folders."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:8]

    def trust(self, identity: Identity) -> Path:
        """Where a part's certificate is."""
        return self.root / "trust" / identity.role / identity.name

    def trust_flags(self, identity: Identity) -> tuple[object, ...]:
        """The flags of a part of that identity; none when trust is off."""
        return ("--trust", self.trust(identity)) if self.options.trust else ()

    @property
    def token_keys(self) -> Path:
        """The keys the metadata service signs tokens with."""
        return self.root / "trust" / "authority" / TOKEN_KEYS

    @property
    def identities(self) -> list[Identity]:
        """Everybody who needs a certificate; `ADMIN` is for commands of the user."""
        names = [node.name for node in self.nodes] + [node.name for node in self.real_nodes]
        nodes = [Identity(role, name) for name in names for role in (Role.WORKER, Role.NODE)]
        return [METADATA_SERVER, CACHE_CONTROLLER, JOB_CONTROLLER, ADMIN, *nodes]

    def issue(self) -> None:
        """Have all certificates, for as long as they are good. May be called again."""
        authority = TrustAuthority(self.root / "trust" / "authority")
        for identity in self.identities:
            authority.issue(identity, self.trust(identity))

    def bring_identities(self) -> None:
        """Have what `issue` made on the real nodes. May be called again, also while they run."""
        for node in self.real_nodes:
            worker, agent = (self.trust(Identity(role, node.name)) for role in (Role.WORKER, Role.NODE))
            real_identities.bring(node, agent=agent, worker=worker)

    def trust_secrets(self) -> list[dict[str, Any]]:
        """What `issue` made for the pods that run once."""
        folders = {str(one.role): self.trust(one) for one in (METADATA_SERVER, CACHE_CONTROLLER, JOB_CONTROLLER)}
        return list(real_identities.secrets(folders, self.token_keys))

    def memory_tier(self, node: str) -> Path:
        """The worker's memory tier; gone after `down`, as memory is."""
        return SHARED_MEMORY / f"headrace-{self.name}-{self.digest}-{node}"

    def remove_memory_tiers(self) -> None:
        """Remove the memory tiers of all nodes this cluster ever had."""
        for tier in SHARED_MEMORY.glob(f"headrace-{self.name}-{self.digest}-*"):
            shutil.rmtree(tier, ignore_errors=True)

    def network_index(self, index: int, used: int) -> int:
        """Which block of loopback addresses a node's pods get; `used` is the cluster's first block."""
        return (used + index) % NETWORK_INDEXES

    def check(self) -> None:
        """Raises UsageError when the folder's name is too long for the sockets in it."""
        longest = self.node(max(0, self.options.nodes - 1)).socket
        if self.has_processes and len(bytes(longest)) > MAX_SOCKET_PATH_BYTES:
            raise UsageError(
                f"--dir {self.root} is too long for the sockets in it "
                f"({len(bytes(longest))} bytes, the limit is {MAX_SOCKET_PATH_BYTES}); choose a shorter one"
            )

    def create(self) -> None:
        """Make the folders the parts expect. May be called twice."""
        for folder in (self.root / "metadata", self.credentials, *(node.folder for node in self.nodes)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for node in self.nodes:
            if not mounts.is_mounted(node.mount):
                node.mount.mkdir(exist_ok=True)
            node.ssd_tier.mkdir(mode=0o700, exist_ok=True)
            self.memory_tier(node.name).mkdir(mode=0o700, exist_ok=True)


def _part(name: str, module: str, *arguments: object, node: str = "", address: str = "", probe: Probe) -> Component:
    return Component(
        name=name,
        argv=(sys.executable, "-m", *module.split(), *(str(argument) for argument in arguments)),
        address=address,
        node=node,
        env={"PYTHONUNBUFFERED": "1"},
        probe=probe,
        ready_seconds=PART_READY_SECONDS,
    )


def _runs() -> str | None:
    return None


def metadata(layout: Layout, port: int, metrics_port: int) -> Component:
    """The namespace and residency service, on SQLite."""
    return _part(
        "metadata",
        "metadata",
        *("--listen", f"{LOOPBACK}:{port}"),
        *("--store", f"sqlite:///{layout.root / 'metadata' / 'metadata.db'}"),
        *("--credentials-dir", layout.credentials),
        *("--metrics", f"{LOOPBACK}:{metrics_port}"),
        *layout.trust_flags(METADATA_SERVER),
        *(("--token-keys", layout.token_keys) if layout.options.trust else ()),
        address=f"{LOOPBACK}:{port}",
        probe=lambda: probes.listening(port),
    )


def cache_controller(layout: Layout, kubeconfig: Path, metadata_port: int) -> Component:
    """The operator of Datasets, DataLoads and NodeCaches."""
    return _part(
        "cacheruntime",
        "cacheruntime controller",
        *("--kubeconfig", kubeconfig),
        *("--metadata", f"{LOOPBACK}:{metadata_port}"),
        *("--credentials-dir", layout.credentials),
        *layout.trust_flags(CACHE_CONTROLLER),
        probe=_runs,
    )


def job_controller(layout: Layout, kubeconfig: Path, metadata_port: int) -> Component:
    """The operator of TrainingJobs."""
    return _part(
        "jobcontroller",
        "jobcontroller",
        *("--kubeconfig", kubeconfig),
        *("--metadata", f"{LOOPBACK}:{metadata_port}"),
        *layout.trust_flags(JOB_CONTROLLER),
        probe=_runs,
    )


def scheduler(kubeconfig: Path) -> Component:
    """The secondary scheduler."""
    return _part("scheduler", "scheduler", "--kubeconfig", kubeconfig, probe=_runs)


def worker(layout: Layout, node: NodePaths, metadata_port: int, port: int) -> Component:
    """The cache worker of one node."""
    options = layout.options
    return _part(
        f"{node.name}/worker",
        "cacheruntime worker",
        "--keeper",
        *("--node", node.name),
        *("--metadata", f"{LOOPBACK}:{metadata_port}"),
        *("--listen", f"{LOOPBACK}:{port}"),
        *("--socket", node.socket),
        *("--tier", f"MEM:{layout.memory_tier(node.name)}:{options.mem_tier}"),
        *("--tier", f"SSD:{node.ssd_tier}:{options.ssd_tier}"),
        *("--credentials-dir", layout.credentials),
        *layout.trust_flags(Identity(Role.WORKER, node.name)),
        node=node.name,
        address=f"{LOOPBACK}:{port}",
        probe=lambda: _socket_accepts(node.socket),
    )


def fuse(layout: Layout, node: NodePaths, metadata_port: int) -> Component:
    """The FUSE daemon of one node."""
    return _part(
        f"{node.name}/fuse",
        "fuse",
        *("--node", node.name),
        *("--metadata", f"{LOOPBACK}:{metadata_port}"),
        *("--worker-socket", node.socket),
        *("--mount", node.mount),
        *layout.trust_flags(Identity(Role.NODE, node.name)),
        node=node.name,
        address=str(node.mount),
        probe=lambda: None if mounts.is_mounted(node.mount) else f"{node.mount} is not mounted",
    )


@dataclass(frozen=True, slots=True)
class KubeletFiles:
    """What a node's log endpoint shows to the API server, and whom it believes."""

    cert: Path
    key: Path
    client_ca: Path


def agent(
    layout: Layout, node: NodePaths, kubeconfig: Path, *, network_index: int, tls: KubeletFiles, metadata_port: int
) -> Component:
    """The node agent: registers the Node and runs its pods. Its readiness is the Node's, in the API."""
    options = layout.options
    return _part(
        f"{node.name}/agent",
        "headrace.node",
        *("--name", node.name),
        *("--kubeconfig", kubeconfig),
        *("--dir", node.folder),
        *("--mount", node.mount),
        *("--metadata", f"{LOOPBACK}:{metadata_port}"),
        *layout.trust_flags(Identity(Role.NODE, node.name)),
        *("--cpu", options.cpu),
        *("--memory", options.memory),
        *("--gpus", options.gpus),
        *("--network-index", network_index),
        *("--tls-cert", tls.cert),
        *("--tls-key", tls.key),
        *("--client-ca", tls.client_ca),
        node=node.name,
        probe=_runs,
    )


def _socket_accepts(path: Path) -> str | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(probes.PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return None
