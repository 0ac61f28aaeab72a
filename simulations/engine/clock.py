"""Virtual time: a heap of things to happen, in an order that depends on nothing but what was pushed.

Owns the order of events. Invariants: time never goes back; equal times go in the order of pushing.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any

NEVER = float("inf")


@dataclass(order=True, slots=True)
class _Entry:
    at: float
    number: int
    kind: str = field(compare=False)
    payload: Any = field(compare=False)


class EventHeap:
    """Future events by time. `kind` says who handles an event, `payload` is theirs."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[_Entry] = []
        self._number = 0

    def push(self, at: float, kind: str, payload: Any = None) -> None:
        """Let something happen at `at` seconds; what is due already happens now."""
        self._number += 1
        heapq.heappush(self._heap, _Entry(max(at, self.now), self._number, kind, payload))

    def next_at(self) -> float:
        """When the next event is; inf when there is none."""
        return self._heap[0].at if self._heap else NEVER

    def advance(self, to: float) -> None:
        """Move the clock. Raises ValueError when `to` is in the past."""
        if to < self.now:
            raise ValueError(f"time {to} lies before {self.now}; events must be taken in order")
        self.now = to

    def pop_due(self) -> tuple[str, Any] | None:
        """Take the first event that is due now; None when none is."""
        if not self._heap or self._heap[0].at > self.now:
            return None
        entry = heapq.heappop(self._heap)
        return entry.kind, entry.payload
