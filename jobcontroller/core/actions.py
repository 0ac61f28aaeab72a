"""What a decision asks the shell to do, as data.

Invariants: every action may be performed twice, or by two leaders: creations have deterministic names,
deletions carry a uid. None is performed before the plan's status is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from api.training_v1alpha1 import TrainingJobStatus

WireObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Create a pod; it is fine if this job's pod of that name is there already."""

    name: str
    body: WireObject


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete the pod with this uid; `grace_seconds` None = the pod's own, 0 = by force."""

    name: str
    uid: str
    grace_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class RaiseFences:
    """Have the cache refuse changes of the job's checkpoints from these nodes, until the pods are known to have ended
    there: uids by node. Unless that is done none of these pods is deleted, and no pod is created."""

    pods: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class AnnotatePod:
    """Write annotations on the pod with this uid; it is fine if it is gone."""

    name: str
    uid: str
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ApplyPodGroup:
    """Make the attempt's gang."""

    name: str
    body: WireObject


@dataclass(frozen=True, slots=True)
class DeletePodGroup:
    """Remove the gang of an attempt that is over."""

    name: str


@dataclass(frozen=True, slots=True)
class ApplyService:
    """Make the job's headless Service."""

    name: str
    body: WireObject


@dataclass(frozen=True, slots=True)
class ApplyConfigMap:
    """Make a ConfigMap whose name only this job gives; it is fine if it is there."""

    name: str
    body: WireObject


@dataclass(frozen=True, slots=True)
class ApplySshKeys:
    """Make a Secret, whose name only this job gives, with fresh ssh keys; if it is there its keys stay."""

    name: str
    #: without the keys
    body: WireObject


@dataclass(frozen=True, slots=True)
class ApplyDataLoad:
    """Make a DataLoad whose name only this job gives; it is fine if it is there, and no harm if it is refused."""

    name: str
    body: WireObject


@dataclass(frozen=True, slots=True)
class RequestListing:
    """Ask for a listing of a Dataset that begins at `since` (RFC 3339) or later; it is fine if the Dataset is gone."""

    dataset: str
    since: str


@dataclass(frozen=True, slots=True)
class RemoveCheckpoint:
    """Remove the checkpoint in this directory of the job's checkpoint dataset; it is fine if it is gone.

    `first`: the file inside that makes it complete, relative to `path`; "" = what `checkpoint.marker` names."""

    path: str
    first: str = ""


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete the job itself (its time to live is over); what it owns goes with it."""

    uid: str


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Tell the user what was decided and why."""

    reason: str
    note: str
    kind: Literal["Normal", "Warning"] = "Normal"


Action = (
    CreatePod
    | DeletePod
    | RaiseFences
    | AnnotatePod
    | ApplyPodGroup
    | DeletePodGroup
    | ApplyService
    | ApplyConfigMap
    | ApplySshKeys
    | ApplyDataLoad
    | RequestListing
    | RemoveCheckpoint
    | DeleteJob
    | EmitEvent
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The next status, what to do once it is stored, and when to look again at the latest.

    `status` None = leave the status alone."""

    status: TrainingJobStatus | None
    actions: tuple[Action, ...] = ()
    wake_after_seconds: float | None = None
    #: why the job restarted or ended in this plan, for the log and metrics; "" = it did not
    outcome: str = field(default="")
