"""Who leaves when bytes are needed: between datasets the least valuable file goes; inside one nothing does.

Owns the order of victims. An epoch reads every sample once in a new order, so evicting inside the dataset that
is being read only lowers its hit ratio below the cached fraction (admit, then bypass). The one exception: a
block at its home may displace a copy of the same dataset, since the cluster gains a distinct block and loses
only a short way. Value, lowest first: copies before homes, then what comes back fastest, then the oldest use. How
fast is measured, in steps of two: a small difference between under stores says less than when a file was used. Never
a victim: a file that is open, being filled, or pinned.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file as eviction sees it; `name` is whatever the caller finds it by."""

    name: str
    uid: str
    tier: int
    resident_bytes: int
    is_home: bool
    is_referenced: bool
    is_pinned: bool
    last_used_seconds: float
    uses: float = 0.0
    """How often it was opened, older times counting less (tiering.py)."""
    refetch_seconds_per_byte: float = 0.0
    """What a byte costs to bring back, as measured of its dataset's under store; 0 = not known."""


def may_displace(candidate: Candidate, *, uid: str, as_home: bool) -> bool:
    """Whether bytes of dataset `uid` may take this file's place."""
    if candidate.is_referenced or candidate.is_pinned or candidate.resident_bytes == 0:
        return False
    return candidate.uid != uid or (as_home and not candidate.is_home)


def value(candidate: Candidate) -> tuple[bool, int, float, str]:
    """What a file is worth, to compare with others. A copy comes back from its home, whatever its under store is."""
    seconds = candidate.refetch_seconds_per_byte
    steps = round(log2(seconds * (1 << 30))) if candidate.is_home and seconds > 0 else 0
    return candidate.is_home, steps, candidate.last_used_seconds, candidate.name


def victims(
    candidates: Iterable[Candidate],
    *,
    needed_bytes: int,
    tier: int,
    uid: str,
    as_home: bool,
    goal_bytes: int = 0,
) -> list[Candidate]:
    """Return the files to drop from `tier` to free `needed_bytes`, least valuable first; [] when it cannot be.

    Looking costs time in proportion to the files held, so more than is needed may go at once: up to `goal_bytes`.
    """
    allowed = [c for c in candidates if c.tier == tier and may_displace(c, uid=uid, as_home=as_home)]
    allowed.sort(key=value)
    chosen: list[Candidate] = []
    freed_bytes = 0
    for candidate in allowed:
        if freed_bytes >= max(needed_bytes, goal_bytes):
            break
        chosen.append(candidate)
        freed_bytes += candidate.resident_bytes
    return chosen if freed_bytes >= needed_bytes else []
