"""A pod as the node reads it: typed views of the fields the agent acts on.

Owns the msgspec structs and how a spec is read (kinds of containers, names, grace). Does
not add up requests (core/requests.py). Invariants: decoding never fails on unknown fields; what is not
decoded here is not supported by the node."""

# ruff: noqa: RUF012  (msgspec copies an empty default for each struct)
from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import msgspec

from kube.identity import Condition, Object, ObjectMeta

DEFAULT_GRACE_SECONDS = 30


class KeySelector(Object, frozen=True):
    """A key of a Secret or ConfigMap."""

    name: str = ""
    key: str = ""
    optional: bool = False


class FieldRef(Object, frozen=True):
    """A field of the pod, such as `metadata.labels['app']`."""

    field_path: str = ""


class ResourceFieldRef(Object, frozen=True):
    """A request or limit of a container, such as `limits.cpu`."""

    container_name: str = ""
    resource: str = ""
    divisor: str | int = "0"


class EnvVarSource(Object, frozen=True):
    """Where an environment variable's value comes from; exactly one is set."""

    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    secret_key_ref: KeySelector | None = None
    config_map_key_ref: KeySelector | None = None


class EnvVar(Object, frozen=True):
    """One environment variable."""

    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class ObjectSelector(Object, frozen=True):
    """A whole Secret or ConfigMap."""

    name: str = ""
    optional: bool = False


class EnvFrom(Object, frozen=True):
    """All keys of an object as variables."""

    prefix: str = ""
    config_map_ref: ObjectSelector | None = None
    secret_ref: ObjectSelector | None = None


class VolumeMount(Object, frozen=True):
    """A volume in a container."""

    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    read_only: bool = False


class ExecAction(Object, frozen=True):
    """A command run inside the container."""

    command: list[str] = []


class HttpHeader(Object, frozen=True):
    """A request header."""

    name: str = ""
    value: str = ""


class HttpGetAction(Object, frozen=True):
    """A request; success is a status from 200 to 399."""

    path: str = "/"
    port: int | str = 0
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HttpHeader] = []


class TcpAction(Object, frozen=True):
    """A connection that must be accepted."""

    port: int | str = 0
    host: str = ""


class Probe(Object, frozen=True):
    """A repeated question to a container; times in seconds."""

    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpAction | None = None
    grpc: dict[str, Any] | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Handler(Object, frozen=True):
    """A lifecycle hook; only exec is run."""

    exec: ExecAction | None = None


class Lifecycle(Object, frozen=True):
    """Hooks of a container."""

    pre_stop: Handler | None = None
    post_start: Handler | None = None


class SecurityContext(Object, frozen=True):
    """User and groups; only root can honour them."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    supplemental_groups: list[int] = []
    fs_group: int | None = None


class Resources(Object, frozen=True):
    """Requests and limits by resource name, as quantities."""

    requests: dict[str, str | int] = {}
    limits: dict[str, str | int] = {}


class ContainerPort(Object, frozen=True):
    """A declared port; probes name them."""

    name: str = ""
    container_port: int = 0


class Container(Object, frozen=True):
    """A container; an init container with `restart_policy` Always is a sidecar."""

    name: str = ""
    image: str = ""
    command: list[str] = []
    args: list[str] = []
    working_dir: str = ""
    env: list[EnvVar] = []
    env_from: list[EnvFrom] = []
    resources: Resources = Resources()
    volume_mounts: list[VolumeMount] = []
    ports: list[ContainerPort] = []
    restart_policy: str | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    security_context: SecurityContext | None = None


class KeyToPath(Object, frozen=True):
    """One key of an object as a file."""

    key: str = ""
    path: str = ""
    mode: int | None = None


class DownwardItem(Object, frozen=True):
    """One field of the pod as a file."""

    path: str = ""
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class EmptyDirSource(Object, frozen=True):
    """A directory that lives as long as the pod."""

    medium: str = ""
    size_limit: str | int | None = None


class HostPathSource(Object, frozen=True):
    """A path of the machine; `type` says what must be there."""

    path: str = ""
    type: str = ""


class ConfigMapSource(Object, frozen=True):
    """A ConfigMap as files."""

    name: str = ""
    items: list[KeyToPath] = []
    default_mode: int = 0o644
    optional: bool = False


class SecretSource(Object, frozen=True):
    """A Secret as files."""

    secret_name: str = ""
    name: str = ""  # inside a projected volume
    items: list[KeyToPath] = []
    default_mode: int = 0o644
    optional: bool = False


class DownwardSource(Object, frozen=True):
    """Fields of the pod as files."""

    items: list[DownwardItem] = []
    default_mode: int = 0o644


class TokenSource(Object, frozen=True):
    """A service account's token; not provided by the node."""

    path: str = ""


class ProjectedPart(Object, frozen=True):
    """One source of a projected volume."""

    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    downward_api: DownwardSource | None = msgspec.field(name="downwardAPI", default=None)
    service_account_token: TokenSource | None = None


class ProjectedSource(Object, frozen=True):
    """Several sources in one directory."""

    sources: list[ProjectedPart] = []
    default_mode: int = 0o644


class ClaimSource(Object, frozen=True):
    """A claim in the pod's namespace."""

    claim_name: str = ""
    read_only: bool = False


class CSISource(Object, frozen=True):
    """An inline CSI volume."""

    driver: str = ""
    read_only: bool = False
    volume_attributes: dict[str, str] = {}


class Volume(Object, frozen=True):
    """A volume of a pod; exactly one source is set, or none that is known here."""

    name: str = ""
    empty_dir: EmptyDirSource | None = None
    host_path: HostPathSource | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    projected: ProjectedSource | None = None
    downward_api: DownwardSource | None = msgspec.field(name="downwardAPI", default=None)
    persistent_volume_claim: ClaimSource | None = None
    csi: CSISource | None = None


class HostAlias(Object, frozen=True):
    """Extra lines of the pod's hosts file."""

    ip: str = ""
    hostnames: list[str] = []


class ReadinessGate(Object, frozen=True):
    """A condition of the pod that must be True before it is Ready."""

    condition_type: str = ""


class PodSpec(Object, frozen=True):
    """What a pod wants."""

    node_name: str = ""
    restart_policy: str = "Always"
    containers: list[Container] = []
    init_containers: list[Container] = []
    volumes: list[Volume] = []
    hostname: str = ""
    subdomain: str = ""
    host_network: bool = False
    host_aliases: list[HostAlias] = []
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] | None = None
    overhead: dict[str, str | int] = {}
    service_account_name: str = ""
    security_context: SecurityContext | None = None
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    readiness_gates: list[ReadinessGate] = []


class PodStatus(Object, frozen=True):
    """The part of a status that another agent, or we before a restart, may have written."""

    phase: str = ""
    reason: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: list[Condition] = []
    start_time: str | None = None


class PodMeta(ObjectMeta, frozen=True):
    """Metadata with the grace of a deletion."""

    deletion_grace_period_seconds: int | None = None


class Pod(Object, frozen=True):
    """A pod."""

    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ContainerKind(enum.Enum):
    """What a container is to the life of its pod."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


def kind_of(container: Container, *, is_init: bool) -> ContainerKind:
    """Return what a container of `initContainers` or `containers` is."""
    if not is_init:
        return ContainerKind.MAIN
    return ContainerKind.SIDECAR if container.restart_policy == "Always" else ContainerKind.INIT


def all_containers(spec: PodSpec) -> Iterator[tuple[Container, ContainerKind]]:
    """Yield the containers in starting order."""
    for container in spec.init_containers:
        yield container, kind_of(container, is_init=True)
    for container in spec.containers:
        yield container, ContainerKind.MAIN


def field_of(spec: PodSpec, name: str) -> str:
    """Return the spec's path to a container, such as `spec.containers[1]`."""
    for field, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for index, container in enumerate(containers):
            if container.name == name:
                return f"spec.{field}[{index}]"
    raise KeyError(name)


def host_name(pod: Pod) -> str:
    """Return the pod's host name, at most 63 characters as kubelet cuts it."""
    return (pod.spec.hostname or pod.metadata.name)[:63].rstrip("-.")


def grace_seconds(pod: Pod) -> int:
    """Return how long containers get between SIGTERM and SIGKILL."""
    if pod.metadata.deletion_grace_period_seconds is not None:
        return pod.metadata.deletion_grace_period_seconds
    grace = pod.spec.termination_grace_period_seconds
    return DEFAULT_GRACE_SECONDS if grace is None else grace
