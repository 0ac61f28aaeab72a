"""Whether this node takes a pod that was bound to it.

Owns kubelet's own checks, made again at the node since a binding can be stale or made by
hand: room, node selector and required node affinity. Does not know taints (NoExecute is
the controller-manager's). Invariant: the sum of admitted requests never exceeds what is
allocatable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.node.core.pod_spec import PodSpec
from headrace.node.core.requests import effective_requests


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a pod is not taken; `reason` becomes the pod's, `message` its message and event."""

    reason: str
    message: str


def admit(
    spec: PodSpec,
    *,
    labels: Mapping[str, str],
    node_name: str,
    allocatable: Mapping[str, int],
    admitted: Iterable[Mapping[str, int]],
) -> Rejection | None:
    """Return why the pod is refused, or None.

    `allocatable` and the requests in `admitted` are in millicores for cpu, units otherwise;
    `admitted` are the pods on the node that have not ended."""
    if not _matches(spec, labels, node_name):
        return Rejection(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        )
    others = list(admitted)
    wanted = {"pods": 1, **effective_requests(spec)}
    for resource, requested in sorted(wanted.items()):
        capacity = allocatable.get(resource, 0)
        used = len(others) if resource == "pods" else sum(other.get(resource, 0) for other in others)
        if requested > 0 and used + requested > capacity:
            return Rejection(
                f"OutOf{resource}",
                f"Node didn't have enough resource: {resource}, requested: {requested}, "
                f"used: {used}, capacity: {capacity}",
            )
    return None


def _matches(spec: PodSpec, labels: Mapping[str, str], node_name: str) -> bool:
    if any(labels.get(key) != value for key, value in spec.node_selector.items()):
        return False
    affinity = ((spec.affinity or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not affinity:
        return True
    return any(_term_matches(term, labels, node_name) for term in affinity.get("nodeSelectorTerms") or ())


def _term_matches(term: Mapping[str, Any], labels: Mapping[str, str], node_name: str) -> bool:
    expressions = term.get("matchExpressions") or ()
    fields = term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_expression_matches(item, labels) for item in expressions) and all(
        _expression_matches(item, {"metadata.name": node_name}) for item in fields
    )


def _expression_matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    values = expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and _integer(value) > _integer(values[0])
        case "Lt":
            return value is not None and _integer(value) < _integer(values[0])
    return False


def _integer(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float("nan")
