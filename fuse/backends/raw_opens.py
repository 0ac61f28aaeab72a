"""Opens over the raw protocol: by which way an open file reaches its bytes, and what is let go with it.

Owns the open flags, the backing files of passthrough and their ids. Which way is allowed is decided by
core/open_modes.py; what an open means is in core/operations.py.

Small files of read-only datasets have no choice of ways, and their opens share a handle (`opened_now`, `opened_again`).

Invariant: every other open that was answered is counted until its release, also over the death of a daemon.
"""

import os
from collections.abc import Callable
from typing import Final

import structlog

from fuse.backends import raw_device
from fuse.backends.guard import Failures
from fuse.core import protocol
from fuse.core.handles import FileHandle, SharedOpen
from fuse.core.inodes import Node
from fuse.core.open_modes import Choice, OpenModes
from fuse.core.operations import Operations
from fuse.core.protocol import Opcode, OpenFlag
from fuse.errors import Unavailable
from fuse.metrics import Metrics

log = structlog.get_logger()

PASSTHROUGH_BYTES_MIN: Final = 1 << 20
"""Smaller files are read in one request and then by the page cache; asking the worker would cost more."""
# Plain numbers: of flags of an enumeration each operation makes an object.
_LIGHT: Final = int(OpenFlag.NO_FLUSH)
_LIGHT_KEPT: Final = int(OpenFlag.NO_FLUSH | OpenFlag.KEEP_CACHE)
ONLY_READS_MASK: Final = os.O_ACCMODE | os.O_TRUNC
"""Of open's flags: none of these is set when a file is opened for nothing but reading, O_RDONLY being 0."""


class Opens:
    """The open files of one connection."""

    def __init__(self, operations: Operations, metrics: Metrics, failures: Failures) -> None:
        self._operations = operations
        self._state = operations.state
        self._metrics = metrics
        self._failures = failures
        self.modes = OpenModes()
        self.device = -1
        self._requests = metrics.requests
        handles = operations.state.handles
        self._find, self._share = operations.state.inodes.find, handles.share
        self._light, self._pop = handles.light, handles.pop_file
        #: Makes the kernel let go of an inode's cached pages, some time later.
        self.drop_pages: Callable[[int], None] = lambda inode: None

    def recount(self) -> None:
        """Take over the open files of an earlier daemon."""
        for handle in self._state.handles.files():
            inode = handle.node.inode
            if handle.choice is Choice.PASSTHROUGH and handle.backing_key is not None:
                self.modes.opened_passthrough(inode, handle.backing_id, handle.backing_key)
            elif handle.choice is Choice.CACHED:
                self.modes.opened_cached(inode)
            elif handle.choice is Choice.WRITE:
                self.modes.opened_for_writing(inode)

    def opened_again(self, inode: int, head: int) -> bytes | None:
        """Open a small file as it was opened before and return the answer, of which nothing need be written down; None
        when it may be another. `head` is the first number of the request. Training opens the same small files in every
        epoch, and does nothing else as often: each call saved here counts."""
        node = self._find(inode)
        shared = node.shared_open if node is not None else None
        if (
            node is None
            or shared is None
            or shared.entry is not node.entry
            or shared.dataset is not node.dataset
            or node.cached_etag != shared.entry.etag
            or node.is_detached
            or head & ONLY_READS_MASK
        ):
            return None
        self._share(shared)
        node.handles += 1
        self._requests["open"] += 1
        return shared.answer

    def closed_now(self, inode: int, number: int) -> bytes | None:
        """Close a light open and return the answer, of which nothing need be written down; None for other handles."""
        handle = self._light(number)
        if handle is None or handle.choice is Choice.PASSTHROUGH or handle.node.writing is not None:
            return None
        self._requests["release"] += 1
        self._pop(number)
        node = handle.node
        if handle.choice is None and (node.handles > 1 or (node.pin is None and node.lookups)):
            node.handles -= 1
            return b""
        self._operations.reads.release(handle)
        if handle.choice is not None:
            self.modes.released(inode, handle.choice)
        return b""

    def opened_now(self, inode: int) -> bytes | None:
        """Open a small file for reading, and return the answer; None when that may have to wait for somebody. The next
        opens of it go by `opened_again`."""
        node = self._state.inodes.get(inode)
        if not _is_read_only(node) or _may_be_whole(node) or node.writing is not None:
            return None
        if self.modes.is_passthrough(inode):
            return None
        reads = self._operations.reads
        if not reads.is_current(node):
            return None
        shared = node.shared_open
        if shared is None or (shared.entry is not node.entry and not shared.handle.opens):
            handle = FileHandle(node, may_read=True, may_write=False, appends=False)
            handle.is_light = True
            number, keeps_cache = reads.opened(handle)
            node.shared_open = SharedOpen(handle, number, protocol.OPEN_OUT.pack(number, _LIGHT_KEPT, 0))
        elif shared.entry is node.entry:
            shared.dataset = node.dataset
            self._share(shared)
            number, keeps_cache = shared.number, reads.counted(node)
        else:
            return None
        return protocol.OPEN_OUT.pack(number, _LIGHT_KEPT if keeps_cache else _LIGHT, 0)

    async def opened(self, number: int, *, keeps_cache: bool, writes: bool) -> bytes:
        """Choose how the open file reaches its bytes; return the answer."""
        handle = self._state.handles.file(number)
        node = handle.node
        descriptor = await self._whole_file(node) if not writes else None
        # From here to the end nothing waits, so the choice stays true.
        key = None
        if descriptor is not None:
            status = os.fstat(descriptor)
            key = (status.st_dev, status.st_ino)
        choice = self.modes.choose(node.inode, key, only_writes=handle.may_write and not handle.may_read)
        backing_id = self.modes.backing_id(node.inode)
        if choice is Choice.REGISTER and descriptor is not None:
            try:
                backing_id = raw_device.open_backing(self.device, descriptor)
            except OSError as error:
                self._failures.passthrough_refused(error)
                choice = Choice.CACHED
            else:
                choice = Choice.PASSTHROUGH
        return self._open_answer(number, node, choice, backing_id, key, keeps_cache=keeps_cache, writes=writes)

    def _open_answer(
        self,
        number: int,
        node: Node,
        choice: Choice,
        backing_id: int,
        key: tuple[int, int] | None,
        *,
        keeps_cache: bool,
        writes: bool,
    ) -> bytes:
        flags = OpenFlag(0) if writes else OpenFlag.NO_FLUSH
        handle = self._state.handles.file(number)
        if choice is Choice.PASSTHROUGH:
            key = key or self.modes.key(node.inode)
            assert key is not None
            self.modes.opened_passthrough(node.inode, backing_id, key)
            handle.backing_id, handle.backing_key = backing_id, key
            self._metrics.passthrough_opens += 1
            flags |= OpenFlag.PASSTHROUGH
        elif choice in {Choice.DIRECT, Choice.WRITE}:
            flags |= OpenFlag.DIRECT_IO
            if choice is Choice.WRITE:
                self.modes.opened_for_writing(node.inode)
        else:
            choice = Choice.CACHED
            self.modes.opened_cached(node.inode)
            if keeps_cache:
                flags |= OpenFlag.KEEP_CACHE
        handle.choice = choice
        handle.is_light = _is_read_only(node) and not _may_be_whole(node)
        if not handle.is_light:
            self._state.handles.note(number)
        return protocol.OPEN_OUT.pack(number, flags, backing_id if choice is Choice.PASSTHROUGH else 0)

    async def _whole_file(self, node: Node) -> int | None:
        """Return a descriptor of the worker's whole file; None when it is not whole, or not worth it."""
        if not _may_be_whole(node):
            return None
        try:
            return await self._operations.reads.whole_file(node, may_wait=self.modes.is_idle(node.inode))
        except Unavailable as error:
            # The read will wait for the worker, with all its patience; an open of cached pages must not.
            log.info("passthrough_not_tried", error=str(error))
            return None

    async def release(self, inode: int, number: int) -> None:
        handle = self._state.handles.file(number)
        choice, is_outdated = handle.choice, self._is_read_past_us_from_now_on(handle)
        try:
            await self._operations.changes.release(number)
        finally:
            backing_id = self.modes.released(inode, choice) if choice is not None else 0
            if backing_id:
                raw_device.close_backing(self.device, backing_id)
        if is_outdated:
            self.drop_pages(inode)

    def is_past_pages(self, number: int) -> bool:
        """Whether what is written by this open file does not go by the kernel's pages."""
        return self._state.handles.file(number).choice in {Choice.WRITE, Choice.DIRECT}

    def _is_read_past_us_from_now_on(self, handle: FileHandle) -> bool:
        """Whether this is the last open by our pages of a file that has become whole: the next one is by passthrough,
        and the pages would only take as much memory again as the worker's."""
        node = handle.node
        if handle.choice is not Choice.CACHED or node.handles > 1 or node.pin is None or not _may_be_whole(node):
            return False
        return node.pin.is_resident(0, node.entry.size_bytes)

    async def undo(self, opcode: int, payload: bytes) -> None:
        """The asker of an open was gone before it was answered: nobody will release the handle."""
        number, *_ = protocol.OPEN_OUT.unpack_from(payload, len(payload) - protocol.OPEN_OUT.size)
        if opcode == Opcode.OPENDIR:
            self._operations.names.release_directory(number)
        else:
            await self.release(self._state.handles.file(number).node.inode, number)


def _is_read_only(node: Node) -> bool:
    return node.dataset is not None and not node.dataset.writable


def _may_be_whole(node: Node) -> bool:
    """Whether opens of the file may go by passthrough, now or later. Shared opens are through our pages, and no mode
    counts them: beside those of one that was small when they were made there is no other way."""
    if not _is_read_only(node) or node.entry.size_bytes < PASSTHROUGH_BYTES_MIN:
        return False
    return node.shared_open is None or not node.shared_open.handle.opens
