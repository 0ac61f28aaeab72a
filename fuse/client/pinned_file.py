"""One object version read through the worker's sparse file.

Owns the descriptor and what is known of resident ranges. The worker makes a range resident and the descriptor it
passed is read here: file bytes do not cross the socket. Those of a file the node may not keep do, when they are read in
order or the node has no room for them even for a moment: written to its disk only to be read once, they would take
longer and wear it out.

Invariants:
- Nothing is asked of the worker before the first `ensure`; one OPEN serves every reader of the version, and brings a
  small file with it.
- What is known of residency belongs to one connection: with it the worker's promise to keep the blocks
  ends, so the version is opened again before anything more is read.
- Two requests for one range become one.
"""

import asyncio
import mmap
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from api.byteplane import Ensure, Ensured, Handle, Op, Open, Opened, Read, ReadReply, decode_meta
from fuse.client.connection import Connection, ConnectionLost
from fuse.core.contracts import Bytes
from fuse.core.read_plan import BLOCK_BYTES, WHOLE_FILE_BYTES, Range, ResidentBlocks, needed_range, split, whole_pieces
from fuse.errors import NoRoom, Unavailable

if TYPE_CHECKING:
    from fuse.client.worker_client import WorkerClient

log = structlog.get_logger()

BUFFER_BYTES: Final = 1 << 20
"""The largest read the kernel asks for."""
PIECES_AT_ONCE: Final = 2
"""Of a whole file that is waited for: eight blocks, the window of a reader."""
NO_GENERATION: Final = -1
"""Equals no connection's number, not even that of none."""
_NOT_CACHED: Final = getattr(os, "RWF_NOWAIT", 0)


class _ReadBuffer:
    """One buffer for every read of the mount: the reply is written to the kernel before anything else runs, so
    the next read may overwrite it; and fresh memory for each would be zeroed by the kernel first. It begins where a
    page does: 16 bytes behind, where malloc puts large memory, a processor takes each load of a copy from a page cache
    for one that waits for the store before it, and needs four times as long. Private: daemons are forked."""

    view = memoryview(mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def read_descriptor(descriptor: int, offset_bytes: int, length_bytes: int) -> memoryview | None:
    """Return bytes that are in the page cache, in the shared buffer; None when the disk would have to be asked,
    so that it is asked in a thread and never stalls the mount."""
    target = _ReadBuffer.view[:length_bytes]
    try:
        count = os.preadv(descriptor, [target], offset_bytes, _NOT_CACHED)
    except OSError:
        return None
    return target if count == length_bytes else None


class PinnedWorkerFile:
    """Implements the core's PinnedFile."""

    def __init__(self, client: "WorkerClient", uid: str, path: str, etag: str, size_bytes: int) -> None:
        self._client = client
        self._open = Open(uid=uid, path=path, etag=etag, size_bytes=size_bytes)
        self._blocks = ResidentBlocks(size_bytes)
        self._inline = client.inline.file()
        self._descriptor: int | None = None
        self._is_kept = False
        self._handle = 0
        self._connection: Connection | None = None
        self._generation = NO_GENERATION
        self._opening: asyncio.Future[None] | None = None
        self._under_way: dict[Range, asyncio.Task[None]] = {}
        self._is_closed = False

    def is_resident(self, offset_bytes: int, length_bytes: int) -> bool:
        """True while the range can be read at once."""
        if self._is_held and self._blocks.covers(offset_bytes, length_bytes):
            return True
        if not self._inline:
            return False
        is_held = self._is_held
        return all(
            at // BLOCK_BYTES in self._inline or (is_held and self._blocks.covers(at, length))
            for at, length in self._pieces(offset_bytes, length_bytes)
        )

    @property
    def _is_held(self) -> bool:
        """What the worker made resident is still promised."""
        return self._descriptor is not None and self._generation == self._client.generation

    def _pieces(self, offset_bytes: int, length_bytes: int) -> Iterator[Range]:
        """The parts of a range, clipped to the file, in blocks of their own."""
        return split((offset_bytes, max(0, min(length_bytes, self._open.size_bytes - offset_bytes))))

    async def whole_file(self) -> int | None:
        """Return a descriptor of the whole version; None while a block is missing on this node."""
        await asyncio.shield(self._client.run_soon(self._opened()))
        return self._descriptor if self._blocks.is_whole else None

    async def bring_whole(self, seconds: float) -> int:
        """Wait that long for the whole version, if the worker has room for it; return the bytes that came."""
        if not self._is_kept:
            return 0
        until, came = time.monotonic() + seconds, 0
        pieces = whole_pieces(self._open.size_bytes)
        for number, piece in enumerate(pieces):
            # Few at a time: of many, each finds its memory gone from the processor's cache when its turn comes.
            first, *_ = [self._request(each) for each in pieces[number : number + PIECES_AT_ONCE]]
            await asyncio.wait({first}, timeout=max(0.0, until - time.monotonic()))
            if not self.is_resident(*piece):
                break
            came += piece[1]
        return came

    async def ensure(self, offset_bytes: int, length_bytes: int) -> None:
        """Make the range resident; Stale, Unavailable."""
        await asyncio.shield(self._request((offset_bytes, length_bytes)))

    def ensure_soon(self, offset_bytes: int, length_bytes: int, *, in_order: bool = False) -> None:
        """Start making the range readable; of one block `in_order` also by having it sent."""
        if length_bytes and not self._is_closed:
            self._request((offset_bytes, length_bytes), in_order=in_order)

    def _request(self, wanted: Range, *, in_order: bool = False) -> asyncio.Task[None]:
        for known, task in self._under_way.items():
            if known[0] <= wanted[0] and wanted[0] + wanted[1] <= known[0] + known[1]:
                return task
        task = self._client.run_soon(self._ensure(wanted, in_order=in_order))
        self._under_way[wanted] = task
        task.add_done_callback(lambda done: self._finished(wanted, done))
        return task

    def _finished(self, wanted: Range, task: asyncio.Task[None]) -> None:
        self._under_way.pop(wanted, None)
        if not task.cancelled() and task.exception() is not None:
            # Seen by whoever awaits the range; readahead that nobody awaits fails again when it is read.
            log.debug("ensure_failed", path=self._open.path, offset_bytes=wanted[0], error=str(task.exception()))

    async def _ensure(self, wanted: Range, *, in_order: bool) -> None:
        # A small file comes with the answer to its opening.
        first_bytes = wanted[1] if wanted == (0, self._open.size_bytes) and wanted[1] <= WHOLE_FILE_BYTES else 0
        deadline = 0.0
        is_inline = False
        while not self.is_resident(*wanted):
            try:
                if is_inline:
                    for piece in self._pieces(*needed_range(*wanted, self._open.size_bytes)):
                        await self._bring_inline(piece, is_ahead=False)
                    return
                await self._opened(first_bytes)
                if self.is_resident(*wanted) or self._connection is None:
                    continue
                if in_order and not self._is_kept and self._inline.has_room(wanted[1], time.monotonic()):
                    await self._bring_inline(wanted, is_ahead=True)
                else:
                    await self._bring(wanted)
            except NoRoom:
                if is_inline:
                    raise
                is_inline = True
            except ConnectionLost as lost:
                deadline = deadline or time.monotonic() + self._client.patience_seconds
                if time.monotonic() > deadline:
                    raise Unavailable(f"the worker was lost while {self._open.path} was read: {lost}") from lost
                self._client.metrics.retried("READ" if is_inline else "ENSURE")

    async def _bring(self, wanted: Range) -> None:
        """Have a range made resident; ConnectionLost, NoRoom, Stale, Unavailable."""
        assert self._connection is not None
        meta = Ensure(handle=self._handle, offset_bytes=wanted[0], length_bytes=wanted[1])
        generation = self._generation
        reply = await self._client.request(self._connection, Op.ENSURE, meta, uid=self._open.uid)
        ensured = decode_meta(reply.meta, Ensured)
        self._client.metrics.ensured(ensured.local_bytes, ensured.peer_bytes, ensured.origin_bytes)
        if generation == self._generation:
            self._blocks.add(*wanted, is_whole=ensured.is_resident)

    async def _bring_inline(self, wanted: Range, *, is_ahead: bool) -> None:
        """Have one block sent, which needs no handle; ConnectionLost, Stale, Unavailable."""
        inline, (offset, length) = self._client.inline, wanted
        memory = inline.take(length)
        try:
            connection, _ = await self._client.connected()
            for at, count in split(wanted, connection.block_size_bytes):
                await self._read_inline(connection, at, memory[at - offset : at - offset + count])
        except BaseException:
            # Not to be used again: what is still coming may be written to it.
            inline.lose(length)
            raise
        self._inline.arrived(offset // BLOCK_BYTES, memory, time.monotonic(), is_ahead=is_ahead)
        if self._is_closed:
            self._inline.clear()

    async def _read_inline(self, connection: Connection, offset_bytes: int, target: memoryview) -> None:
        opened = self._open
        meta = Read(
            uid=opened.uid,
            path=opened.path,
            etag=opened.etag,
            size_bytes=opened.size_bytes,
            offset_bytes=offset_bytes,
            length_bytes=len(target),
        )
        reply = await self._client.request(connection, Op.READ, meta, uid=opened.uid, into=target)
        if reply.data_bytes != len(target):
            raise Unavailable(f"the worker sent {reply.data_bytes} bytes of {opened.path} instead of {len(target)}")
        self._client.metrics.sent_inline(len(target), from_origin=decode_meta(reply.meta, ReadReply).from_origin)

    async def _opened(self, first_bytes: int = 0) -> None:
        """Have the file open; who opens it may ask for its first bytes too. Only for tasks nobody cancels."""
        while self._descriptor is None or self._generation != self._client.generation:
            if self._is_closed:
                raise Unavailable("the file was closed meanwhile")
            if self._opening is not None:
                await asyncio.shield(self._opening)
                continue
            opening = self._opening = asyncio.get_running_loop().create_future()
            try:
                await self._reopen(first_bytes)
            except BaseException as error:
                if not opening.cancelled():
                    opening.set_exception(error)
                    opening.exception()  # there may be nobody else who waits for it
                raise
            else:
                opening.set_result(None)
            finally:
                self._opening = None

    async def _reopen(self, first_bytes: int) -> None:
        client = self._client
        wanted = msgspec.structs.replace(self._open, first_bytes=first_bytes) if first_bytes else self._open
        opened, reply, connection, generation = await client.call_on(Op.OPEN, wanted, Opened)
        if reply.descriptor is None:
            raise Unavailable("the worker sent no descriptor with OPEN")
        self._drop_descriptor()
        if self._is_closed:
            os.close(reply.descriptor)
            connection.notify(Op.CLOSE, Handle(handle=opened.handle, is_silent=True))
            return
        self._descriptor, self._handle = reply.descriptor, opened.handle
        self._connection, self._generation = connection, generation
        self._is_kept = opened.is_kept
        self._blocks.clear()
        if opened.is_resident:
            self._blocks.add(0, self._open.size_bytes, is_whole=True)
        if (brought := opened.brought) is not None:
            client.metrics.ensured(brought.local_bytes, brought.peer_bytes, brought.origin_bytes)
            self._blocks.add(0, first_bytes)

    async def read(self, offset_bytes: int, length_bytes: int) -> Bytes:
        """Return the bytes of a resident range, good until the caller next waits."""
        if self._inline and (sent := self._sent(offset_bytes, length_bytes)) is not None:
            return sent
        descriptor = self._descriptor
        if descriptor is None:
            return b""
        if length_bytes <= BUFFER_BYTES:
            cached = read_descriptor(descriptor, offset_bytes, length_bytes)
            if cached is not None:
                return cached
        # A descriptor of its own: this one may be replaced or closed while the thread reads.
        own = os.dup(descriptor)
        try:
            data = await asyncio.to_thread(os.pread, own, length_bytes, offset_bytes)
        except OSError as error:
            raise Unavailable(f"reading the cached {self._open.path}: {error.strerror}") from error
        finally:
            os.close(own)
        if len(data) != length_bytes:
            raise Unavailable(f"the cached {self._open.path} is shorter than its {self._open.size_bytes} bytes")
        return data

    def _sent(self, offset_bytes: int, length_bytes: int) -> Bytes | None:
        """The range, if bytes that were sent are among it and the others can be read at once."""
        now, found = time.monotonic(), list[Bytes]()
        if offset_bytes // BLOCK_BYTES == (offset_bytes + length_bytes - 1) // BLOCK_BYTES:
            return self._inline.piece(offset_bytes, length_bytes, now)
        pieces = list(self._pieces(offset_bytes, length_bytes))
        if not any(at // BLOCK_BYTES in self._inline for at, _ in pieces):
            return None
        for at, length in pieces:
            one: Bytes | None = self._inline.piece(at, length, now)
            if one is None and self._descriptor is not None:
                one = os.pread(self._descriptor, length, at)
            if one is None or len(one) != length:
                return None
            found.append(one)
        return b"".join(found)

    def close(self) -> None:
        """Let the version go."""
        if self._is_closed:
            return
        self._is_closed = True
        self._inline.clear()
        if self._connection is not None and self._generation == self._client.generation:
            self._connection.notify(Op.CLOSE, Handle(handle=self._handle, is_silent=True))
        self._drop_descriptor()

    def _drop_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
