"""data.headrace.dev/v1alpha1: CacheRuntime.

Owns the fields, limits and rules. Where Fluid has a field, ours has its name and meaning. Written by: users (spec), the
cache controller (status).
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field

from api import names
from api.conditions import Conditions
from api.data_v1alpha1 import CacheStates
from api.model import (
    AnyObject,
    KubeObject,
    Model,
    Name,
    Path,
    ShortText,
    StringMap,
    Text,
)

Medium = Literal["MEM", "SSD", "HDD"]
Quota = Annotated[
    str, BeforeValidator(str), Field(max_length=64, json_schema_extra={"x-kubernetes-int-or-string": True})
]
"""A quantity of bytes, whatever was written: what is none is said on the object, by the controller."""


class TierLevel(Model):
    """One folder of every worker; those of one medium are one level, filled evenly."""

    mediumtype: Medium
    path: Path = Field(
        description="folder of the node, one of those the installation allows; of MEM a name only: its bytes are "
        "memory of the worker's pod"
    )
    quota: Quota
    high: ShortText | None = Field(default=None, description="demote above this part of the quota, e.g. 0.95")
    low: ShortText | None = Field(default=None, description="demote down to this part of the quota, e.g. 0.85")


class TieredStore(Model):
    """Fastest first; all levels are used."""

    levels: list[TierLevel] = Field(default_factory=list, max_length=8)


class PodMetadata(Model):
    """Added to what the pods have anyway."""

    labels: StringMap = Field(default_factory=dict)
    annotations: StringMap = Field(default_factory=dict)


class Worker(Model):
    """The workers' pods, beside what the installation says of them."""

    resources: AnyObject | None = Field(
        default=None, description="requests and limits, each in place of the installation's"
    )
    tolerations: list[AnyObject] = Field(
        default_factory=list, max_length=32, description="beside the installation's, which tolerate every taint"
    )
    pod_metadata: PodMetadata = Field(default_factory=PodMetadata)


CACHE_NODES_MAX: Final = 15000


class CacheRuntimeSpec(Model):
    """A pool of workers shared by many datasets."""

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=CACHE_NODES_MAX,
        description="nodes whose workers keep its datasets' blocks, which kubectl scale and autoscalers change too; "
        "not given = all that fit nodeSelector",
    )
    node_selector: StringMap = Field(
        default_factory=dict, description="labels of the nodes whose workers may keep its datasets' blocks; none = all"
    )
    tieredstore: TieredStore = Field(
        default_factory=TieredStore,
        description="what its workers keep blocks in, on nodes with the label data.headrace.dev/pool: NAMESPACE.NAME",
    )
    worker: Worker = Field(default_factory=Worker, description="their pods, on those nodes")


class CacheRuntimeStatus(Model):
    """What the cache controller saw last."""

    worker_phase: Literal["NotReady", "PartialReady", "Ready"] = "NotReady"
    worker_number_ready: int = 0
    desired_worker_number_scheduled: int = 0
    current_worker_number_scheduled: int = Field(default=0, description="what /scale shows as status.replicas")
    capacity_used_percent: int = Field(default=0, description="used bytes of its live workers' room")
    nodes: list[Name] = Field(
        default_factory=list,
        max_length=CACHE_NODES_MAX,
        description="whose workers keep its datasets' blocks; empty when spec limits neither their number nor labels",
    )
    cache_states: CacheStates | None = None
    selector: Text | None = None
    conditions: Conditions = Field(default_factory=list)


class CacheRuntime(KubeObject):
    """A pool of cache workers."""

    GROUP: ClassVar = names.DATA_GROUP
    KIND: ClassVar = "CacheRuntime"
    PLURAL: ClassVar = "cacheruntimes"
    COLUMNS: ClassVar = (
        ("Workers", "integer", ".status.workerNumberReady"),
        ("Wanted", "integer", ".status.desiredWorkerNumberScheduled"),
        ("Phase", "string", ".status.workerPhase"),
        ("Cached", "string", ".status.cacheStates.cached"),
        ("Capacity", "string", ".status.cacheStates.cacheCapacity"),
        ("Used %", "integer", ".status.capacityUsedPercent"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    SCALE: ClassVar = (".spec.replicas", ".status.currentWorkerNumberScheduled", ".status.selector")

    spec: CacheRuntimeSpec = Field(default_factory=CacheRuntimeSpec)
    status: CacheRuntimeStatus | None = None
