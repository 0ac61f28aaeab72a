"""Who is tried next: pods and gangs waiting, in four pools.

Owns order, backoff and which refusals wait for which change. Does not know what a unit is: an id stands for
a pod or a whole gang. Invariants: a unit is in exactly one pool; the head never blocks, since a refused unit
leaves the active pool; a refused unit is tried again after at most `flush_seconds`. A try is atomic for the
core (no event is applied while it runs), so no event is lost while a unit is in flight.

    add ──► ACTIVE ──pop──► (tried) ──refuse──► UNSCHEDULABLE ──change worth it──► BACKOFF ──time──► ACTIVE
              ▲                └─fail (bind)──► BACKOFF            └── 5 min ──► ACTIVE
              └── GATED (gates, members missing) ◄─ gate
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from scheduler.core.requeue import NOTHING, ClusterChange

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 10.0
FLUSH_SECONDS = 300.0


class Pool(StrEnum):
    """Where a unit waits; the names are kube-scheduler's label values."""

    ACTIVE = "active"
    BACKOFF = "backoff"
    UNSCHEDULABLE = "unschedulable"
    GATED = "gated"
    IN_FLIGHT = "in_flight"


@dataclass(slots=True)
class Waiting:
    """One unit. `since` orders equals; times are on the core's clock."""

    unit: str
    priority: int
    since: float
    arrival: int  # orders equals of one second: creation times have no fractions
    pool: Pool = Pool.ACTIVE
    tries: int = 0
    refusals: int = 0
    errors: int = 0
    worth: ClusterChange = NOTHING
    backoff_until: float = 0.0
    wake_at: float = float("inf")
    ticket: int = 0  # of its newest heap entry; older entries are stale


class SchedulingQueue:
    """All waiting units. One writer."""

    def __init__(
        self,
        *,
        first_backoff_seconds: float = FIRST_BACKOFF_SECONDS,
        max_backoff_seconds: float = MAX_BACKOFF_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._first = first_backoff_seconds
        self._max = max_backoff_seconds
        self._flush = flush_seconds
        self._units: dict[str, Waiting] = {}
        self._active: list[tuple[int, float, int, str, int]] = []
        self._arrived = 0
        self._timers: list[tuple[float, str, int]] = []
        self._by_worth: dict[ClusterChange, dict[str, None]] = {}
        self._tickets = 0
        self.counts: dict[Pool, int] = dict.fromkeys(Pool, 0)

    def add(self, unit: str, *, priority: int, since: float) -> None:
        """Put a unit into the active pool, or update its order; one that is in flight stays there."""
        waiting = self._units.get(unit)
        if waiting is None:
            waiting = self._units[unit] = Waiting(unit, priority, since, self._arrivals())
            self.counts[waiting.pool] += 1
            self._activate(waiting)
            return
        is_same = (waiting.priority, waiting.since) == (priority, since)
        waiting.priority, waiting.since = priority, since
        if waiting.pool is not Pool.IN_FLIGHT and not (is_same and waiting.pool is Pool.ACTIVE):
            self._activate(waiting)

    def pop(self) -> Waiting | None:
        """Take the first active unit; when none is active, the one whose backoff ends first (but not one
        that failed by an error)."""
        while self._active:
            *_, unit, ticket = heapq.heappop(self._active)
            waiting = self._units.get(unit)
            if waiting is not None and waiting.ticket == ticket and waiting.pool is Pool.ACTIVE:
                return self._start_try(waiting)
        return self._pop_early()

    def refuse(self, unit: str, worth: ClusterChange, now: float, *, wake_at: float | None = None) -> None:
        """A try found no place. It waits for a change in `worth`, for `wake_at`, at most for the flush."""
        waiting = self._units[unit]
        waiting.refusals += 1
        waiting.errors = 0
        waiting.worth = worth
        waiting.backoff_until = now + self._backoff_seconds(waiting.refusals)
        due = now + self._flush
        waiting.wake_at = due if wake_at is None else min(due, wake_at)
        self._move(waiting, Pool.UNSCHEDULABLE)
        self._by_worth.setdefault(worth, {})[unit] = None
        self._set_timer(waiting, waiting.wake_at)

    def fail(self, unit: str, now: float) -> None:
        """A try ended in an error (a refused bind): back off, whatever happens meanwhile."""
        waiting = self._units[unit]
        waiting.errors += 1
        waiting.backoff_until = now + self._backoff_seconds(waiting.errors)
        self._move(waiting, Pool.BACKOFF)
        self._set_timer(waiting, waiting.backoff_until)

    def gate(self, unit: str, *, priority: int, since: float) -> None:
        """Keep a unit away from tries until it is added again."""
        waiting = self._units.get(unit)
        if waiting is None:
            waiting = self._units[unit] = Waiting(unit, priority, since, self._arrivals(), pool=Pool.GATED)
            self.counts[Pool.GATED] += 1
            return
        waiting.priority, waiting.since = priority, since
        self._move(waiting, Pool.GATED)

    def remove(self, unit: str) -> None:
        """Forget a unit; unknown ones are no error."""
        waiting = self._units.pop(unit, None)
        if waiting is not None:
            self._leave_worth(waiting)
            self.counts[waiting.pool] -= 1

    def activate(self, unit: str) -> None:
        """Try a refused unit at once, whatever it waits for; one that is gated or in flight stays there."""
        waiting = self._units.get(unit)
        if waiting is not None and waiting.pool in (Pool.UNSCHEDULABLE, Pool.BACKOFF):
            self._activate(waiting)

    def pool_of(self, unit: str) -> Pool | None:
        """Where a unit waits; None when it does not."""
        waiting = self._units.get(unit)
        return waiting.pool if waiting else None

    def changed(self, change: ClusterChange, now: float) -> int:
        """Something changed in the cluster: move who may profit. Returns how many moved."""
        moved = 0
        for worth in [worth for worth in self._by_worth if worth & change]:
            for unit in list(self._by_worth.get(worth, ())):
                self._retry(self._units[unit], now)
                moved += 1
        return moved

    def advance(self, now: float) -> None:
        """Move units whose backoff or flush is due."""
        while self._timers and self._timers[0][0] <= now:
            _, unit, ticket = heapq.heappop(self._timers)
            waiting = self._units.get(unit)
            if waiting is not None and waiting.ticket == ticket:
                self._activate(waiting)

    def next_due(self) -> float:
        """When `advance` has something to do next; inf when never."""
        while self._timers:
            due, unit, ticket = self._timers[0]
            waiting = self._units.get(unit)
            if waiting is not None and waiting.ticket == ticket:
                return due
            heapq.heappop(self._timers)
        return float("inf")

    @property
    def has_work(self) -> bool:
        """Whether `pop` would find a unit without waiting."""
        return self.counts[Pool.ACTIVE] > 0 or any(True for _ in self._early())

    def __len__(self) -> int:
        return len(self._units)

    def _arrivals(self) -> int:
        self._arrived += 1
        return self._arrived

    def _retry(self, waiting: Waiting, now: float) -> None:
        if waiting.backoff_until <= now:
            self._activate(waiting)
        else:
            self._move(waiting, Pool.BACKOFF)
            self._set_timer(waiting, waiting.backoff_until)

    def _early(self) -> Iterator[Waiting]:
        # Bounded look: units that back off after errors stay, the first other one may go now.
        self.next_due()  # drops stale entries at the top
        for _, unit, ticket in self._timers[:8]:
            waiting = self._units.get(unit)
            if waiting is not None and waiting.ticket == ticket and waiting.pool is Pool.BACKOFF and not waiting.errors:
                yield waiting

    def _pop_early(self) -> Waiting | None:
        waiting = min(self._early(), key=lambda unit: (-unit.priority, unit.backoff_until), default=None)
        return self._start_try(waiting) if waiting is not None else None

    def _start_try(self, waiting: Waiting) -> Waiting:
        waiting.tries += 1
        self._move(waiting, Pool.IN_FLIGHT)
        return waiting

    def _activate(self, waiting: Waiting) -> None:
        self._move(waiting, Pool.ACTIVE)
        heapq.heappush(self._active, (-waiting.priority, waiting.since, waiting.arrival, waiting.unit, waiting.ticket))

    def _move(self, waiting: Waiting, pool: Pool) -> None:
        self._leave_worth(waiting)
        self.counts[waiting.pool] -= 1
        waiting.pool = pool
        self.counts[pool] += 1
        self._tickets += 1
        waiting.ticket = self._tickets

    def _leave_worth(self, waiting: Waiting) -> None:
        if waiting.pool is Pool.UNSCHEDULABLE:
            units = self._by_worth.get(waiting.worth)
            if units is not None:
                units.pop(waiting.unit, None)
                if not units:
                    del self._by_worth[waiting.worth]

    def _set_timer(self, waiting: Waiting, due: float) -> None:
        heapq.heappush(self._timers, (due, waiting.unit, waiting.ticket))

    def _backoff_seconds(self, count: int) -> float:
        return min(self._first * 2.0 ** min(count - 1, 16), self._max)
