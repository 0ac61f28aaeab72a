"""Running streams: how much of their current segment is left, how fast they go, when the next one ends.

Owns slots of arrays. Does not know what a segment means. Invariant: `left` of a slot is true at `since` of that
slot; between two calls of `share` rates do not change.
"""

import numpy as np

from simulations.engine.clock import NEVER
from simulations.engine.network import NOTHING, FloatArray, Usage, fair_rates

FIRST_SLOTS = 64
AMPLE = 1.0 - 1e-6
"""Of every link: up to here, what streams would take at their caps is less than there is, whatever was rounded."""


class Streams:
    """All streams, each in a slot that is used again when it ends."""

    def __init__(self, capacity: FloatArray) -> None:
        self._capacity = capacity
        self._left: FloatArray = np.zeros(FIRST_SLOTS)
        self._since: FloatArray = np.zeros(FIRST_SLOTS)
        self._rate: FloatArray = np.zeros(FIRST_SLOTS)
        self._cap: FloatArray = np.zeros(FIRST_SLOTS)
        self._growth: FloatArray = np.ones(FIRST_SLOTS)
        self._ends: FloatArray = np.full(FIRST_SLOTS, NEVER)
        self._uses: list[Usage] = [NOTHING] * FIRST_SLOTS
        self._sharing: dict[int, None] = {}
        # What those of `_sharing` would take of each link at their caps.
        self._wanted: FloatArray = np.zeros(len(capacity))
        self._free = list(range(FIRST_SLOTS - 1, -1, -1))
        self._top = 0
        self.is_stale = False

    def open(self) -> int:
        """A slot for a new stream; it rests until `set`."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._top = max(self._top, slot + 1)
        return slot

    def set(self, slot: int, left: float, now: float, *, cap: float, growth: float, use: Usage) -> None:
        """Start a segment of `left` bytes. It moves at once when it shares nothing, else from the next `share` on;
        until then it goes on as fast as the slot's last segment, if that shared links too."""
        is_sharing = slot in self._sharing
        if is_sharing:
            self._count(slot, -1.0)
        self._left[slot], self._since[slot] = left, now
        self._cap[slot], self._growth[slot], self._uses[slot] = cap, growth, use
        if len(use.resources):
            rate = min(cap, float(self._rate[slot])) if is_sharing else 0.0
            self._sharing[slot] = None
            self._count(slot, 1.0)
            self._rate[slot], self._ends[slot] = rate, now + left / rate if rate > 0 else NEVER
            self.is_stale = True
            return
        if is_sharing:
            del self._sharing[slot]
            self.is_stale = True
        self._rate[slot], self._ends[slot] = cap, now + left / cap

    def close(self, slot: int) -> None:
        """The stream is over."""
        if slot in self._sharing:
            self._count(slot, -1.0)
            del self._sharing[slot]
            self.is_stale = True
        self._ends[slot], self._rate[slot], self._uses[slot] = NEVER, 0.0, NOTHING
        self._free.append(slot)

    def left(self, slot: int, now: float) -> float:
        """Bytes left of its segment."""
        return max(0.0, float(self._left[slot] - self._rate[slot] * (now - self._since[slot])))

    def share(self, now: float) -> None:
        """Share links anew among the streams that use any."""
        self.is_stale = False
        slots = np.fromiter(self._sharing, dtype=np.int64, count=len(self._sharing))
        slots.sort()
        if not len(slots):
            self._wanted[:] = 0.0
            return
        left = np.maximum(0.0, self._left[slots] - self._rate[slots] * (now - self._since[slots]))
        if bool((self._wanted <= self._capacity * AMPLE).all()):
            # As most of the time: nobody is in anybody's way, so that filling links would come to just that.
            rates = self._cap[slots]
        else:
            uses = [self._uses[slot] for slot in slots.tolist()]
            rates = fair_rates(self._capacity, uses, self._cap[slots], self._growth[slots])
        self._left[slots], self._since[slots], self._rate[slots] = left, now, rates
        with np.errstate(divide="ignore"):
            self._ends[slots] = np.where(rates > 0, now + left / np.maximum(rates, 1e-300), NEVER)

    def _count(self, slot: int, times: float) -> None:
        use = self._uses[slot]
        self._wanted[use.resources] += use.coefficients * (times * float(self._cap[slot]))

    def next_end(self) -> float:
        """When the next segment ends; inf when none does."""
        return float(self._ends[: self._top].min()) if self._top else NEVER

    def due(self, now: float) -> list[int]:
        """Slots whose segment has ended, in order."""
        found: list[int] = np.flatnonzero(self._ends[: self._top] <= now).tolist()
        return found

    def _grow(self) -> None:
        size = len(self._left)
        for name, fill in (("_left", 0.0), ("_since", 0.0), ("_rate", 0.0), ("_cap", 0.0), ("_growth", 1.0)):
            setattr(self, name, np.pad(getattr(self, name), (0, size), constant_values=fill))
        self._ends = np.pad(self._ends, (0, size), constant_values=NEVER)
        self._uses += [NOTHING] * size
        self._free = list(range(2 * size - 1, size - 1, -1))
