"""The TCP side of the byte plane: blocks for peers.

Owns HELLO, AUTHORIZE and READ, and hands HOLD, READ_HELD and DROP_HELD on (holding.py). A resident block goes out by
sendfile with the checksum of its map, so the peer checks what the disk gave; small ones are read, checked here and sent
at once.

Invariant: nothing unchecked goes to a peer. A piece of a block has no checksum of its own in the map, so the whole
block is read and checked for the first one, and the checksums of all its pieces are remembered for the next ones
(core/piece_checksums.py): what goes out was checked after it was read, each time.
"""

import errno
from collections import OrderedDict
from concurrent.futures import Executor
from functools import lru_cache
from typing import Final, Protocol

from api.byteplane import (
    AskHeld,
    Authorize,
    DropHeld,
    Empty,
    Flag,
    FrameError,
    Header,
    HeldKnown,
    Hello,
    HelloReply,
    Hold,
    Op,
    Read,
    ReadHeld,
    ReadReply,
    decode_meta,
    encode,
)
from cacheruntime.core.blocks import Version, block_length, version_name
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.piece_checksums import PIECE_BYTES, PieceChecksums, pieces_of
from cacheruntime.errors import BadRequest, CacheError, NoRoom, NotResident
from cacheruntime.worker import tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import check_path
from cacheruntime.worker.fetched import Source
from cacheruntime.worker.frame_socket import FrameSocket
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.reader import Reader
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.trust import Gate

SENDFILE_BYTES_MIN: Final = 256 << 10
"""Below this a read and one send cost less than a thread and sendfile."""
NAMES_MAX: Final = 32_768
"""Names of versions that need not be hashed again; some 10 MiB."""
NOW_BYTES_MAX: Final = 32 << 10
"""So few bytes are answered in the loop that receives requests, if they need no waiting."""
BYPASSED_BLOCKS_MAX: Final = 16
"""Blocks the cache has no room for, kept in memory for the next pieces of them: 64 MiB of 4 MiB blocks."""


async def answer_hello(link: FrameSocket, header: Header, meta: bytes, reply: HelloReply) -> None:
    """Greet back."""
    decode_meta(meta, Hello)
    await link.send(encode(Op.HELLO, header.request_id, reply, flags=Flag.REPLY))


async def answer_authorize(link: FrameSocket, header: Header, meta: bytes, gate: Gate) -> None:
    """Take the token, or NotAuthorised."""
    reply = await gate.accept(decode_meta(meta, Authorize).token)
    await link.send(encode(Op.AUTHORIZE, header.request_id, reply, flags=Flag.REPLY))


class ReadAnswerer:
    """Answers READ on any connection."""

    def __init__(self, store: BlockStore, reader: Reader, metrics: Metrics, senders: Executor) -> None:
        self._store = store
        self._reader = reader
        self._metrics = metrics
        self._senders = senders
        self._pieces = PieceChecksums()
        #: Checked bytes of blocks that could not stay. A version never changes, so they stay right.
        self._bypassed_blocks: OrderedDict[tuple[str, int], memoryview] = OrderedDict()

    def answer_now(self, header: Header, meta: bytes, gate: Gate, *, for_peer: bool) -> tuple[bytes, memoryview] | None:
        """Return the reply to a READ of a few bytes that are here and in memory; None = `answer` it."""
        try:
            read = decode_meta(meta, Read)
            if read.length_bytes > NOW_BYTES_MAX or read.verify or not gate.allows(read.uid):
                return None
            _, name, index = self._checked(read)
            ready = self._ready(read, name, index)
        except (CacheError, FrameError):
            return None  # `answer` meets it too, and can say so
        if ready is None:
            return None
        self._served(read, Source.LOCAL, for_peer=for_peer)
        data, checksum = ready
        return _reply(header, ReadReply(crc32c=checksum), data), data

    async def answer(self, link: FrameSocket, header: Header, meta: bytes, gate: Gate, *, for_peer: bool) -> None:
        """Send the range; NotAuthorised, NotResident, or what the way to the under store raised."""
        read = decode_meta(meta, Read)
        gate.require(read.uid)
        version, _, index = self._checked(read)
        source = Source.LOCAL
        if read.verify or not await self._send_kept(link, header, read, version, index):
            source = await self._send_fetched(link, header, read, version, index, for_peer=for_peer)
        self._served(read, source, for_peer=for_peer)

    def _served(self, read: Read, source: Source, *, for_peer: bool) -> None:
        if for_peer:
            self._metrics.peer_served_bytes.inc(read.length_bytes)
        else:
            self._reader.count(read.uid, source, read.length_bytes)

    def _checked(self, read: Read) -> tuple[Version, str, int]:
        """The version, its name and the block; BadRequest."""
        version, name = _named(read.uid, read.path, read.etag, read.size_bytes)
        block_size = self._store.block_size_bytes
        index = read.offset_bytes // block_size
        if not 0 <= read.offset_bytes < read.size_bytes:
            raise BadRequest(f"offset_bytes {read.offset_bytes} is outside an object of {read.size_bytes} bytes")
        end = min((index + 1) * block_size, read.size_bytes)
        if read.length_bytes < 1 or read.offset_bytes + read.length_bytes > end:
            raise BadRequest(f"length_bytes {read.length_bytes} at {read.offset_bytes} leaves block {index}")
        return version, name, index

    def _ready(self, read: Read, name: str, index: int) -> tuple[memoryview, int] | None:
        """The range, checked, and its checksum, if that needs no waiting."""
        block_size = self._store.block_size_bytes
        inside = read.offset_bytes - index * block_size
        if (block := self._bypassed_blocks.get((name, index))) is not None and not read.resident_only:
            self._bypassed_blocks.move_to_end((name, index))
            data = block[inside : inside + read.length_bytes]
            return data, crc32c(data)
        length = block_length(index, read.size_bytes, block_size)
        is_whole = read.length_bytes == length
        if not is_whole and not self._pieces.knows(name, index):
            return None
        file = self._store.glance(name)
        if file is None or not file.map.has(index):
            return None
        start, end = (0, length) if is_whole else pieces_of(inside, read.length_bytes, length)
        found = tier_files.read_now(file, index * block_size + start, end - start)
        if found is None:
            return None
        around = memoryview(found)
        # What is not right the long way finds too, drops it and fetches it again.
        if is_whole:
            checksum = crc32c(around)
            return (around, checksum) if checksum == file.map.checksum(index) else None
        if len(around) == read.length_bytes <= PIECE_BYTES:
            checksum = crc32c(around)
            return (around, checksum) if self._pieces.is_right(name, index, start, checksum) else None
        if not self._pieces.are_right(name, index, start, around):
            return None
        data = around[inside - start : inside - start + read.length_bytes]
        return data, crc32c(data)

    async def _send_kept(self, link: FrameSocket, header: Header, read: Read, version: Version, index: int) -> bool:
        name = version_name(version)
        if read.length_bytes < SENDFILE_BYTES_MIN and (ready := self._ready(read, name, index)) is not None:
            data, checksum = ready
            await link.send(_reply(header, ReadReply(crc32c=checksum), data), data)
            return True
        is_whole = read.length_bytes == block_length(index, version.size_bytes, self._store.block_size_bytes)
        if is_whole and read.length_bytes < SENDFILE_BYTES_MIN:
            return False
        if not is_whole and not self._pieces.knows(name, index):
            return False
        known = self._store.find(version)
        if known is None or not known.map.has(index) or self._store.is_unread(known):
            return False
        try:
            file = await self._store.acquire(version, wanted_bytes=0, as_home=False)
        except NoRoom:
            return False  # its medium failed: it is fetched
        try:
            if not file.map.has(index):
                return False
            if is_whole:
                await self._send_file(link, header, read, file, index)
                return True
            return await self._send_piece(link, header, read, file, index)
        finally:
            self._store.release(file)

    async def _send_piece(self, link: FrameSocket, header: Header, read: Read, file: CachedFile, index: int) -> bool:
        """A piece that is large, or that the disk has to be waited for."""
        block_start = index * self._store.block_size_bytes
        inside = read.offset_bytes - block_start
        start, end = pieces_of(inside, read.length_bytes, file.map.length(index))
        try:
            found = await self._store.run(tier_files.read_range, file, block_start + start, end - start)
        except OSError as error:
            self._store.failed(file, error)
            return False
        around = memoryview(found or b"")
        if found is None or not self._pieces.are_right(file.name, index, start, around):
            return False
        data = around[inside - start : inside - start + read.length_bytes]
        await link.send(_reply(header, ReadReply(crc32c=crc32c(data)), data), data)
        return True

    def _remember(self, version: Version, index: int, data: memoryview) -> None:
        """The next piece is mostly of the same block: make it cheap, by what may be kept."""
        name, known = version_name(version), self._store.find(version)
        if known is not None and known.map.has(index):
            self._pieces.learn(name, index, data)
            return
        self._bypassed_blocks[name, index] = data
        if len(self._bypassed_blocks) > BYPASSED_BLOCKS_MAX:
            self._bypassed_blocks.popitem(last=False)

    async def _send_file(self, link: FrameSocket, header: Header, read: Read, file: CachedFile, index: int) -> None:
        head = encode(
            Op.READ,
            header.request_id,
            ReadReply(crc32c=file.map.checksum(index)),
            data_bytes=read.length_bytes,
            flags=Flag.REPLY,
        )
        try:
            await link.send_file(head, file.descriptor, read.offset_bytes, read.length_bytes, self._senders)
        except ConnectionResetError as lost:
            # The next one who asks must not meet the same bad block.
            if isinstance(lost.__cause__, OSError) and lost.__cause__.errno == errno.EIO:
                self._store.failed(file, lost.__cause__)
                self._store.drop_corrupt(file, index, found="read")
            raise

    async def _send_fetched(
        self, link: FrameSocket, header: Header, read: Read, version: Version, index: int, *, for_peer: bool
    ) -> Source:
        if read.resident_only:
            known = self._store.find(version)
            if known is None or not known.map.has(index) or self._store.is_unread(known):
                raise NotResident(f"block {index} of {version.path!r} is not here")
        fetched = await self._reader.block(version, index, for_peer=for_peer)
        start = read.offset_bytes - index * self._store.block_size_bytes
        data = fetched.data[start : start + read.length_bytes]
        checksum = fetched.checksum
        if len(data) < len(fetched.data):
            checksum = crc32c(data)
            self._remember(version, index, fetched.data)
        reply = ReadReply(crc32c=checksum, from_origin=fetched.source is Source.ORIGIN)
        await link.send(_reply(header, reply, data), data)
        return fetched.source


@lru_cache(maxsize=NAMES_MAX)
def _named(uid: str, path: str, etag: str, size_bytes: int) -> tuple[Version, str]:
    """The version and its name; BadRequest."""
    check_path(path)
    version = Version(uid, path, etag, size_bytes)
    return version, version_name(version)


def _reply(header: Header, reply: ReadReply, data: memoryview) -> bytes:
    return encode(Op.READ, header.request_id, reply, data_bytes=len(data), flags=Flag.REPLY)


class Holder(Protocol):
    """Who holds files for others."""

    async def keep(self, request: Hold) -> None:
        """Hold a file; CacheError."""
        ...

    async def read(self, request: ReadHeld) -> tuple[memoryview, int]:
        """Return a range of one that is held, and its checksum; CacheError."""
        ...

    def drop_held(self, request: DropHeld) -> None:
        """One is not needed any more."""
        ...

    def knows(self, request: AskHeld) -> bool:
        """Whether a version that began here may have been shown."""
        ...


class PeerSession:
    """One peer's connection."""

    def __init__(
        self, link: FrameSocket, hello: HelloReply, answerer: ReadAnswerer, gate: Gate, holder: Holder
    ) -> None:
        self._link = link
        self._holder = holder
        self._gate = gate
        self._hello = hello
        self._answerer = answerer

    def answer_now(self, header: Header, meta: bytes) -> tuple[bytes, memoryview] | None:
        """Return a reply that needs no waiting."""
        return self._answerer.answer_now(header, meta, self._gate, for_peer=True) if header.op is Op.READ else None

    async def handle(self, header: Header, meta: bytes) -> None:
        """Answer one request."""
        match header.op:
            case Op.HELLO:
                await answer_hello(self._link, header, meta, self._hello)
            case Op.AUTHORIZE:
                await answer_authorize(self._link, header, meta, self._gate)
            case Op.READ:
                await self._answerer.answer(self._link, header, meta, self._gate, for_peer=True)
            case Op.HOLD:
                hold = decode_meta(meta, Hold)
                self._gate.require(hold.uid)
                await self._holder.keep(hold)
                await self._link.send(encode(Op.HOLD, header.request_id, Empty(), flags=Flag.REPLY))
            case Op.READ_HELD:
                read = decode_meta(meta, ReadHeld)
                self._gate.require(read.uid)
                data, checksum = await self._holder.read(read)
                reply = ReadReply(crc32c=checksum)
                head = encode(Op.READ_HELD, header.request_id, reply, data_bytes=len(data), flags=Flag.REPLY)
                await self._link.send(head, data)
            case Op.DROP_HELD:
                drop = decode_meta(meta, DropHeld)
                self._gate.require(drop.uid)
                self._holder.drop_held(drop)
                await self._link.send(encode(Op.DROP_HELD, header.request_id, Empty(), flags=Flag.REPLY))
            case Op.ASK_HELD:
                ask = decode_meta(meta, AskHeld)
                self._gate.require(ask.uid)
                known = HeldKnown(is_known=self._holder.knows(ask))
                await self._link.send(encode(Op.ASK_HELD, header.request_id, known, flags=Flag.REPLY))
            case _:
                raise FrameError(f"{header.op.name} is for the node's unix socket")

    async def close(self) -> None:
        """Nothing is held for a peer."""
