"""Old namespace + listing → the changes of the next snapshot version.

Owns the comparison, and what happens to names that were changed through us while the listing ran. Both inputs
come sorted by (parent, name) and are read once. Invariants: the result is a tree; a name changed after the
listing began is left as it is, since the listing may have looked too early or too late; a file with the same
etag and size is unchanged, whatever its mode and mtime say; a file that the under store does not have yet stays,
whatever older object the listing shows in its place; an object that a rename left (left.py) is as good as not listed.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from msgspec.structs import replace

from api.held import is_held
from metadata.core import paths
from metadata.core.entries import Changes, Entry, Kind


@dataclass(slots=True)
class SyncPlan:
    """Changes to apply, and how many files they are, by kind."""

    changes: Changes = field(default_factory=Changes)
    added: int = 0
    changed: int = 0
    removed: int = 0
    listed: int = 0
    """Files in the listing, whatever becomes of them."""


def plan_sync(
    old: Iterable[Entry],
    listed: Iterable[Entry],
    *,
    base_version: int,
    removed_since: Set[str] = frozenset(),
    keeps_made_directories: bool = True,
    left: Mapping[str, str] = MappingProxyType({}),
) -> SyncPlan:
    """Compare. `base_version` is the snapshot's version when the listing began, `removed_since` the paths that
    were removed or replaced after it; `keeps_made_directories` when the store cannot list empty ones; `left` the etags
    of objects that are to go, by path."""
    plan = SyncPlan()
    protected: set[str] = set()  # directories that must stay or come: something below them stays
    fixed_files: set[str] = set()  # files written while listing: nothing listed below them counts
    withheld: dict[str, Entry] = {}  # listed, but removed through us since
    leaving: list[Entry] = []
    replaced: set[str] = set()
    for before, found in _merge(old, listed):
        path = (before or found).path  # type: ignore[union-attr]  # one of the two is there
        plan.listed += found is not None and not found.is_directory
        is_left = found is not None and not found.is_directory and left.get(path) == found.etag
        now = None if is_left else found
        if before is None and now is None:
            continue
        is_fixed = before is not None and (path in removed_since or is_held(before.etag))
        if before is not None and (is_fixed or before.version > base_version):
            _protect(path, protected)
            if before.is_directory:
                protected.add(path)
            else:
                fixed_files.add(path)
        elif now is None:
            assert before is not None
            if before.kind is Kind.MADE and keeps_made_directories:
                _protect(path, protected)
                protected.add(path)
            else:
                leaving.append(before)
        elif before is None and path in removed_since:
            withheld[path] = now
        elif before is None:
            plan.changes.upserts.append(now)
        elif not _is_same(before, now):
            # A store does not know permission bits: those set through us stay.
            keeps_mode = not before.is_directory and not now.is_directory
            plan.changes.upserts.append(replace(now, mode=before.mode) if keeps_mode else now)
            replaced.add(path)
    _settle(plan, leaving, withheld, protected, fixed_files)
    for entry in plan.changes.upserts:
        if not entry.is_directory:
            is_change = entry.path in replaced
            plan.changed += is_change
            plan.added += not is_change
    return plan


def _settle(
    plan: SyncPlan, leaving: list[Entry], withheld: dict[str, Entry], protected: set[str], fixed_files: set[str]
) -> None:
    """Make the outcome a tree: what stays keeps its directories, nothing comes to lie below a file."""
    if fixed_files:
        plan.changes.upserts[:] = [
            entry
            for entry in plan.changes.upserts
            if not any(above in fixed_files for above in paths.ancestors(entry.path))
        ]
    # A directory over which something stays cannot become a file, and one that is needed comes back.
    plan.changes.upserts[:] = [
        entry for entry in plan.changes.upserts if entry.is_directory or entry.path not in protected
    ]
    if withheld:
        needed = {above for entry in plan.changes.upserts for above in paths.ancestors(entry.path)}
        plan.changes.upserts.extend(entry for path, entry in withheld.items() if path in needed and entry.is_directory)
    for entry in leaving:
        if entry.path in protected:
            continue
        plan.changes.removals.append(entry.path)
        plan.removed += not entry.is_directory


def _protect(path: str, protected: set[str]) -> None:
    for above in paths.ancestors(path):
        if above in protected:
            return
        protected.add(above)


def _is_same(before: Entry, now: Entry) -> bool:
    if before.is_directory or now.is_directory:
        return before.is_directory and now.is_directory
    return before.etag == now.etag and before.size_bytes == now.size_bytes


def _merge(old: Iterable[Entry], listed: Iterable[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    left, right = iter(old), iter(listed)
    before, now = next(left, None), next(right, None)
    while before is not None or now is not None:
        if now is None or (before is not None and paths.split(before.path) < paths.split(now.path)):
            yield before, None
            before = next(left, None)
        elif before is None or paths.split(now.path) < paths.split(before.path):
            yield None, now
            now = next(right, None)
        else:
            yield before, now
            before, now = next(left, None), next(right, None)
