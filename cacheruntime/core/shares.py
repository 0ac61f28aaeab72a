"""What datasets may have of a node's room: priority, guaranteed and maximum bytes, pinned paths.

Owns the terms and what they are on one node; eviction.py and admission.py keep to them. Does not know files. A
dataset's bytes are spread evenly over the workers that may keep it (homes.py), so are its guaranteed and maximum bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from cacheruntime.core.load_plan import is_below


@dataclass(frozen=True, slots=True)
class Terms:
    """What the owner of a dataset asked for, in bytes of all workers together or of one (`on_one_of`)."""

    priority: int = 0
    """Of two datasets the one with less gives way, as long as it has more than it was guaranteed."""
    guaranteed_bytes: int = 0
    maximum_bytes: int = 0
    """0 = no limit."""
    pinned: tuple[str, ...] = ()
    """Paths that never make room, with all below them; "" = the whole dataset."""
    origin_bytes_per_second: int = 0
    """Fetched from its under stores at most; 0 = no limit."""

    def on_one_of(self, workers: int) -> "Terms":
        """Return the terms on one of so many workers, rounded up."""
        count = max(1, workers)
        return replace(
            self,
            guaranteed_bytes=-(-self.guaranteed_bytes // count),
            maximum_bytes=-(-self.maximum_bytes // count),
            origin_bytes_per_second=-(-self.origin_bytes_per_second // count),
        )

    def pins(self, path: str) -> bool:
        """Whether a path is pinned."""
        return bool(self.pinned) and is_below(path, self.pinned)


@dataclass(frozen=True, slots=True)
class Holding:
    """A dataset's terms on this node, and the bytes it has here."""

    terms: Terms = Terms()
    held_bytes: int = 0

    @property
    def is_below_guarantee(self) -> bool:
        """Whether it has less than it was guaranteed."""
        return self.held_bytes < self.terms.guaranteed_bytes

    @property
    def is_above_maximum(self) -> bool:
        """Whether it has more than it may: the maximum was lowered, or workers joined."""
        return 0 < self.terms.maximum_bytes < self.held_bytes

    def missing_bytes(self, size_bytes: int) -> int:
        """What must go of it before so many bytes more are within its maximum; 0 = nothing."""
        if not self.terms.maximum_bytes:
            return 0
        return max(0, self.held_bytes + size_bytes - self.terms.maximum_bytes)


HoldingOf: TypeAlias = Callable[[str], Holding]
"""The holding of a dataset, by uid."""


def no_terms(_: str) -> Holding:
    """Everybody's holding where nobody asked for anything."""
    return Holding()
