"""Why a pod failed: the user's program, the infrastructure, or somebody who needed the room.

Owns the rules from a pod's evidence to one `Failure`. Evidence is read in the order of its weight: the
DisruptionTarget condition, the kubelet's reason, a deletion nobody here asked for, the runtime's reason, and
only then the exit code, which on its own says little. Which restarts follow is core/restart_policy.py."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from jobcontroller.core import reasons
from jobcontroller.core.observed import ContainerEnd, PodPhase, PodView


class FailureKind(enum.StrEnum):
    """Whose fault it was; each has a restart budget of its own."""

    USER_ERROR = reasons.USER_ERROR
    INFRASTRUCTURE = reasons.INFRASTRUCTURE
    PREEMPTION = reasons.PREEMPTION


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed pod. `exit_code` None = no container told one; `at` None = not known when."""

    kind: FailureKind
    pod: str
    uid: str
    role: str
    index: int
    message: str
    exit_code: int | None = None
    was_out_of_memory: bool = False
    at: float | None = None
    #: it is about to be lost, and runs still (core/notices.py)
    is_notice: bool = False
    #: of the whole attempt, which stands still (core/hang.py)
    is_hang: bool = False
    #: it tells of the pod's node rather than of the pod (core/suspects.py)
    is_of_node: bool = False


#: DisruptionTarget reasons (kubernetes.io/docs/concepts/workloads/pods/disruptions) that take a healthy pod's
#: room for somebody else; the others tell of a node that was lost or is going down.
_PREEMPTING_DISRUPTIONS = frozenset({"PreemptionByScheduler", "PreemptionByKubeScheduler", "EvictionByEvictionAPI"})
#: `status.reason` written by the kubelet or the node life-cycle controller.
_PREEMPTING_REASONS = frozenset({"Preempting", "Preempted"})
_INFRASTRUCTURE_REASONS = frozenset(
    {
        "Evicted",
        "NodeLost",
        "NodeShutdown",
        "Shutdown",
        "Terminated",
        "UnexpectedAdmissionError",
        "NodeAffinity",
        "NodePorts",
        "TopologyAffinityError",
    }
)
#: SIGINT, SIGKILL, SIGUSR1, SIGTERM as 128 + n: KubeDL's retryable codes. A program is sent these from outside.
_OUTSIDE_EXIT_CODES = frozenset({130, 137, 138, 143})
_OUTSIDE_SIGNALS = frozenset({2, 9, 10, 15})


def classify(pod: PodView) -> Failure | None:
    """Return why this pod of the running attempt failed; None when it did not."""
    if pod.phase is PodPhase.SUCCEEDED:
        return None
    if pod.disruption and (pod.deletion_at is not None or pod.phase is PodPhase.FAILED):
        return _disrupted(pod)
    if pod.phase is PodPhase.FAILED:
        return _failed(pod)
    if pod.deletion_at is not None:
        # The controller deletes pods of an attempt only after that attempt has ended.
        return _failure(pod, FailureKind.PREEMPTION, "was deleted by someone else while it was in use")
    return None


def vanished(role: str, index: int, name: str) -> Failure:
    """Return the failure of a pod that was there and is gone."""
    return Failure(
        kind=FailureKind.PREEMPTION,
        pod=name,
        uid=f"gone:{name}",
        role=role,
        index=index,
        message=f"pod {name} ({role} {index}) is gone: it was deleted by someone else",
    )


def first_cause(failures: Iterable[Failure], settle_seconds: float) -> Failure:
    """Return the failure that brought the others about.

    When a member dies its peers fail within moments, with an error exit of their own. So a disruption within
    `settle_seconds` of the first failure is the cause, and otherwise the earliest failure. At least one."""
    ordered = sorted(failures, key=lambda failure: (_time(failure), failure.role, failure.index))
    earliest = _time(ordered[0])
    for failure in ordered:
        if failure.kind is not FailureKind.USER_ERROR and _time(failure) <= earliest + settle_seconds:
            return failure
    return ordered[0]


def _time(failure: Failure) -> float:
    if failure.at is not None:
        return failure.at
    # A deleted pod tells no time and is a cause; an error without a time is blamed on nothing.
    return float("inf") if failure.kind is FailureKind.USER_ERROR else float("-inf")


def disruption_kind(reason: str) -> FailureKind:
    """Return whose fault a DisruptionTarget of this reason is."""
    return FailureKind.PREEMPTION if reason in _PREEMPTING_DISRUPTIONS else FailureKind.INFRASTRUCTURE


def _disrupted(pod: PodView) -> Failure:
    kind = disruption_kind(pod.disruption)
    detail = f": {pod.disruption_message}" if pod.disruption_message else ""
    is_of_node = kind is FailureKind.INFRASTRUCTURE
    return _failure(pod, kind, f"was disrupted ({pod.disruption}){detail}", is_of_node=is_of_node)


def _failed(pod: PodView) -> Failure:
    if pod.reason in _PREEMPTING_REASONS:
        return _failure(pod, FailureKind.PREEMPTION, _with_message(pod, "was preempted on its node"))
    if pod.reason == "DeadlineExceeded":
        return _failure(pod, FailureKind.USER_ERROR, _with_message(pod, "ran into its own activeDeadlineSeconds"))
    if pod.reason in _INFRASTRUCTURE_REASONS or pod.reason.startswith("OutOf"):
        # An eviction for exceeding a limit of the pod's own would happen again on any node.
        own_limit = pod.reason == "Evicted" and "exceed" in pod.message and "limit" in pod.message
        kind = FailureKind.USER_ERROR if own_limit else FailureKind.INFRASTRUCTURE
        return _failure(pod, kind, _with_message(pod, f"failed on its node ({pod.reason})"), is_of_node=not own_limit)
    bad = [end for end in pod.ends if end.exit_code != 0 or end.signal != 0]
    if not bad:
        text = _with_message(pod, "failed and left no exit code")
        return _failure(pod, FailureKind.INFRASTRUCTURE, text, is_of_node=True)
    return _ended(pod, min(bad, key=lambda end: end.finished_at or float("inf")))


def _ended(pod: PodView, end: ContainerEnd) -> Failure:
    where = f"container {end.container}"
    if end.reason == "OOMKilled":
        # The same program under the same limit meets the same end.
        text = f"{where} ran out of memory (OOMKilled): raise its resources.limits.memory"
        return _failure(pod, FailureKind.USER_ERROR, text, end=end)
    if end.signal in _OUTSIDE_SIGNALS or end.exit_code in _OUTSIDE_EXIT_CODES:
        text = f"{where} was killed from outside (exit code {end.exit_code}{_signal(end)})"
        return _failure(pod, FailureKind.INFRASTRUCTURE, text, end=end)
    detail = f": {_last_line(end.message)}" if end.message else ""
    text = f"{where} exited with code {end.exit_code}{_signal(end)}{detail}"
    return _failure(pod, FailureKind.USER_ERROR, text, end=end)


def _signal(end: ContainerEnd) -> str:
    return f", signal {end.signal}" if end.signal else ""


def _last_line(message: str) -> str:
    lines = [line for line in message.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


def _with_message(pod: PodView, text: str) -> str:
    return f"{text}: {pod.message}" if pod.message else text


def _failure(
    pod: PodView, kind: FailureKind, text: str, end: ContainerEnd | None = None, *, is_of_node: bool = False
) -> Failure:
    return Failure(
        kind=kind,
        pod=pod.name,
        uid=pod.uid,
        role=pod.role,
        index=pod.index,
        message=f"pod {pod.name} ({pod.role} {pod.index}) {text}",
        exit_code=end.exit_code if end else None,
        was_out_of_memory=end is not None and end.reason == "OOMKilled",
        at=(end.finished_at if end else None) or pod.finished_at,
        is_of_node=is_of_node,
    )
