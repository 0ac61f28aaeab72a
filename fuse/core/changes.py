"""Files being written: create, write, truncate, commit, attributes.

Owns the life of `node.writing` (write_through.py draws it): it begins with the first handle that may write and
ends with the last one. Names that come and go are in moves.py.

Invariants: close() and fsync() return only after the under store has the bytes, or raise; a file that was
never committed is seen on this node only.
"""

import os
from typing import Final

import msgspec

from fuse.core.attrs import FILE_MODE, Attributes, with_group_rights
from fuse.core.contracts import Bytes, Dataset, Entry
from fuse.core.handles import FileHandle
from fuse.core.inodes import Kind, Node
from fuse.core.names import Names, decode_name, join
from fuse.core.reads import Reads
from fuse.core.state import State
from fuse.core.write_through import Writing
from fuse.errors import (
    AlreadyExists,
    BadHandle,
    Ended,
    InvalidRequest,
    IsADirectory,
    NotFound,
    NotPermitted,
    ReadOnly,
    Stale,
    TooLarge,
    Unsupported,
)

PERMISSION_BITS: Final = 0o7777
FILE_BYTES_MAX: Final = (1 << 63) - 1


def writable_dataset(node: Node) -> Dataset:
    """Return the node's dataset; ReadOnly when nothing may be changed there."""
    if node.dataset is None:
        raise ReadOnly("datasets are made and removed by their Dataset objects, not through the mount")
    if not node.dataset.writable:
        raise ReadOnly(
            f"dataset {node.dataset.namespace}/{node.dataset.name} has no ReadWriteMany or ReadWriteOnce"
            " in its accessModes"
        )
    return node.dataset


def kept_mode(mode: int) -> int:
    """Return the permission bits; Unsupported when there are none, which the namespace takes for a mode not known."""
    permissions = mode & PERMISSION_BITS
    if not permissions:
        raise Unsupported("mode 0000 cannot be kept: give the owner a permission at least")
    return permissions


class Changes:
    """Writing operations of one mount."""

    def __init__(self, state: State, names: Names, reads: Reads) -> None:
        self._state = state
        self._names = names
        self._reads = reads

    async def create(self, parent_inode: int, raw_name: bytes, mode: int, flags: int) -> tuple[int, bool, Attributes]:
        """Return a handle, whether cached pages may be kept, and the attributes (a lookup is counted).
        AlreadyExists with O_EXCL; ReadOnly; NoSpace."""
        state = self._state
        parent = state.inodes.get(parent_inode)
        dataset = writable_dataset(parent)
        name = decode_name(raw_name)
        try:
            node = await self._names.find(parent, name)
        except NotFound:
            number, keeps_cache, node = await self._create_new(parent, dataset, name, mode, flags)
        else:
            if flags & os.O_EXCL:
                raise AlreadyExists(f"{join(parent.path, name)} exists")
            number, keeps_cache = await self.open(node.inode, flags)
        state.inodes.told(node)
        return number, keeps_cache, state.attributes(node)

    async def _create_new(
        self, parent: Node, dataset: Dataset, name: str, mode: int, flags: int
    ) -> tuple[int, bool, Node]:
        state = self._state
        if parent.is_detached:
            raise NotFound(f"the directory of {name} was removed")
        await self._names.check_there(parent)
        permissions = kept_mode(mode)
        staging = state.worker.stage(dataset.uid, join(parent.path, name), "", 0)
        try:
            await staging.open()
        except BaseException:
            staging.close()
            raise
        entry = Entry(is_directory=False, mtime_ns=state.wall_ns(), mode=permissions)
        node = state.inodes.child(parent, name, Kind.FILE, dataset, entry)
        if node.writing is None:
            node.writing = Writing(staging, mode=entry.mode, mtime_ns=entry.mtime_ns, base=None)
            state.inodes.note(node)
        else:  # two creates of one name crossed: both write the same file, as with one inode on a disk
            staging.close()
        number, keeps_cache = self._opened_writer(node, node.writing, flags)
        return number, keeps_cache, node

    async def open(self, inode: int, flags: int) -> tuple[int, bool]:
        """Return a handle that may write, and whether cached pages may be kept. ReadOnly, Stale."""
        state = self._state
        node = state.inodes.get(inode)
        dataset = writable_dataset(node)
        await self._reads.revalidate(node)
        if state.inodes.find(inode) is not node:
            # Created by nobody, nor told to the kernel yet, so its last handle's close took it out of the table.
            raise Stale(f"{node.name} was let go while it was opened")
        truncates = bool(flags & os.O_TRUNC)
        writing = node.writing
        if writing is None:
            writing = node.writing = self._begin(node, dataset, empty=truncates)
            state.inodes.note(node)
            return self._opened_writer(node, writing, flags)
        # A writer before it is truncated: while that is waited for, the last other one may let go of the file.
        number, keeps_cache = self._opened_writer(node, writing, flags)
        if truncates:
            try:
                await writing.staging.truncate(0)
            except BaseException:
                await self.release(number)
                raise
            writing.truncated(0, state.wall_ns())
            state.inodes.note(node)
        return number, keeps_cache

    def _begin(self, node: Node, dataset: Dataset, *, empty: bool) -> Writing:
        if node.is_detached:
            raise Stale(f"{node.last_path} was removed or replaced while it was opened")
        entry = node.entry
        base = ("", 0) if empty else (entry.etag, entry.size_bytes)
        staging = self._state.worker.stage(dataset.uid, node.path, *base)
        writing = Writing(staging, mode=entry.mode or FILE_MODE, mtime_ns=entry.mtime_ns, base=entry)
        if empty:
            writing.truncated(0, self._state.wall_ns())
        return writing

    def _opened_writer(self, node: Node, writing: Writing, flags: int) -> tuple[int, bool]:
        may_read = flags & os.O_ACCMODE != os.O_WRONLY
        handle = FileHandle(node, may_read=may_read, may_write=True, appends=bool(flags & os.O_APPEND))
        writing.writers += 1
        return self._reads.opened(handle)

    async def write(self, number: int, offset_bytes: int, data: Bytes) -> int:
        """Return the bytes taken: all of them, unless the room ends in between. BadHandle, NoSpace, Unavailable."""
        handle = self._state.handles.file(number)
        writing = handle.node.writing
        if not handle.may_write or writing is None:
            raise BadHandle("the file was opened for reading only")
        if offset_bytes + len(data) > FILE_BYTES_MAX:
            raise TooLarge(f"write past {FILE_BYTES_MAX} bytes")
        written = await writing.staging.write(offset_bytes, data)
        if not writing.has_staged_bytes:
            self._state.inodes.note(handle.node)
        writing.wrote(offset_bytes, written, self._state.wall_ns())
        return written

    async def flush(self, number: int) -> None:
        """close(2): what was written is durable and visible to every node, or an error is raised."""
        handle = self._state.handles.file(number)
        if handle.may_write:
            await self.commit(handle.node)

    async def fsync(self, number: int) -> None:
        """fsync(2): the same promise as close, for any handle of the file."""
        await self.commit(self._state.handles.file(number).node)

    async def commit(self, node: Node) -> None:
        """Make the file's bytes durable if a commit would change anything. Called by several closes at once."""
        state = self._state
        writing = node.writing
        if writing is None or not writing.is_dirty:
            return
        mark = writing.commit_begins()
        try:
            result = await writing.staging.commit(writing.mode, writing.mtime_ns)
        except (Ended, BadHandle):
            if writing.has_changes and not writing.is_orphaned:
                raise
            return  # an earlier commit was of the same bytes, and after it the last writer closed the file
        entry = writing.committed(mark, result)
        if writing.is_orphaned or node.dataset is None:
            return
        node.entry = entry
        node.cached_etag = entry.etag
        state.inodes.note(node)
        if node.pin is not None:
            # Readers on this node saw the bytes as they were written; they go on with this version.
            node.pin.close()
            node.pin = None
        directory, _, name = node.path.rpartition("/")
        uid = node.dataset.uid
        state.directories.changed_here(uid, result.snapshot_version, [(directory, name, entry)])

    async def release(self, number: int) -> None:
        """A handle is closed for good. What mmap wrote after close() is committed now; a failure of that
        can reach nobody but the log, so it is raised to the caller after everything is let go."""
        handle = self._state.handles.file(number)
        node, writing = handle.node, handle.node.writing
        try:
            if handle.may_write and writing is not None and writing.writers == 1:
                await self.commit(node)
        finally:
            # Not before: whoever follows a daemon that dies in between must find the file open still.
            self._state.handles.pop_file(number)
            if writing is not None:
                writing.writers -= handle.may_write
                # Of a removed file the staging file has the only bytes, and readers may have it open still.
                is_needed = writing.writers or (node.is_detached and node.handles > 1)
                if not is_needed and node.writing is writing:
                    self._end(node, writing)
            self._reads.release(handle)

    def _end(self, node: Node, writing: Writing) -> None:
        writing.staging.close()
        if not writing.is_committed and not node.is_detached:
            self._state.inodes.detach(node)
        node.writing = None
        self._state.inodes.note(node)

    async def setattr(
        self,
        inode: int,
        *,
        size_bytes: int | None = None,
        mode: int | None = None,
        owner: tuple[int | None, int | None] = (None, None),
        mtime_ns: int | None = None,
    ) -> Attributes:
        """Change what is given; return the attributes. Mode and times of a file being written are part of its
        next commit. Of what is committed the namespace keeps the mode; a time is accepted and not kept. Another owner
        is NotPermitted."""
        state = self._state
        node = state.inodes.get(inode)
        writable_dataset(node)
        if any(new is not None and new != old for new, old in zip(owner, state.owner, strict=True)):
            raise NotPermitted(f"all files belong to {state.owner[0]}:{state.owner[1]}")
        if size_bytes is not None:
            await self._truncate(node, size_bytes)
        if mode is not None:
            await self._set_mode(node, kept_mode(mode))
        if mtime_ns is not None and node.writing is not None:
            node.writing.set_mtime(mtime_ns)
        if node.writing is not None:
            state.inodes.note(node)
        return state.attributes(node)

    async def _set_mode(self, node: Node, mode: int) -> None:
        state = self._state
        if node.writing is not None:
            node.writing.set_mode(mode)
            return
        shown = with_group_rights(mode) if state.group_rights else mode
        if shown == state.attributes(node).mode & PERMISSION_BITS:
            return
        if node.dataset is None or node.kind not in {Kind.DIRECTORY, Kind.FILE}:
            raise Unsupported("the mode of a dataset cannot be changed")
        if node.is_detached:  # nobody else has it, and it goes with those who have it open
            state.inodes.renew(node, msgspec.structs.replace(node.entry, mode=mode))
            return
        self._mode_was_set(node, node.dataset, mode, await state.worker.set_mode(node.dataset.uid, node.path, mode))

    def _mode_was_set(self, node: Node, dataset: Dataset, mode: int, version: int) -> None:
        state = self._state
        state.inodes.renew(node, msgspec.structs.replace(node.entry, mode=mode, version=version or node.entry.version))
        if node.writing is not None:  # opened meanwhile, with the mode before
            node.writing.set_mode(mode)
        if not node.is_detached:
            directory = node.path.rpartition("/")[0]
            state.directories.changed_here(dataset.uid, version, [(directory, node.name, node.entry)])

    async def _truncate(self, node: Node, size_bytes: int) -> None:
        if node.is_directory:
            raise IsADirectory(f"{node.name} is a directory")
        if size_bytes < 0:
            raise InvalidRequest(f"size {size_bytes} is negative")
        await self._reads.revalidate(node)
        writing, is_begun = node.writing, node.writing is None
        if writing is None:
            writing = node.writing = self._begin(node, writable_dataset(node), empty=size_bytes == 0)
        # truncate(2) has no handle, so it is a handle of its own for as long as it takes.
        number, _ = self._opened_writer(node, writing, os.O_WRONLY)
        try:
            await self._cut(writing, size_bytes)
            if is_begun or writing.writers == 1:
                await self.commit(node)
        finally:
            await self.release(number)

    async def _cut(self, writing: Writing, size_bytes: int) -> None:
        if size_bytes == writing.size_bytes and writing.has_staged_bytes:
            return
        await writing.staging.truncate(size_bytes)
        writing.truncated(size_bytes, self._state.wall_ns())
