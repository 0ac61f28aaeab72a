"""Placing a gang whose members look at each other: affinity, anti-affinity or spread among themselves.

Owns the slow way of core/gang_placement.py: one member after another on a what-if view, each seeing those before
it. Which members come first can matter (a worker wants to be beside the launcher), so members that fit nowhere
are tried again as long as others were placed meanwhile. A gang that wants to be together in one topology value
is tried in each value that could hold it, the roomiest first, when the cheapest node leads to one that is too
small. Default spreading is no such wish: the placement of the gang as a whole says where members go.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.core import volume_binding
from scheduler.core.cluster_view import ClusterView
from scheduler.core.node_table import BoolArray, IntArray
from scheduler.core.placement import Pass, Placer
from scheduler.core.pod_request import PodRequest
from scheduler.core.pod_terms import PodSet, PodTerms

# Values of a topology tried before a gang counts as not fitting.
MAX_VALUES = 64
# How many pods of a pass fit on each row (core/gang_placement.py, which calls this module).
Capacities = Callable[[Placer, ClusterView, Pass], IntArray]


@dataclass(slots=True)
class OneByOne:
    """What came of it: members with their rows and their pass before any was placed, and the last pass of a member
    that did not fit, on `view`."""

    view: ClusterView
    placed: list[tuple[PodRequest, int, Pass]] = field(default_factory=list)
    blocked: Pass | None = None


def are_entangled(view: ClusterView, members: Sequence[PodRequest]) -> bool:
    """Whether a term of some member is about some member, or members' volumes stand in each other's way."""
    if any(pod.volumes.looks_at_pods for pod in members):
        return True
    asked = {pod.terms.number: pod.terms for pod in members if pod.terms.number}
    if not asked:
        return False
    seen = {pod.identity: None for pod in members}
    sets = {pods: None for terms in asked.values() for pods in _sets(terms)}
    return any(view.index.selects(pods, identity) for pods in sets for identity in seen)


def place_one_by_one(
    placer: Placer,
    view: ClusterView,
    groups: Sequence[Sequence[PodRequest]],
    needed: int,
    capacities: Capacities,
) -> OneByOne:
    """Place as many members as fit, in `groups`' order; more than one try if fewer than `needed` do."""
    best = _try(placer, view.what_if(), groups, None)
    if len(best.placed) >= needed:
        return best
    for allowed in _places_together(placer, view, groups, needed, capacities):
        found = _try(placer, view.what_if(), groups, allowed)
        if len(found.placed) > len(best.placed):
            best = found
        if len(best.placed) >= needed:
            break
    return best


def _sets(terms: PodTerms) -> Iterator[PodSet]:
    for term in (*terms.affinity, *terms.anti_affinity, *terms.preferred):
        yield term.pods
    for constraint in (*terms.hard_spread, *terms.soft_spread):
        if constraint.pods is not None:
            yield constraint.pods


def _try(
    placer: Placer, view: ClusterView, groups: Sequence[Sequence[PodRequest]], allowed: BoolArray | None
) -> OneByOne:
    made = OneByOne(view)
    waiting = _keyed(view, [pod for group in groups for pod in group])
    passes = {key: placer.compute(pod, view) for key, pod in reversed(waiting)}
    first = {key: replace(found, total=found.total.copy()) for key, found in passes.items()}
    while waiting:
        left: list[tuple[object, PodRequest]] = []
        stuck: set[object] = set()
        for key, pod in waiting:
            row = -1 if key in stuck else _best(passes[key], allowed)
            if row < 0:
                stuck.add(key)
                left.append((key, pod))
                continue
            made.placed.append((pod, row, first[key]))
            view.place(row, pod, volume_binding.plan(view, pod, row))
            for found in passes.values():
                placer.row_changed(found, view, row)
            stuck.clear()
        if len(left) == len(waiting):
            made.blocked = passes[left[0][0]]
            break
        waiting = left
    return made


def _keyed(view: ClusterView, members: Sequence[PodRequest]) -> list[tuple[object, PodRequest]]:
    """Members with what tells their passes apart: beside the signature, which members' terms are about them."""
    held = {term: None for terms in {pod.terms: None for pod in members} for term in terms.held}
    reach = {
        identity: tuple(view.index.is_about(term, identity) for term in held)
        for identity in {pod.identity: None for pod in members}
    }
    return [((pod.signature, reach[pod.identity]), pod) for pod in members]


def _best(found: Pass, allowed: BoolArray | None) -> int:
    if allowed is None:
        return found.best()
    total = np.where(allowed, found.total, np.inf)
    row = int(total.argmin())
    return row if total[row] != np.inf else -1


def _places_together(
    placer: Placer,
    view: ClusterView,
    groups: Sequence[Sequence[PodRequest]],
    needed: int,
    capacities: Capacities,
) -> Iterator[BoolArray]:
    """Rows of each topology value that members want to share and that could hold them, the roomiest first."""
    pod = groups[0][0]
    keys = [term.topology_key for group in groups for term in group[0].terms.affinity]
    if not keys:
        return
    found = placer.compute(pod, view)
    capacity = np.minimum(capacities(placer, view, found), needed)
    for key in dict.fromkeys(keys):
        slots = view.column(key).ids[: view.size].astype(np.int64) + 1
        room = np.bincount(slots, weights=capacity)
        room[0] = 0
        wanted = min(needed, len(groups[0]))
        for slot in np.argsort(-room, kind="stable")[:MAX_VALUES].tolist():
            if room[slot] < wanted:
                break
            yield slots == slot
