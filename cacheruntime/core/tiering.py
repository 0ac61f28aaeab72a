"""Which file changes its level: promotion on reuse, demotion by watermark.

Owns the choice; the ledgers are read, never written, and whoever moves checks again before it commits a move. Files are
filled into the fastest level with room (admission.py) and move as wholes afterwards:

    slower level --used again, room up to `high`, or much colder files above that may be demoted--> faster level
    tier above `high` --coldest files first, until `low`--> next slower level with room

Invariants: a move is planned only into room that is free now, so no quota is exceeded and nothing is dropped to make
room; files that are open, being filled or pinned are never demoted; a promotion never takes a tier above its `high`, so
that it causes no demotion; files that are used equally often never change places: an epoch uses each once, and moving
what was used last would only copy bytes (LRU's mistake, one level up). The slowest level has nowhere to demote to: its
watermarks do nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cacheruntime.core.eviction import Candidate
from cacheruntime.core.tiers import Tier, levels_of

MOVES_MAX: Final = 64
"""Planned at a time: what is planned is soon out of date."""
FIRST_USE: Final = 1.0
"""The count of a file that was filled and not used since; any later use makes it more, however much it has faded."""
HOTTER_FACTOR: Final = 2.0
HOTTER_MORE: Final = 2.0
"""A file changes places only with files used less than half as often, and two times less: in the midst of an epoch half
the files were used once more than the others."""
USES_A_FILE_MAX: Final = 8.0
"""All counts are halved when they reach this in the mean, so that yesterday's use fades; no clock is needed."""


@dataclass(frozen=True, slots=True)
class Move:
    """One file to another tier."""

    name: str
    size_bytes: int
    source: int
    target: int


@dataclass(slots=True)
class _Rooms:
    """What the ledgers would be after the moves planned so far; bytes leave their source only when a move is done."""

    tiers: Sequence[Tier]
    now_seconds: float
    _coming: dict[int, int] = field(default_factory=dict)
    _leaving: dict[int, int] = field(default_factory=dict)

    def room(self, number: int) -> int:
        return self.tiers[number].room_for_moves_bytes(self.now_seconds) - self._coming.get(number, 0)

    def room_below_high(self, number: int) -> int:
        tier = self.tiers[number]
        filled = tier.used_bytes + tier.reserved_bytes + self._coming.get(number, 0)
        return min(self.room(number), int(tier.high * tier.quota_bytes) - filled)

    def filled(self, number: int) -> int:
        """Bytes that will be left; what is only reserved is not there yet, and cannot be demoted."""
        return self.tiers[number].used_bytes - self._leaving.get(number, 0)

    def plan(self, move: Move) -> None:
        self._coming[move.target] = self._coming.get(move.target, 0) + move.size_bytes
        self._leaving[move.source] = self._leaving.get(move.source, 0) + move.size_bytes


def is_worth_promoting(tier: Tier, tiers: Sequence[Tier], uses: float) -> bool:
    """Whether a file with so many uses should be looked at by `promotion`; cheap."""
    return uses > FIRST_USE and tier.level > tiers[0].level


def overfull(tiers: Sequence[Tier]) -> list[int]:
    """Return the tiers that should demote; cheap."""
    slowest = max(tier.level for tier in tiers)
    return [i for i, t in enumerate(tiers) if t.level < slowest and t.used_bytes > t.high * t.quota_bytes]


def demotions(tiers: Sequence[Tier], files: Iterable[Candidate], now_seconds: float) -> list[Move]:
    """Return what should leave the tiers that are above `high`, coldest first, at most MOVES_MAX."""
    rooms = _Rooms(tiers, now_seconds)
    moves: list[Move] = []
    sources = overfull(tiers)
    held = [file for file in files if file.tier in sources and _may_demote(file)]
    held.sort(key=_coldness)
    for source in sources:
        for file in held:
            if rooms.filled(source) <= tiers[source].low * tiers[source].quota_bytes or len(moves) >= MOVES_MAX:
                break
            if file.tier == source and (move := _down(rooms, file)) is not None:
                rooms.plan(move)
                moves.append(move)
    return moves


def promotion(
    tiers: Sequence[Tier], file: Candidate, files: Callable[[], Iterable[Candidate]], now_seconds: float
) -> list[Move]:
    """Return the moves that bring a reused file up, in order; [] when it should stay. `files` is called only when no
    faster level has room."""
    if not is_worth_promoting(tiers[file.tier], tiers, file.uses):
        return []
    faster = [i for level in levels_of(tiers) for i in level if tiers[i].level < tiers[file.tier].level]
    rooms = _Rooms(tiers, now_seconds)
    for target in faster:
        if rooms.room_below_high(target) >= file.resident_bytes:
            return [Move(file.name, file.resident_bytes, file.tier, target)]
    others = list(files())
    for target in faster:
        moves = _change_places(_Rooms(tiers, now_seconds), file, others, target)
        if moves:
            return moves
    return []


def _change_places(rooms: _Rooms, file: Candidate, files: Iterable[Candidate], target: int) -> list[Move]:
    colder = [c for c in files if c.tier == target and _may_demote(c) and _is_hotter(file, c)]
    missing = file.resident_bytes - rooms.room_below_high(target)
    moves: list[Move] = []
    for other in sorted(colder, key=_coldness):
        if missing <= 0 or len(moves) >= MOVES_MAX:
            break
        if (move := _down(rooms, other)) is not None:
            rooms.plan(move)
            moves.append(move)
            missing -= move.size_bytes
    return [] if missing > 0 else [*moves, Move(file.name, file.resident_bytes, file.tier, target)]


def _down(rooms: _Rooms, file: Candidate) -> Move | None:
    tiers = rooms.tiers
    for level in levels_of(tiers):
        with_room = [i for i in level if rooms.room(i) >= file.resident_bytes]
        if tiers[level[0]].level > tiers[file.tier].level and with_room:
            emptiest = max(with_room, key=lambda i: rooms.room(i) / tiers[i].quota_bytes)
            return Move(file.name, file.resident_bytes, file.tier, emptiest)
    return None


def _may_demote(file: Candidate) -> bool:
    return not file.is_referenced and not file.is_pinned and file.resident_bytes > 0


def _is_hotter(file: Candidate, other: Candidate) -> bool:
    return file.uses >= HOTTER_FACTOR * other.uses + HOTTER_MORE


def _coldness(file: Candidate) -> tuple[float, float, str]:
    return file.uses, file.last_used_seconds, file.name
