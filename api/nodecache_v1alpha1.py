"""data.headrace.dev/v1alpha1: NodeCache.

Owns the fields and limits. Written by: the cache controller (status).
"""

from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints

from api import names
from api.cacheruntime_v1alpha1 import Medium
from api.model import (
    KubeObject,
    Model,
    ShortText,
)


class WorkerStatus(Model):
    """The worker on this node; `epoch` changes with every restart."""

    endpoint: ShortText
    epoch: int


class TierStatus(Model):
    """One tier, measured."""

    medium: Medium
    capacity: int
    used: int
    read_bytes_per_second: int = 0


class RateStatus(Model):
    """A measured rate; 0 = not measured yet."""

    read_bytes_per_second: int = 0


class ResidentBytes(Model):
    """Bytes by medium."""

    mem: int = Field(default=0, alias="MEM")
    ssd: int = Field(default=0, alias="SSD")
    hdd: int = Field(default=0, alias="HDD")


class DatasetOnNode(Model):
    """Bytes of one dataset resident on this node, in verified blocks of that snapshot."""

    namespace: ShortText
    name: ShortText
    uid: ShortText
    snapshot: int
    resident_bytes: ResidentBytes
    groups: Annotated[dict[Annotated[str, StringConstraints(max_length=256)], int], Field(max_length=64)] | None = None


DATASETS_ON_NODE_MAX: Final = 1024


class LeavingStatus(Model):
    """How far the worker is with handing its blocks over."""

    done: bool = Field(default=False, description="nothing is left to hand over, or nobody has room for more")
    moved_bytes: int = 0
    refused_bytes: int = Field(default=0, description="that were not taken; they are fetched again once they are read")


class NodeCacheStatus(Model):
    """What the node's cache worker holds."""

    worker: WorkerStatus | None = None
    tiers: list[TierStatus] = Field(default_factory=list, max_length=8)
    network: RateStatus = Field(default_factory=RateStatus)
    origin: RateStatus = Field(default_factory=RateStatus)
    datasets: list[DatasetOnNode] = Field(
        default_factory=list,
        max_length=DATASETS_ON_NODE_MAX,
        description="if there are more, those with the most bytes",
    )
    leaving: LeavingStatus | None = Field(default=None, description="set while the node's cache is being drained")


class NodeCache(KubeObject):
    """What one node has cached; its name is the node's. Written by the cache controller only."""

    GROUP: ClassVar = names.DATA_GROUP
    KIND: ClassVar = "NodeCache"
    PLURAL: ClassVar = "nodecaches"
    NAMESPACED: ClassVar = False
    COLUMNS: ClassVar = (
        ("Worker", "string", ".status.worker.endpoint"),
        ("Datasets", "string", ".status.datasets[*].name"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    status: NodeCacheStatus | None = None
