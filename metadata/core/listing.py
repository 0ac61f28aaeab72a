"""Objects of a store → entries of a namespace.

Owns what becomes of keys: implied directories, markers, keys that are no paths, a key that is both a file and
a directory. Needs keys in key order and remembers only the current branch, so it costs the same for a thousand
and for a hundred million. Invariants: each directory comes out once and before what is in it; of `a` and `a/b`
the directory wins; what is left out is counted, never lost silently. After `finish` more may be added: only then
`a` may have come out before `a/b`, and a directory twice from two builders; the staging, where a directory wins,
makes one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from metadata.core import paths
from metadata.core.entries import DIRECTORY_MODE, FILE_MODE, TIME_NS_MAX, TIME_NS_MIN, Entry, Kind
from understores.base import ObjectInfo


@dataclass(slots=True)
class ListingCounts:
    """What a listing has seen so far. `shadowed` files have a directory of the same name."""

    files: int = 0
    bytes: int = 0
    directories: int = 0
    unusable_keys: int = 0
    shadowed: int = 0
    hidden: int = 0
    """Below another mount of the dataset, which covers them."""


class ListingBuilder:
    """Turns one mount's pages into entries; feed pages in key order, then call `finish`."""

    def __init__(
        self, mount_path: str = "", other_mounts: Sequence[str] = (), counts: ListingCounts | None = None
    ) -> None:
        """`mount_path` is where the mount shows; `other_mounts` those of the dataset's further mounts.

        `counts` go on from there, and may be shared by builders of parts of one listing.
        """
        self._mount_path = mount_path
        self._covered = [path for path in other_mounts if path != mount_path and paths.is_at_or_below(path, mount_path)]
        self._directory = ""
        self._branch: list[str] = []  # its names
        self._pending: list[Entry] = []
        self.counts = counts if counts is not None else ListingCounts()

    def start(self, mtime_ns: int) -> list[Entry]:
        """Directories that lead to the mount, so that an empty mount can be seen."""
        if not self._mount_path:
            return []
        entries: list[Entry] = []
        self._enter(self._mount_path, mtime_ns, entries)
        return entries

    def add(self, page: Sequence[ObjectInfo]) -> list[Entry]:
        """Entries that are certain now; a file waits until no later key can make it a directory."""
        entries: list[Entry] = []
        pending, counts = self._pending, self.counts
        may_be_short = not self._mount_path and not self._covered
        for info in _with_times(page):
            key = info.key
            # Nearly all of a store comes this short way: a plain name, behind one that waits for nothing.
            if may_be_short and len(pending) < 2 and paths.is_plain(key):
                if pending:
                    waiting = pending[0]
                    if key.startswith(waiting.path):
                        self._add(info, entries)
                        continue
                    counts.files += 1
                    counts.bytes += waiting.size_bytes
                    entries.append(waiting)
                    pending.clear()
                parent = key.rpartition("/")[0]
                if parent != self._directory:
                    self._enter(parent, info.mtime_ns, entries)
                pending.append(Entry(key, Kind.FILE, info.size_bytes, info.etag, info.mtime_ns, FILE_MODE))
            else:
                self._add(info, entries)
        return entries

    def finish(self) -> list[Entry]:
        """The files that were still waiting; those of a part of a listing, whose rest another call or builder adds."""
        entries: list[Entry] = []
        self._release("", entries)
        return entries

    def _add(self, info: ObjectInfo, entries: list[Entry]) -> None:
        is_marker = info.key.endswith("/")
        key = info.key[:-1] if is_marker else info.key
        path = f"{self._mount_path}/{key}" if self._mount_path else key
        if not key or paths.problem(key) or (self._mount_path and paths.problem(path)):
            self.counts.unusable_keys += 1
            return
        if self._covered and any(paths.is_at_or_below(path, covered) for covered in self._covered):
            self.counts.hidden += 1
            return
        if self._pending:
            self._release(info.key, entries)
        parent = path if is_marker else paths.split(path)[0]
        self._enter(parent, info.mtime_ns, entries)
        if not is_marker:
            self._pending.append(Entry(path, Kind.FILE, info.size_bytes, info.etag, info.mtime_ns, FILE_MODE))

    def _release(self, key: str, entries: list[Entry]) -> None:
        """Emit waiting files that `key` and all keys after it cannot lie below.

        Each waiting file's key is a prefix of the next one's: keys between `a` and `a/b` start with `a`.
        """
        lead = len(self._mount_path) + 1 if self._mount_path else 0
        while self._pending:
            waiting = self._pending[-1]
            waiting_key = waiting.path[lead:]
            if key.startswith(f"{waiting_key}/"):
                self.counts.shadowed += 1
            elif key.startswith(waiting_key):
                return
            else:
                self.counts.files += 1
                self.counts.bytes += waiting.size_bytes
                entries.append(waiting)
            self._pending.pop()

    def _enter(self, directory: str, mtime_ns: int, entries: list[Entry]) -> None:
        if directory == self._directory:
            return
        self._directory = directory
        names = directory.split("/") if directory else []
        same = 0
        for have, want in zip(self._branch, names, strict=False):
            if have != want:
                break
            same += 1
        for depth in range(same + 1, len(names) + 1):
            self.counts.directories += 1
            entries.append(Entry("/".join(names[:depth]), Kind.IMPLIED, mtime_ns=mtime_ns, mode=DIRECTORY_MODE))
        self._branch = names


def _with_times(page: Sequence[ObjectInfo]) -> Sequence[ObjectInfo]:
    """The page with times that a namespace can keep; nothing depends on those, so that none is worth a refusal."""
    times = [info.mtime_ns for info in page]
    if not times or (min(times) >= TIME_NS_MIN and max(times) <= TIME_NS_MAX):
        return page
    return [structs.replace(info, mtime_ns=min(max(info.mtime_ns, TIME_NS_MIN), TIME_NS_MAX)) for info in page]
