"""Held versions: files that two workers keep on their disks, and the under store does not have yet.

Owns what becomes of them when the namespace changes, and turns: who may change a path in the under store. Pure.

    (none) --put--> WAITING --uploaded, still what the entry shows--> UPLOADED
                       '-----replaced or removed before that--------> GONE

    turn of a path: free --TakeTurn (a change), ClaimHeld (an upload)--> taken --ended, or its worker's lease--> free

Invariants: an entry with a held etag has a row that waits, at the entry's path; nobody changes a path in the under
store without its turn, so the store never ends with an older version than the namespace; while a path's turn is an
upload's, another version may be shown there all the same, and its upload comes after.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from api.held import held_name, is_held
from metadata.core.entries import Changes, Entry
from metadata.errors import Precondition, Unavailable

KEPT_NS: Final = 24 * 3600 * 10**9
"""So long it is known what became of a version, for those who still read it."""


class HeldState(StrEnum):
    """What became of a held version."""

    WAITING = "waiting"
    UPLOADED = "uploaded"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class HeldFile:
    """One held version."""

    etag: str
    path: str
    """Where it is shown; of one that is uploaded, where it was then."""
    size_bytes: int
    state: HeldState = HeldState.WAITING
    leaves_object: bool = False
    """The under store may have an object at its path, of an older version or of an upload that was cut off."""
    object_etag: str = ""
    ended_at_ns: int = 0
    left: tuple[str, ...] = ()
    """Holders that did not say yet that they dropped it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Who may change a path in the under store."""

    id: str
    node: str
    epoch: int
    is_upload: bool = False


@dataclass(frozen=True, slots=True)
class HeldTally:
    """Versions of a dataset that wait."""

    files: int = 0
    bytes: int = 0


NOTHING_HELD: Final = HeldTally()


@dataclass(frozen=True, slots=True)
class Standing:
    """Which incarnations live. `is_settled`: every worker that lives has had the time to say so."""

    workers: Mapping[str, tuple[int, bool]]
    is_settled: bool

    def has_ended(self, turn: Turn) -> bool:
        """Whether the worker that took the turn is gone."""
        epoch, is_alive = self.workers.get(turn.node, (0, False))
        return epoch > turn.epoch or (not is_alive and self.is_settled)


@dataclass(frozen=True, slots=True)
class Effects:
    """What changes of a namespace do to held versions."""

    rows: list[HeldFile] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


EntryAt = Callable[[str], Entry | None]
HeldOf = Callable[[str], HeldFile | None]
TurnAt = Callable[[str], Turn | None]


def new_file(etag: str, path: str, size_bytes: int, *, leaves_object: bool) -> HeldFile:
    """The row of a version that is shown for the first time."""
    name = held_name(etag)
    return HeldFile(etag, path, size_bytes, leaves_object=leaves_object, left=name.holders if name else ())


def is_free(turn: Turn | None, mine: str, standing: Standing) -> bool:
    """Whether nobody else has the turn."""
    return turn is None or turn.id == mine or standing.has_ended(turn)


def require_turns(changes: Changes, mine: str, entry_at: EntryAt, turn_at: TurnAt, standing: Standing) -> None:
    """Raise Unavailable while somebody else changes one of the paths in the under store, or when `mine` was taken away;
    Precondition when a held version would go without a turn."""
    shown = {entry.path: entry for entry in changes.upserts if not entry.is_directory}
    for path in (*changes.removals, *shown):
        turn, becomes_held = turn_at(path), path in shown and is_held(shown[path].etag)
        if becomes_held and turn is not None and turn.is_upload:
            continue
        if not is_free(turn, mine, standing):
            raise Unavailable(f"{path!r} is being changed in the under store by another worker.")
        if becomes_held:
            continue
        has_turn = turn is not None and turn.id == mine
        current = entry_at(path)
        if mine and not has_turn and (current is None or not current.is_directory):
            raise Unavailable(f"the turn of {path!r} was taken away: the lease of its worker had ended.")
        if not has_turn and current is not None and is_held(current.etag):
            raise Precondition(f"{path!r} is not in the under store yet; it changes only for who has its turn.")


def effects(
    changes: Changes,
    entry_at: EntryAt,
    held_of: HeldOf,
    turn_at: TurnAt,
    now_ns: int,
    *,
    is_left: Callable[[str], bool] = lambda _: False,
) -> Effects:
    """What becomes of the held versions that `changes` shows, moves, replaces and removes; before they are applied.
    `is_left`: whether an object is left at a path that has no entry."""
    before: dict[str, Entry] = {}
    for path in (*changes.removals, *(entry.path for entry in changes.upserts)):
        entry = entry_at(path)
        if entry is not None and not entry.is_directory:
            before[path] = entry
    rows = {path: _row(entry, held_of) for path, entry in before.items() if is_held(entry.etag)}
    known = {row.etag: row for row in rows.values()}
    found: list[HeldFile] = []
    files = size = 0
    shown: set[str] = set()
    for entry in changes.upserts:
        if entry.is_directory or not is_held(entry.etag):
            continue
        shown.add(entry.etag)
        old = known.get(entry.etag)
        if old is not None and old.path == entry.path:
            continue
        leaves = _leaves(entry.path, before, rows, turn_at) or is_left(entry.path)
        if old is not None:
            found.append(replace(old, path=entry.path, leaves_object=leaves))
        else:
            found.append(new_file(entry.etag, entry.path, entry.size_bytes, leaves_object=leaves))
            files, size = files + 1, size + entry.size_bytes
    for row in rows.values():
        if row.etag not in shown:
            found.append(replace(row, state=HeldState.GONE, ended_at_ns=now_ns))
            files, size = files - 1, size - row.size_bytes
    return Effects(found, files, size)


def uploaded(row: HeldFile, object_etag: str, now_ns: int) -> HeldFile:
    """The row of a version the under store has."""
    return replace(row, state=HeldState.UPLOADED, object_etag=object_etag, ended_at_ns=now_ns)


def forgotten(row: HeldFile, node: str) -> HeldFile:
    """The row after a holder said that it dropped its bytes."""
    return replace(row, left=tuple(one for one in row.left if one != node))


def _row(entry: Entry, held_of: HeldOf) -> HeldFile:
    # Of an entry that came without its row nothing is known, so an object may be there.
    return held_of(entry.etag) or new_file(entry.etag, entry.path, entry.size_bytes, leaves_object=True)


def _leaves(path: str, before: Mapping[str, Entry], rows: Mapping[str, HeldFile], turn_at: TurnAt) -> bool:
    turn = turn_at(path)
    if turn is not None and turn.is_upload:
        return True
    return rows[path].leaves_object if path in rows else path in before
