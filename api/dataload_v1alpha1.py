"""data.headrace.dev/v1alpha1: DataLoad.

Owns the fields, limits and rules. Where Fluid has a field, ours has its name and meaning. Written by: users (spec), the
cache controller (status).
"""

from typing import ClassVar, Literal

from pydantic import Field

from api import names
from api.conditions import Conditions
from api.model import (
    KubeObject,
    Model,
    Name,
    Path,
    Quantity,
    ShortText,
    Text,
    cel,
    immutable,
    rules,
)


class DatasetRef(Model):
    """A Dataset, in the same namespace if none is given."""

    name: Name
    namespace: Name | None = None


class LoadTarget(Model):
    """What to load, and how many copies of it."""

    path: Path = "/"
    replicas: int = Field(default=1, ge=1, le=16)
    priority: int = Field(default=0, ge=0, le=100)
    nodes: list[Name] = Field(
        default_factory=list, max_length=256, description="keep a whole copy on each of these nodes"
    )


class OperationRef(Model):
    """An operation that comes first, in the same namespace if none is given."""

    kind: Literal["DataLoad"] = "DataLoad"
    name: Name
    namespace: Name | None = None


class DataLoadSpec(Model):
    """Bring data into the cache before somebody waits for it."""

    RULES: ClassVar = (
        cel("self.policy != 'Cron' || has(self.schedule)", "policy Cron needs a schedule, as '0 2 * * *'"),
    )

    dataset: DatasetRef = Field(json_schema_extra=rules(immutable("dataset")))
    target: list[LoadTarget] = Field(default_factory=lambda: [LoadTarget()], max_length=64)
    load_metadata: bool = Field(default=False, description="list the dataset's under store anew first")
    policy: Literal["Once", "Cron", "OnEvent"] = Field(
        default="Once",
        description="Cron: by schedule, again and again; OnEvent: whenever the dataset has a new snapshot",
    )
    schedule: ShortText | None = Field(
        default=None, description="five fields as '0 2 * * *', or @hourly, @daily, @weekly, @monthly, @yearly"
    )
    time_zone: ShortText | None = Field(default=None, description="IANA name, as Europe/Berlin; default UTC")
    run_after: OperationRef | None = Field(default=None, description="begin only when this one is complete")
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, description="policy Once: delete it then")
    rate_limit: Quantity | None = Field(default=None, description="bytes a second over all workers, e.g. 100Mi")
    min_percent: int = Field(default=100, ge=1, le=100, description="loaded percent at which it counts as complete")


class FailedFile(Model):
    """A file that could not be loaded, and why."""

    path: Path
    error: Text


class LoadProgress(Model):
    """Verified bytes against the target's bytes; copies count each."""

    bytes_total: int = 0
    bytes_loaded: int = 0
    files_total: int = 0
    files_loaded: int = 0
    bytes_per_second: int = 0
    eta_seconds: int | None = None
    origin_bytes: int = Field(default=0, description="fetched from the under store for this load")
    failed: list[FailedFile] = Field(default_factory=list, max_length=100)


class WaitingFor(Model):
    """What holds a load back."""

    operation_complete: bool = Field(default=False, description="the operation runAfter names is not complete yet")


class DataLoadStatus(Model):
    """Complete means: every block of the target is resident and its checksum was verified."""

    phase: Literal["Pending", "Executing", "Complete", "Failed"] = "Pending"
    duration: ShortText | None = None
    started_at: ShortText | None = None
    finished_at: ShortText | None = None
    progress: LoadProgress = Field(default_factory=LoadProgress)
    snapshot_version: int = 0
    last_schedule_time: ShortText | None = Field(default=None, description="the time of the schedule it ran for last")
    last_successful_time: ShortText | None = Field(default=None, description="when it was complete last")
    next_schedule_time: ShortText | None = None
    waiting_for: WaitingFor | None = None
    conditions: Conditions = Field(default_factory=list)
    observed_generation: int = 0


class DataLoad(KubeObject):
    """One load of a Dataset, or of parts of it, into the cache."""

    GROUP: ClassVar = names.DATA_GROUP
    KIND: ClassVar = "DataLoad"
    PLURAL: ClassVar = "dataloads"
    COLUMNS: ClassVar = (
        ("Dataset", "string", ".spec.dataset.name"),
        ("Phase", "string", ".status.phase"),
        ("Loaded", "integer", ".status.progress.bytesLoaded"),
        ("Total", "integer", ".status.progress.bytesTotal"),
        ("ETA s", "integer", ".status.progress.etaSeconds"),
        ("Duration", "string", ".status.duration"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: DataLoadSpec
    status: DataLoadStatus | None = None
