"""Placing a gang of several shapes that fits only by an exact arrangement, after the fast ways did not find one.

Owns what the search (core/exact_packing.py) is asked, and the check of its answer: it knows room only, so what it
finds counts once every filter agreed to it, the other members in place. Pure. Bounded: few members, a fixed amount of
work a gang, divided among the domains that could hold it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from scheduler.core.cluster_view import ClusterView
from scheduler.core.exact_packing import Work, pack
from scheduler.core.node_table import IntArray
from scheduler.core.placement import Pass, Placer
from scheduler.core.pod_request import PodRequest

MAX_MEMBERS = 64
# About 20 ms of one core.
MAX_WORK = 20_000
# How many pods of a pass fit on each row (core/gang_placement.py, which calls this module).
Capacities = Callable[[Placer, ClusterView, Pass], IntArray]
Found = list[tuple[PodRequest, int, Pass]]


def place_exactly(
    placer: Placer,
    view: ClusterView,
    *,
    domains: Sequence[ClusterView],
    choices: Sequence[Sequence[PodRequest]],
    capacities: Capacities,
) -> Found | None:
    """Place all members of one of `choices` in one of `domains`, narrowed views of `view`, the first first; None when
    that is not possible, or was not found."""
    work = Work(MAX_WORK)
    alive = list({domain.alive.tobytes(): domain for domain in domains}.values())
    left = len(alive) * len(choices)
    for members in choices:
        groups = _by_signature(members)
        passes = [placer.compute(group[0], view) for group in groups]
        usable = len(members) <= MAX_MEMBERS and all(found.refusal is None for found in passes)
        capacity = [capacities(placer, view, found) for found in passes] if usable else []
        for domain in alive:
            if usable and work.left > 0:
                share = Work(work.left // left)
                before = share.left
                found = _in_one(
                    placer, domain, groups, passes=passes, capacity=capacity, capacities=capacities, work=share
                )
                work.left -= before - share.left
                if found is not None:
                    return found
            left -= 1
    return None


def _in_one(
    placer: Placer,
    view: ClusterView,
    groups: Sequence[Sequence[PodRequest]],
    *,
    passes: Sequence[Pass],
    capacity: Sequence[IntArray],
    capacities: Capacities,
    work: Work,
) -> Found | None:
    counts = [len(group) for group in groups]
    here = [np.where(view.alive, one, 0) for one in capacity]
    if any(int(np.minimum(one, count).sum()) < count for one, count in zip(here, counts, strict=True)):
        return None
    rows = np.flatnonzero(np.logical_or.reduce([one > 0 for one in here]))
    # Of nodes that are equal in room those that the first shape likes best come first.
    rows = rows[np.argsort(passes[0].total[rows], kind="stable")]
    vectors = np.stack([view.table.vector(group[0].shape.requests) for group in groups])
    columns = np.flatnonzero(vectors.any(axis=0))
    free = view.allocatable[np.ix_(rows, columns)] - view.requested[np.ix_(rows, columns)]
    slots = (view.pods_allowed - view.pods)[rows]
    made = pack(
        [(*vector[columns].tolist(), 1) for vector in vectors],
        counts,
        [(*room, slot) for room, slot in zip(free.tolist(), slots.tolist(), strict=True)],
        [(one[rows] > 0).tolist() for one in here],
        work,
    )
    if made is None:
        return None
    what_if = view.what_if()
    placed: Found = []
    for group, found, vector, where in zip(groups, passes, vectors, made, strict=True):
        limit = capacities(placer, what_if, placer.compute(group[0], what_if))
        members = iter(group)
        for index, copies in sorted(where.items()):
            row = int(rows[index])
            if limit[row] < copies:
                return None  # ports, volumes: more than room
            what_if.take(row, vector, group[0].shape.host_ports, copies)
            placed += [(next(members), row, found) for _ in range(copies)]
    return placed


def _by_signature(members: Sequence[PodRequest]) -> list[list[PodRequest]]:
    groups: dict[object, list[PodRequest]] = {}
    for pod in members:
        groups.setdefault(pod.signature, []).append(pod)
    return list(groups.values())
