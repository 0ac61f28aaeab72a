"""What refused pods and gangs wait for when they wait for room, and whether a change brings it.

Owns the bound: a unit whose hint says no could not be placed, so leaving it asleep costs nothing; a yes may be wrong
(filters other than room are not asked). Gangs: each freed pod would else have every waiting gang tried in vain."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.gangs import Gangs
from scheduler.core.lower_priority import LowerPriority
from scheduler.core.node_table import NodeTable

IntArray = NDArray[np.int64]
Requests = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class RoomHint:
    """A refused pod waits for a node with this much room, or with pods below a priority that hold it."""

    requests: Requests
    evicts_below: int | None


@dataclass(frozen=True, slots=True)
class GangRoomHint:
    """A refused gang waits until so many of its members fit at once as it needs then; `kinds`: pending members by
    what they ask for."""

    unit: str
    kinds: tuple[tuple[Requests, int], ...]
    evicts_below: int | None


class RoomHints:
    """Answers for the table as it is."""

    def __init__(self, table: NodeTable, lower: LowerPriority, gangs: Gangs) -> None:
        self._table, self._lower, self._gangs = table, lower, gangs
        self._slots: dict[tuple[Requests, int | None], int] = {}
        self._slots_at = (-1, -1)

    def may_help(self, hint: Hashable, rows: Sequence[int]) -> bool:
        """Whether a unit could be placed now, as far as room goes; `rows`: those that changed since it was told no."""
        if isinstance(hint, RoomHint):
            return bool((self._slots_on(np.array(rows, dtype=np.int64), hint.requests, hint.evicts_below) > 0).any())
        if not isinstance(hint, GangRoomHint):
            return True
        gang = self._gangs.find(hint.unit)
        if gang is None:
            return True
        fitting = sum(min(count, self._slots_in_all(requests, hint.evicts_below)) for requests, count in hint.kinds)
        return fitting >= max(1, gang.needed)

    def _slots_in_all(self, requests: Requests, evicts_below: int | None) -> int:
        """Pods of a kind there is room for anywhere; the same for all gangs that ask between two changes."""
        now = (self._table.log_position, self._table.version)
        if now != self._slots_at:
            self._slots.clear()
            self._slots_at = now
        found = self._slots.get((requests, evicts_below))
        if found is None:
            rows = np.flatnonzero(self._table.alive[: self._table.size])
            found = self._slots[requests, evicts_below] = int(self._slots_on(rows, requests, evicts_below).sum())
        return found

    def _slots_on(self, rows: IntArray, requests: Requests, evicts_below: int | None) -> IntArray:
        """How many such pods each row has room for, if need be by evicting."""
        table = self._table
        below = self._lower.below(evicts_below) if evicts_below is not None else None
        slots: IntArray = table.pods_allowed[rows] - table.pods[rows]
        if below is not None:
            slots = slots + below.pods[rows]
        for resource, amount in requests:
            if amount <= 0:
                continue
            column = table.resources[resource]
            free = table.allocatable[rows, column] - table.requested[rows, column]
            if below is not None:
                free = free + below.requests[rows, column]
            slots = np.minimum(slots, free // amount)
        return slots.clip(0)
