"""Suspect nodes: those a job's members were lost on lately, avoided for a time by its next pods.

Owns which nodes count, for how long, and how a pod says so. One loss that tells of the node itself (it was lost, it
shut down, it evicted or refused the pod) is enough; a container that was killed from outside tells less, so it takes
two of them. Errors of the program and preemptions say nothing of a node.

Invariants: avoided, never forbidden: where no other node fits, a pod runs there all the same; at most `MAX_NODES` are
remembered, in the status, so a restarted controller avoids the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.conditions import parse_timestamp, timestamp
from api.training_v1alpha1 import SuspectNode, TrainingJobStatus
from jobcontroller.core import reasons
from jobcontroller.core.exit_class import Failure, FailureKind
from jobcontroller.core.turn import Turn

#: a node that is repaired is used again
AVOID_SECONDS = 900.0
MAX_NODES = 16
STRIKES_TO_AVOID = 2
_WEIGHT = 100


def note(turn: Turn, found: Iterable[Failure]) -> None:
    """Remember the nodes of members that were lost to the infrastructure, and tell which are avoided from now on."""
    node_of = {pod.uid: pod.node for pod in turn.current_pods() if pod.node}
    known = {one.node: one for one in current(turn.status, turn.now)}
    for failure in found:
        node = node_of.get(failure.uid)
        if node is None or failure.kind is not FailureKind.INFRASTRUCTURE or failure.is_hang:
            continue
        before = known.pop(node, None)
        strikes = (before.strikes if before is not None else 0) + (STRIKES_TO_AVOID if failure.is_of_node else 1)
        until = timestamp(turn.now + AVOID_SECONDS)
        known[node] = SuspectNode(node=node, strikes=strikes, until=until)
        if strikes >= STRIKES_TO_AVOID and (before is None or before.strikes < STRIKES_TO_AVOID):
            text = f"node {node} is avoided until {until}: {failure.message}"
            turn.event(reasons.NODE_AVOIDED, text, "Warning")
    turn.status.suspect_nodes = list(known.values())[-MAX_NODES:]


def current(status: TrainingJobStatus, now: float) -> list[SuspectNode]:
    """Return those whose time is not over."""
    return [one for one in status.suspect_nodes if now < parse_timestamp(one.until)]


def avoid(status: TrainingJobStatus, pod_spec: dict[str, Any]) -> None:
    """Add to a pod under construction what keeps it off the nodes to avoid, where others fit as well."""
    nodes = [one.node for one in status.suspect_nodes if one.strikes >= STRIKES_TO_AVOID]
    affinity = pod_spec.get("affinity") or {}
    own = (affinity.get("nodeAffinity") or {}) if isinstance(affinity, dict) else None
    if not nodes or not isinstance(own, dict):
        return
    # One name a requirement: the API server takes no more.
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in sorted(nodes)]
    kind = "preferredDuringSchedulingIgnoredDuringExecution"
    terms = [*(own.get(kind) or []), {"weight": _WEIGHT, "preference": {"matchFields": fields}}]
    pod_spec["affinity"] = {**affinity, "nodeAffinity": {**own, kind: terms}}
