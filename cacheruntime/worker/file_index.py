"""Which files are on this node, by name, path and dataset; and what reports have to say of them.

Owns the index, the counts eviction's shortcut needs, and the names of files that are gone but were reported.
Touches no file. Invariant: a file that reports may have told of is told gone when it leaves.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, ValuesView

from cacheruntime.core.blocks import Version
from cacheruntime.core.eviction import Candidate
from cacheruntime.core.shares import Holding, Terms
from cacheruntime.core.tiering import USES_A_FILE_MAX
from cacheruntime.worker.tier_files import CachedFile


class FileIndex:
    """The files of all tiers; `changed` is called with the name of each file reports must tell of."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._files: dict[str, CachedFile] = {}
        self._by_path: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._held: defaultdict[str, int] = defaultdict(int)
        self._copies: defaultdict[str, int] = defaultdict(int)
        self._gone: dict[str, Version] = {}
        self._uses = 0.0
        self.refetch_seconds_per_byte: Callable[[str], float] = lambda _: 0.0
        """What a byte of a dataset costs to bring back; set by who knows."""
        self.terms: Callable[[str], Terms | None] = lambda _: Terms()
        """A dataset's terms on this node; None = not known yet, and nothing of it may leave. Set by who knows."""
        self._bytes: defaultdict[str, int] = defaultdict(int)

    def __len__(self) -> int:
        return len(self._files)

    def get(self, name: str) -> CachedFile | None:
        """Return the file of that name."""
        return self._files.get(name)

    def all(self) -> ValuesView[CachedFile]:
        """Every file."""
        return self._files.values()

    def uids(self) -> set[str]:
        """Datasets with a file here."""
        return set(self._held)

    def at_path(self, uid: str, path: str) -> list[CachedFile]:
        """Every version of a path."""
        return [self._files[name] for name in self._by_path.get((uid, path), ())]

    def add(self, file: CachedFile) -> None:
        """A file is on this node."""
        version = file.version
        self._files[file.name] = file
        self._by_path[version.uid, version.path].add(file.name)
        self._held[version.uid] += 1
        self._copies[version.uid] += not file.is_home
        self._gone.pop(file.name, None)
        self._uses += file.uses
        terms = self.terms(version.uid)
        file.is_pinned = terms is not None and terms.pins(version.path)

    def remove(self, file: CachedFile) -> None:
        """A file is not on this node any more, under this name at least."""
        version = file.version
        key = (version.uid, version.path)
        del self._files[file.name]
        self._uses -= file.uses
        self._by_path[key].discard(file.name)
        if not self._by_path[key]:
            del self._by_path[key]
        self._held[version.uid] -= 1
        self._copies[version.uid] -= not file.is_home
        if not self._held[version.uid]:
            del self._held[version.uid], self._copies[version.uid]
        if file.is_noted:
            self._gone[file.name] = version
            self._changed(file.name)

    def note(self, file: CachedFile) -> None:
        """Something reports must tell of changed; also takes over whether its map now says home."""
        if file.map.is_home and not file.is_home:
            file.is_home = True
            if file.name in self._files:
                self._copies[file.version.uid] -= 1
        file.is_noted = True
        self._changed(file.name)

    def count_use(self, file: CachedFile) -> None:
        """The file was opened after a pause."""
        file.uses += 1
        self._uses += 1
        if self._uses > USES_A_FILE_MAX * len(self._files):
            for each in self._files.values():
                each.uses /= 2
            self._uses = sum(each.uses for each in self._files.values())

    # Reports

    def names(self) -> list[str]:
        """Names of all files that may be reported."""
        return [name for name, file in self._files.items() if file.is_verified and not file.is_unlinked]

    def named(self, name: str) -> tuple[Version | None, CachedFile | None]:
        """Return what a reported name stands for; None as file = nothing of it is resident, None as version =
        nothing was ever said of it."""
        file = self._files.get(name)
        if file is None:
            return self._gone.get(name), None
        return file.version, file if file.is_verified and not file.is_unlinked else None

    def forget_gone(self, names: Iterable[str]) -> None:
        """These were reported as gone."""
        for name in names:
            self._gone.pop(name, None)

    # Eviction

    def charged(self, uid: str, size_bytes: int) -> None:
        """So many bytes more (or, below 0, less) of this node's room are a dataset's."""
        self._bytes[uid] += size_bytes
        if not self._bytes[uid]:
            del self._bytes[uid]

    def holding(self, uid: str) -> Holding:
        """Return what a dataset may have here, and has."""
        return Holding(self.terms(uid) or Terms(), self._bytes.get(uid, 0))

    def pin(self, uid: str) -> None:
        """The terms of a dataset changed."""
        terms = self.terms(uid) or Terms()
        for file in self._files.values():
            if file.version.uid == uid:
                file.is_pinned = terms.pins(file.version.path)

    def candidates(self, uid: str, *, as_home: bool, is_pinned: bool = False) -> list[Candidate]:
        """Return every file as eviction sees it; [] at once when none could make room for dataset `uid`."""
        # The common case of a full cache is one dataset alone: nothing to look through then.
        is_alone = not (self._held.keys() - {uid})
        if is_alone and not is_pinned and not (as_home and self._copies.get(uid, 0)):
            return []
        return self.all_candidates()

    def all_candidates(self) -> list[Candidate]:
        """Return every file as core sees it."""
        costs = {uid: self.refetch_seconds_per_byte(uid) for uid in self._held}
        unknown = {uid for uid in self._held if self.terms(uid) is None}
        return [
            candidate(file, costs[file.version.uid], is_kept=file.version.uid in unknown)
            for file in self._files.values()
        ]


def candidate(file: CachedFile, refetch_seconds_per_byte: float = 0.0, *, is_kept: bool = False) -> Candidate:
    """Return a file as core sees it; `is_kept`: it stays, whether it is pinned is not known."""
    return Candidate(
        name=file.name,
        uid=file.version.uid,
        tier=file.tier,
        resident_bytes=file.map.resident_bytes,
        is_home=file.is_home,
        is_referenced=file.references > 0,
        is_pinned=file.is_pinned or is_kept,
        last_used_seconds=file.last_used_seconds,
        uses=file.uses,
        refetch_seconds_per_byte=refetch_seconds_per_byte,
    )
