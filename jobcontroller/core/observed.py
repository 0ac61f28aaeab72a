"""What the controller saw of one job: the whole input of a decision.

Owns frozen views, made once at the edge (shell/observe.py). Holds no Kubernetes wire objects but the job's
pod templates. Invariants: times are seconds since 1970; every pod here belongs to this job by owner uid;
pods of all attempts are in, finished or not."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.framework import Framework
from jobcontroller.core.queueing import Hold
from jobcontroller.core.reclaiming import Reclaim


class PodPhase(enum.StrEnum):
    """Kubernetes' phases."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """How one container ended; `exit_code` is 0–255, `signal` 0 when the runtime named none."""

    container: str
    exit_code: int
    signal: int = 0
    reason: str = ""
    message: str = ""
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a program said of itself; `step` None = it named none."""

    at: float
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Sign:
    """The newest sign of life of one kind (HangDetection.signals); `at` None = there was none."""

    signal: str
    at: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Signs:
    """One reading of the signs that are not in the pods; `error` not empty = it failed and says nothing."""

    read_at: float
    found: tuple[Sign, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of the job, as last seen."""

    name: str
    uid: str
    role: str
    index: int
    attempt: int
    phase: PodPhase = PodPhase.PENDING
    reason: str = ""
    message: str = ""
    node: str = ""
    is_ready: bool = False
    #: every container has started, and none has failed
    is_running: bool = False
    #: its node said last that a container runs; also of a failed pod, when it was not the node that called it failed
    may_run: bool = False
    created_at: float = 0.0
    scheduled_at: float | None = None
    #: when the last of its containers started
    started_at: float | None = None
    finished_at: float | None = None
    #: when its grace is over; None = nobody asked for its deletion
    deletion_at: float | None = None
    #: reason of condition DisruptionTarget, with its message; "" = not disrupted
    disruption: str = ""
    disruption_message: str = ""
    #: message of PodScheduled=False
    unschedulable: str = ""
    #: (reason, message) of the first container that waits for more than its turn
    waiting: tuple[str, str] | None = None
    ends: tuple[ContainerEnd, ...] = ()
    #: names.CHECKPOINTED_AT_ANNOTATION as it is on the pod; "" = not there
    checkpointed_at: str = ""
    #: its containers wait until names.START_ANNOTATION says they may start
    is_held: bool = False
    #: news of it alone is no reason to decide anew
    heartbeat: Heartbeat | None = field(default=None, compare=False)

    @property
    def is_finished(self) -> bool:
        """Whether its containers are done, well or not."""
        return self.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)

    @property
    def key(self) -> tuple[str, int]:
        """(role, index)."""
        return self.role, self.index


@dataclass(frozen=True, slots=True)
class DatasetView:
    """One Dataset named by the job; absent ones are not in `Observed.datasets`."""

    name: str
    phase: str
    cached_percent: float
    message: str = ""
    #: it is to be listed anew before a job's first attempt (policy OnJobStart)
    lists_on_start: bool = False
    #: seconds since 1970, 0 = never: when the listing its snapshot comes from began, rounded down to whole seconds
    listed_at: float = 0.0
    #: the newest time since which somebody asks for a listing
    listing_asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A checkpoint the metadata service knows; paths are inside the dataset, `completed_at` None = not said."""

    step: int
    path: str
    is_complete: bool
    size_bytes: int = 0
    node_bytes: Mapping[str, int] = field(default_factory=dict)
    completed_at: float | None = None
    #: why it is not complete, as a clause
    problem: str = ""
    #: the file that made it complete, if that is inside it
    seal: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The answer about checkpoints: a list, or why there is none now."""

    found: tuple[CheckpointView, ...] = ()
    #: not empty = the question was not answered
    error: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """An action the API server refused.

    `is_permanent`: the same request will be refused again. Otherwise nothing is created before `retry_at`."""

    reason: str
    message: str
    is_permanent: bool
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Admission:
    """What the job's queue says: `gpus` of `queue` are the job's, or why it has to wait, or to give them back."""

    queue: str
    gpus: int
    hold: Hold | None = None
    reclaim: Reclaim | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One job and all that belongs to it."""

    job: TrainingJob
    #: None = not supported
    framework: Framework | None
    supported_frameworks: tuple[str, ...] = ()
    pods: tuple[PodView, ...] = ()
    #: names of pods that were seen and are gone, as far as is remembered
    gone_pods: frozenset[str] = frozenset()
    #: pods that went away while their containers ran, as somebody else deleted them by force, and have no fence yet
    lost_pods: tuple[PodView, ...] = ()
    #: names of the job's PodGroups and whether its Service was seen
    groups: frozenset[str] = frozenset()
    has_service: bool = False
    datasets: Mapping[str, DatasetView] = field(default_factory=dict)
    #: None = not asked for (the job has no checkpoint dataset)
    checkpoints: Checkpoints | None = None
    #: taint by node, of nodes that will be taken away (core/notices.py)
    notices: Mapping[str, str] = field(default_factory=dict)
    #: what a node moves from the under store, measured; None = not known
    bytes_per_second: float | None = None
    problem: Problem | None = None
    #: names of other unfinished jobs that write checkpoints into the same directory
    checkpoint_sharers: tuple[str, ...] = ()
    #: why the last removal of a checkpoint failed; None = it did not
    removal_problem: Problem | None = None
    #: why the last fence does not stand yet; None = it does, or there is none
    fence_problem: Problem | None = None
    #: None = the job asks for no hang detection, or no reading was due yet
    signs: Signs | None = None
    #: None = the job asks nothing of a queue
    admission: Admission | None = None
