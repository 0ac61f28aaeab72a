"""Typed views of the objects Headrace reads often: only the fields that are read.

Owns msgspec structs for Pod, Node, NodeCache, Dataset and Lease (gangs: kube/gang_objects.py, volumes and claims:
kube/storage_objects.py); the metadata they share is in kube/identity.py and exported here too. Does not own user-facing
models (api/), and is not for writing whole objects back: unknown fields are dropped on
decoding. Invariants: decoding never fails on unknown fields;
structs are frozen, so a store may share them.

Deep parts that are compiled once by their reader (affinity, label selectors) stay plain
dicts with the API's own camelCase keys. Quantities stay strings (api/quantities.py reads
them), timestamps stay RFC 3339 strings in UTC: equal precision, so they sort as text.
"""

# ruff: noqa: RUF012, PLC0414  (msgspec copies an empty default for each struct; the metadata is exported from here)
import msgspec

from kube.identity import Condition as Condition
from kube.identity import Identity as Identity
from kube.identity import JsonObject as JsonObject
from kube.identity import Object as Object
from kube.identity import ObjectMeta as ObjectMeta
from kube.identity import ObjectRef as ObjectRef
from kube.identity import OwnerReference as OwnerReference
from kube.identity import identity_of as identity_of
from kube.identity import reference_to as reference_to

# ---- Pod -----------------------------------------------------------------------------------


class ResourceRequirements(Object, frozen=True):
    """Requests and limits by resource name, as quantities."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class ContainerPort(Object, frozen=True):
    """A declared port; only `host_port` (0: none) takes room on the node."""

    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")
    protocol: str = "TCP"


class RestartRule(Object, frozen=True):
    """What is done when a container exits in a certain way; only the action matters to a scheduler."""

    action: str = ""


class Container(Object, frozen=True):
    """A container; an init container with `restart_policy` Always is a sidecar."""

    name: str = ""
    image: str = ""
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    ports: list[ContainerPort] = []
    restart_policy: str | None = None
    restart_policy_rules: list[RestartRule] = []


class Toleration(Object, frozen=True):
    """`operator` Equal (default) or Exists; an empty key with Exists tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class SchedulingGate(Object, frozen=True):
    """While any gate is left the pod must not be scheduled."""

    name: str = ""


class TopologySpreadConstraint(Object, frozen=True):
    """How evenly matching pods must lie over the values of `topology_key`."""

    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: JsonObject | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: list[str] = []


class PodResourceClaim(Object, frozen=True):
    """A claim on a device (dynamic resource allocation)."""

    name: str = ""
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class PersistentVolumeClaimSource(Object, frozen=True):
    """A volume that is a claim in the pod's namespace."""

    claim_name: str = ""
    read_only: bool = False


class CSIVolumeSource(Object, frozen=True):
    """An inline CSI volume."""

    driver: str = ""
    read_only: bool = False
    volume_attributes: dict[str, str] = {}


class Volume(Object, frozen=True):
    """A pod's volume, of the sources that matter to placement; the others decode to a bare name."""

    name: str = ""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    csi: CSIVolumeSource | None = None
    ephemeral: JsonObject | None = None
    gce_persistent_disk: JsonObject | None = None
    aws_elastic_block_store: JsonObject | None = None
    azure_disk: JsonObject | None = None
    cinder: JsonObject | None = None
    portworx_volume: JsonObject | None = None
    rbd: JsonObject | None = None
    iscsi: JsonObject | None = None


class SchedulingGroup(Object, frozen=True):
    """Upstream's own gang membership (Kubernetes 1.36, alpha)."""

    pod_group_name: str | None = None


class PodSpec(Object, frozen=True):
    """The scheduling-relevant part of a pod's spec; `node_name` is "" until it is bound."""

    containers: list[Container] = []
    init_containers: list[Container] = []
    resources: ResourceRequirements | None = None
    overhead: dict[str, str] = {}
    node_name: str = ""
    node_selector: dict[str, str] = {}
    affinity: JsonObject | None = None
    tolerations: list[Toleration] = []
    scheduler_name: str = ""
    priority: int = 0
    priority_class_name: str = ""
    preemption_policy: str = "PreemptLowerPriority"
    scheduling_gates: list[SchedulingGate] = []
    scheduling_group: SchedulingGroup | None = None
    topology_spread_constraints: list[TopologySpreadConstraint] = []
    resource_claims: list[PodResourceClaim] = []
    volumes: list[Volume] = []
    host_network: bool = False
    host_users: bool | None = None
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None


class ContainerStatus(Object, frozen=True):
    """A container's state; the resources count when a pod was resized in place."""

    name: str = ""
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    state: JsonObject = {}
    last_state: JsonObject = {}
    allocated_resources: dict[str, str] = {}
    resources: ResourceRequirements | None = None


class PodStatus(Object, frozen=True):
    """Phase is Pending, Running, Succeeded, Failed or Unknown."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    nominated_node_name: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    host_ip: str = msgspec.field(name="hostIP", default="")
    start_time: str | None = None
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []


class Pod(Object, frozen=True):
    """A pod as the scheduler and the controllers see it."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


# ---- Node ----------------------------------------------------------------------------------


class Taint(Object, frozen=True):
    """`effect` is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Object, frozen=True):
    """What keeps pods away from a node."""

    taints: list[Taint] = []
    unschedulable: bool = False
    provider_id: str = msgspec.field(name="providerID", default="")


class NodeAddress(Object, frozen=True):
    """An address and its type (InternalIP, Hostname, …)."""

    type: str = ""
    address: str = ""


class NodeStatus(Object, frozen=True):
    """What a node has and offers, as quantities by resource name."""

    allocatable: dict[str, str] = {}
    capacity: dict[str, str] = {}
    conditions: list[Condition] = []
    addresses: list[NodeAddress] = []
    declared_features: list[str] = []


class Node(Object, frozen=True):
    """A node as the scheduler sees it; labels are in the metadata."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


# ---- Headrace's and the ecosystem's own ------------------------------------------------------


class DisruptionBudgetSpec(Object, frozen=True):
    """Which pods a budget is about; a selector that is absent or empty is about none when pods are preempted."""

    selector: JsonObject | None = None


class DisruptionBudgetStatus(Object, frozen=True):
    """How many pods may be disrupted now; `disrupted_pods` are those the API server let go, by name."""

    disruptions_allowed: int = 0
    disrupted_pods: dict[str, str] = {}


class PodDisruptionBudget(Object, frozen=True):
    """A budget of disruptions (policy)."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: DisruptionBudgetSpec = msgspec.field(default_factory=DisruptionBudgetSpec)
    status: DisruptionBudgetStatus = msgspec.field(default_factory=DisruptionBudgetStatus)


class CacheWorker(Object, frozen=True):
    """The cache worker of a node; `epoch` changes with each of its restarts."""

    endpoint: str = ""
    epoch: int = 0


class CacheTier(Object, frozen=True):
    """One medium of a node's cache, sizes in bytes; the speed is measured, 0 when not yet."""

    medium: str = ""
    capacity: int = 0
    used: int = 0
    read_bytes_per_second: int = 0


class CacheRate(Object, frozen=True):
    """A measured speed, 0 when not yet."""

    read_bytes_per_second: int = 0


class CachedDataset(Object, frozen=True):
    """Verified resident bytes of one dataset snapshot on this node, by medium (MEM, SSD, HDD).

    `groups` holds the same by top-level directory or shard, when there are few of them.
    """

    namespace: str = ""
    name: str = ""
    uid: str = ""
    snapshot: int = 0
    resident_bytes: dict[str, int] = {}
    groups: dict[str, int] | None = None


class NodeCacheStatus(Object, frozen=True):
    """What a node's cache holds; no worker means nothing is served.

    `network` is the speed of reads from peers, `origin` that from the under store.
    """

    worker: CacheWorker | None = None
    tiers: list[CacheTier] = []
    network: CacheRate = msgspec.field(default_factory=CacheRate)
    origin: CacheRate = msgspec.field(default_factory=CacheRate)
    datasets: list[CachedDataset] = []


class NodeCache(Object, frozen=True):
    """What one node caches; its name is the node's name."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    status: NodeCacheStatus = msgspec.field(default_factory=NodeCacheStatus)


class DatasetSnapshot(Object, frozen=True):
    """The immutable file list that counts now."""

    version: int = 0
    files: int = 0
    bytes: int = 0
    groups: dict[str, int] = {}
    synced_at: str | None = None


class DatasetStatus(Object, frozen=True):
    """Phase, totals and current snapshot of a dataset."""

    phase: str = ""
    ufs_total: str | None = None
    file_num: str | None = None
    snapshot: DatasetSnapshot | None = None
    cache_states: JsonObject = {}
    metadata_sync: JsonObject = {}
    conditions: list[Condition] = []


class Dataset(Object, frozen=True):
    """A dataset; its spec stays a plain dict (api/data_v1alpha1.py has the model)."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: JsonObject = {}
    status: DatasetStatus = msgspec.field(default_factory=DatasetStatus)


# ---- leases -------------------------------------------------------------------------


class LeaseSpec(Object, frozen=True):
    """Holder and times of a lease; times are the holder's wall clock, for people only."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = 0


class Lease(Object, frozen=True):
    """A coordination lease."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)
