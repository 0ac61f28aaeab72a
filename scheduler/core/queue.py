"""Who is tried next: pods and gangs waiting, in four pools.

Owns order, backoff and which refusals wait for which change. Does not know what a unit is: an id stands for
a pod or a whole gang. Invariants: a unit is in exactly one pool; the head never blocks, since a refused unit
leaves the active pool; a refused unit is tried again after at most `flush_seconds`; a change that comes while a
unit is in flight is not lost: if it is worth another try, the unit is not put to wait.

    add ──► ACTIVE ──pop──► (tried) ──refuse──► UNSCHEDULABLE ──change worth it──► BACKOFF ──time──► ACTIVE
              ▲                └─fail (bind)──► BACKOFF            └── 5 min ──► ACTIVE
              └── GATED (gates, members missing) ◄─ gate

The rules are kube-scheduler 1.36's (backend/queue): backoff doubles with each refusal, or each error in a row, and
ends with whole seconds, so that what ends together is ordered by priority; when nothing is active, who backs off
after a refusal is taken early, but never who backs off after an error. Beside the kind of change a unit may wait
for room (`Hint`): then a change counts only where that much room is.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from enum import StrEnum

from scheduler.core.requeue import EVENTS, NOTHING, ClusterChange

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 10.0
FLUSH_SECONDS = 300.0
# Backoff ends with whole windows of this length.
WINDOW_SECONDS = 1.0
NEVER = float("inf")

# What a unit waits for beside kinds of changes; None: nothing that could be told apart.
Hint = Hashable | None
# Whether a change can help a unit that waits with a hint.
MayHelp = Callable[[ClusterChange, Hashable], bool]


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
    hint: Hint = None
    rejected_by: frozenset[str] = frozenset()
    backoff_until: float = 0.0
    popped_at: int = 0  # how many changes there had been
    was_added: bool = False  # while in flight: it is not what was tried any more
    ticket: int = 0  # of its newest heap entry; older entries are stale

    @property
    def order(self) -> tuple[int, float, int]:
        """Sorts who goes first."""
        return (-self.priority, self.since, self.arrival)


class _Due:
    """Units by when something happens to them, then by who goes first; entries of units that moved are stale."""

    def __init__(self, units: dict[str, Waiting]) -> None:
        self._units = units
        self._heap: list[tuple[float, tuple[int, float, int], str, int]] = []

    def push(self, due: float, waiting: Waiting) -> None:
        heapq.heappush(self._heap, (due, waiting.order, waiting.unit, waiting.ticket))

    def first(self) -> tuple[float, Waiting] | None:
        while self._heap:
            due, _, unit, ticket = self._heap[0]
            waiting = self._units.get(unit)
            if waiting is not None and waiting.ticket == ticket:
                return due, waiting
            heapq.heappop(self._heap)
        return None


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
        self._active = _Due(self._units)
        self._backoff = _Due(self._units)
        self._errors = _Due(self._units)
        self._waits = _Due(self._units)
        self._arrived = 0
        self._waiting_for: dict[tuple[ClusterChange, Hint], dict[str, None]] = {}
        self._tickets = 0
        self._changes = 0
        self._last_change: dict[ClusterChange, int] = {}  # by single kind, the number of the newest
        self.counts: dict[Pool, int] = dict.fromkeys(Pool, 0)
        # Since the start, by pool and event; refused units by the filters that refused them: for metrics.
        self.incoming: Counter[tuple[Pool, str]] = Counter()
        self.rejected: Counter[str] = Counter()

    # ---- coming and going -------------------------------------------------------------------

    def add(self, unit: str, *, priority: int, since: float) -> None:
        """Put a unit into the active pool, or update its order; one that is in flight stays there, and if it is
        refused then it is tried again."""
        waiting = self._units.get(unit)
        if waiting is None:
            waiting = self._units[unit] = Waiting(unit, priority, since, self._arrivals(), popped_at=self._changes)
            self.counts[waiting.pool] += 1
            self._activate(waiting, "UnschedulablePodAdd")
            return
        is_same = (waiting.priority, waiting.since) == (priority, since)
        waiting.priority, waiting.since = priority, since
        if waiting.pool is Pool.IN_FLIGHT:
            waiting.was_added = True
        elif not (is_same and waiting.pool is Pool.ACTIVE):
            self._activate(waiting, "UnschedulablePodUpdate")

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
            self._leave(waiting)
            self._judge(waiting, frozenset())
            self.counts[waiting.pool] -= 1

    # ---- tries ------------------------------------------------------------------------------

    def pop(self) -> Waiting | None:
        """Take the first active unit; when none is active, the one whose backoff ends first (but not one
        that failed by an error)."""
        found = self._active.first() or self._backoff.first()
        if found is None:
            return None
        waiting = found[1]
        waiting.tries += 1
        waiting.popped_at, waiting.was_added = self._changes, False
        self._judge(waiting, frozenset())
        self._move(waiting, Pool.IN_FLIGHT)
        return waiting

    def refuse(
        self,
        unit: str,
        worth: ClusterChange,
        now: float,
        *,
        wake_at: float | None = None,
        hint: Hint = None,
        rejected_by: Collection[str] = (),
    ) -> None:
        """A try found no place. It waits for a change in `worth` (that can help, by its hint), for `wake_at`, at
        most for the flush. A change in `worth` since it was popped counts."""
        waiting = self._units[unit]
        waiting.refusals += 1
        waiting.errors = 0
        waiting.worth, waiting.hint = worth, hint
        waiting.backoff_until = self._end_of_backoff(now, waiting.refusals)
        self._judge(waiting, frozenset(rejected_by))
        is_missed = any(number > waiting.popped_at and kind & worth for kind, number in self._last_change.items())
        if is_missed or waiting.was_added:
            waiting.was_added = False
            self._retry(waiting, now, "ScheduleAttemptFailure")
            return
        due = now + self._flush
        self._move(waiting, Pool.UNSCHEDULABLE, "ScheduleAttemptFailure")
        self._waiting_for.setdefault((worth, hint), {})[unit] = None
        self._waits.push(due if wake_at is None else min(due, wake_at), waiting)

    def fail(self, unit: str, now: float) -> None:
        """A try ended in an error (a refused bind): back off, whatever happens meanwhile."""
        waiting = self._units[unit]
        waiting.errors += 1
        waiting.backoff_until = self._end_of_backoff(now, waiting.errors)
        self._judge(waiting, frozenset())
        self._move(waiting, Pool.BACKOFF, "ScheduleAttemptFailure")
        self._errors.push(waiting.backoff_until, waiting)

    # ---- waking -----------------------------------------------------------------------------

    def activate(self, unit: str) -> None:
        """Try a refused unit at once, whatever it waits for; one that is gated or in flight stays there."""
        waiting = self._units.get(unit)
        if waiting is not None and waiting.pool in (Pool.UNSCHEDULABLE, Pool.BACKOFF):
            self._activate(waiting, "ForceActivate")

    def changed(self, change: ClusterChange, now: float, may_help: MayHelp | None = None) -> int:
        """Something changed in the cluster: move who may profit. Returns how many moved. `may_help` is asked once
        for all units with the same hint."""
        self._changes += 1
        for kind in change:
            self._last_change[kind] = self._changes
        moved = 0
        event = EVENTS.get(next(iter(change), NOTHING), "Unknown")
        for worth, hint in [key for key in self._waiting_for if key[0] & change]:
            if hint is not None and may_help is not None and not may_help(worth & change, hint):
                continue
            for unit in list(self._waiting_for.get((worth, hint), ())):
                self._retry(self._units[unit], now, event)
                moved += 1
        return moved

    def advance(self, now: float) -> None:
        """Move units whose backoff or flush is due."""
        for source, event in (
            (self._backoff, "BackoffComplete"),
            (self._errors, "BackoffComplete"),
            (self._waits, "UnschedulableTimeout"),
        ):
            while (found := source.first()) is not None and found[0] <= now:
                self._activate(found[1], event)

    def next_due(self) -> float:
        """When `advance` has something to do next; inf when never."""
        firsts = (source.first() for source in (self._backoff, self._errors, self._waits))
        return min((found[0] for found in firsts if found is not None), default=NEVER)

    # ---- questions --------------------------------------------------------------------------

    def pool_of(self, unit: str) -> Pool | None:
        """Where a unit waits; None when it does not."""
        waiting = self._units.get(unit)
        return waiting.pool if waiting else None

    @property
    def has_work(self) -> bool:
        """Whether `pop` would find a unit without waiting."""
        return self.counts[Pool.ACTIVE] > 0 or self._backoff.first() is not None

    def __len__(self) -> int:
        return len(self._units)

    # ---- inside -----------------------------------------------------------------------------

    def _arrivals(self) -> int:
        self._arrived += 1
        return self._arrived

    def _retry(self, waiting: Waiting, now: float, event: str) -> None:
        if waiting.backoff_until <= now:
            self._activate(waiting, event)
        else:
            self._move(waiting, Pool.BACKOFF, event)
            self._backoff.push(waiting.backoff_until, waiting)

    def _activate(self, waiting: Waiting, event: str) -> None:
        self._move(waiting, Pool.ACTIVE, event)
        self._active.push(0.0, waiting)

    def _move(self, waiting: Waiting, pool: Pool, event: str = "") -> None:
        self._leave(waiting)
        self.counts[waiting.pool] -= 1
        waiting.pool = pool
        self.counts[pool] += 1
        if event:
            self.incoming[(pool, event)] += 1
        self._tickets += 1
        waiting.ticket = self._tickets

    def _leave(self, waiting: Waiting) -> None:
        if waiting.pool is Pool.UNSCHEDULABLE:
            key = (waiting.worth, waiting.hint)
            units = self._waiting_for.get(key)
            if units is not None:
                units.pop(waiting.unit, None)
                if not units:
                    del self._waiting_for[key]

    def _judge(self, waiting: Waiting, rejected_by: frozenset[str]) -> None:
        if waiting.rejected_by != rejected_by:
            self.rejected.subtract(waiting.rejected_by)
            self.rejected.update(rejected_by)
            waiting.rejected_by = rejected_by

    def _end_of_backoff(self, now: float, count: int) -> float:
        backoff = min(self._first * 2.0 ** min(count - 1, 16), self._max)
        return math.ceil((now + backoff) / WINDOW_SECONDS) * WINDOW_SECONDS
