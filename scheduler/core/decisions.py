"""What the core decides; the shell performs it and reports back with events.

Owns plain values only. Invariant: every decision names the pod's uid, so performing it late or twice cannot
hit another pod of the same name.
"""

from dataclasses import dataclass

from scheduler.core.gang_apis import GangApi
from scheduler.core.pod_volumes import VolumePlan


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind one pod. `annotation` is the decision record as JSON, `note` the Scheduled event, `gang` the pod's."""

    uid: str
    namespace: str
    name: str
    node: str
    annotation: str
    note: str
    gang: str | None = None
    stage_in_seconds: float = 0.0
    local_bytes: int = 0
    peer_bytes: int = 0
    origin_bytes: int = 0
    waited_seconds: float = 0.0
    tries: int = 1
    volumes: VolumePlan | None = None  # to be carried out before
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Explain:
    """A pod cannot be placed now: set PodScheduled=False with this message.

    `with_event` also tells it as a FailedScheduling event (one a gang is enough).
    """

    uid: str
    namespace: str
    name: str
    reason: str
    message: str
    with_event: bool = True
    is_first: bool = True  # the condition was not False before
    generation: int = 0  # of the pod that was judged; 0: not known
    profile: str = ""


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete a pod of this uid: undoes a bind, which the API cannot take back."""

    uid: str
    namespace: str
    name: str
    note: str


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """What a PodGroup's status should say. `message`: why its gang was refused, "" when it was not."""

    namespace: str
    name: str
    phase: str
    scheduled: int
    running: int
    api: GangApi = GangApi.X_K8S
    message: str = ""
    succeeded: int = 0
    generation: int = 0
    is_scheduled: bool = False  # its minimum is on nodes


@dataclass(frozen=True, slots=True)
class Nominate:
    """Set a pending pod's status.nominatedNodeName; "" clears it."""

    uid: str
    namespace: str
    name: str
    node: str


@dataclass(frozen=True, slots=True)
class Victim:
    """A pod to evict from a node; `generation` as last seen, 0: not known."""

    uid: str
    namespace: str
    name: str
    node: str
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Preempt:
    """Evict victims for a pod, or a PodGroup (`is_group`), named by uid, namespace and name; `unit` is its id in
    the queue, `profile` its schedulerName. Ends in one PreemptionEnded. `count` includes victims that are leaving
    already."""

    unit: str
    uid: str
    namespace: str
    name: str
    is_group: bool
    victims: tuple[Victim, ...]
    count: int
    profile: str = ""


Decision = Bind | Explain | DeletePod | GroupStatus | Nominate | Preempt
UNSCHEDULABLE = "Unschedulable"
NOT_READY = "NotReadyForScheduling"
SCHEDULER_ERROR = "SchedulerError"
