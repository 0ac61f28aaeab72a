"""scheduling.x-k8s.io/v1alpha1 PodGroup: the ecosystem's gang object (scheduler-plugins' coscheduling).

Owns the fields we read and write, spelled as there. Written by the job controller (spec) and the scheduler
(status).
"""

from typing import ClassVar

from pydantic import Field

from api import names
from api.model import KubeObject, Model, Quantity, ShortText


class PodGroupSpec(Model):
    """All of minMember pods, or none."""

    min_member: int = Field(default=1, ge=1, le=100000)
    min_resources: dict[str, Quantity] | None = Field(default=None, max_length=32)
    schedule_timeout_seconds: int | None = Field(default=None, ge=1)


class PodGroupStatus(Model):
    """As coscheduling reports it."""

    phase: ShortText | None = None
    occupied_by: ShortText | None = None
    scheduled: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    schedule_start_time: ShortText | None = None


class PodGroup(KubeObject):
    """A gang of pods that is placed whole."""

    GROUP: ClassVar = names.SCHEDULING_GROUP
    KIND: ClassVar = "PodGroup"
    PLURAL: ClassVar = "podgroups"
    SHORT_NAMES: ClassVar = ("pg",)
    COLUMNS: ClassVar = (
        ("Phase", "string", ".status.phase"),
        ("MinMember", "integer", ".spec.minMember"),
        ("Scheduled", "integer", ".status.scheduled"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: PodGroupSpec = Field(default_factory=PodGroupSpec)
    status: PodGroupStatus | None = None
