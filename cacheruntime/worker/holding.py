"""The fast tier of writes: files that this worker and another one hold until the under store has them.

Owns the order of steps until both hold a file, as the writer's worker and as the other one. The name in the namespace
comes last, so that what is shown is on two disks. What this node holds is held_copies.py's, what follows is
held_uploads.py's, who reads it held_reader.py's.

    writer's worker A                       other worker B                  metadata
    offer --HOLD--------------------------> fetches it by READ_HELD
                                            bytes, record, folder synced
    bytes, record, folder synced <--------- Empty
    PutHeld ------------------------------------------------------------->  entry with the held etag
    (the client's close returns)
    ... old enough: ClaimHeld, upload, FinishHeld ------------------------>  entry with the object's etag
    DROP_HELD ----------------------------> dropped

Invariants: nothing of a held file changes (its writer goes on in another one); whatever keeps a file from being held
makes it durable in the under store before its close returns.
"""

import asyncio
import errno
import os
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from api.byteplane import AskHeld, DropHeld, Hold, ReadHeld
from api.gen import metadata_pb2 as pb
from api.held import HeldName, held_name
from cacheruntime.core.blocks import block_count, block_length
from cacheruntime.core.held import Record, partners
from cacheruntime.core.homes import eligible
from cacheruntime.errors import BadRequest, CacheError, NotResident
from cacheruntime.worker import held_files, tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.buffers import Buffers, page_aligned
from cacheruntime.worker.datasets import check_path
from cacheruntime.worker.held_copies import HeldCopies
from cacheruntime.worker.held_uploads import HeldUploads
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import Peers
from cacheruntime.worker.reader import in_parallel
from cacheruntime.worker.workers import Peer, Workers

log = structlog.get_logger()

PARTNERS: Final = 2
"""Workers that are asked, one after the other, to hold a file beside us."""
PULLED_AT_ONCE: Final = 4
HOLD_BYTES_PER_SECOND: Final = 20 << 20
"""A partner that is slower than this, on top of the deadline, is no fast tier."""


@dataclass(slots=True)
class _Offer:
    """A file that a partner is fetching."""

    uid: str
    path: Path
    size_bytes: int
    checksums: dict[int, int] = field(default_factory=dict)


class Holding:
    """Makes this worker and another one hold files."""

    def __init__(
        self,
        *,
        me: Peer,
        store: BlockStore,
        copies: HeldCopies,
        uploads: HeldUploads,
        workers: Workers,
        peers: Peers,
        metrics: Metrics,
        hold_seconds: float,
    ) -> None:
        """A partner has `hold_seconds` and the time a slow network needs."""
        self._me = me
        self._store = store
        self._copies = copies
        self._uploads = uploads
        self._workers = workers
        self._peers = peers
        self._metrics = metrics
        self._hold_seconds = hold_seconds
        self._offers: dict[str, _Offer] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._beginning: set[str] = set()
        self._said = ""

    # The writer's side

    async def hold(self, info: pb.DatasetInfo, path: str, file: Path, descriptor: int, size_bytes: int) -> str | None:
        """Return the etag under which this worker and another one hold the file; None = it is to be made durable in the
        under store. Until `confirm` or `abandon` nothing is done with it."""
        tier = self._copies.tier
        if tier is None:
            return self._fall_back("memory_only", "no tier of this worker outlives its node")
        if self._workers.is_leaving:
            return self._fall_back("leaving", "this worker hands over what it has")
        if not self._copies.has_room(size_bytes):
            waiting = f"{self._copies.held_bytes} bytes wait already; {self._copies.quota_bytes} may"
            return self._fall_back("quota", waiting)
        nodes = eligible(self._workers.live(), info.eligible_nodes)
        chosen = partners(uuid.uuid4().hex, self._me.node, nodes)[:PARTNERS]
        if not chosen:
            return self._fall_back("no_partner", "no other live worker may hold it")
        if not self._copies.disk:
            folder = self._copies.folder(tier)
            try:
                self._copies.disk = await self._store.run(held_files.disk_id, folder)
            except OSError as error:
                return self._fall_back("medium", f"the folder {folder} cannot be used: {error.strerror}")
        with self._copies.reserved(size_bytes):
            syncing = asyncio.ensure_future(self._store.run(os.fsync, descriptor))
            try:
                etag = None
                for node in chosen:
                    peer = self._workers.live().get(node)
                    if peer is not None and etag is None:
                        etag = await self._hold_with(peer, tier, _Offer(info.uid, file, size_bytes), path, syncing)
                await syncing
            except OSError as error:
                raise self._store.medium_failed(tier, error) from error
            finally:
                await asyncio.wait({syncing})  # it has the descriptor in its hands
        if etag is None:
            return self._fall_back("partner_failed", f"{', '.join(chosen)} did not take it")
        self._said = ""
        return etag

    def _fall_back(self, why: str, message: str) -> str | None:
        self._metrics.held_fallbacks.labels(why).inc()
        if self._said != why:
            self._said = why
            log.warning("file_not_held", why=why, message=message, notice="closes wait for the under store")
        return None

    async def _hold_with(
        self, peer: Peer, tier: int, offer: _Offer, path: str, syncing: "asyncio.Future[None]"
    ) -> str | None:
        etag = HeldName(uuid.uuid4().hex, (self._me.node, peer.node)).etag
        request = Hold(
            uid=offer.uid,
            path=path,
            etag=etag,
            size_bytes=offer.size_bytes,
            block_size_bytes=self._store.block_size_bytes,
            epoch=self._me.epoch,
            held_at_ns=self._copies.wall_clock_ns(),
            disk=self._copies.disk,
        )
        self._beginning.add(etag)
        try:
            return etag if await self._hold_as(request, peer, tier, offer, syncing) else None
        finally:
            self._beginning.discard(etag)

    async def _hold_as(
        self, request: Hold, peer: Peer, tier: int, offer: _Offer, syncing: "asyncio.Future[None]"
    ) -> bool:
        block_size, size_bytes = request.block_size_bytes, request.size_bytes
        self._offers[request.etag] = offer
        try:
            seconds = self._hold_seconds + size_bytes / HOLD_BYTES_PER_SECOND
            await self._peers.hold(peer, request, seconds)
            for index in range(block_count(size_bytes, block_size)):
                if index not in offer.checksums:
                    await self._offered(offer, index * block_size, block_length(index, size_bytes, block_size))
        except CacheError as error:
            log.info("partner_did_not_hold", peer=peer.node, dataset=offer.uid, error=error.message)
            self._copies.tell_dropped(peer.node, offer.uid, request.etag)
            return False
        finally:
            del self._offers[request.etag]
        checksums = [offer.checksums[index] for index in range(block_count(size_bytes, block_size))]
        await syncing
        try:
            await self._copies.keep(tier, offer.path, _record(request, checksums), is_confirmed=False)
        except OSError as error:
            log.warning("file_not_held_here", dataset=offer.uid, error=error.strerror)
            self._copies.tell_dropped(peer.node, offer.uid, request.etag)
            return False
        return True

    def confirm(self, etag: str) -> None:
        """The namespace shows it."""
        held = self._copies.get(etag)
        if held is None:
            return
        held.is_confirmed = True
        record = held.copy.record
        for other in self._copies.all():
            # What it replaced need not wait for its turn: of a log that is synced line by line each line makes one.
            before = other.copy.record
            is_replaced = other is not held and (before.uid, before.path) == (record.uid, record.path)
            if is_replaced and other.is_confirmed and not other.is_busy:
                self._uploads.look(other)

    def abandon(self, etag: str, error: CacheError) -> None:
        """The namespace did not take it; if it may have all the same, that is found out."""
        held = self._copies.get(etag)
        if held is None:
            return
        if error.is_retryable:
            held.unanswered_since_seconds = self._copies.clock()
            held.is_confirmed = True
            return
        self._copies.start(self._copies.drop(held))

    # The partner's side

    async def keep(self, request: Hold) -> None:
        """Hold a file beside its writer's worker: fetch it, make it durable. CacheError."""
        check_path(request.path)
        name = held_name(request.etag)
        if name is None or name.holders[1] != self._me.node or request.size_bytes < 0:
            raise BadRequest(f"{request.etag!r} of {request.size_bytes} bytes is nothing for {self._me.node} to hold")
        if request.block_size_bytes != self._store.block_size_bytes:
            raise BadRequest(f"block_size_bytes {request.block_size_bytes}; here it is {self._store.block_size_bytes}")
        writer = self._workers.leased().get(name.holders[0])
        if writer is None or writer.epoch != request.epoch:
            await self._workers.refresh()
            writer = self._workers.leased().get(name.holders[0])
        if writer is None or writer.epoch != request.epoch:
            raise CacheError(f"{name.holders[0]} epoch {request.epoch} is no worker that is known to live")
        task = self._keeping.get(request.etag)
        if self._copies.get(request.etag) is not None:
            return
        if task is None:
            tier = self._copies.tier
            if tier is None or not self._copies.has_room(request.size_bytes):
                held = f"{self._copies.held_bytes} bytes are held of {self._copies.quota_bytes}"
                raise CacheError(held, number=errno.ENOSPC)
            # A task of its own: it writes to a descriptor, and must not be left half way by a connection that ends.
            task = self._keeping[request.etag] = asyncio.create_task(self._fetch(writer, request, tier))
            task.add_done_callback(lambda done: self._kept(request.etag, done))
        await asyncio.shield(task)

    def _kept(self, etag: str, task: "asyncio.Task[None]") -> None:
        self._keeping.pop(etag, None)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _fetch(self, writer: Peer, request: Hold, tier: int) -> None:
        name = held_name(request.etag)
        assert name is not None
        half: Path | None = None
        with self._copies.reserved(request.size_bytes):
            try:
                written, descriptor = await self._store.run(held_files.begin, self._copies.folder(tier), name.id)
                half = written
                try:
                    checksums = await self._pull(writer, request, descriptor)
                finally:
                    os.close(descriptor)
                if self._copies.is_dropped(request.etag):
                    raise CacheError("its writer does not want it any more")
                held = await self._copies.keep(tier, written, _record(request, checksums), is_confirmed=True)
                if self._copies.is_dropped(request.etag):
                    await self._copies.drop(held)
            except OSError as error:
                raise self._store.medium_failed(tier, error) from error
            finally:
                if half is not None:
                    half.unlink(missing_ok=True)

    async def _pull(self, writer: Peer, request: Hold, descriptor: int) -> list[int]:
        """Write and sync what the writer's worker offers; the blocks' checksums."""
        block_size = request.block_size_bytes
        blocks = block_count(request.size_bytes, block_size)
        checksums = [0] * blocks
        buffers = Buffers(block_size, PULLED_AT_ONCE)

        async def one(index: int) -> None:
            data = buffers.take(block_length(index, request.size_bytes, block_size))
            offset = index * block_size
            read = ReadHeld(uid=request.uid, etag=request.etag, offset_bytes=offset, length_bytes=len(data))
            checksums[index] = await self._peers.read_held(writer, read, data)
            await self._finish(self._store.run(tier_files.write_at, descriptor, data, offset))

        if blocks:
            await in_parallel(range(blocks), PULLED_AT_ONCE, one)
        await self._finish(self._store.run(os.fsync, descriptor))
        return checksums

    def drop_held(self, request: DropHeld) -> None:
        """The writer's worker, or the other holder, says that a version is not needed."""
        self._copies.note_dropped(request.etag)
        held = self._copies.get(request.etag)
        if held is not None and held.copy.record.uid == request.uid and not held.is_busy:
            self._uploads.look(held, is_told=True)

    def knows(self, request: AskHeld) -> bool:
        """Whether a version that began here may have been shown. Its record is there before it is, and goes only when
        metadata says that it has ended, or that it never began."""
        is_other_disk = request.disk != self._copies.disk
        return is_other_disk or request.etag in self._beginning or self._copies.has_traces(request.etag)

    # Reading

    async def read(self, request: ReadHeld) -> tuple[memoryview, int]:
        """Return a range of a version that is held here, and its checksum; NotResident, BadRequest."""
        offer = self._offers.get(request.etag)
        held = self._copies.get(request.etag)
        size = offer.size_bytes if offer is not None else held.copy.record.size_bytes if held is not None else 0
        uid = offer.uid if offer is not None else held.copy.record.uid if held is not None else None
        if uid != request.uid:
            raise NotResident(f"{request.etag!r} is not held here")
        block_size = self._store.block_size_bytes if held is None else held.copy.record.block_size_bytes
        start, length = request.offset_bytes, request.length_bytes
        if not (start >= 0 and length > 0 and start + length <= min(size, (start // block_size + 1) * block_size)):
            raise BadRequest(f"range {start}+{length} leaves its block, or a file of {size} bytes")
        if offer is not None:
            return await self._offered(offer, start, length)
        assert held is not None
        return await self._copies.read(held, start, length)

    async def _offered(self, offer: _Offer, start: int, length: int) -> tuple[memoryview, int]:
        data = page_aligned(length)
        block_size = self._store.block_size_bytes
        index = start // block_size
        try:
            checksum = await self._store.run(_read_file, offer.path, start, data)
        except OSError as error:
            raise CacheError(f"the staging file: {error.strerror}", is_retryable=True) from error
        if length == block_length(index, offer.size_bytes, block_size):
            offer.checksums[index] = checksum
        return data, checksum

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Await blocking work to its end, also when this is cancelled: it has a descriptor in its hands."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    async def close(self) -> None:
        """Fetch no more for others."""
        tasks = list(self._keeping.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _record(request: Hold, checksums: list[int]) -> Record:
    return Record(
        etag=request.etag,
        uid=request.uid,
        path=request.path,
        size_bytes=request.size_bytes,
        block_size_bytes=request.block_size_bytes,
        checksums=checksums,
        held_at_ns=request.held_at_ns,
        disk=request.disk,
    )


def _read_file(path: Path, offset_bytes: int, data: memoryview) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return held_files.checksum_of(descriptor, offset_bytes, data)
    finally:
        os.close(descriptor)
