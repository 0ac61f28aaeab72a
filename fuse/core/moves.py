"""Names that come and go: mkdir, rmdir, unlink, rename.

Owns the order of steps: what is being written is committed or orphaned first, then the worker changes the under
store and the namespace, then our tables follow. Durable when the call returns.

Invariants: a removed or replaced file goes on for those who have it open; after a rename what is open
under the old name goes on under the new one.
"""

from contextlib import suppress
from typing import Final

from fuse.core.attrs import Attributes
from fuse.core.changes import Changes, kept_mode, writable_dataset
from fuse.core.contracts import Dataset, Entry
from fuse.core.directories import Change
from fuse.core.inodes import Kind, Node
from fuse.core.names import Names, decode_name, join
from fuse.core.state import State
from fuse.errors import (
    AlreadyExists,
    CrossDataset,
    Ended,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    ReadOnly,
    Stale,
)

RENAME_NOREPLACE: Final = 1


class Moves:
    """Namespace changes of one mount."""

    def __init__(self, state: State, names: Names, changes: Changes) -> None:
        self._state = state
        self._names = names
        self._changes = changes

    async def mkdir(self, parent_inode: int, raw_name: bytes, mode: int) -> Attributes:
        """Make a directory; a lookup is counted. AlreadyExists, NotFound, ReadOnly."""
        state = self._state
        parent = state.inodes.get(parent_inode)
        dataset = writable_dataset(parent)
        name = decode_name(raw_name)
        if await self._find(parent, name) is not None:
            raise AlreadyExists(f"{join(parent.path, name)} exists")
        await self._names.check_there(parent)
        permissions = kept_mode(mode)
        version = await state.worker.make_directory(dataset.uid, join(parent.path, name), permissions)
        entry = Entry(is_directory=True, mtime_ns=state.wall_ns(), mode=permissions, version=version)
        state.directories.changed_here(dataset.uid, version, [(parent.path, name, entry)])
        node = self._names.child(parent, name, entry)
        state.inodes.told(node)
        return state.attributes(node)

    async def rmdir(self, parent_inode: int, raw_name: bytes) -> None:
        """Remove an empty directory. NotEmpty, NotADirectory, NotFound, ReadOnly."""
        parent = self._state.inodes.get(parent_inode)
        dataset = writable_dataset(parent)
        node = await self._names.find(parent, decode_name(raw_name))
        if not node.is_directory:
            raise NotADirectory(f"{node.path} is a file")
        await self._remove_directory(dataset, parent, node)

    async def _remove_directory(self, dataset: Dataset, parent: Node, node: Node) -> None:
        state = self._state
        if any(child.writing is not None for child in node.children.values()):
            raise NotEmpty(f"{node.path} has files being written")
        path = node.path
        version = await state.worker.remove(dataset.uid, path, directory=True)
        state.directories.changed_here(dataset.uid, version, [(parent.path, node.name, None)])
        state.directories.drop_below(dataset.uid, path)
        state.inodes.detach(node)

    async def unlink(self, parent_inode: int, raw_name: bytes) -> None:
        """Remove a file; who has it open goes on. IsADirectory, NotFound, ReadOnly."""
        state = self._state
        parent = state.inodes.get(parent_inode)
        dataset = writable_dataset(parent)
        node = await self._names.find(parent, decode_name(raw_name))
        if node.is_directory:
            raise IsADirectory(f"{node.path} is a directory")
        try:
            if await self._orphan(node):
                await self._remove_file(dataset, parent, node)
        except BaseException:
            self._adopt(node)
            raise
        state.inodes.detach(node)

    async def _remove_file(self, dataset: Dataset, parent: Node, node: Node) -> None:
        state = self._state
        try:
            version = await state.worker.remove(dataset.uid, node.path, directory=False)
        except NotFound:
            if node.writing is None or node.writing.is_committed:
                raise
            return  # nobody had committed it after all
        state.directories.changed_here(dataset.uid, version, [(parent.path, node.name, None)])

    @staticmethod
    async def _orphan(node: Node) -> bool:
        """End commits of a file whose name goes away; return whether the namespace has it, or may have it."""
        writing = node.writing
        if writing is None:
            return True
        if writing.writers and not writing.has_staged_bytes:
            # Once the name is gone nobody could give the bytes that a first write is to change.
            await writing.staging.open()
            writing.staged()
        writing.orphan()
        await writing.staging.settle()
        return writing.is_committed or writing.may_be_committed

    async def rename(
        self, parent_inode: int, raw_name: bytes, new_parent_inode: int, raw_new_name: bytes, flags: int
    ) -> None:
        """Rename a file over whatever file is there, a directory onto nothing or an empty directory. What is
        being written is committed first. CrossDataset, NotFound, AlreadyExists, ReadOnly."""
        state = self._state
        parent, new_parent = state.inodes.get(parent_inode), state.inodes.get(new_parent_inode)
        name, new_name = decode_name(raw_name), decode_name(raw_new_name)
        dataset = self._one_dataset(parent, new_parent)
        if flags & ~RENAME_NOREPLACE:
            raise InvalidRequest("names cannot be exchanged in one step")
        node = await self._names.find(parent, name)
        target = await self._find(new_parent, new_name)
        if target is node:
            return
        if target is not None:
            if flags & RENAME_NOREPLACE:
                raise AlreadyExists(f"{target.path} exists")
            await self._make_room(dataset, node, new_parent, target)
        try:
            await self._commit_all(node)
            await self._rename(dataset, node, new_parent, new_name)
        except BaseException:
            if target is not None:
                self._adopt(target)
            raise

    @staticmethod
    def _one_dataset(parent: Node, new_parent: Node) -> Dataset:
        if parent.dataset is None or new_parent.dataset is None:
            raise ReadOnly("datasets are not renamed through the mount")
        if parent.dataset.uid != new_parent.dataset.uid:
            raise CrossDataset("a file stays in its dataset: copy it instead")
        return writable_dataset(parent)

    async def _make_room(self, dataset: Dataset, node: Node, new_parent: Node, target: Node) -> None:
        if target.is_directory and not node.is_directory:
            raise IsADirectory(f"{target.path} is a directory")
        if node.is_directory and not target.is_directory:
            raise NotADirectory(f"{target.path} is a file")
        if target.is_directory:
            await self._remove_directory(dataset, new_parent, target)
        else:
            await self._orphan(target)

    async def _commit_all(self, node: Node) -> None:
        for each in (node, *self._state.inodes.below(node)):
            # One that was closed, and who closed it was told that it failed: what was written is no part of the file.
            with suppress(Ended):
                await self._changes.commit(each)

    async def _rename(self, dataset: Dataset, node: Node, new_parent: Node, new_name: str) -> None:
        state = self._state
        source, target = node.path, join(new_parent.path, new_name)
        version, etag = await state.worker.rename(dataset.uid, source, target)
        await self._moved(dataset, node, source, (new_parent, new_name), (version, etag))

    async def renamed_before(
        self, parent_inode: int, raw_name: bytes, new_parent_inode: int, raw_new_name: bytes
    ) -> None:
        """The rename was done by an earlier daemon, which did not live to note it: follow it. NotFound when the new
        name is not there either."""
        state = self._state
        parent, new_parent = state.inodes.get(parent_inode), state.inodes.get(new_parent_inode)
        name, new_name = decode_name(raw_name), decode_name(raw_new_name)
        dataset = self._one_dataset(parent, new_parent)
        entry = await state.namespace.lookup(dataset.uid, join(new_parent.path, new_name))
        node, known = parent.children.get(name), new_parent.children.get(new_name)
        if node is None:
            # It was noted, and perhaps not yet of every file open below a directory.
            if known is None or not known.is_directory:
                return
            node = known
        elif known is not None and known is not node:
            await self.removed_before(known)
        await self._moved(dataset, node, node.path, (new_parent, new_name), (entry.version, entry.etag))

    async def removed_before(self, node: Node) -> None:
        """The name was taken away by an earlier daemon, which did not live to note it: who has the file open goes on,
        and no close brings it back."""
        with suppress(NotFound, Stale):
            await self._orphan(node)
        if node.writing is not None:
            node.writing.orphan()
        self._state.inodes.detach(node)

    async def is_elsewhere(self, parent_inode: int, raw_name: bytes) -> bool:
        """Whether a file that is being written here has lost its name. One that was never committed had none that
        others know of, and stays."""
        node = self._state.inodes.get(parent_inode).children.get(decode_name(raw_name))
        if node is None or node.dataset is None or node.writing is None or not node.writing.is_committed:
            return False
        try:
            await self._state.namespace.lookup(node.dataset.uid, node.path)
        except NotFound:
            return True
        return False

    async def _moved(
        self, dataset: Dataset, node: Node, source: str, place: tuple[Node, str], renamed: tuple[int, str]
    ) -> None:
        """Our tables follow a rename of `source`: snapshot version and, for a file, etag after it. The node may have
        lost that place meanwhile."""
        state = self._state
        version, etag = renamed
        new_parent, new_name = place
        target = join(new_parent.path, new_name)
        old_directory, _, old_name = source.rpartition("/")
        if node.is_directory:
            entry = node.entry
            state.directories.drop_below(dataset.uid, source)
            state.directories.drop_below(dataset.uid, target)
        else:
            if not etag:
                etag = (await state.namespace.lookup(dataset.uid, target)).etag
            entry = _with_etag(node.entry, etag, version)
        changes: list[Change] = [(old_directory, old_name, None), (new_parent.path, new_name, entry)]
        state.directories.changed_here(dataset.uid, version, changes)
        if not state.inodes.move(node, new_parent, new_name):
            return
        self._follow(node, entry)
        for each in list(state.inodes.below(node)):
            if each.kind is Kind.FILE and (each.handles or each.writing is not None):
                await self._follow_below(dataset, each)

    async def _follow_below(self, dataset: Dataset, node: Node) -> None:
        try:
            entry = await self._state.namespace.lookup(dataset.uid, node.path)
        except NotFound:
            entry = node.entry  # created while its directory was renamed, and not committed yet
        if not node.is_detached:
            self._follow(node, entry)

    def _follow(self, node: Node, entry: Entry) -> None:
        """The node's bytes are the same, under another path and perhaps another etag."""
        if node.cached_etag == node.entry.etag:
            node.cached_etag = entry.etag
        node.entry = entry
        if node.pin is not None:
            node.pin.close()
            node.pin = None
        if node.writing is not None:
            node.writing.staging.moved(node.path, entry.etag)
        self._state.inodes.note(node)

    async def _find(self, parent: Node, name: str) -> Node | None:
        try:
            return await self._names.find(parent, name)
        except NotFound:
            return None

    def refuse(self, what: str) -> NotPermitted:
        """Return the error for what object stores have no form of: links and special files."""
        return NotPermitted(f"{what} cannot be kept in an object store")

    def _adopt(self, node: Node) -> None:
        if node.writing is not None:
            node.writing.adopt()
            self._state.inodes.note(node)


def _with_etag(entry: Entry, etag: str, version: int) -> Entry:
    return Entry(
        is_directory=entry.is_directory,
        size_bytes=entry.size_bytes,
        etag=etag,
        mtime_ns=entry.mtime_ns,
        mode=entry.mode,
        version=version,
    )
