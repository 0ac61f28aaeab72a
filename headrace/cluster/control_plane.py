"""etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok as local processes.

Owns their flags, certificates, ports and kubeconfigs. Does not apply objects
(manifests.py) or start our own parts (local_cluster.py). Invariants: everything
listens on loopback and asks for TLS; etcd has an authority of its own; ports and
certificates are kept over restarts, so a kubeconfig handed out stays valid."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from headrace.cluster import components, ports, probes
from headrace.cluster.components import Component
from headrace.cluster.parts import KubeletFiles
from headrace.cluster.pki import Authority, Pair, signing_key
from headrace.cluster.state import ClusterFolder, ClusterState, write_private
from headrace.errors import PortInUse, UsageError

#: What `headrace up` starts; kube-scheduler is there for comparisons.
DEFAULT_COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kwok")
KNOWN_COMPONENTS = (*DEFAULT_COMPONENTS, "kube-scheduler")
SERVICE_RANGE = "10.96.0.0/16"
SERVER_HOSTS = (
    ports.LOOPBACK,
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "10.96.0.1",
)
#: Endpoints refuse loopback addresses, and process nodes' pods have no other: these would only log errors.
CONTROLLERS = "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"
#: Where there are real nodes, pods have addresses.
CONTROLLERS_OF_REAL_NODES = "*"
#: Nodes with this annotation are kwok's; all others are left alone.
KWOK_NODES = "kwok.x-k8s.io/node=fake"
#: Flags of an API server beside which no controllers run, and whose own throttles are not what is measured.
WITHOUT_CONTROLLERS = (
    "--enable-priority-and-fairness=false",
    "--max-requests-inflight=0",
    "--max-mutating-requests-inflight=0",
    # No controller lifts the not-ready taint or makes service accounts here.
    "--disable-admission-plugins=TaintNodesByCondition,ServiceAccount,DefaultTolerationSeconds",
)
STOP_SECONDS = 15.0
KWOK_STAGES = Path(__file__).with_name("kwok_stages.yaml")


class ControlPlane:
    """The Kubernetes processes of one cluster folder.

    `durable=False` lets etcd skip fsync and `stop` end everything at once: nothing of it is wanted afterwards.
    `dies_with_us` has the kernel kill the processes when the thread that started them ends, so that a killed test run
    leaves none (tests only). `api_port` asks for that port and fails when it is taken. `host` is another address than
    loopback for the API server to listen on, where real nodes reach it (realnode/): then kubelets may join, and
    Services have endpoints. `extra_args` adds flags to a component.
    Blocking; the caller holds the folder's lock when others may use the folder."""

    def __init__(
        self,
        directory: Path,
        binaries: Mapping[str, Path],
        *,
        name: str = "default",
        components: Sequence[str] = DEFAULT_COMPONENTS,
        api_port: int | None = None,
        host: str = ports.LOOPBACK,
        durable: bool = True,
        dies_with_us: bool = False,
        extra_args: Mapping[str, Sequence[str]] | None = None,
        state: ClusterState | None = None,
    ) -> None:
        unknown = [component for component in components if component not in KNOWN_COMPONENTS]
        if unknown:
            raise UsageError(f"component {unknown[0]!r} is not known; choose from {', '.join(KNOWN_COMPONENTS)}")
        self.folder = ClusterFolder(directory)
        self.folder.create()
        self.state = state or self.folder.load() or ClusterState(name=name)
        self._binaries = binaries
        self._components = [known for known in KNOWN_COMPONENTS if known in components]
        self._api_port = api_port
        self._host = host
        self._durable = durable
        # setpriv (util-linux) becomes the program itself: the pid stays.
        self._prefix = ("setpriv", "--pdeathsig", "KILL", "--") if dies_with_us else ()
        self._extra = extra_args or {}
        self._authority = Authority(self.folder.pki, "ca")
        self._etcd_authority = Authority(self.folder.pki, "etcd-ca")
        self._etcd_client = self._etcd_authority.client("etcd-client", "kube-apiserver")
        # An authority of its own: whoever holds some client certificate of the cluster must not read logs at a node.
        self._kubelet_authority = Authority(self.folder.pki, "kubelet-ca")
        self._kubelet_client = self._kubelet_authority.client("kubelet-client", "kube-apiserver-kubelet-client")
        self._admin = self._authority.client("admin", "headrace-admin", ["system:masters"])

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder.kubeconfig

    @property
    def address(self) -> str:
        """The API server's URL. Valid after `start`."""
        return f"https://{self._host}:{self.state.ports['kube-apiserver']}"

    def start(self) -> None:
        """Start what is not running and wait until each answers. May be called again.

        Raises PortInUse for a port asked for by number, ComponentFailed with a log's tail."""
        self._choose_ports()
        self.folder.save(self.state)
        self._write_kubeconfig(self.kubeconfig, "headrace-admin", self._admin)
        for name in self._components:
            component = self._component(name)
            components.ensure_started(self.folder, self.state, component)
            components.wait_ready(self.state, component)

    def stop(self) -> None:
        """Stop in reverse order. etcd's data stays. May be called again."""
        grace_seconds = STOP_SECONDS if self._durable else 0.0
        for name in reversed(KNOWN_COMPONENTS):
            if name in self.state.components:
                components.stop(self.folder, self.state, name, grace_seconds=grace_seconds)

    def kubeconfig_for(self, part: str, *, user: str | None = None) -> Path:
        """A kubeconfig for one of our parts: user `headrace:PART`, group `headrace:PART`.

        What it may do is decided by the RBAC applied for that group. Call after `start`."""
        who = user or f"headrace:{part}"
        file_name = who.replace(":", ".")
        path = self.folder.root / "kubeconfigs" / f"{file_name}.kubeconfig"
        pair = self._authority.client(file_name, who, [f"headrace:{part}"])
        self._write_kubeconfig(path, who, pair)
        return path

    def system_kubeconfig(self, name: str, user: str, *groups: str) -> Path:
        """A kubeconfig for a component of Kubernetes itself, whose rights the API server has from the start."""
        path = self.folder.root / "kubeconfigs" / f"{name}.kubeconfig"
        self._write_kubeconfig(path, user, self._authority.client(f"{name}-client", user, groups))
        return path

    def kubelet_files(self, node: str, address: str = ports.LOOPBACK) -> KubeletFiles:
        """Certificates for a node's log endpoint, which listens on that address."""
        pair = self._authority.server(f"node-{node}", [address, node])
        return KubeletFiles(pair.cert, pair.key, self._kubelet_authority.pair.cert)

    def _choose_ports(self) -> None:
        """Give each listener a port: the recorded one when it is ours or free, else another."""
        wanted = {
            "etcd": ["etcd", "etcd-peer"],
            "kube-apiserver": ["kube-apiserver"],
            "kube-controller-manager": ["kube-controller-manager"],
            "kube-scheduler": ["kube-scheduler"],
            "kwok": ["kwok"],
        }
        for component in self._components:
            known = self.state.components.get(component)
            running = known is not None and components.is_running(known)
            for listener in wanted[component]:
                explicit = self._api_port if listener == "kube-apiserver" else None
                if not running or explicit not in (None, self.state.ports[listener]):
                    choose_port(self.state, listener, explicit)

    def _component(self, name: str) -> Component:
        build = {
            "etcd": self._etcd,
            "kube-apiserver": self._kube_apiserver,
            "kube-controller-manager": self._kube_controller_manager,
            "kube-scheduler": self._kube_scheduler,
            "kwok": self._kwok,
        }
        return build[name]()

    def _argv(self, name: str, flags: Mapping[str, object]) -> tuple[str, ...]:
        lines = [f"--{flag}={value}" for flag, value in flags.items()]
        return (*self._prefix, str(self._binaries[name]), *lines, *self._extra.get(name, ()))

    def _etcd(self) -> Component:
        port, peer_port = self.state.ports["etcd"], self.state.ports["etcd-peer"]
        client_url = f"https://{ports.LOOPBACK}:{port}"
        # One member: nothing connects to the peer URL, it only has to be free.
        peer_url = f"http://{ports.LOOPBACK}:{peer_port}"
        server = self._etcd_authority.server("etcd", [ports.LOOPBACK, "localhost"])
        flags: dict[str, object] = {
            "name": "local",
            "data-dir": self.folder.root / "etcd",
            "listen-client-urls": client_url,
            "advertise-client-urls": client_url,
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": f"local={peer_url}",
            "cert-file": server.cert,
            "key-file": server.key,
            "trusted-ca-file": self._etcd_authority.pair.cert,
            "client-cert-auth": "true",
            # Nobody speaks its JSON, and it would dial in with a server's certificate.
            "enable-grpc-gateway": "false",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "30m",
            "quota-backend-bytes": 8 * 1024**3,
            "log-level": "warn",
        }
        if not self._durable:
            flags["unsafe-no-fsync"] = "true"
        return Component(
            name="etcd",
            argv=self._argv("etcd", flags),
            address=client_url,
            probe=lambda: probes.https(port, "/health", authority=self._etcd_authority.pair, client=self._etcd_client),
        )

    def _kube_apiserver(self) -> Component:
        port = self.state.ports["kube-apiserver"]
        has_nodes = self._host != ports.LOOPBACK
        server = self._authority.server("kube-apiserver", [*SERVER_HOSTS, *([self._host] if has_nodes else [])])
        tokens = signing_key(self.folder.pki, "service-accounts")
        flags: dict[str, object] = {
            "bind-address": self._host,
            "advertise-address": self._host,
            "secure-port": port,
            "tls-cert-file": server.cert,
            "tls-private-key-file": server.key,
            "client-ca-file": self._authority.pair.cert,
            "etcd-servers": f"https://{ports.LOOPBACK}:{self.state.ports['etcd']}",
            "etcd-cafile": self._etcd_authority.pair.cert,
            "etcd-certfile": self._etcd_client.cert,
            "etcd-keyfile": self._etcd_client.key,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": tokens.cert,
            "service-account-signing-key-file": tokens.key,
            "service-cluster-ip-range": SERVICE_RANGE,
            # The kubernetes service would get a loopback endpoint, which is refused.
            "endpoint-reconciler-type": "lease" if has_nodes else "none",
            # Kubelets may read what their pods use, and write their own Node.
            "authorization-mode": "Node,RBAC" if has_nodes else "RBAC",
            **({"enable-admission-plugins": "NodeRestriction"} if has_nodes else {}),
            "anonymous-auth": "false",
            # Logs of pods: the API server asks the node's agent, as it would ask a kubelet.
            "kubelet-client-certificate": self._kubelet_client.cert,
            "kubelet-client-key": self._kubelet_client.key,
            "kubelet-certificate-authority": self._authority.pair.cert,
            "kubelet-preferred-address-types": "InternalIP",
            "allow-privileged": "true",
            "profiling": "false",
        }
        return Component(
            name="kube-apiserver",
            argv=self._argv("kube-apiserver", flags),
            address=self.address,
            probe=lambda: probes.https(
                port, "/readyz", authority=self._authority.pair, client=self._admin, host=self._host
            ),
            # It waits for watches to end: a longer grace only delays `down`.
            grace_seconds=10.0,
        )

    def _kube_controller_manager(self) -> Component:
        port = self.state.ports["kube-controller-manager"]
        server = self._authority.server("kube-controller-manager", [ports.LOOPBACK, "localhost"])
        config = self.system_kubeconfig("kube-controller-manager", "system:kube-controller-manager")
        flags: dict[str, object] = {
            "kubeconfig": config,
            "bind-address": ports.LOOPBACK,
            "secure-port": port,
            "tls-cert-file": server.cert,
            "tls-private-key-file": server.key,
            "root-ca-file": self._authority.pair.cert,
            "service-account-private-key-file": signing_key(self.folder.pki, "service-accounts").key,
            "use-service-account-credentials": "true",
            "controllers": CONTROLLERS if self._host == ports.LOOPBACK else CONTROLLERS_OF_REAL_NODES,
            "leader-elect": "false",
            "kube-api-qps": 200,
            "kube-api-burst": 400,
        }
        return Component(
            name="kube-controller-manager",
            argv=self._argv("kube-controller-manager", flags),
            address=f"https://{ports.LOOPBACK}:{port}",
            probe=lambda: probes.https(port, "/healthz", authority=self._authority.pair),
        )

    def _kube_scheduler(self) -> Component:
        port = self.state.ports["kube-scheduler"]
        server = self._authority.server("kube-scheduler", [ports.LOOPBACK, "localhost"])
        flags: dict[str, object] = {
            "kubeconfig": self.system_kubeconfig("kube-scheduler", "system:kube-scheduler"),
            "bind-address": ports.LOOPBACK,
            "secure-port": port,
            "tls-cert-file": server.cert,
            "tls-private-key-file": server.key,
            "leader-elect": "false",
            "kube-api-qps": 5000,
            "kube-api-burst": 10000,
        }
        return Component(
            name="kube-scheduler",
            argv=self._argv("kube-scheduler", flags),
            address=f"https://{ports.LOOPBACK}:{port}",
            probe=lambda: probes.https(port, "/healthz", authority=self._authority.pair),
        )

    def _kwok(self) -> Component:
        port = self.state.ports["kwok"]
        flags: dict[str, object] = {
            "kubeconfig": self.kubeconfig,
            "config": KWOK_STAGES,
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": KWOK_NODES,
            "server-address": f"{ports.LOOPBACK}:{port}",
            "node-ip": ports.LOOPBACK,
            "node-lease-duration-seconds": 40,
        }
        return Component(
            name="kwok",
            argv=self._argv("kwok", flags),
            # No configuration from the user's home: two clusters must behave alike.
            env={"KWOK_WORKDIR": str(self.folder.root / "kwok")},
            address=f"http://{ports.LOOPBACK}:{port}",
            probe=lambda: probes.plain(port, "/healthz"),
        )

    def _write_kubeconfig(self, path: Path, user: str, pair: Pair) -> None:
        text = kubeconfig_text(self.state.name, self.address, self._authority.pair, user, pair)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_private(path, text)


def choose_port(state: ClusterState, listener: str, explicit: int | None = None) -> int:
    """Record and return a port for a listener that is not running.

    The recorded port when it is free, else a free one; an `explicit` one or PortInUse."""
    if explicit is not None:
        if not ports.is_free(explicit):
            raise PortInUse(
                f"port {explicit} for {listener} is in use on {ports.LOOPBACK}; "
                "choose another with --port or leave it out"
            )
        state.ports[listener] = explicit
    elif listener not in state.ports or not ports.is_free(state.ports[listener]):
        state.ports[listener] = ports.pick_free(_other_ports(state.ports, listener))
    return state.ports[listener]


def _other_ports(known: Mapping[str, int], listener: str) -> set[int]:
    return {port for name, port in known.items() if name != listener}


def kubeconfig_text(cluster: str, server: str, authority: Pair, user: str, pair: Pair) -> str:
    """A kubeconfig with everything embedded, so that it can be copied away."""
    context = f"headrace-{cluster}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [
            {
                "name": context,
                "cluster": {"server": server, "certificate-authority-data": _encoded(authority.cert)},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _encoded(pair.cert),
                    "client-key-data": _encoded(pair.key),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
    }
    return yaml.safe_dump(config, sort_keys=False)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
