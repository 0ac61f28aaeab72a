"""Who leaves when bytes are needed: between datasets the least valuable file goes; inside one nothing does.

Owns the order of victims; shares.py has the words priority, guaranteed, maximum. An epoch reads every sample once in a
new order, so evicting inside the dataset that is being read only lowers its hit ratio below the cached fraction
(admit, then bypass). The exceptions: a block at its home may displace a copy of the same dataset, since the cluster
gains a distinct block and loses only a short way; and what is pinned displaces what is not. Value, lowest first: what
is above its dataset's maximum, then the lowest priority, there copies before homes, then what comes back fastest, then
the oldest use. How fast is measured, in steps of two: a small difference between under stores says less than when a
file was used.

Invariants: never a victim is a file that is open, being filled, or pinned, nor one without which its dataset would have
less than it is guaranteed, nor one of a higher priority than the bytes that come, unless these are below their own
guarantee or that one above its maximum. So who is below a guarantee loses to nobody, and gets in as long as anything
else may leave.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

from cacheruntime.core.shares import HoldingOf, no_terms


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


def may_displace(
    candidate: Candidate, *, uid: str, as_home: bool, is_pinned: bool = False, holding: HoldingOf = no_terms
) -> bool:
    """Whether bytes of dataset `uid` (`is_pinned` bytes of it) may take this file's place."""
    if candidate.is_referenced or candidate.is_pinned or candidate.resident_bytes == 0:
        return False
    if candidate.uid == uid:
        return is_pinned or (as_home and not candidate.is_home)
    mine, other = holding(uid), holding(candidate.uid)
    is_owed = mine.is_below_guarantee or other.is_above_maximum
    return is_owed or other.terms.priority <= mine.terms.priority


def value(candidate: Candidate, holding: HoldingOf = no_terms) -> tuple[bool, int, bool, int, float, str]:
    """What a file is worth, to compare with others. A copy comes back from its home, whatever its under store is."""
    seconds = candidate.refetch_seconds_per_byte
    steps = round(log2(seconds * (1 << 30))) if candidate.is_home and seconds > 0 else 0
    its = holding(candidate.uid)
    is_worth_more = (not its.is_above_maximum, its.terms.priority)
    return *is_worth_more, candidate.is_home, steps, candidate.last_used_seconds, candidate.name


def victims(
    candidates: Iterable[Candidate],
    *,
    needed_bytes: int,
    tier: int,
    uid: str,
    as_home: bool,
    is_pinned: bool = False,
    goal_bytes: int = 0,
    holding: HoldingOf = no_terms,
) -> list[Candidate]:
    """Return the files to drop from `tier` to free `needed_bytes`, least valuable first; [] when it cannot be.

    Looking costs time in proportion to the files held, so more than is needed may go at once: up to `goal_bytes`.
    """

    def may_go(candidate: Candidate) -> bool:
        return candidate.tier == tier and may_displace(
            candidate, uid=uid, as_home=as_home, is_pinned=is_pinned, holding=holding
        )

    allowed = sorted(filter(may_go, candidates), key=lambda candidate: value(candidate, holding))
    left = {one: holding(one).held_bytes - holding(one).terms.guaranteed_bytes for one in {c.uid for c in allowed}}
    chosen: list[Candidate] = []
    freed_bytes = 0
    for candidate in allowed:
        if freed_bytes >= max(needed_bytes, goal_bytes):
            break
        # What goes of the dataset that gains the room is no loss to it.
        if candidate.uid != uid and holding(candidate.uid).terms.guaranteed_bytes:
            if left[candidate.uid] < candidate.resident_bytes:
                continue
            left[candidate.uid] -= candidate.resident_bytes
        chosen.append(candidate)
        freed_bytes += candidate.resident_bytes
    return chosen if freed_bytes >= needed_bytes else []
