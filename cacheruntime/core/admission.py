"""Where new bytes go: admit until full, then bypass.

Owns the choice of a tier for a file and of what a block may displace. All blocks of one version on a node lie in one
sparse file, so in one tier: the tier is chosen once, for the bytes that file is expected to bring. Order: the fastest
level with room, there the path with the largest part of its quota free, so that the disks of a level fill evenly; else
the slowest where eviction makes room (it hurts least); else bypass: the bytes are served and not kept. A dataset that
has its maximum (shares.py) is bypassed too, room or not.
What moves later between levels is tiering.py's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cacheruntime.core.eviction import Candidate, victims
from cacheruntime.core.shares import HoldingOf, no_terms
from cacheruntime.core.tiers import Tier, levels_of

EVICT_PERCENT: Final = 2
"""Of a quota, dropped at a time: one look at all files then pays for many admissions."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Tier for a new file. `reserve_bytes` are to be set aside there, after `evict` is gone."""

    tier: int
    reserve_bytes: int = 0
    evict: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a block may stay in its file's tier, after `evict` is gone."""

    is_admitted: bool
    evict: tuple[Candidate, ...] = ()


def place(
    tiers: Sequence[Tier],
    candidates: Callable[[], Iterable[Candidate]],
    *,
    wanted_bytes: int,
    uid: str,
    as_home: bool,
    now_seconds: float,
    is_pinned: bool = False,
    holding: HoldingOf = no_terms,
) -> Placement:
    """Choose the tier for a file of which `wanted_bytes` are expected to be kept (0 = none, only served).

    `candidates` is called only when nothing has room: it lists every file of the node.
    """
    usable = [i for i, tier in enumerate(tiers) if not tier.is_blocked(now_seconds)]
    # What is over the maximum may still stay in part: each block is decided on when it comes.
    if wanted_bytes and not holding(uid).missing_bytes(wanted_bytes):
        for level in levels_of(tiers):
            with_room = [i for i in level if i in usable and tiers[i].free_bytes(now_seconds) >= wanted_bytes]
            if with_room:
                emptiest = max(with_room, key=lambda i: tiers[i].free_bytes(now_seconds) / tiers[i].quota_bytes)
                return Placement(emptiest, wanted_bytes)
        files = list(candidates())
        for index in reversed(usable):
            needed = wanted_bytes - tiers[index].free_bytes(now_seconds)
            chosen = victims(
                files,
                needed_bytes=needed,
                goal_bytes=_goal(tiers[index]),
                tier=index,
                uid=uid,
                as_home=as_home,
                is_pinned=is_pinned,
                holding=holding,
            )
            if chosen:
                return Placement(index, wanted_bytes, tuple(chosen))
    return Placement(_roomiest(tiers, usable or range(len(tiers)), now_seconds))


def _roomiest(tiers: Sequence[Tier], usable: Iterable[int], now_seconds: float) -> int:
    def room(index: int) -> tuple[bool, int, int]:
        tier = tiers[index]
        # A tier that keeps nothing is for when no other works.
        is_kept = tier.quota_bytes > 0
        return is_kept, tier.free_bytes(now_seconds), tier.temporary_limit_bytes - tier.temporary_bytes

    return max(usable, key=room)


def admit(
    tiers: Sequence[Tier],
    candidates: Callable[[], Iterable[Candidate]],
    *,
    tier: int,
    size_bytes: int,
    reserved_bytes: int,
    uid: str,
    as_home: bool,
    now_seconds: float,
    is_pinned: bool = False,
    holding: HoldingOf = no_terms,
) -> Admission:
    """Decide on one block of a file in `tier`; `reserved_bytes` are what that file still has set aside."""
    if tiers[tier].is_blocked(now_seconds):
        return Admission(False)
    over_bytes = holding(uid).missing_bytes(size_bytes)
    needed = max(over_bytes, size_bytes - reserved_bytes - tiers[tier].free_bytes(now_seconds))
    if needed <= 0:
        return Admission(True)
    files = candidates()
    if over_bytes:
        files = [file for file in files if file.uid == uid]
    chosen = victims(
        files,
        needed_bytes=needed,
        goal_bytes=0 if over_bytes else _goal(tiers[tier]),
        tier=tier,
        uid=uid,
        as_home=as_home,
        is_pinned=is_pinned,
        holding=holding,
    )
    return Admission(bool(chosen), tuple(chosen))


def _goal(tier: Tier) -> int:
    return tier.quota_bytes * EVICT_PERCENT // 100
