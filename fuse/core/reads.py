"""Opening and reading files, and what else asks without changing: statfs, access, extended attributes.

Owns the pin of a node: it comes with the first read (an open that only finds its bytes in the page cache costs
the worker nothing) and goes with the last handle. Writing is in changes.py.

Invariants: all handles of a node read one version; bytes are read only from ranges the worker said are
resident, and if the worker was lost meanwhile they are asked for again before anything is returned.
"""

import os
from collections import OrderedDict
from typing import Final

from api.held import is_held
from fuse.core.contracts import Bytes, PinnedFile
from fuse.core.handles import FileHandle
from fuse.core.inodes import Kind, Node
from fuse.core.names import Names
from fuse.core.read_plan import needed_range
from fuse.core.state import State
from fuse.core.whole_reads import WholeReads
from fuse.errors import BadHandle, IsADirectory, NoAttribute, NotFound, Stale, Unavailable

ETAG_ATTRIBUTE: Final = b"user.headrace.etag"
RESIDENT_ATTRIBUTE: Final = b"user.headrace.resident"
SNAPSHOT_ATTRIBUTE: Final = b"user.headrace.snapshot"
DURABLE_ATTRIBUTE: Final = b"user.headrace.durable"
UNOPENED_MAX: Final = 4096
"""Files read without an open that stay pinned for the next read."""
READ_TRIES: Final = 8
"""A read survives the loss of the worker this often; each try waits for the worker with a deadline."""


class Reads:
    """Reading operations of one mount."""

    def __init__(self, state: State, names: Names) -> None:
        self._state = state
        self._names = names
        self._whole_reads = WholeReads()
        self._unopened: OrderedDict[int, int] = OrderedDict()
        """Handles of ours by inode, of files whose opens we are not told of."""

    async def open(self, inode: int) -> tuple[int, bool]:
        """Return a handle for reading, and whether the kernel may keep the file's cached pages. Stale when the
        name stands for another version now: the kernel then looks the name up again by itself."""
        state = self._state
        node = state.inodes.get(inode)
        await self.revalidate(node)
        handle = FileHandle(node, may_read=True, may_write=False, appends=False)
        return self.opened(handle)

    def opened(self, handle: FileHandle) -> tuple[int, bool]:
        """Count the handle in; return its number and whether cached pages are of this version."""
        keeps_cache = self.counted(handle.node)
        return self._state.handles.add_file(handle), keeps_cache

    def counted(self, node: Node) -> bool:
        """Count an open of the node; return whether cached pages are of this version."""
        keeps_cache = node.writing is not None or node.cached_etag == node.entry.etag
        if node.cached_etag != node.entry.etag:
            if node.cached_etag:
                # Of what another daemon does not know to be cached it has the pages dropped, once.
                self._state.inodes.note(node)
            node.cached_etag = node.entry.etag
        self._state.inodes.opened(node)
        return keeps_cache

    @staticmethod
    def is_current(node: Node) -> bool:
        """Whether the node may be opened as it is, without a look at the listing. IsADirectory, Stale."""
        if node.is_directory:
            raise IsADirectory(f"{node.name} is a directory")
        if node.writing is not None or node.dataset is None:
            return True
        if node.is_detached:
            raise Stale("the file was replaced or removed")
        return not node.dataset.writable

    async def revalidate(self, node: Node) -> None:
        """Close-to-open: hold the node against the newest listing before it is opened. IsADirectory, Stale."""
        if self.is_current(node):
            return
        assert node.dataset is not None
        pinned_etag = node.entry.etag if node.handles else None
        try:
            entry = await self._names.entry(node.dataset, node.path)
        except NotFound:
            raise Stale(f"{node.path} was removed") from None
        if entry.is_directory or (pinned_etag is not None and entry.etag != pinned_etag):
            raise Stale(f"{node.path} was replaced")
        self._state.inodes.renew(node, entry)

    async def read(self, number: int, offset_bytes: int, length_bytes: int) -> Bytes:
        """Return up to `length_bytes` from `offset_bytes`; short at the end of the file. BadHandle, Stale,
        Unavailable. The buffer is good until the caller next waits."""
        handle = self._state.handles.file(number)
        if not handle.may_read:
            raise BadHandle("the file was opened for writing only")
        node = handle.node
        writing = node.writing
        if writing is not None and writing.has_staged_bytes:
            return await writing.staging.read(offset_bytes, length_bytes)
        size_bytes = node.entry.size_bytes
        length_bytes = min(length_bytes, size_bytes - offset_bytes)
        if length_bytes <= 0:
            return b""
        for _ in range(READ_TRIES):
            pin = node.pin or self._pin(node)
            if not pin.is_resident(0, size_bytes):
                await self._make_resident(handle, pin, offset_bytes, length_bytes)
            data = await pin.read(offset_bytes, length_bytes)
            if pin.is_resident(offset_bytes, length_bytes):
                return data
        raise Unavailable(f"the worker was lost {READ_TRIES} times during one read")

    async def read_unopened(self, inode: int, offset_bytes: int, length_bytes: int) -> Bytes:
        """Like `read`, of a file whose open we were not told of."""
        number = self._unopened.get(inode)
        if number is None:
            node = self._state.inodes.get(inode)
            if node.is_directory:
                raise IsADirectory(f"{node.name} is a directory")
            number, _ = self.opened(FileHandle(node, may_read=True, may_write=False, appends=False))
            self._unopened[inode] = number
            if len(self._unopened) > UNOPENED_MAX:
                self.forgotten(next(iter(self._unopened)))
        else:
            self._unopened.move_to_end(inode)
        return await self.read(number, offset_bytes, length_bytes)

    def forgotten(self, inode: int) -> None:
        """Nobody has the file any more, or others are read more: let the version go."""
        number = self._unopened.pop(inode, None)
        if number is not None:
            self.release(self._state.handles.pop_file(number))

    def _pin(self, node: Node) -> PinnedFile:
        if node.dataset is None:
            raise IsADirectory(f"{node.name} is no file")
        entry = node.entry
        path = node.last_path if node.is_detached else node.path
        node.pin = self._state.worker.pin(node.dataset.uid, path, entry.etag, entry.size_bytes)
        return node.pin

    @staticmethod
    async def _make_resident(handle: FileHandle, pin: PinnedFile, offset_bytes: int, length_bytes: int) -> None:
        size_bytes = handle.node.entry.size_bytes
        needed = needed_range(offset_bytes, length_bytes, size_bytes)
        is_missing = not pin.is_resident(*needed)
        if is_missing:
            # First in the queue, so that what is read now does not wait behind what may be read later.
            pin.ensure_soon(*needed)
        for ahead in handle.window.ahead(offset_bytes, length_bytes, size_bytes):
            pin.ensure_soon(*ahead, in_order=True)
        if is_missing:
            await pin.ensure(*needed)

    def release(self, handle: FileHandle) -> None:
        """One handle is closed; the last one lets the version go."""
        node = handle.node
        was_whole = handle.window.was_whole(node.entry.size_bytes) if node.dataset is not None else None
        if was_whole is not None and node.dataset is not None:
            self._whole_reads.was_read(node.dataset.uid, whole=was_whole)
        if node.handles == 1 and node.pin is not None:
            node.pin.close()
            node.pin = None
        self._state.inodes.released(node)

    def statfs(self) -> tuple[int, int]:
        """Return the bytes and files of all datasets."""
        return self._state.catalogue.totals()

    def may_access(self, inode: int, mask: int) -> bool:
        """Whether access(2) with `mask` is granted, beyond what the kernel checks by the mode bits."""
        node = self._state.inodes.get(inode)
        if mask & os.W_OK:
            return node.dataset is not None and node.dataset.writable
        return True

    async def whole_file(self, node: Node, *, may_wait: bool) -> int | None:
        """Return a descriptor of the node's whole version on the worker, good while the node is open; None while
        a block is missing there. Waits for those only if it may and if that is worth it."""
        pin = node.pin or self._pin(node)
        descriptor = await pin.whole_file()
        if descriptor is not None or not may_wait or node.dataset is None:
            return descriptor
        uid, size_bytes, started = node.dataset.uid, node.entry.size_bytes, self._state.monotonic()
        seconds = self._whole_reads.wait_seconds(uid, size_bytes, started)
        if not seconds:
            return None
        now, came = started, 0
        while seconds:
            asked, came = now, await pin.bring_whole(seconds)
            now = self._state.monotonic()
            # What ends before its time without all bytes has failed, and would at once fail again.
            is_over = came == size_bytes or now - asked < seconds / 2
            seconds = 0.0 if is_over else self._whole_reads.more_seconds(size_bytes, came, now - started)
        if came:
            self._whole_reads.came(uid, came, now - started, now)
        return await pin.whole_file()

    async def _is_resident(self, node: Node) -> bool:
        if node.pin is not None:
            return await node.pin.whole_file() is not None
        assert node.dataset is not None
        entry = node.entry
        pin = self._state.worker.pin(node.dataset.uid, node.path, entry.etag, entry.size_bytes)
        try:
            return await pin.whole_file() is not None
        finally:
            pin.close()

    async def _is_waiting(self, node: Node) -> bool:
        """Whether two workers hold the file and the under store does not have it yet."""
        if not is_held(node.entry.etag) or node.dataset is None or node.is_detached:
            return is_held(node.entry.etag)
        try:
            # Asked anew: what is known here of the file does not change while it is open.
            entry = await self._state.namespace.lookup(node.dataset.uid, node.path)
        except NotFound:
            return True
        return is_held(entry.etag)

    async def attribute(self, inode: int, name: bytes) -> bytes:
        """Return an extended attribute; NoAttribute."""
        node = self._state.inodes.get(inode)
        if name == RESIDENT_ATTRIBUTE and node.kind is Kind.FILE and node.entry.etag and not node.is_detached:
            return b"1" if await self._is_resident(node) else b"0"
        if name == ETAG_ATTRIBUTE and node.kind is Kind.FILE and node.entry.etag:
            return node.entry.etag.encode()
        if name == DURABLE_ATTRIBUTE and node.kind is Kind.FILE and node.entry.etag:
            return b"TwoWorkers" if await self._is_waiting(node) else b"UnderStore"
        if name == SNAPSHOT_ATTRIBUTE and node.dataset is not None:
            dataset = self._state.catalogue.by_uid(node.dataset.uid) or node.dataset
            return str(dataset.snapshot_version).encode()
        raise NoAttribute(f"no attribute {name!r}")

    def attribute_names(self, inode: int) -> list[bytes]:
        """Return the names of the extended attributes that have a value."""
        node = self._state.inodes.get(inode)
        names = [SNAPSHOT_ATTRIBUTE] if node.dataset is not None else []
        if node.kind is Kind.FILE and node.entry.etag:
            resident = [] if node.is_detached else [RESIDENT_ATTRIBUTE]
            names = [ETAG_ATTRIBUTE, *resident, DURABLE_ATTRIBUTE, *names]
        return names
