"""data.headrace.dev/v1alpha1: Dataset, DatasetGrant.

Owns the fields, limits and rules. Where Fluid has a field, ours has its name and meaning. `manifests/crds` is
generated from here (`make generate`). Written by: users (spec), the cache controller (status).
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from api import names
from api.conditions import Conditions
from api.model import (
    AnyObject,
    KubeObject,
    Model,
    Name,
    Path,
    Quantity,
    ShortText,
    StringMap,
    cel,
)

AccessMode = Literal["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce"]


class SecretKeyRef(Model):
    """One key of a Secret in the object's namespace."""

    name: Name
    key: Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class ValueFrom(Model):
    """Where an option's value comes from."""

    secret_key_ref: SecretKeyRef


class EncryptOption(Model):
    """An option of the under store whose value is secret (credentials)."""

    name: ShortText
    value_from: ValueFrom


class Mount(Model):
    """One under store, and where it shows inside the dataset."""

    RULES: ClassVar = (
        cel(
            "self.mountPoint.matches('^(s3|oss|file|hdfs|webhdfs|http|https|dataset)://.+')",
            "mountPoint must start with s3://, oss://, file://, hdfs://, webhdfs://, http(s):// or dataset://",
        ),
        cel(
            "!self.mountPoint.matches('^[a-z0-9]+://[^/]*@')",
            "mountPoint must not hold a user or password; give them by encryptOptions",
        ),
        cel(
            "!self.mountPoint.matches('^[a-z0-9]+://[^?#]*[?#]')",
            "mountPoint must not hold a query or fragment (? or #); options go into options and encryptOptions",
        ),
    )

    mount_point: Annotated[str, StringConstraints(min_length=5, max_length=1024)] = Field(
        description="URL of the under store, e.g. s3://bucket/prefix or file:///data"
    )
    name: Annotated[str, StringConstraints(min_length=1, max_length=63)] = Field(description="name of the mount")
    path: Path | None = Field(default=None, description="where it shows in the dataset; default /{name}")
    options: StringMap = Field(default_factory=dict, description="options of the under store, nothing secret")
    encrypt_options: list[EncryptOption] = Field(default_factory=list, max_length=32)
    read_only: bool = False
    shared: bool = False


class NodeAffinity(Model):
    """Which nodes may keep cached blocks (a core/v1 NodeSelector)."""

    required: AnyObject | None = None


class MetadataSync(Model):
    """When the namespace is compared with the under store again; each change makes a new snapshot."""

    RULES: ClassVar = (
        cel("self.policy != 'Interval' || has(self.interval)", "interval is needed with policy Interval, e.g. 10m"),
    )

    policy: Literal["Once", "Interval", "OnJobStart", "Always"] = Field(
        default="Once",
        description="Once: when it is bound. Interval: again and again. OnJobStart: before the first attempt of a"
        " TrainingJob that names it. Always: as soon as the last listing has ended and as long again has passed",
    )
    interval: Annotated[str, StringConstraints(max_length=32, pattern=r"^([0-9]+(s|m|h))+$")] | None = Field(
        default=None, description="from the end of a listing to the next, with policy Interval; e.g. 10m"
    )


def _is_bytes(field: str) -> dict[str, str]:
    is_bytes = f"isQuantity(string(self.{field})) && !quantity(string(self.{field})).isLessThan(quantity('0'))"
    return cel(f"!has(self.{field}) || ({is_bytes})", f"{field} must be bytes, 0 or more, e.g. 500Gi")


class CachePolicy(Model):
    """How the pool keeps the dataset's blocks."""

    RULES: ClassVar = (
        _is_bytes("guaranteed"),
        _is_bytes("maximum"),
        _is_bytes("originRateLimit"),
        # What is no quantity at all is the other rules' to refuse.
        cel(
            "!has(self.guaranteed) || !has(self.maximum) || !isQuantity(string(self.guaranteed)) || "
            "!isQuantity(string(self.maximum)) || quantity(string(self.maximum)).compareTo(quantity('0')) == 0 || "
            "!quantity(string(self.guaranteed)).isGreaterThan(quantity(string(self.maximum)))",
            "guaranteed must not be above maximum; raise maximum, lower guaranteed, or leave maximum out for no limit",
        ),
    )

    replicas: int = Field(default=1, ge=1, le=16, description="copies of each block the pool keeps")
    local_copies: bool = Field(default=True, description="a reader's own node may keep one more")
    write_policy: Literal["WriteThrough", "WriteAround", "WriteBack"] = Field(
        default="WriteThrough",
        description="WriteBack: close() and fsync() return once two workers have the file on their disks; the upload to"
        " the under store follows. Without a second worker, or room on the disks, they wait for the upload as else."
        " Change it while nobody writes",
    )
    priority: int = Field(
        default=0, ge=-1000, le=1000, description="of two datasets the one with less makes room in a full cache"
    )
    guaranteed: Quantity | None = Field(
        default=None, description="bytes of the pool below which nobody takes room from it, e.g. 500Gi"
    )
    maximum: Quantity | None = Field(
        default=None, description="bytes of the pool it never has more of; none or 0 = no limit"
    )
    origin_rate_limit: Quantity | None = Field(
        default=None,
        description="bytes a second that all workers together fetch from its under stores, whoever asks, e.g. 500Mi;"
        " none or 0 = no limit",
    )
    pinned: list[Path] = Field(
        default_factory=list,
        max_length=256,
        description="paths that never make room for others, with all below them; / = the whole dataset",
    )


class Reclaim(Model):
    """When cached blocks are given back."""

    policy: Literal["Retain", "WhenUnused"] = Field(
        default="Retain",
        description="WhenUnused: once no pod, TrainingJob or DataLoad used it for idleTTL. Pinned paths keep all of it",
    )
    idle_ttl: Annotated[str, StringConstraints(max_length=32, pattern=r"^([0-9]+(s|m|h))+$")] | None = Field(
        default=None, alias="idleTTL", description="how long nobody has to have used it, e.g. 30m; 1h when not given"
    )


class DatasetSpec(Model):
    """What data it is and how it may be cached."""

    RULES: ClassVar = (
        cel(
            "self.mounts.size() == 1 || !self.mounts.exists(one, one.mountPoint.startsWith('dataset://'))",
            "a mount that is another Dataset (dataset://) must be the only one; make a Dataset for each of them",
        ),
        # Its volume names what it shows, and volumes cannot be changed.
        cel(
            "!(self.mounts + oldSelf.mounts).exists(one, one.mountPoint.startsWith('dataset://')) || "
            "self.mounts.map(one, one.mountPoint) == oldSelf.mounts.map(one, one.mountPoint)",
            "which Dataset is shown (dataset://) cannot be changed; delete the object and make a new one",
        ),
    )

    mounts: list[Mount] = Field(min_length=1, max_length=64)
    shared_options: StringMap = Field(default_factory=dict)
    shared_encrypt_options: list[EncryptOption] = Field(default_factory=list, max_length=32)
    access_modes: list[AccessMode] = Field(default=["ReadOnlyMany"], max_length=3)
    node_affinity: NodeAffinity | None = None
    tolerations: list[AnyObject] = Field(default_factory=list, max_length=32)
    placement: Literal["", "Exclusive", "Shared"] = Field(
        default="", description="Fluid's, and without an effect: a pool serves many datasets, as with Shared there"
    )
    runtime: Name = Field(default="default", description="the CacheRuntime that holds it")
    metadata_sync: MetadataSync = Field(default_factory=MetadataSync)
    cache: CachePolicy = Field(default_factory=CachePolicy)
    reclaim: Reclaim = Field(default_factory=Reclaim)

    @property
    def is_writable(self) -> bool:
        """Whether pods may write to it."""
        return any(mode != "ReadOnlyMany" for mode in self.access_modes)


class CacheStates(Model):
    """Fluid's keys; strings for people. Distinct bytes of verified blocks, copies apart."""

    cached: ShortText | None = None
    cached_percentage: ShortText | None = None
    cached_copies: ShortText | None = None
    cache_capacity: ShortText | None = None
    cache_hit_ratio: ShortText | None = Field(
        default=None, description="of the bytes read lately, those that the under store did not have to give"
    )
    expected_hit_ratio: ShortText | None = Field(
        default=None, description="what an epoch has to find in the cache: the part of the dataset that is cached"
    )
    local_hit_ratio: ShortText | None = None
    remote_hit_ratio: ShortText | None = None


class SnapshotStatus(Model):
    """The immutable file list that is current."""

    version: int = 0
    files: int = 0
    bytes: int = 0
    synced_at: ShortText | None = None
    groups: Annotated[dict[Annotated[str, StringConstraints(max_length=256)], int], Field(max_length=64)] | None = None
    """Bytes by top-level directory, when there are few: what a job that reads parts of the dataset is placed by."""


class MetadataSyncStatus(Model):
    """How comparing with the under store goes. Times are RFC 3339 in UTC, whole seconds, rounded down."""

    listed_at: ShortText | None = Field(
        default=None, description="when the newest listing that went well began: what was there then is in the snapshot"
    )
    added: int = Field(default=0, description="files in which that listing differed from the snapshot before")
    changed: int = 0
    removed: int = 0
    tried_at: ShortText | None = Field(default=None, description="when the newest listing ended, well or not")
    failures: int = Field(default=0, description="listings in a row that failed; 0 = the newest went well")
    next_at: ShortText | None = Field(
        default=None, description="when the next listing is due; absent while one runs, and when none is due by itself"
    )


class WriteBackStatus(Model):
    """Files that two workers hold and the under store does not have yet; absent while there are none."""

    files: int = 0
    bytes: int = 0


REFERENCES_MAX: Final = 256


class Reference(Model):
    """Who uses the dataset."""

    kind: ShortText
    namespace: ShortText
    name: ShortText


class DatasetStatus(Model):
    """What the cache controller saw last."""

    phase: Literal["Pending", "Bound", "NotBound", "Failed", "Updating"] = "Pending"
    ufs_total: ShortText | None = None
    file_num: ShortText | None = None
    cache_states: CacheStates | None = None
    snapshot: SnapshotStatus | None = None
    metadata_sync: MetadataSyncStatus | None = None
    references: list[Reference] = Field(
        default_factory=list, max_length=REFERENCES_MAX, description="pods and TrainingJobs that use it now"
    )
    unused_since: ShortText | None = Field(
        default=None, description="since when no pod, TrainingJob or DataLoad uses it; absent while one does"
    )
    reclaimed_at: ShortText | None = Field(
        default=None, description="when its cached bytes were given back last, as spec.reclaim says"
    )
    conditions: Conditions = Field(default_factory=list)
    observed_generation: int = 0
    write_back: WriteBackStatus | None = None


class Dataset(KubeObject):
    """A set of files in an under store that pods read (and, if allowed, write) at cache speed."""

    GROUP: ClassVar = names.DATA_GROUP
    KIND: ClassVar = "Dataset"
    PLURAL: ClassVar = "datasets"
    SHORT_NAMES: ClassVar = ("ds",)
    COLUMNS: ClassVar = (
        ("Phase", "string", ".status.phase"),
        ("Total", "string", ".status.ufsTotal"),
        ("Files", "string", ".status.fileNum"),
        ("Cached", "string", ".status.cacheStates.cached"),
        ("Cached %", "string", ".status.cacheStates.cachedPercentage"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: DatasetSpec
    status: DatasetStatus | None = None


READY = "Ready"
"""Dataset condition: its namespace is listed and current."""
SYNCED = "Synced"
"""Dataset condition: the newest listing went well. False has the listing's reason; the last good snapshot stays."""
REASON_LISTING = "Listing"
REASON_LISTED = "Listed"
"""Other reasons of Ready=False come from the listing: BucketNotFound, AccessDenied, Unreachable, InvalidMount,
SecretNotFound."""


MOUNTABLE = "Mountable"
"""Dataset condition, told once it was not: whether it has the PersistentVolume and claim that bear its name."""
REASON_VOLUMES_MADE = "VolumesMade"
REASON_VOLUME_NAME_TAKEN = "VolumeNameTaken"
DELETING = "Deleting"
"""Dataset condition: it was deleted, and why it is still there."""
REASON_IN_USE = "InUse"
REASON_USERS_UNKNOWN = "UsersUnknown"
REASON_CLEANUP_FAILED = "CleanupFailed"


class DatasetGrantSpec(Model):
    """Which Datasets of this namespace others may have, and who."""

    datasets: list[Name] = Field(min_length=1, max_length=256, description="names of Datasets of this namespace")
    namespaces: list[Name] = Field(
        min_length=1, max_length=256, description="that may show them as dataset://NAMESPACE/NAME, and load them"
    )


class DatasetGrant(KubeObject):
    """Lets other namespaces read Datasets of this one, as long as it is there."""

    GROUP: ClassVar = names.DATA_GROUP
    KIND: ClassVar = "DatasetGrant"
    PLURAL: ClassVar = "datasetgrants"
    COLUMNS: ClassVar = (
        ("Datasets", "string", ".spec.datasets"),
        ("Namespaces", "string", ".spec.namespaces"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: DatasetGrantSpec
