"""Names to nodes: lookup, getattr, directories.

Owns how a name is resolved: a file being written here first, then the listing of its directory (one call
for thousands of names), then a lookup of its own. Does not change anything (changes.py does).
Invariant: in a writable dataset "there is no such name" is always confirmed by the metadata service, because
a name that another node just committed must be found.
"""

from collections.abc import Iterable
from operator import itemgetter
from typing import Final

from fuse.core.attrs import Attributes, no_such_name
from fuse.core.contracts import Dataset, Entry, Page
from fuse.core.directories import Caching, KernelListing, Listing
from fuse.core.handles import DirectoryHandle
from fuse.core.inodes import DIRECTORY_ENTRY, Kind, Node
from fuse.core.state import State
from fuse.errors import BadName, NameTooLong, NotADirectory, NotFound, Stale, Unavailable

NAME_BYTES_MAX: Final = 255
PAGE_ENTRIES: Final = 10_000
MISSING_MAX: Final = 1024
"""Names of one directory the kernel may remember as missing: each costs a message when a snapshot comes."""

DirectoryItem = tuple[str, Entry]


def decode_name(raw: bytes) -> str:
    """Return the name as text; NameTooLong, BadName."""
    if len(raw) > NAME_BYTES_MAX:
        raise NameTooLong(f"a name of {len(raw)} bytes, at most {NAME_BYTES_MAX} are possible")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName(f"name {raw!r} is not UTF-8") from None


def join(directory: str, name: str) -> str:
    """Return the path of `name` in `directory` ("" = the root)."""
    return f"{directory}/{name}" if directory else name


class Names:
    """Resolves names of one mount."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def lookup(self, parent_inode: int, raw_name: bytes) -> Attributes:
        """Return the attributes of a name and count a lookup; inode 0 when there is none (and the kernel may
        remember that for the returned time)."""
        state = self._state
        parent = state.inodes.get(parent_inode)
        try:
            name = decode_name(raw_name)
        except BadName:
            return no_such_name(state.timeouts.negative(parent))
        try:
            node = await self.find(parent, name)
        except NotFound:
            return self._no_such_name(parent, name)
        state.inodes.told(node)
        return state.attributes(node)

    def _no_such_name(self, parent: Node, name: str) -> Attributes:
        if len(parent.missing) >= MISSING_MAX:
            return no_such_name(0.0)
        parent.missing.add(name)
        return no_such_name(self._state.timeouts.negative(parent))

    async def getattr(self, inode: int) -> Attributes:
        """Return the attributes of a node. What is open or written here answers for itself; the rest is as
        fresh as its dataset's timeout. NotFound when it was removed elsewhere."""
        state = self._state
        node = state.inodes.get(inode)
        if node.writing is None and not (node.handles or node.may_be_open or node.is_detached):
            await self.refresh(node)
        return state.attributes(node)

    async def refresh(self, node: Node) -> None:
        """Bring a node's entry up to date. NotFound; Stale is for callers that hold another version."""
        if node.kind not in {Kind.DIRECTORY, Kind.FILE} or node.dataset is None:
            return
        entry = await self.entry(node.dataset, node.path)
        if entry.is_directory != node.is_directory:
            raise NotFound(f"{node.path} is of another kind now")
        if not self._state.has_opens and entry.etag != node.entry.etag:
            raise Stale(f"{node.path} was replaced")
        self._state.inodes.renew(node, entry)

    async def check_there(self, parent: Node) -> None:
        """NotFound when another node removed the directory: a name made in it would bring the directory back. A listing
        that is known says that it is there, so this costs a question only after it was searched in vain."""
        dataset = parent.dataset
        if dataset is not None and self._state.directories.get(dataset.uid, parent.path) is None:
            await self.refresh(parent)

    def forget(self, inode: int, lookups: int) -> None:
        """The kernel lets go of `lookups` references."""
        self._state.inodes.forget(inode, lookups)

    async def find(self, parent: Node, name: str) -> Node:
        """Return the node of a name, without counting a lookup; NotFound, NotADirectory."""
        state = self._state
        if parent.kind is Kind.ROOT:
            if await state.catalogue.has_namespace(name):
                return state.inodes.child(parent, name, Kind.NAMESPACE, None, DIRECTORY_ENTRY)
            raise NotFound(f"no namespace {name}")
        if parent.kind is Kind.NAMESPACE:
            dataset = await state.catalogue.find(parent.name, name)
            return state.inodes.child(parent, name, Kind.DATASET, dataset, DIRECTORY_ENTRY)
        if parent.kind is Kind.FILE:
            raise NotADirectory(f"{parent.name} is a file")
        if parent.is_detached or parent.dataset is None:
            raise NotFound(f"the directory of {name} was removed")
        known = parent.children.get(name)
        if known is not None and known.writing is not None:
            return known
        entry = await self.entry(parent.dataset, join(parent.path, name))
        return self.child(parent, name, entry)

    def child(self, parent: Node, name: str, entry: Entry) -> Node:
        """Return the node of an entry of `parent`, known or new; no lookup is counted."""
        known = parent.children.get(name)
        if known is not None and known.entry is entry and known.dataset is parent.dataset and known.writing is None:
            return known  # most of a listing that was read before
        inodes = self._state.inodes
        if parent.kind is Kind.ROOT:
            return inodes.child(parent, name, Kind.NAMESPACE, None, DIRECTORY_ENTRY)
        if parent.kind is Kind.NAMESPACE:
            dataset = self._state.catalogue.by_uid(entry.etag)
            return inodes.child(parent, name, Kind.DATASET, dataset, DIRECTORY_ENTRY)
        kind = Kind.DIRECTORY if entry.is_directory else Kind.FILE
        return inodes.child(parent, name, kind, parent.dataset, entry)

    async def entry(self, dataset: Dataset, path: str) -> Entry:
        """Return what stands at `path`; NotFound. One call lists the whole directory for the names to come."""
        state = self._state
        directory, _, name = path.rpartition("/")
        listing, was_asked_for = await self._listing(dataset, directory)
        entry = listing.entries.get(name)
        if entry is not None:
            return entry
        if listing.is_complete and (was_asked_for or not dataset.writable):
            raise NotFound(f"no {path} in {dataset.namespace}/{dataset.name}")
        entry = await state.namespace.lookup(dataset.uid, path)
        state.directories.add(dataset.uid, directory, name, entry)
        return entry

    async def _listing(self, dataset: Dataset, directory: str) -> tuple[Listing, bool]:
        """Return a listing that may be trusted, and whether it was asked for just now. Snapshot data outlives
        the metadata service: when that does not answer, the listing as last read is still the best there is."""
        state = self._state
        known = state.directories.get(dataset.uid, directory)
        if known is not None and self._is_fresh(dataset, known):
            return known, False
        try:
            page = await state.namespace.read_directory(dataset.uid, directory, "", PAGE_ENTRIES)
        except Unavailable:
            if known is None or dataset.writable:
                raise
            return known, False
        return state.directories.put(dataset.uid, directory, page, state.monotonic()), True

    def _is_fresh(self, dataset: Dataset, listing: Listing) -> bool:
        if self._state.is_watching:
            return True
        timeouts = self._state.timeouts
        seconds = timeouts.writable_seconds if dataset.writable else timeouts.read_only_seconds
        return self._state.monotonic() - listing.loaded_at <= seconds

    async def open_directory(self, inode: int) -> int:
        """Return a handle; NotADirectory, NotFound when it was removed elsewhere."""
        state = self._state
        node = state.inodes.get(inode)
        if not node.is_directory:
            raise NotADirectory(f"{node.name} is a file")
        handle = DirectoryHandle(node)
        if node.dataset is not None and not node.dataset.writable and not node.is_detached:
            handle.listing = self._whole_listing(node, node.dataset)
        if handle.listing is None:
            await self._fetch(handle)
        state.inodes.opened(node)
        return state.handles.add_directory(handle)

    def kernel_caching(self, number: int) -> Caching:
        """Return what the kernel shall do with the listing it keeps of a directory just opened. Only snapshot data is
        kept, and not for longer than the attributes that came with it are good for a while: the next reader must get
        both again, or each stat after it would be a question.

        One reader at a time fills it. Two could leave the beginning of one snapshot and the end of another."""
        state = self._state
        handle = state.handles.directory(number)
        node = handle.node
        if node.dataset is None or node.dataset.writable or node.is_detached:
            return Caching.NONE
        now = state.monotonic()
        kept = node.kernel_listing
        good_seconds = state.timeouts.read_only_seconds / 2
        if kept is not None and kept.is_whole and kept.listing is handle.listing and now - kept.since <= good_seconds:
            # Should the kernel have dropped it meanwhile, its first question is for what is there now.
            handle.was_read = handle.is_kept_by_kernel = True
            return Caching.KEEP
        if node.handles > 1:
            return Caching.NONE
        node.kernel_listing = handle.filling = KernelListing(now)
        handle.is_kept_by_kernel = True
        return Caching.FILL

    async def directory_page(self, number: int, start: int) -> tuple[Node, list[DirectoryItem]]:
        """Return the directory and what is known of its entries so far, with at least one from `start` on
        unless the directory ends there. Start 0 begins again with what is there now."""
        handle = self._state.handles.directory(number)
        if (start == 0 and handle.was_read) or start < handle.resumed_at:
            # Going back to before another daemon's end finds its place by counting, in what is there now.
            handle.rewind()
        if start == 0 and handle.is_kept_by_kernel and handle.node.kernel_listing is None:
            # A snapshot took it back, and now it is filled again. By how many readers is not known, so that none is
            # answered from it who opens the directory later.
            handle.node.kernel_listing = KernelListing(self._state.monotonic())
        handle.was_read = True
        while handle.has_more and start >= len(handle.entries):
            await self._fetch(handle)
        return handle.node, handle.entries

    def gave(self, number: int, position: int) -> None:
        """The reader of a directory was given the entries before `position`."""
        handle = self._state.handles.directory(number)
        if 0 < position <= len(handle.entries) and position != handle.given[0]:
            handle.given = (position, handle.entries[position - 1][0])
            self._state.handles.note(number)

    def gave_all(self, number: int) -> None:
        """The reader of a directory was told that nothing more comes."""
        handle = self._state.handles.directory(number)
        if handle.filling is not None and handle.listing is not None:
            handle.filling.listing = handle.listing
            handle.filling.is_whole = True

    def release_directory(self, number: int) -> None:
        """Close a directory."""
        handle = self._state.handles.pop_directory(number)
        self._state.inodes.released(handle.node)

    async def _fetch(self, handle: DirectoryHandle) -> None:
        node = handle.node
        if node.dataset is None:
            self._extend(handle, await self._catalogue_entries(node), {}, "")
            handle.has_more = False
            return
        if node.is_detached:
            handle.has_more = False
            return
        listing = handle.listing
        if listing is None and not handle.last_name:
            listing = self._whole_listing(node, node.dataset)
        if listing is not None:
            if not node.dataset.writable:
                handle.listing = listing
            self._extend(handle, listing.entries.items(), self._uncommitted(node), "")
            handle.has_more = False
            return
        await self._fetch_page(handle, node, node.dataset)

    def _whole_listing(self, node: Node, dataset: Dataset) -> Listing | None:
        """Return the directory as last read, if that was all of it and may be trusted."""
        listing = self._state.directories.get(dataset.uid, node.path)
        return listing if listing is not None and listing.is_complete and self._is_fresh(dataset, listing) else None

    async def _fetch_page(self, handle: DirectoryHandle, node: Node, dataset: Dataset) -> None:
        state = self._state
        is_first = not handle.last_name
        page = await state.namespace.read_directory(dataset.uid, node.path, handle.last_name, PAGE_ENTRIES)
        handle.has_more = page.more and bool(page.entries)
        end = page.entries[-1][0] if handle.has_more else ""
        self._extend(handle, page.entries, self._uncommitted(node), end)
        if end:
            handle.last_name = end
        is_same = is_first or (not handle.resumed_at and handle.version == page.snapshot_version)
        handle.version = page.snapshot_version if is_same else None
        if page.more:
            return
        if not dataset.writable and is_same:
            whole = Page(entries=handle.entries, more=False, snapshot_version=page.snapshot_version)
            handle.listing = state.directories.put(dataset.uid, node.path, whole, state.monotonic())
        elif is_first:
            state.directories.put(dataset.uid, node.path, page, state.monotonic())

    @staticmethod
    def _extend(handle: DirectoryHandle, listed: Iterable[DirectoryItem], own: dict[str, Entry], end: str) -> None:
        """Add names after the handle's last one, and up to `end` if given. All pages together are in order of names,
        so that another daemon can go on after the last one a reader was given."""
        after = handle.last_name
        merged = {name: entry for name, entry in listed if name > after}
        merged.update((name, entry) for name, entry in own.items() if name > after and (not end or name <= end))
        handle.entries.extend(sorted(merged.items(), key=itemgetter(0)))

    @staticmethod
    def _uncommitted(parent: Node) -> dict[str, Entry]:
        children = parent.children.items()
        return {name: each.entry for name, each in children if each.writing and not each.writing.is_committed}

    async def _catalogue_entries(self, node: Node) -> list[DirectoryItem]:
        datasets = await self._state.catalogue.datasets()
        if node.kind is Kind.ROOT:
            return [(name, DIRECTORY_ENTRY) for name in sorted({namespace for namespace, _ in datasets})]
        return [
            (name, Entry(is_directory=True, etag=dataset.uid))
            for (namespace, name), dataset in sorted(datasets.items(), key=lambda item: item[0])
            if namespace == node.name
        ]
