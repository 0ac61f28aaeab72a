"""What a pod takes of a node, as the scheduler counts it.

Owns the arithmetic of requests. Does not compare them with a node (core/admission.py)."""

from __future__ import annotations

from collections.abc import Mapping

from api import quantities
from headrace.node.core.pod_spec import Container, ContainerKind, PodSpec, kind_of


def amount(resource: str, quantity: str | int) -> int:
    """Return a quantity as whole numbers: millicores for cpu, else units."""
    return quantities.to_milli(quantity) if resource == "cpu" else quantities.to_int(quantity)


def effective_requests(spec: PodSpec) -> dict[str, int]:
    """Return what a pod takes of a node, as the scheduler counts it.

    Containers and sidecars add up; an init container counts with the sidecars before it; the
    larger of the two is taken, and the overhead added."""
    running: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.init_containers:
        wanted = _requests(container)
        if kind_of(container, is_init=True) is ContainerKind.SIDECAR:
            _add(running, wanted)
            _raise_to(peak, running)
        else:
            _raise_to(peak, _sum(running, wanted))
    for container in spec.containers:
        _add(running, _requests(container))
    _raise_to(peak, running)
    _add(peak, {name: amount(name, value) for name, value in spec.overhead.items()})
    return peak


def _requests(container: Container) -> dict[str, int]:
    resources = container.resources
    # Extended resources may be given as limits only.
    wanted = {**resources.limits, **resources.requests}
    return {name: amount(name, value) for name, value in wanted.items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _sum(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    total = dict(left)
    _add(total, right)
    return total


def _raise_to(peak: dict[str, int], other: Mapping[str, int]) -> None:
    for name, value in other.items():
        peak[name] = max(peak.get(name, 0), value)
