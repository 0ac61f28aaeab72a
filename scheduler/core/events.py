"""What the core is told; made by the shell from watches, bind results and the clock.

Owns plain values only. Invariant: events of one object come in the order of its versions; events of
different objects may come in any order (a pod before its node, a claim after its pod).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kube.fluid_objects import FluidDataset
from kube.objects import (
    Dataset,
    Node,
    NodeCache,
    PodDisruptionBudget,
)
from scheduler.core.assumed import AssignedPod
from scheduler.core.gang_apis import GangApi, GroupObject
from scheduler.core.pod_request import PodRequest
from scheduler.core.volume_table import StorageObject


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A node was added or changed (heartbeats included)."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeGone:
    """A node was deleted."""

    name: str


@dataclass(frozen=True, slots=True)
class PodPending:
    """A pod of ours is unbound: new, or changed."""

    pod: PodRequest


@dataclass(frozen=True, slots=True)
class PodAssigned:
    """A pod, anybody's, is on a node and not finished."""

    pod: AssignedPod
    group: str | None = None
    is_ours: bool = False
    is_running: bool = False
    is_leaving: bool = False  # being deleted: still takes room, no longer counts as a gang's member
    role: str = ""  # in its gang


@dataclass(frozen=True, slots=True)
class PodGone:
    """A pod was deleted, finished, or is no longer ours to schedule."""

    uid: str
    succeeded: bool = False
    namespace: str = ""
    group: str | None = None  # told with succeeded=True: such a member still counts for its gang
    role: str = ""


@dataclass(frozen=True, slots=True)
class CacheChanged:
    """A NodeCache was added or changed."""

    cache: NodeCache


@dataclass(frozen=True, slots=True)
class CacheGone:
    """A NodeCache was deleted."""

    name: str


@dataclass(frozen=True, slots=True)
class DatasetChanged:
    """A Dataset was added or changed."""

    dataset: Dataset


@dataclass(frozen=True, slots=True)
class DatasetGone:
    """A Dataset was deleted."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class FluidDatasetChanged:
    """A Dataset of Fluid's was added or changed; core/fluid.py makes events of ours of it, the engine sees none."""

    dataset: FluidDataset


@dataclass(frozen=True, slots=True)
class FluidDatasetGone:
    """A Dataset of Fluid's was deleted."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """A PodGroup was added or changed."""

    group: GroupObject


@dataclass(frozen=True, slots=True)
class GroupGone:
    """A PodGroup was deleted."""

    namespace: str
    name: str
    api: GangApi = GangApi.X_K8S


@dataclass(frozen=True, slots=True)
class StorageChanged:
    """A claim, a volume or another storage object was added or changed."""

    item: StorageObject


@dataclass(frozen=True, slots=True)
class StorageGone:
    """A storage object was deleted."""

    kind: type[StorageObject]
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class NamespaceChanged:
    """A namespace was added or changed; only its labels matter."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NamespaceGone:
    """A namespace was deleted."""

    name: str


@dataclass(frozen=True, slots=True)
class ServiceChanged:
    """A Service was added, changed or deleted: its selector, None when it selects nothing or is gone."""

    namespace: str
    name: str
    selector: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class ControllerChanged:
    """A ReplicationController, ReplicaSet or StatefulSet was added, changed or deleted: its selector as written,
    None when it is gone."""

    kind: str
    namespace: str
    name: str
    selector: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class DeviceClassChanged:
    """A DeviceClass was added or changed; `resource` is the extended resource it stands behind, "" for none."""

    name: str
    resource: str


@dataclass(frozen=True, slots=True)
class DeviceClassGone:
    """A DeviceClass was deleted."""

    name: str


@dataclass(frozen=True, slots=True)
class BindConfirmed:
    """The API server accepted a bind."""

    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class BindFailed:
    """A bind did not happen, or it is not known whether it did: then the watch will tell. `is_error`: not because of
    what others did meanwhile, so that it may fail again and the pod's owner must hear of it."""

    uid: str
    node: str
    cause: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class DeleteFailed:
    """A DeletePod could not be performed; it is decided again."""

    uid: str


@dataclass(frozen=True, slots=True)
class BudgetChanged:
    """A PodDisruptionBudget was added or changed."""

    budget: PodDisruptionBudget


@dataclass(frozen=True, slots=True)
class BudgetGone:
    """A PodDisruptionBudget was deleted."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class PreemptionEnded:
    """The calls of a Preempt are done; `failed`: not all victims were evicted, and the preemptor tries again."""

    unit: str
    failed: bool


Event = (
    NodeChanged
    | NodeGone
    | PodPending
    | PodAssigned
    | PodGone
    | CacheChanged
    | CacheGone
    | DatasetChanged
    | DatasetGone
    | FluidDatasetChanged
    | FluidDatasetGone
    | GroupChanged
    | GroupGone
    | StorageChanged
    | StorageGone
    | NamespaceChanged
    | NamespaceGone
    | ServiceChanged
    | ControllerChanged
    | DeviceClassChanged
    | DeviceClassGone
    | BindConfirmed
    | BindFailed
    | DeleteFailed
    | BudgetChanged
    | BudgetGone
    | PreemptionEnded
)
