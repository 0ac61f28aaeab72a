"""The words of a pod's life: rules, states, events and decisions, as plain frozen data.

Owns the types, and how a pod's spec becomes rules. Does not say what follows from what
(core/pod_state.py). Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.node.core.pod_spec import ContainerKind, Pod, all_containers

BACK_OFF = "CrashLoopBackOff"
SUCCEEDED, FAILED, RUNNING, PENDING = "Succeeded", "Failed", "Running", "Pending"


@dataclass(frozen=True, slots=True)
class ContainerRules:
    """What of a container's spec matters to its life."""

    name: str
    kind: ContainerKind
    image: str = ""
    has_startup_probe: bool = False
    has_readiness_probe: bool = False


@dataclass(frozen=True, slots=True)
class PodRules:
    """What of a pod's spec matters to its life. `containers` are in starting order."""

    namespace: str
    name: str
    uid: str
    restart_policy: str
    containers: tuple[ContainerRules, ...]
    active_deadline_seconds: int | None = None
    readiness_gates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not running; `reason` as kubelet spells it."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """The process is there."""

    started_at: float


@dataclass(frozen=True, slots=True)
class Terminated:
    """The process ended; 128 + n for signal n."""

    exit_code: int
    reason: str
    started_at: float
    finished_at: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class ContainerState:
    """One container; `attempt` numbers its starts from 0, -1 before the first."""

    state: Waiting | Running | Terminated
    attempt: int = -1
    last: Terminated | None = None
    backoff_seconds: float = 0.0
    #: when it is to be started (again); None when it is not.
    start_at: float | None = 0.0
    is_starting: bool = False
    is_stopping: bool = False
    is_started: bool = False
    is_ready: bool = False
    #: why a probe wants it restarted.
    unhealthy: str = ""

    @property
    def is_alive(self) -> bool:
        """True while a process may exist."""
        return self.is_starting or isinstance(self.state, Running)

    @property
    def exit_code(self) -> int | None:
        """Exit code of the current state, None while it is not terminated."""
        return self.state.exit_code if isinstance(self.state, Terminated) else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A phase with its reason and message."""

    phase: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """The whole pod is to end: SIGKILL at `deadline`; `verdict` is its phase then, None for what it earned."""

    deadline: float
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod on its node."""

    containers: Mapping[str, ContainerState]
    start_time: float
    has_sandbox: bool = False
    has_volumes: bool = False
    is_initialized: bool = False
    stop: Stop | None = None
    final: Verdict | None = None


# ---- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class SandboxReady:
    """The pod has its address and folder."""


@dataclass(frozen=True, slots=True)
class VolumesReady:
    """Every volume is in place."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The node does not take the pod."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Delete, node shutdown, deadline: a later request can only shorten the grace."""

    deadline: float
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class StartOrdered:
    """The shell begins to start the container."""

    name: str


@dataclass(frozen=True, slots=True)
class ContainerBlocked:
    """It could not be created; tried again at `retry_at`."""

    name: str
    reason: str
    message: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """Its process runs."""

    name: str
    attempt: int
    started_at: float


@dataclass(frozen=True, slots=True)
class ContainerExited:
    """Its process is gone, or never came to be (`reason` StartError)."""

    name: str
    attempt: int
    outcome: Terminated


@dataclass(frozen=True, slots=True)
class StopOrdered:
    """The shell begins to stop the container."""

    name: str


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """A probe's verdict changed; None leaves a value as it is."""

    name: str
    attempt: int
    is_started: bool | None = None
    is_ready: bool | None = None
    unhealthy: str = ""


Event = (
    Tick
    | SandboxReady
    | VolumesReady
    | Rejected
    | StopRequested
    | StartOrdered
    | ContainerBlocked
    | ContainerStarted
    | ContainerExited
    | StopOrdered
    | ProbeAnswered
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and when to ask again if nothing happens before."""

    starts: tuple[str, ...] = ()
    #: container -> why, for the event
    stops: Mapping[str, str] = field(default_factory=dict)
    wake_at: float | None = None


def rules_of(pod: Pod) -> PodRules:
    """Return a pod's rules."""
    containers = tuple(
        ContainerRules(
            container.name,
            kind,
            container.image,
            container.startup_probe is not None,
            container.readiness_probe is not None,
        )
        for container, kind in all_containers(pod.spec)
    )
    return PodRules(
        pod.metadata.namespace,
        pod.metadata.name,
        pod.metadata.uid,
        pod.spec.restart_policy,
        containers,
        pod.spec.active_deadline_seconds,
        tuple(gate.condition_type for gate in pod.spec.readiness_gates),
    )
