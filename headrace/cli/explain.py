"""Why a pod is where it is, or why it is nowhere: the scheduler's record as sentences.

Owns the wording. Reads `names.DECISION_ANNOTATION` and the PodScheduled condition; what stands in the way now comes
from the scheduler's own rules (scheduler/core/outlook.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import ValidationError

from api import names
from api.decision import Candidate, Decision, SourceBytes
from api.quantities import format_bytes
from scheduler.core.outlook import Outlook
from scheduler.core.waits import some

Body = dict[str, Any]


def explain_pod(pod: Body, *, is_node_gone: bool = False) -> list[str]:
    """Return sentences on one pod; `is_node_gone`: the node it names is no longer there."""
    name = pod["metadata"]["name"]
    node = pod.get("spec", {}).get("nodeName")
    if not node:
        return [_without_node(pod)]
    where = _whereabouts(pod, node)
    gone = f" There is no node {node} any more." if is_node_gone else ""
    decision = decision_of(pod)
    if decision is None:
        return [f"{name} {where}; {_scheduler(pod)} left no record of its decision.{gone}"]
    if isinstance(decision, str):
        return [f"{name} {where}; the record of the decision cannot be read: {decision}.{gone}"]
    if decision.node != node:
        return [f"{name} {where}; the record it carries is of another decision, for {decision.node}.{gone}"]
    return [f"{name} {where}.{gone}", *(f"  {sentence}" for sentence in explain_decision(decision))]


def decision_of(pod: Body) -> Decision | str | None:
    """Return the scheduler's record of a pod, why it cannot be read, or None where there is none."""
    text = (pod["metadata"].get("annotations") or {}).get(names.DECISION_ANNOTATION)
    if text is None:
        return None
    try:
        return Decision.model_validate_json(text)
    except ValidationError as error:
        return str(error.errors()[0]["msg"])


def has_ended(pod: Body) -> bool:
    """Return whether all of a pod's containers ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_waiting(pod: Body) -> bool:
    """Return whether a pod still waits for a node."""
    is_leaving = pod["metadata"].get("deletionTimestamp") is not None
    return not pod.get("spec", {}).get("nodeName") and not has_ended(pod) and not is_leaving


def _whereabouts(pod: Body, node: str) -> str:
    phase = pod.get("status", {}).get("phase")
    if phase == "Succeeded":
        return f"ran on {node} and succeeded"
    if phase == "Failed":
        return f"ran on {node} and failed"
    if pod["metadata"].get("deletionTimestamp") is not None:
        return f"is being deleted; it is on {node}"
    return f"is bound to {node} and not running yet" if phase == "Pending" else f"runs on {node}"


def _without_node(pod: Body) -> str:
    name = pod["metadata"]["name"]
    if has_ended(pod):
        return f"{name} ended ({pod['status']['phase']}) and never had a node."
    if pod["metadata"].get("deletionTimestamp") is not None:
        return f"{name} is being deleted and has no node."
    return f"{name} has no node: {pending_reason(pod)}"


def _scheduler(pod: Body) -> str:
    return str(pod.get("spec", {}).get("schedulerName", "another scheduler"))


def explain_decision(decision: Decision) -> list[str]:
    """Return sentences on one decision."""
    if not _reads_data(decision):
        # Without data every node costs the same: nothing, and there is nothing to compare.
        found = ["It asks for no data."]
        if decision.runner_up is not None:
            found.append(f"The runner-up was {decision.runner_up.node}.")
        return [*found, *_counts(decision)]
    found = [f"Its data: {sources(decision.bytes_by_source)}; expected {seconds(decision.stage_in_seconds)}."]
    if decision.runner_up is not None:
        found.append(f"The runner-up, {_candidate(decision.runner_up)}")
    if decision.coldest is not None and decision.coldest.node != decision.node:
        found.append(f"The coldest node that could run it, {_candidate(decision.coldest)}")
    return [*found, *_counts(decision)]


def _counts(decision: Decision) -> list[str]:
    found = [f"{decision.feasible_nodes} of {decision.total_nodes} nodes could run it."]
    if decision.gang is not None:
        found.append(f"It was placed with its gang {decision.gang}.")
    return found


def _reads_data(decision: Decision) -> bool:
    """Return whether any bytes were counted, wherever they were."""
    seen = (decision, *(one for one in (decision.runner_up, decision.coldest) if one is not None))
    return any(
        one.stage_in_seconds
        or one.bytes_by_source.peers
        or one.bytes_by_source.origin
        or any(one.bytes_by_source.local.values())
        for one in seen
    )


def explain_pods(pods: Sequence[Body], gone: Collection[str] = ()) -> list[str]:
    """Return sentences on all pods of a job; those that wait are grouped by the reason. `gone`: nodes that are no
    longer there."""
    found: list[str] = []
    for pod in pods:
        if not is_waiting(pod):
            found.extend(explain_pod(pod, is_node_gone=pod.get("spec", {}).get("nodeName") in gone))
    groups = Counter(pending_reason(pod) for pod in pods if is_waiting(pod))
    for reason, times in groups.most_common():
        found.append(f"{times} {'pod has' if times == 1 else 'pods have'} no node: {reason}")
    return found


def pending_reason(pod: Body) -> str:
    """Return what the scheduler last said of a pod without a node."""
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no reason was given")
    return f"{_scheduler(pod)} has not looked at it yet; is it running?"


def explain_outlook(pod: Body, found: Outlook) -> list[str]:
    """Return what keeps a pod off every node now, what else it waits for, and what would make it fit."""
    name, scheduler = pod["metadata"]["name"], _scheduler(pod)
    lines = []
    if scheduler != names.DEFAULT_SCHEDULER_NAME:
        lines.append(
            f"{name} names schedulerName {scheduler}; what follows is how {names.DEFAULT_SCHEDULER_NAME}, with its "
            "default settings, would judge it."
        )
    lines += found.waits
    if found.feasible:
        count = len(found.feasible)
        fits = (
            f"Looked at alone, {name} would fit now on {count} {'node' if count == 1 else 'nodes'}: "
            f"{some(found.feasible)}."
        )
        return [*lines, fits if found.waits else f"{fits} It waits for its turn, or for {scheduler} to run."]
    lines.append(f"Node by node, {name}:")
    for reasons, nodes in found.groups:
        lines.append(f"  {len(nodes)} × {'; '.join(reasons)} ({some(nodes)})")
    if not found.groups:
        lines.append(f"  {found.message}")
    if found.remedies:
        lines.append("What would make it fit:")
        lines += [f"  - {remedy}" for remedy in found.remedies]
    return lines


def sources(bytes_by_source: SourceBytes) -> str:
    """Return where bytes were expected from: `1.0 GiB here (SSD), 2.0 GiB on peers, 0 B from the origin`."""
    local = [f"{format_bytes(size)} here ({medium})" for medium, size in sorted(bytes_by_source.local.items()) if size]
    peers, origin = format_bytes(bytes_by_source.peers), format_bytes(bytes_by_source.origin)
    return ", ".join([*(local or ["0 B here"]), f"{peers} on peers", f"{origin} from the origin"])


def seconds(value: float) -> str:
    """Return seconds for people."""
    if value < 0.05:
        return "no wait"
    return f"{value:.1f} s of stage-in" if value < 100 else f"{value:.0f} s of stage-in"


def _candidate(one: Candidate) -> str:
    return f"{one.node}, would have had {sources(one.bytes_by_source)}; expected {seconds(one.stage_in_seconds)}."
