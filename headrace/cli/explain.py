"""Why a pod is where it is, or why it is nowhere: the scheduler's record as sentences.

Owns the wording. Reads `names.DECISION_ANNOTATION` and the PodScheduled condition; what stands in the way now comes
from the scheduler's own rules (scheduler/core/outlook.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from api import names
from api.decision import Candidate, Decision, SourceBytes
from api.quantities import format_bytes
from scheduler.core.outlook import Outlook, some

Body = dict[str, Any]


def explain_pod(pod: Body) -> list[str]:
    """Return sentences on one pod."""
    name = pod["metadata"]["name"]
    node = pod.get("spec", {}).get("nodeName")
    text = pod["metadata"].get("annotations", {}).get(names.DECISION_ANNOTATION)
    if not node:
        return [f"{name} has no node: {pending_reason(pod)}"]
    if text is None:
        scheduler = pod.get("spec", {}).get("schedulerName", "another scheduler")
        return [f"{name} runs on {node}; {scheduler} left no record of its decision."]
    try:
        decision = Decision.model_validate_json(text)
    except ValidationError as error:
        return [f"{name} runs on {node}; the record of the decision cannot be read: {error.errors()[0]['msg']}."]
    return [f"{name} runs on {node}.", *(f"  {sentence}" for sentence in explain_decision(decision))]


def explain_decision(decision: Decision) -> list[str]:
    """Return sentences on one decision."""
    found = [f"Its data: {sources(decision.bytes_by_source)}; expected {seconds(decision.stage_in_seconds)}."]
    if decision.runner_up is not None:
        found.append(f"The runner-up, {_candidate(decision.runner_up)}")
    if decision.coldest is not None and decision.coldest.node != decision.node:
        found.append(f"The coldest node that could run it, {_candidate(decision.coldest)}")
    found.append(f"{decision.feasible_nodes} of {decision.total_nodes} nodes could run it.")
    if decision.gang is not None:
        found.append(f"It was placed with its gang {decision.gang}.")
    return found


def explain_pods(pods: Sequence[Body]) -> list[str]:
    """Return sentences on all pods of a job; those without a node are grouped by the reason."""
    found: list[str] = []
    for pod in pods:
        if pod.get("spec", {}).get("nodeName"):
            found.extend(explain_pod(pod))
    groups = Counter(pending_reason(pod) for pod in pods if not pod.get("spec", {}).get("nodeName"))
    found.extend(f"{times} pods have no node: {reason}" for reason, times in groups.most_common())
    return found


def pending_reason(pod: Body) -> str:
    """Return what the scheduler last said of a pod without a node."""
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no reason was given")
    scheduler = pod.get("spec", {}).get("schedulerName", "the scheduler")
    return f"{scheduler} has not looked at it yet; is it running?"


def explain_outlook(name: str, found: Outlook) -> list[str]:
    """Return what keeps a pod off every node now, and what would make it fit."""
    if found.feasible:
        count = len(found.feasible)
        return [
            f"Looked at alone, {name} would fit now on {count} {'node' if count == 1 else 'nodes'}: "
            f"{some(found.feasible)}. It waits for its gang, its turn, or a running scheduler."
        ]
    lines = [f"Node by node, {name}:"]
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
