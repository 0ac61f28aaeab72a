"""Placing a gang as a whole, in one view: all members it needs, or none.

Owns the choice of rows for several pods at once. Pure: takes a what-if view, changes only that. Identical
members are one vector pass: capacities say how many fit where, and
1. the slowest member's stage-in is minimised: the fewest seconds T such that rows within T hold everybody;
2. within T, GPU members fill as few nodes as possible, leaving the fewest GPUs over; others go round-robin
   over the cheapest rows.
Shapes are placed biggest first. If minimising stage-in for one shape leaves no room for the next, all are
placed once more for room alone: being placed comes before being placed well. If that does not help, those with the
fewest nodes to choose from go first. Where more members wait than are needed and the biggest leave too little room,
those needed are placed before the others. Where all that fails a bounded exact search looks for an arrangement of those
needed (core/gang_exact.py). Members with terms about
each other are placed one by one instead (core/gang_one_by_one.py). A gang that wants topology is placed in views
narrowed to domains, the best first (core/gang_topology.py).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np

from api import names
from scheduler.core.cluster_view import ClusterView
from scheduler.core.gang_exact import place_exactly
from scheduler.core.gang_one_by_one import are_entangled, place_one_by_one
from scheduler.core.gang_topology import MAX_TRIES, NO_WISH, Kind, Search, Wish
from scheduler.core.node_table import IntArray
from scheduler.core.placement import Pass, Placer
from scheduler.core.plugin import DependsOn, FloatArray
from scheduler.core.pod_request import PodRequest

# Rows this much slower than the fastest possible gang (share, seconds) count as equally fast.
SLACK_SHARE = 0.05
SLACK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Placed:
    """One member and its row; `found` is its signature's pass before any member was placed."""

    pod: PodRequest
    row: int
    found: Pass


@dataclass(frozen=True, slots=True)
class GangPlacement:
    """`placed` is empty unless enough fit; `fitting` of `needed` did, `blocked` is a member that did not. `where` and
    `note` are for people: what members had to share, and what fits elsewhere."""

    placed: tuple[Placed, ...]
    fitting: int
    needed: int
    blocked: Pass | None = None
    blocked_view: ClusterView | None = None
    where: str = ""
    note: str = ""


Item = TypeVar("Item")


def place_gang(
    placer: Placer, view: ClusterView, members: Sequence[PodRequest], needed: int, wish: Wish = NO_WISH
) -> GangPlacement:
    """Place as many members as fit, at least `needed`, and of each role as many as the wish says; with fewer, nothing
    is placed. Members come in the order in which they are to be preferred."""
    if not wish.is_about_topology:
        result = _place(placer, view, members, needed, wish)
        return result if result.placed else _exactly(placer, view, members, needed, wish, domains=[view]) or result
    kinds = []
    for group in _by_signature(members):
        found = placer.compute(group[0], wish.confined(view))
        capacity = capacities(placer, view, found) if found.refusal is None else np.zeros(view.size, dtype=np.int64)
        kinds.append(Kind(len(group), capacity, found.seconds))
    search = Search(kinds, needed, wish, _with_slack)
    best: GangPlacement | None = None
    tried: list[ClusterView] = []
    for narrow in islice(search.views(view), MAX_TRIES):
        tried.append(narrow)
        result = _place(placer, narrow, members, needed, wish)
        if result.placed:
            return result
        if best is None or result.fitting > best.fitting:
            best = result
    exact = _exactly(placer, view, members, needed, wish, domains=tried)
    return exact or _nowhere(placer, view, members, search, best)


def _exactly(
    placer: Placer,
    view: ClusterView,
    members: Sequence[PodRequest],
    needed: int,
    wish: Wish,
    *,
    domains: Sequence[ClusterView],
) -> GangPlacement | None:
    """What core/gang_exact.py finds for as many members as are needed: those to be preferred, or else the smallest.
    The others are tried when these are placed."""
    if not domains or len({pod.signature for pod in members}) == 1 or are_entangled(view, members):
        return None
    smallest = [pod for group in reversed(_by_signature(members)) for pod in group]
    choices = [
        required_first(preferred, wish.by_role, lambda pod: pod.role)[:needed]
        for preferred in ((members,) if needed == len(members) else (members, smallest))
    ]
    found = place_exactly(placer, view, domains=domains, choices=choices, capacities=capacities)
    if found is None:
        return None
    placed = tuple(Placed(pod, row, seen) for pod, row, seen in found)
    return GangPlacement(placed, len(placed), needed) if has_roles(placed, wish) else None


def required_first(
    members: Sequence[Item], by_role: Sequence[tuple[str, int]], role_of: Callable[[Item], str]
) -> list[Item]:
    """Members with those that roles need moved to the front, the order kept otherwise."""
    missing = dict(by_role)
    first: list[Item] = []
    rest: list[Item] = []
    for member in members:
        role = role_of(member)
        if missing.get(role, 0) > 0:
            missing[role] -= 1
            first.append(member)
        else:
            rest.append(member)
    return first + rest


def _nowhere(
    placer: Placer,
    view: ClusterView,
    members: Sequence[PodRequest],
    search: Search,
    best: GangPlacement | None,
) -> GangPlacement:
    """A gang that fits in no domain: how many would in the best one, by level, and on all nodes."""
    needed, wish = search.needed, search.wish
    level = wish.levels.required
    if level is None:
        return best or _place(placer, view, members, needed, wish)
    confined = wish.confined(view)
    count, name = search.best(confined, level)
    narrow = replace(confined, alive=confined.alive & (level.ids == level.names.index(name))) if name else confined
    where = f" in one {level.key}"
    notes = [f"at best, in {name}" if name else f"no usable node has the label {level.key}"]
    for wider in wish.levels.wider:
        fitting, found = search.best(view, wider)
        if found:
            notes.append(f"{fitting} in one {wider.key}, {found}")
    anywhere = _place(placer, view, members, needed, wish)
    notes.append(f"{anywhere.fitting} on all nodes")
    inside = _place(placer, narrow, members, needed, wish)
    return GangPlacement(
        (), min(inside.fitting, count), needed, inside.blocked, inside.blocked_view, where, f" ({'; '.join(notes)})"
    )


def _place(placer: Placer, view: ClusterView, members: Sequence[PodRequest], needed: int, wish: Wish) -> GangPlacement:
    is_entangled = are_entangled(view, members)
    is_mixed = len({pod.signature for pod in members}) > 1
    best: GangPlacement | None = None
    for order in _orders(placer, view, members, needed, wish):
        for by_seconds in (True, False) if is_mixed and not is_entangled else (True,):
            if is_entangled:
                result = _one_by_one(placer, view, order, needed, wish)
            else:
                result = _try(placer, view, order, needed, wish, by_seconds=by_seconds)
            if result.placed:
                return result
            if best is None or result.fitting > best.fitting:
                best = result
    assert best is not None
    return best


def _one_by_one(
    placer: Placer, view: ClusterView, groups: Sequence[Sequence[PodRequest]], needed: int, wish: Wish
) -> GangPlacement:
    made = place_one_by_one(placer, view, groups, needed, capacities)
    placed = tuple(Placed(pod, row, found) for pod, row, found in made.placed)
    enough = len(placed) >= needed and has_roles(placed, wish)
    return GangPlacement(placed if enough else (), len(placed), needed, made.blocked, made.view)


def _orders(
    placer: Placer,
    view: ClusterView,
    members: Sequence[PodRequest],
    needed: int,
    wish: Wish,
) -> Iterator[list[list[PodRequest]]]:
    """Ways to place members of several shapes: all of them biggest first; those with the fewest nodes to choose from
    first; those needed first, as preferred; those needed first, the smallest of them."""
    groups = _by_signature(members)
    yield groups
    if len(groups) == 1:
        return
    choices = [np.count_nonzero(placer.compute(group[0], view).total != np.inf) for group in groups]
    by_choice = sorted(range(len(groups)), key=lambda index: choices[index])
    if by_choice != list(range(len(groups))):
        yield [groups[index] for index in by_choice]
    if needed >= len(members) and not wish.by_role:
        return
    smallest = [pod for group in reversed(groups) for pod in group]
    for preferred in (members, smallest):
        order = required_first(preferred, wish.by_role, lambda pod: pod.role)
        yield _by_signature(order[:needed]) + _by_signature(order[needed:])


def has_roles(placed: Sequence[Placed], wish: Wish) -> bool:
    """Whether there are as many members of each role as the wish says."""
    have = Counter(item.pod.role for item in placed)
    return all(have[role] >= count for role, count in wish.by_role)


def _by_signature(members: Sequence[PodRequest]) -> list[list[PodRequest]]:
    groups: dict[object, list[PodRequest]] = {}
    for pod in members:
        groups.setdefault(pod.signature, []).append(pod)
    return sorted(groups.values(), key=lambda group: _size(group[0]), reverse=True)


def _size(pod: PodRequest) -> tuple[int, int, int]:
    asked = dict(pod.shape.requests)
    return (asked.get(names.GPU_RESOURCE, 0), asked.get("cpu", 0), asked.get("memory", 0))


def _try(
    placer: Placer,
    base: ClusterView,
    groups: Sequence[Sequence[PodRequest]],
    needed: int,
    wish: Wish,
    *,
    by_seconds: bool,
) -> GangPlacement:
    view = base.what_if()
    placed: list[Placed] = []
    blocked: Pass | None = None
    blocked_view: ClusterView | None = None
    for group in groups:
        found = placer.compute(group[0], view, usage_of=view if placed else base)
        rows = _rows_for(placer, view, found, group, by_seconds=by_seconds)
        vector = view.table.vector(group[0].shape.requests)
        for pod, row in zip(group, rows, strict=False):
            view.take(row, vector, pod.shape.host_ports)
            placed.append(Placed(pod, row, found))
        if len(rows) < len(group) and blocked is None:
            blocked = placer.compute(group[0], view)
            blocked_view = view
    if len(placed) >= needed and has_roles(placed, wish):
        return GangPlacement(tuple(placed), len(placed), needed)
    return GangPlacement((), len(placed), needed, blocked, blocked_view)


def _rows_for(
    placer: Placer,
    view: ClusterView,
    found: Pass,
    group: Sequence[PodRequest],
    *,
    by_seconds: bool,
) -> list[int]:
    if found.refusal is not None:
        return []
    capacity = capacities(placer, view, found)
    capacity = np.minimum(capacity, len(group))
    allowed = capacity > 0
    if by_seconds and found.seconds is not None:
        allowed &= found.seconds <= slowest_needed(found, capacity, len(group))
    if group[0].shape.gpus:
        return _packed(view, found, np.where(allowed, capacity, 0), len(group))
    return _spread(found, np.where(allowed, capacity, 0), len(group))


def capacities(placer: Placer, view: ClusterView, found: Pass) -> IntArray:
    """How many pods of a pass's signature fit on each row."""
    capacity = np.where(found.total != np.inf, np.int64(1 << 40), np.int64(0))
    for plugin in placer.plugins.filters:
        if plugin.depends_on is DependsOn.USAGE:
            limit = plugin.capacity(view, found.pod)
            if limit is not None:
                capacity = np.minimum(capacity, limit)
    return np.asarray(capacity)


def slowest_needed(found: Pass, capacity: IntArray, count: int) -> float:
    """The fewest seconds within which rows hold `count` members (or all that fit), with a little slack."""
    assert found.seconds is not None
    rows = np.flatnonzero(capacity > 0)
    if not len(rows):
        return 0.0
    rows = rows[_first((found.seconds[rows],), count)]
    held = np.cumsum(capacity[rows])
    enough = int(np.searchsorted(held, min(count, int(held[-1]))))
    seconds = float(found.seconds[rows[enough]])
    return _with_slack(seconds)


def _with_slack(seconds: float) -> float:
    return seconds + max(SLACK_SECONDS, seconds * SLACK_SHARE)


def _first(keys: Sequence[FloatArray | IntArray], count: int) -> IntArray:
    """The first `count` entries in the order of several keys, the first key first, equals as they come. A gang takes
    few of the rows there are: they are picked, and only they are sorted."""
    sure: list[IntArray] = []
    equal, missing = np.arange(len(keys[0])), count
    for key in keys:
        if missing >= len(equal):
            break
        values = key[equal]
        bound = np.partition(values, missing - 1)[missing - 1]
        below = equal[values < bound]
        sure.append(below)
        equal, missing = equal[values == bound], missing - len(below)
    picked = np.sort(np.concatenate((*sure, equal[:missing])))
    return np.asarray(picked[np.lexsort([key[picked] for key in reversed(keys)])])


def _packed(view: ClusterView, found: Pass, capacity: IntArray, count: int) -> list[int]:
    column = view.table.resources[names.GPU_RESOURCE]
    rows = np.flatnonzero(capacity > 0)
    left_over = view.allocatable[rows, column] - view.requested[rows, column] - capacity[rows] * found.pod.shape.gpus
    # Where rows hold several members the last of them may share one with others, of all that are left.
    is_one_each = bool((capacity[rows] == 1).all())
    rows = rows[_first((-capacity[rows], left_over, found.total[rows]), count if is_one_each else len(rows))]
    chosen: list[int] = []
    for index, row in enumerate(rows.tolist()):
        missing = count - len(chosen)
        if missing <= 0:
            break
        if capacity[row] > missing:
            row = _tightest(view, rows[index:], capacity, column, missing)  # noqa: PLW2901
        chosen += [row] * min(missing, int(capacity[row]))
    return chosen


def _tightest(view: ClusterView, rows: IntArray, capacity: IntArray, column: int, missing: int) -> int:
    """Among rows that hold the rest, the one with the fewest free GPUs."""
    fitting = rows[capacity[rows] >= missing]
    free = view.allocatable[fitting, column] - view.requested[fitting, column]
    return int(fitting[int(free.argmin())])


def _spread(found: Pass, capacity: IntArray, count: int) -> list[int]:
    rows = np.flatnonzero(capacity > 0)
    rows = rows[np.argsort(found.total[rows], kind="stable")]
    chosen: list[int] = []
    layer = 0
    while len(chosen) < count:
        rows = rows[capacity[rows] > layer]
        if not len(rows):
            break
        chosen += rows[: count - len(chosen)].tolist()
        layer += 1
    return chosen
