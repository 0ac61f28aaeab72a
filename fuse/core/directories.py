"""Directories as last read: so that a thousand lookups cost one call, and stay true.

Owns the listings of every dataset, within a bound on entries. Does not call the metadata service.

A listing is good while its dataset's snapshot version is the newest one we heard of. Versions arrive by the
watch; our own changes move the version on by exactly one and are patched in, anything else drops the
dataset's listings. While the watch is down a listing is good for the dataset's own timeout only (names.py judges that).

Cookies: entry i of a listing has cookie i + 1; they hold within one open directory handle, which keeps the
list it began with.
"""

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from typing import Final

from fuse.core.contracts import Entry, Page

ENTRIES_MAX: Final = 500_000
"""Entries kept over all listings: about 100 MiB."""

Change = tuple[str, str, Entry | None]
"""Directory, name in it, and what stands there now (None = nothing)."""


class Listing:
    """One directory, or its first names when it is larger than a page."""

    __slots__ = ("entries", "is_complete", "loaded_at")

    def __init__(self, page: Page, now: float) -> None:
        self.entries: dict[str, Entry] = dict(page.entries)
        self.is_complete = not page.more
        self.loaded_at = now


class Caching(Enum):
    """What the kernel shall do with the listing it keeps of a directory, when the directory is opened."""

    NONE = "none"
    """Neither use it nor add to it."""
    FILL = "fill"
    """Begin anew with what this reader is given."""
    KEEP = "keep"
    """Answer readers from it without us."""


class KernelListing:
    """What the kernel may hold of a directory."""

    __slots__ = ("is_whole", "listing", "since")

    def __init__(self, since: float) -> None:
        #: When its first reader came: the attributes that came with the names are as old.
        self.since = since
        #: A reader got to the end, and everything it was given is in `listing`.
        self.is_whole = False
        self.listing: Listing | None = None


class DirectoryCache:
    """Listings by dataset and path, least recently used ones dropped first."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._entries = 0
        self._listings: OrderedDict[tuple[str, str], Listing] = OrderedDict()
        self._versions: dict[str, int] = {}

    @property
    def entries(self) -> int:
        """Entries held now."""
        return self._entries

    def get(self, uid: str, path: str) -> Listing | None:
        """Return the listing as last read; the caller judges its age by `loaded_at`."""
        listing = self._listings.get((uid, path))
        if listing is not None:
            self._listings.move_to_end((uid, path))
        return listing

    def put(self, uid: str, path: str, page: Page, now: float) -> Listing:
        """Return the page as a listing; keep it unless a newer version is known already."""
        listing = Listing(page, now)
        if page.snapshot_version < self._versions.get(uid, 0):
            return listing
        self.advance(uid, page.snapshot_version)
        self._discard((uid, path))
        if len(listing.entries) <= self._entries_max:
            self._listings[(uid, path)] = listing
            self._entries += len(listing.entries)
            self._shrink()
        return listing

    def add(self, uid: str, path: str, name: str, entry: Entry) -> None:
        """Remember one entry of an incomplete listing, learned by a single lookup."""
        listing = self._listings.get((uid, path))
        if listing is None or listing.is_complete:
            return
        if name not in listing.entries:
            self._entries += 1
        listing.entries[name] = entry
        self._shrink()

    def advance(self, uid: str, version: int) -> bool:
        """A snapshot version was heard of. Returns whether it is news, and drops what it makes stale."""
        known = self._versions.get(uid, 0)
        if version <= known:
            return False
        self._versions[uid] = version
        if known:
            self.drop(uid)
        return True

    def changed_here(self, uid: str, version: int, changes: Iterable[Change]) -> None:
        """Our own change made `version`: patch it in. A gap in the versions shows somebody else's change in
        between, and then the dataset's listings are dropped."""
        known = self._versions.get(uid, 0)
        if version == known + 1:
            self._versions[uid] = version
            for path, name, entry in changes:
                self._patch(uid, path, name, entry)
            return
        self.advance(uid, version)
        for path, _, _ in changes:
            # The watch may have been faster than the answer; what was cached since might lie on either side.
            self._discard((uid, path))

    def _patch(self, uid: str, path: str, name: str, entry: Entry | None) -> None:
        listing = self._listings.get((uid, path))
        if listing is None:
            return
        had = listing.entries.pop(name, None) is not None
        if entry is not None:
            listing.entries[name] = entry
        self._entries += (entry is not None) - had

    def drop(self, uid: str) -> None:
        """Forget every listing of the dataset."""
        for key in [key for key in self._listings if key[0] == uid]:
            self._discard(key)

    def drop_below(self, uid: str, path: str) -> None:
        """Forget the listings of directory `path` and everything under it."""
        prefix = path + "/"
        for key in [k for k in self._listings if k[0] == uid and (k[1] == path or k[1].startswith(prefix))]:
            self._discard(key)

    def _discard(self, key: tuple[str, str]) -> None:
        listing = self._listings.pop(key, None)
        if listing is not None:
            self._entries -= len(listing.entries)

    def _shrink(self) -> None:
        while self._entries > self._entries_max and self._listings:
            _, listing = self._listings.popitem(last=False)
            self._entries -= len(listing.entries)
