"""Where in the topology a gang goes: one domain of the required level, crossing few of the preferred ones.

Owns the choice of domains; members get their rows inside them (core/gang_placement.py). Pure. The objective, each
only among what the one before counts as equal: the slowest member's stage-in, then how many domains of each
preferred level are crossed, the widest level first, then the tightest fit, so that roomy domains stay whole.

From the widest level to the narrowest the rows are narrowed: to one domain that holds everybody, the best by the
counts below it; or, at a preferred level none of which does, to the fewest that together do. What was counted is
only what could fit (members of several shapes compete), so placing decides, and the next best domain is tried
when it fails. A narrowed cluster is a view with fewer nodes alive.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.core.cluster_view import ClusterView
from scheduler.core.node_table import BoolArray, IntArray
from scheduler.core.plugin import FloatArray
from scheduler.core.topology_tree import ANYWHERE, Level, Levels

# Placements tried before a gang counts as not fitting; members of one shape need one.
MAX_TRIES = 64
# Domains in which victims are looked for.
MAX_PREEMPTION_DOMAINS = 8


@dataclass(frozen=True, slots=True)
class Wish:
    """What a gang wants beside room. `by_role`: members of a role still needed. `anchors`: rows with members that are
    there already."""

    levels: Levels = ANYWHERE
    by_role: tuple[tuple[str, int], ...] = ()
    anchors: tuple[int, ...] = ()

    @property
    def is_about_topology(self) -> bool:
        """Whether any level matters."""
        return self.levels.required is not None or bool(self.levels.preferred)

    def holds(self, rows: Sequence[int]) -> bool:
        """Whether these rows, with those of members placed before, share a domain of the required level."""
        level = self.levels.required
        if level is None:
            return True
        domains = {int(level.ids[row]) for row in rows}
        return len(domains) == 1 and -1 not in domains and (not self.homes(level) or domains <= self.homes(level))

    def homes(self, level: Level) -> set[int]:
        """Domains of a level that have members already."""
        return {int(level.ids[row]) for row in self.anchors} - {-1}

    def confined(self, view: ClusterView) -> ClusterView:
        """The view without the nodes that can never be right: outside any required domain, or outside the one that
        has members."""
        level = self.levels.required
        if level is None:
            return view
        homes = self.homes(level)
        inside = np.isin(level.ids, list(homes)) if homes else level.ids >= 0
        return narrowed(view, inside)

    def domain_views(self, view: ClusterView) -> Iterator[ClusterView]:
        """The view narrowed to each required domain, the one with the most nodes first; itself without such a level."""
        level = self.levels.required
        if level is None:
            yield view
            return
        view = self.confined(view)
        ids = np.where(view.alive, level.ids, -1)
        nodes = np.bincount(ids + 1)
        nodes[0] = 0
        for slot in np.argsort(-nodes, kind="stable")[:MAX_PREEMPTION_DOMAINS].tolist():
            if nodes[slot]:
                yield narrowed(view, ids == slot - 1)


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Kind:
    """Identical members: how many there are, how many fit on each row, and their seconds of stage-in there."""

    count: int
    capacity: IntArray
    seconds: FloatArray | None


@dataclass(slots=True)
class Search:
    """One gang's search. `place` is asked for views; it is given up after MAX_TRIES."""

    kinds: Sequence[Kind]
    needed: int
    wish: Wish
    slack: Callable[[float], float]
    tries: int = 0
    _room: list[IntArray] = field(default_factory=list)

    def views(self, view: ClusterView) -> Iterator[ClusterView]:
        """Narrowed views, the best first: for all members; if no domain holds them, for as many as are needed."""
        view = self.wish.confined(view)
        levels = [level for level in (self.wish.levels.required, *self.wish.levels.preferred) if level is not None]
        for is_whole in (True, False):
            limits = [self._limit(view, is_whole=is_whole)]
            if len(self.kinds) > 1 and limits[0] != np.inf:
                limits.append(np.inf)
            for limit in limits:
                self._room = [np.where(self._is_fast(kind, limit), kind.capacity, 0) for kind in self.kinds]
                yield from self._narrow(view, levels, is_whole=is_whole)
            if self.needed == sum(kind.count for kind in self.kinds):
                return

    def best(self, view: ClusterView, level: Level) -> tuple[int, str]:
        """How many members fit in one domain of a level at best, and its name: an upper bound for mixed shapes."""
        ids = np.where(view.alive, level.ids, -1)
        fitting = sum(np.minimum(_sums(ids, kind.capacity), kind.count) for kind in self.kinds)
        if not isinstance(fitting, np.ndarray) or not len(fitting):
            return 0, ""
        domain = int(fitting.argmax())
        return int(fitting[domain]), level.names[domain] if domain < len(level.names) else ""

    # ---- narrowing ---------------------------------------------------------------------------

    def _narrow(self, view: ClusterView, levels: Sequence[Level], *, is_whole: bool) -> Iterator[ClusterView]:
        if not levels:
            yield view
            return
        level, below = levels[0], levels[1:]
        ids = np.where(view.alive, level.ids, -1)
        is_required = level is self.wish.levels.required
        targets = [kind.count for kind in self.kinds] if is_whole else self._as_many_as_fit(view)
        least = self.needed if is_required else sum(targets)
        domains = self._ranked(view, level, below, least, is_whole=is_whole)
        for domain in domains:
            yield from self._narrow(narrowed(view, ids == domain), below, is_whole=is_whole)
        if not is_required:
            some = self._fewest_that_hold(ids, self.wish.homes(level), targets) if not domains else None
            if some is not None:
                yield from self._narrow(narrowed(view, np.isin(ids, some)), below, is_whole=is_whole)
            else:
                # Being placed comes before being placed near each other.
                yield from self._narrow(view, below, is_whole=is_whole)

    def _as_many_as_fit(self, view: ClusterView) -> list[int]:
        """Members of each kind there is room for: a preferred level must not cost any of them its place."""
        return [min(kind.count, int(room[view.alive].sum())) for kind, room in zip(self.kinds, self._room, strict=True)]

    def _ranked(
        self, view: ClusterView, level: Level, below: Sequence[Level], least: int, *, is_whole: bool
    ) -> list[int]:
        """Domains that can hold the gang, or `least` of its members, the best first."""
        ids = np.where(view.alive, level.ids, -1)
        rooms = [_sums(ids, room) for room in self._room]
        if not len(rooms[0]):
            return []
        fitting = np.zeros(len(rooms[0]), dtype=np.int64)
        holds = np.ones(len(rooms[0]), dtype=np.bool_)
        for kind, room in zip(self.kinds, rooms, strict=True):
            fitting += np.minimum(room, kind.count)
            if is_whole:
                holds &= room >= kind.count
        holds &= fitting >= max(1, least)
        found = np.flatnonzero(holds)
        if not len(found):
            return []
        is_home = np.isin(found, list(self.wish.homes(level)))
        keys: list[IntArray] = [found, rooms[0][found]]
        if is_whole:
            for narrower in reversed(below):
                inner = np.where(view.alive, narrower.ids, -1)
                keys.append(crossed(ids, inner, self._room[0], self.kinds[0].count)[found])
        else:
            keys.append(-fitting[found])
        keys.append((~is_home).astype(np.int64))
        return [int(domain) for domain in found[np.lexsort(keys)][:MAX_TRIES]]

    def _fewest_that_hold(self, ids: IntArray, homes: set[int], targets: Sequence[int]) -> list[int] | None:
        """Domains that hold so many of each kind together: those with members first, then the roomiest, then the
        tightest that holds the rest."""
        rooms = [_sums(ids, room) for room in self._room]
        if not len(rooms[0]):
            return None
        missing = list(targets)
        chosen: list[int] = []
        order = np.lexsort((-rooms[0], ~np.isin(np.arange(len(rooms[0])), list(homes)))).tolist()
        while any(count > 0 for count in missing):
            if not order:
                return None
            domain = order[0]
            enough = [one for one in order if all(room[one] >= left for room, left in zip(rooms, missing, strict=True))]
            if enough and domain not in homes:
                domain = min(enough, key=lambda one: int(rooms[0][one]))
            order.remove(domain)
            if not any(room[domain] for room in rooms):
                continue
            chosen.append(domain)
            missing = [left - int(room[domain]) for left, room in zip(missing, rooms, strict=True)]
        return chosen

    # ---- stage-in ----------------------------------------------------------------------------

    def _limit(self, view: ClusterView, *, is_whole: bool) -> float:
        """Seconds within which the best domain of the required level holds the gang, with slack; inf without data."""
        required = self.wish.levels.required
        ids = np.where(view.alive, required.ids if required is not None else 0, -1)
        slowest: FloatArray | None = None
        left = self.needed
        for kind in self.kinds:
            count = kind.count if is_whole else min(kind.count, left)
            left -= min(count, left)
            if kind.seconds is None or not count:
                continue
            within = seconds_to_hold(ids, kind.capacity, kind.seconds, count)
            slowest = within if slowest is None else np.maximum(slowest, within)
        best = float(slowest.min()) if slowest is not None and len(slowest) else np.inf
        return self.slack(best) if best != np.inf else np.inf

    @staticmethod
    def _is_fast(kind: Kind, limit: float) -> BoolArray:
        return kind.seconds <= limit if kind.seconds is not None else np.ones(len(kind.capacity), dtype=np.bool_)


def narrowed(view: ClusterView, rows: BoolArray) -> ClusterView:
    """The view with only these rows alive."""
    return replace(view, alive=view.alive & rows)


def seconds_to_hold(ids: IntArray, capacity: IntArray, seconds: FloatArray, count: int) -> FloatArray:
    """For each domain the fewest seconds within which its rows hold `count` members; inf where they never do."""
    order = np.lexsort((seconds, ids))
    order = order[ids[order] >= 0]
    domains, starts, index = _first_to_hold(ids[order], capacity[order], count)
    found: FloatArray = np.full(int(ids.max(initial=-1)) + 1, np.inf)
    ends = np.append(starts[1:], len(order))
    holds = index < ends
    found[domains[holds]] = seconds[order][index[holds]]
    return found


def crossed(ids: IntArray, below: IntArray, capacity: IntArray, count: int) -> IntArray:
    """For each domain how many domains of a narrower level it takes to hold `count`, the roomiest first. Rows without
    the narrower label count one by one."""
    width = int(below.max(initial=-1)) + 1
    inner = np.where(below >= 0, below, width + np.arange(len(below)))
    pairs, numbers = np.unique(ids * (width + len(below) + 1) + inner, return_inverse=True)
    room = np.bincount(numbers, weights=capacity, minlength=len(pairs)).astype(np.int64)
    outer = pairs // (width + len(below) + 1)
    order = np.lexsort((-room, outer))
    order = order[outer[order] >= 0]
    domains, starts, index = _first_to_hold(outer[order], room[order], count)
    found = np.full(int(ids.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    ends = np.append(starts[1:], len(order))
    holds = index < ends
    found[domains[holds]] = (index - starts + 1)[holds]
    return found


def _first_to_hold(ids: IntArray, amounts: IntArray, count: int) -> tuple[IntArray, IntArray, IntArray]:
    """For runs of equal ids: the ids, where runs start, and where their running sum reaches `count` (maybe past
    their end)."""
    domains, starts = np.unique(ids, return_index=True)
    held = np.cumsum(amounts)
    before = np.append(0, held)[starts]
    return domains, starts, np.searchsorted(held, before + count)


def _sums(ids: IntArray, amounts: IntArray) -> IntArray:
    """Amounts by domain; rows without one are left out."""
    return np.bincount(ids + 1, weights=amounts)[1:].astype(np.int64)
