"""scheduler/core/queue.py against a model that keeps every unit's state in plain sight."""

import math
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from scheduler.core.queue import Pool, SchedulingQueue
from scheduler.core.requeue import NOTHING, ClusterChange

KINDS = (ClusterChange.POD_FREED, ClusterChange.NODE_ADDED, ClusterChange.NODE_LABELS)
FLUSH = 30.0
WORTH = st.sets(st.sampled_from(KINDS)).map(lambda kinds: sum(kinds, NOTHING))


@dataclass
class Model:
    """One unit as the rules say it is."""

    priority: int
    since: float
    arrival: int
    pool: Pool = Pool.ACTIVE
    refusals: int = 0
    errors: int = 0
    due: float = math.inf  # end of backoff, or of the wait
    backoff_until: float = 0.0
    is_error: bool = False
    worth: ClusterChange = NOTHING
    hint: int | None = None
    missed: ClusterChange = NOTHING
    was_added: bool = False

    @property
    def order(self) -> tuple[int, float, int]:
        return (-self.priority, self.since, self.arrival)


class QueueMachine(RuleBasedStateMachine):
    units = Bundle("units")

    def __init__(self) -> None:
        super().__init__()
        self.queue = SchedulingQueue(flush_seconds=FLUSH)
        self.model: dict[str, Model] = {}
        self.now = 0.0
        self.made = 0

    # ---- rules ------------------------------------------------------------------------------

    @rule(target=units, priority=st.integers(0, 3), since=st.integers(0, 3), gated=st.booleans())
    def new(self, priority: int, since: int, gated: bool) -> str:
        self.made += 1
        unit = f"u{self.made}"
        self.model[unit] = Model(priority, since, self.made, Pool.GATED if gated else Pool.ACTIVE)
        if gated:
            self.queue.gate(unit, priority=priority, since=since)
        else:
            self.queue.add(unit, priority=priority, since=since)
        return unit

    @rule(unit=units, priority=st.integers(0, 3))
    def add_again(self, unit: str, priority: int) -> None:
        known = self.model[unit]
        is_same = known.priority == priority
        known.priority = priority
        if known.pool is Pool.IN_FLIGHT:
            known.was_added = True
        elif not (is_same and known.pool is Pool.ACTIVE):
            known.pool = Pool.ACTIVE
        self.queue.add(unit, priority=priority, since=known.since)

    @rule(unit=units)
    def gate(self, unit: str) -> None:
        known = self.model[unit]
        known.pool = Pool.GATED
        self.queue.gate(unit, priority=known.priority, since=known.since)

    @rule(unit=consumes(units))
    def remove(self, unit: str) -> None:
        del self.model[unit]
        self.queue.remove(unit)

    @rule(unit=units)
    def activate(self, unit: str) -> None:
        known = self.model[unit]
        if known.pool in (Pool.UNSCHEDULABLE, Pool.BACKOFF):
            known.pool = Pool.ACTIVE
        self.queue.activate(unit)

    @rule(
        worth=WORTH,
        hint=st.none() | st.integers(0, 2),
        wake=st.none() | st.integers(1, 60),
        changes=st.lists(st.sampled_from(KINDS), max_size=2),
        fails=st.booleans(),
    )
    def try_first(
        self, worth: ClusterChange, hint: int | None, wake: int | None, changes: list[ClusterChange], fails: bool
    ) -> None:
        expected = self._first()
        waiting = self.queue.pop()
        assert (waiting.unit if waiting is not None else None) == expected
        if waiting is None or expected is None:
            return
        known = self.model[expected]
        known.pool, known.missed, known.was_added = Pool.IN_FLIGHT, NOTHING, False
        for change in changes:
            self.change(change, set(range(3)))
        if fails:
            known.errors += 1
            known.pool, known.is_error = Pool.BACKOFF, True
            known.due = known.backoff_until = self._end(known.errors)
            self.queue.fail(expected, self.now)
            return
        known.refusals += 1
        known.errors = 0
        known.worth, known.hint, known.backoff_until = worth, hint, self._end(known.refusals)
        if known.missed & worth:
            self._retry(known)
        else:
            known.pool = Pool.UNSCHEDULABLE
            known.due = self.now + (FLUSH if wake is None else min(FLUSH, wake))
        wake_at = None if wake is None else self.now + wake
        self.queue.refuse(expected, worth, self.now, wake_at=wake_at, hint=hint)

    @rule(kind=st.sampled_from(KINDS), helps=st.sets(st.integers(0, 2)))
    def change(self, kind: ClusterChange, helps: set[int]) -> None:
        for known in self.model.values():
            if known.pool is Pool.IN_FLIGHT:
                known.missed |= kind
                continue
            can_help = known.hint is None or known.hint in helps
            if known.pool is Pool.UNSCHEDULABLE and known.worth & kind and can_help:
                self._retry(known)
        self.queue.changed(kind, self.now, lambda change, hint: hint in helps)

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for known in self.model.values():
            if known.pool in (Pool.BACKOFF, Pool.UNSCHEDULABLE) and known.due <= self.now:
                known.pool = Pool.ACTIVE
        self.queue.advance(self.now)

    # ---- what must hold ---------------------------------------------------------------------

    @invariant()
    def pools_agree(self) -> None:
        assert {unit: self.queue.pool_of(unit) for unit in self.model} == {
            unit: known.pool for unit, known in self.model.items()
        }
        assert len(self.queue) == len(self.model)
        for pool in Pool:
            assert self.queue.counts[pool] == sum(known.pool is pool for known in self.model.values())

    @invariant()
    def somebody_looks_in_time(self) -> None:
        dues = [known.due for known in self.model.values() if known.pool in (Pool.BACKOFF, Pool.UNSCHEDULABLE)]
        assert self.queue.next_due() == min(dues, default=math.inf)
        assert all(due <= self.now + max(FLUSH, 11) for due in dues)

    @invariant()
    def work_is_seen(self) -> None:
        assert self.queue.has_work == (self._first() is not None)

    def _first(self) -> str | None:
        active = [(known.order, unit) for unit, known in self.model.items() if known.pool is Pool.ACTIVE]
        if active:
            return min(active)[1]
        early = [
            (known.due, known.order, unit)
            for unit, known in self.model.items()
            if known.pool is Pool.BACKOFF and not known.is_error
        ]
        return min(early)[2] if early else None

    def _retry(self, known: Model) -> None:
        known.is_error = False
        if known.backoff_until <= self.now:
            known.pool = Pool.ACTIVE
        else:
            known.pool, known.due = Pool.BACKOFF, known.backoff_until

    def _end(self, count: int) -> float:
        return float(math.ceil(self.now + min(2.0 ** (count - 1), 10.0)))


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
