"""What each tier of this node holds: quota, charges, reservations, room for temporary bytes.

Owns the ledger of bytes. Does not touch files and does not decide who goes (eviction.py), where to (admission.py) or
who moves (tiering.py). A tier is one directory; tiers of one medium are the paths of one level. Units: bytes; times are
seconds of the caller's monotonic clock. Invariants: used, reserved and temporary bytes never go below zero; used +
reserved never exceeds the quota through `charge` and `reserve`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

MEDIA: Final = ("MEM", "SSD", "HDD")
"""Fastest first."""
HIGH: Final = 0.95
LOW: Final = 0.85
"""Watermarks where none are given: late, so that a level is used; a tenth of it at a time, so that moves are few."""
MOVING_PERCENT: Final = 2
MOVING_BYTES_MAX: Final = 1 << 30
"""Room kept for files that change places with faster ones: little, since it is not used otherwise."""


@dataclass(slots=True)
class Tier:
    """One directory with a quota. `temporary` bytes are those of readers that were bypassed."""

    medium: str
    quota_bytes: int
    temporary_limit_bytes: int
    high: float = HIGH
    """Part of the quota above which bytes are demoted, and up to which they are promoted."""
    low: float = LOW
    """Part of the quota at which demotion stops."""
    moving_room_bytes: int = 0
    """Of the quota, for bytes that move between levels: without it nothing could change places in a full cache."""
    used_bytes: int = 0
    reserved_bytes: int = 0
    temporary_bytes: int = 0
    device_free_bytes: int = 1 << 62
    """What the medium itself has left, as last asked; others may use it too."""
    blocked_until_seconds: float = float("-inf")
    """The medium itself was full, or failed: no admission before that time."""
    unread_until_seconds: float = float("-inf")
    """The medium failed or was slow: what lies there is fetched from elsewhere before that time."""

    @property
    def level(self) -> int:
        """Rank of the medium, 0 = fastest."""
        return MEDIA.index(self.medium)

    def is_blocked(self, now_seconds: float) -> bool:
        """Whether the medium refused bytes a short while ago."""
        return now_seconds < self.blocked_until_seconds

    def is_unread(self, now_seconds: float) -> bool:
        """Whether blocks are better fetched from elsewhere than read here."""
        return now_seconds < self.unread_until_seconds

    def free_bytes(self, now_seconds: float) -> int:
        """Bytes that may still be admitted; 0 while blocked."""
        return max(0, self.room_for_moves_bytes(now_seconds) - self.moving_room_bytes)

    def room_for_moves_bytes(self, now_seconds: float) -> int:
        """Bytes that may still come from another level; 0 while blocked."""
        if self.is_blocked(now_seconds):
            return 0
        room = min(self.quota_bytes - self.used_bytes, self.device_free_bytes)
        return max(0, room - self.reserved_bytes)

    def reserve(self, size_bytes: int) -> None:
        """Set bytes aside for a file that is about to be filled."""
        self.reserved_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Give back what was reserved and not charged."""
        assert size_bytes <= self.reserved_bytes, "released more than was reserved"
        self.reserved_bytes -= size_bytes

    def charge(self, size_bytes: int) -> None:
        """Count bytes as used."""
        self.used_bytes += size_bytes

    def refund(self, size_bytes: int) -> None:
        """Count bytes as gone."""
        assert size_bytes <= self.used_bytes, "refunded more than was charged"
        self.used_bytes -= size_bytes

    def take_temporary(self, size_bytes: int, now_seconds: float) -> bool:
        """Charge bytes of a bypassed reader; False when there is no room for them."""
        if self.is_blocked(now_seconds) or self.temporary_bytes + size_bytes > self.temporary_limit_bytes:
            return False
        self.temporary_bytes += size_bytes
        return True

    def return_temporary(self, size_bytes: int) -> None:
        """A bypassed reader's bytes were punched out."""
        assert size_bytes <= self.temporary_bytes, "returned more than was taken"
        self.temporary_bytes -= size_bytes


def moving_room(quota_bytes: int) -> int:
    """Return what a tier below a faster level keeps free for moves."""
    return min(MOVING_BYTES_MAX, quota_bytes * MOVING_PERCENT // 100)


def levels_of(tiers: Sequence[Tier]) -> list[list[int]]:
    """Return the numbers of the tiers of each level, fastest level first; `tiers` are in that order."""
    return [list(group) for _, group in groupby(range(len(tiers)), key=lambda number: tiers[number].level)]
