"""The fast tier of writes: files that this worker and another one hold until the under store has them.

Owns the copies of this node and the order of steps. The name in the namespace comes last, so that what is shown is on
two disks; a copy goes only after metadata said that it is not needed.

    writer's worker A                       other worker B                  metadata
    offer --HOLD--------------------------> fetches it by READ_HELD
                                            bytes, record, folder synced
    bytes, record, folder synced <--------- Empty
    PutHeld ------------------------------------------------------------->  entry with the held etag
    (the client's close returns)
    ... old enough: ClaimHeld, upload, FinishHeld ------------------------>  entry with the object's etag
    DROP_HELD ----------------------------> dropped

B does the same when A's lease has ended, or when A is hopelessly late. Who reads a held version asks its holders, which
its etag names; when they have it no more, metadata says as which object the under store has it.

Invariants: nothing of a held file changes (its writer goes on in another one); held bytes have a quota of their own,
beside what is cached, and never more; whatever keeps a file from being held makes it durable in the under store before
its close returns. Memory holds nothing.
"""

import asyncio
import errno
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from api.byteplane import AskHeld, DropHeld, Hold, ReadHeld
from api.gen import metadata_pb2 as pb
from api.held import HeldName, held_name
from cacheruntime.core.blocks import Version, block_count, block_length
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.held import Record, Schedule, Settings, partners, quota_bytes
from cacheruntime.core.homes import eligible
from cacheruntime.errors import BadRequest, CacheError, Missing, NotResident, PeerFailed, VersionChanged, from_store
from cacheruntime.worker import held_files, tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.buffers import Buffers, page_aligned
from cacheruntime.worker.datasets import Datasets, check_path
from cacheruntime.worker.filler import Filler, Keep
from cacheruntime.worker.held_files import HeldCopy
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import CorruptAnswer, PeerRefused, Peers
from cacheruntime.worker.reader import in_parallel
from cacheruntime.worker.turns import Turns
from cacheruntime.worker.workers import Peer, Workers
from understores.base import ObjectInfo
from understores.errors import UnderStoreError

log = structlog.get_logger()

PARTNERS: Final = 2
"""Workers that are asked, one after the other, to hold a file beside us."""
PULLED_AT_ONCE: Final = 4
HOLD_BYTES_PER_SECOND: Final = 20 << 20
"""A partner that is slower than this, on top of the deadline, is no fast tier."""
SILENT_SECONDS: Final = 5.0
"""An upload ends when metadata was not heard for so long: our lease is over, and the other holder uploads."""
LOOK_SECONDS: Final = 0.5
POLL_SECONDS: Final = 30.0
"""How often the other holder asks what became of a file, should the writer's worker not have said so."""
UNCONFIRMED_SECONDS: Final = 60.0
"""After so long no lost call will show a file any more."""
DROPPED_MAX: Final = 4096
AT_ONCE: Final = Settings(settle_seconds=0.0, takeover_seconds=0.0)
"""Of a worker that is leaving."""


@dataclass(slots=True)
class _Held:
    """One copy on this node."""

    copy: HeldCopy
    name: HeldName
    tier: int
    schedule: Schedule
    is_confirmed: bool
    """Metadata may know of it: its commit has been answered, or was another worker's."""
    is_busy: bool = False
    is_unknown: bool = False


@dataclass(slots=True)
class _Offer:
    """A file that a partner is fetching."""

    uid: str
    path: Path
    size_bytes: int
    checksums: dict[int, int] = field(default_factory=dict)


class Holding:
    """All held copies of this node."""

    def __init__(
        self,
        *,
        me: Peer,
        store: BlockStore,
        workers: Workers,
        peers: Peers,
        filler: Filler,
        datasets: Datasets,
        metadata: MetadataClient,
        metrics: Metrics,
        turns: Turns,
        settings: Settings,
        percent: float,
        uploads: int,
        hold_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`percent` of the tiers' quotas may be held; `uploads` at a time; a partner has `hold_seconds` and the time a
        slow network needs."""
        self._me = me
        self._store = store
        self._workers = workers
        self._peers = peers
        self._filler = filler
        self._datasets = datasets
        self._metadata = metadata
        self._metrics = metrics
        self._turns = turns
        self._settings = settings
        self._uploads_max = uploads
        self._hold_seconds = hold_seconds
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self.quota_bytes = quota_bytes([(tier.medium, tier.quota_bytes) for tier in store.tiers], percent)
        self._tier = next((i for i, tier in enumerate(store.tiers) if tier.medium != "MEM" and tier.quota_bytes), None)
        self._copies: dict[str, _Held] = {}
        self._offers: dict[str, _Offer] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._dropped: OrderedDict[str, None] = OrderedDict()
        self._unconfirmed: dict[str, float] = {}
        self._reserved_bytes = 0
        self._beginning: set[str] = set()
        self._disk = ""
        self._said = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held_bytes(self) -> int:
        """Bytes this node holds, or is about to."""
        return self._reserved_bytes + sum(held.copy.record.size_bytes for held in self._copies.values())

    async def recover(self) -> None:
        """Take up what an earlier run held. CacheError when a folder cannot be read."""
        for number, tier in enumerate(self._store.tiers):
            if tier.medium == "MEM":
                continue
            folder = self._store.directory(number) / held_files.FOLDER
            try:
                copies = await self._store.run(held_files.scan, folder)
            except OSError as error:
                raise CacheError(f"the folder {folder} of held files cannot be read: {error.strerror}") from error
            for copy in copies:
                self._add(copy, number, is_confirmed=True)
        if self._tier is not None:
            folder = self._store.directory(self._tier) / held_files.FOLDER
            try:
                self._disk = await self._store.run(held_files.disk_id, folder)
            except OSError as error:
                log.error("nothing_can_be_held", folder=str(folder), error=error.strerror)
                self._tier = None
        if self._copies:
            log.info("held_files_found", files=len(self._copies), bytes=self.held_bytes)

    def _add(self, copy: HeldCopy, tier: int, *, is_confirmed: bool) -> None:
        name = held_name(copy.record.etag)
        assert name is not None, "a record is of a held version"
        age = max(0.0, (self._wall_clock_ns() - copy.record.held_at_ns) / 1e9)
        schedule = Schedule(self._clock() - age)
        self._copies[copy.record.etag] = _Held(copy, name, tier, schedule, is_confirmed)

    # The writer's side

    async def hold(self, info: pb.DatasetInfo, path: str, file: Path, descriptor: int, size_bytes: int) -> str | None:
        """Return the etag under which this worker and another one hold the file; None = it is to be made durable in the
        under store. Until `confirm` or `abandon` nothing is done with it."""
        if self._tier is None:
            return self._fall_back("memory_only", "no tier of this worker outlives its node")
        if self._workers.is_leaving:
            return self._fall_back("leaving", "this worker hands over what it has")
        if not self._has_room(size_bytes):
            return self._fall_back("quota", f"{self.held_bytes} bytes wait already; {self.quota_bytes} may")
        nodes = eligible(self._workers.live(), info.eligible_nodes)
        chosen = partners(uuid.uuid4().hex, self._me.node, nodes)[:PARTNERS]
        if not chosen:
            return self._fall_back("no_partner", "no other live worker may hold it")
        self._reserved_bytes += size_bytes
        syncing = asyncio.ensure_future(self._store.run(os.fsync, descriptor))
        try:
            etag = None
            for node in chosen:
                peer = self._workers.live().get(node)
                if peer is not None and etag is None:
                    etag = await self._hold_with(peer, _Offer(info.uid, file, size_bytes), path, syncing)
            await syncing
        except OSError as error:
            raise self._store.medium_failed(self._tier, error) from error
        finally:
            await asyncio.wait({syncing})  # it has the descriptor in its hands
            self._reserved_bytes -= size_bytes
        if etag is None:
            return self._fall_back("partner_failed", f"{', '.join(chosen)} did not take it")
        self._said = ""
        return etag

    def _has_room(self, size_bytes: int) -> bool:
        return self.held_bytes + size_bytes <= self.quota_bytes

    def _fall_back(self, why: str, message: str) -> str | None:
        self._metrics.held_fallbacks.labels(why).inc()
        if self._said != why:
            self._said = why
            log.warning("file_not_held", why=why, message=message, notice="closes wait for the under store")
        return None

    async def _hold_with(self, peer: Peer, offer: _Offer, path: str, syncing: "asyncio.Future[None]") -> str | None:
        assert self._tier is not None
        etag = HeldName(uuid.uuid4().hex, (self._me.node, peer.node)).etag
        request = Hold(
            uid=offer.uid,
            path=path,
            etag=etag,
            size_bytes=offer.size_bytes,
            block_size_bytes=self._store.block_size_bytes,
            epoch=self._me.epoch,
            held_at_ns=self._wall_clock_ns(),
            disk=self._disk,
        )
        self._beginning.add(etag)
        try:
            return etag if await self._hold_as(request, peer, offer, syncing) else None
        finally:
            self._beginning.discard(etag)

    async def _hold_as(self, request: Hold, peer: Peer, offer: _Offer, syncing: "asyncio.Future[None]") -> bool:
        assert self._tier is not None
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
            self._start(self._tell_dropped(peer.node, offer.uid, request.etag))
            return False
        finally:
            del self._offers[request.etag]
        checksums = [offer.checksums[index] for index in range(block_count(size_bytes, block_size))]
        await syncing
        folder = self._store.directory(self._tier) / held_files.FOLDER
        try:
            copy = await self._store.run(held_files.keep, folder, offer.path, _record(request, checksums))
        except OSError as error:
            log.warning("file_not_held_here", dataset=offer.uid, error=error.strerror)
            self._start(self._tell_dropped(peer.node, offer.uid, request.etag))
            return False
        self._add(copy, self._tier, is_confirmed=False)
        return True

    def confirm(self, etag: str) -> None:
        """The namespace shows it."""
        held = self._copies.get(etag)
        if held is None:
            return
        held.is_confirmed = True
        record = held.copy.record
        for other in list(self._copies.values()):
            # What it replaced need not wait for its turn: of a log that is synced line by line each line makes one.
            before = other.copy.record
            is_replaced = other is not held and (before.uid, before.path) == (record.uid, record.path)
            if is_replaced and other.is_confirmed and not other.is_busy:
                self._begin(other, self._look(other))

    def abandon(self, etag: str, error: CacheError) -> None:
        """The namespace did not take it; if it may have all the same, that is found out."""
        held = self._copies.get(etag)
        if held is None:
            return
        if error.is_retryable:
            self._unconfirmed[etag] = self._clock()
            held.is_confirmed = True
            return
        self._start(self._drop(held))

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
        if request.etag in self._copies:
            return
        if task is None:
            if self._tier is None or not self._has_room(request.size_bytes):
                raise CacheError(f"{self.held_bytes} bytes are held of {self.quota_bytes}", number=errno.ENOSPC)
            # A task of its own: it writes to a descriptor, and must not be left half way by a connection that ends.
            task = self._keeping[request.etag] = asyncio.create_task(self._fetch(writer, request, self._tier))
            task.add_done_callback(lambda done: self._kept(request.etag, done))
        await asyncio.shield(task)

    def _kept(self, etag: str, task: "asyncio.Task[None]") -> None:
        self._keeping.pop(etag, None)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _fetch(self, writer: Peer, request: Hold, tier: int) -> None:
        name, block_size = held_name(request.etag), request.block_size_bytes
        assert name is not None
        blocks = block_count(request.size_bytes, block_size)
        checksums = [0] * blocks
        folder = self._store.directory(tier) / held_files.FOLDER
        buffers = Buffers(block_size, PULLED_AT_ONCE)
        self._reserved_bytes += request.size_bytes
        half: Path | None = None
        try:
            written, descriptor = await self._store.run(held_files.begin, folder, name.id)
            half = written
            try:

                async def one(index: int) -> None:
                    data = buffers.take(block_length(index, request.size_bytes, block_size))
                    offset = index * block_size
                    read = ReadHeld(uid=request.uid, etag=request.etag, offset_bytes=offset, length_bytes=len(data))
                    checksums[index] = await self._peers.read_held(writer, read, data)
                    await self._finish(self._store.run(tier_files.write_at, descriptor, data, offset))

                if blocks:
                    await in_parallel(range(blocks), PULLED_AT_ONCE, one)
                await self._finish(self._store.run(os.fsync, descriptor))
            finally:
                os.close(descriptor)
            if request.etag in self._dropped:
                raise CacheError("its writer does not want it any more")
            copy = await self._store.run(held_files.keep, folder, written, _record(request, checksums))
            self._add(copy, tier, is_confirmed=True)
            if request.etag in self._dropped:
                await self._drop(self._copies[request.etag])
        except OSError as error:
            raise self._store.medium_failed(tier, error) from error
        finally:
            self._reserved_bytes -= request.size_bytes
            if half is not None:
                half.unlink(missing_ok=True)

    def drop_held(self, request: DropHeld) -> None:
        """The writer's worker, or the other holder, says that a version is not needed."""
        self._dropped[request.etag] = None
        if len(self._dropped) > DROPPED_MAX:
            self._dropped.popitem(last=False)
        held = self._copies.get(request.etag)
        if held is not None and held.copy.record.uid == request.uid and not held.is_busy:
            self._begin(held, self._look(held, is_told=True))

    def knows(self, request: AskHeld) -> bool:
        """Whether a version that began here may have been shown. Its record is there before it is, and goes only when
        metadata says that it has ended, or that it never began."""
        if request.disk != self._disk or request.etag in self._beginning or request.etag in self._copies:
            return True
        name = held_name(request.etag)
        folders = [self._store.directory(number) / held_files.FOLDER for number in range(len(self._store.tiers))]
        return name is None or any(held_files.has_traces(folder, name.id) for folder in folders)

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
        try:
            data = await self._store.run(held_files.read_range, held.copy, start, length)
        except FileNotFoundError:
            raise NotResident(f"{request.etag!r} is not held here any more") from None
        except OSError as error:
            self._metrics.corrupt_blocks.labels("held").inc()
            log.error("held_block_unreadable", etag=request.etag, offset=start, error=error.strerror)
            raise CacheError(f"a held block cannot be read: {error.strerror}", is_retryable=True) from error
        return data, crc32c(data)

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

    async def fill(self, version: Version, offset_bytes: int, data: memoryview) -> None:
        """Fill the buffer with a range of a held version, from whoever has it. CacheError."""
        name = held_name(version.etag)
        assert name is not None, "only held versions are read from holders"
        request = ReadHeld(uid=version.uid, etag=version.etag, offset_bytes=offset_bytes, length_bytes=len(data))
        trouble: CacheError | None = None
        for node in sorted(name.holders, key=lambda node: node != self._me.node):
            peer = self._workers.leased().get(node)
            try:
                if node == self._me.node:
                    data[:], _ = await self.read(request)
                    return
                if peer is not None:
                    await self._peers.read_held(peer, request, data)
                    return
            except NotResident:
                continue
            except PeerFailed as error:
                if peer is not None and not isinstance(error, PeerRefused | CorruptAnswer):
                    self._workers.suspect(peer, error.message)
                trouble = error
            except CacheError as error:
                trouble = error
        await self._fill_from_object(version, offset_bytes, data, trouble)

    async def _fill_from_object(
        self, version: Version, offset_bytes: int, data: memoryview, trouble: CacheError | None
    ) -> None:
        """Of a version its holders do not give: the under store may have it by now."""
        found = await self._metadata.find_held(version.uid, version.etag)
        if found.state == pb.HeldState.UPLOADED:
            location = await self._datasets.locate(version.uid, found.path)
            try:
                await location.store.get_range(location.key, offset_bytes, data, etag=found.object_etag)
            except UnderStoreError as error:
                raise from_store(error) from error
            return
        if found.state == pb.HeldState.GONE:
            raise VersionChanged(f"{version.path!r} was replaced or removed before the under store had this version")
        reason = trouble.message if trouble is not None else "they are away, or have it not"
        raise CacheError(f"no holder of {version.path!r} ({version.etag}) gives it: {reason}", is_retryable=True)

    # Uploading

    async def run(self) -> None:
        """Upload what waits, for ever."""
        while True:
            self._show()
            self.look_around()
            await asyncio.sleep(LOOK_SECONDS)

    def look_around(self) -> None:
        """Begin what is due now: uploads, the oldest first, and questions."""
        now, live = self._clock(), self._workers.leased().keys()
        settings = AT_ONCE if self._workers.is_leaving else self._settings
        under_way = sum(held.is_busy for held in self._copies.values())
        for held in sorted(self._copies.values(), key=lambda held: held.schedule.held_at_seconds):
            if under_way >= self._uploads_max:
                return
            if held.is_busy or not held.is_confirmed:
                continue
            schedule = held.schedule
            if schedule.is_due(now, held.name, self._me.node, live, settings):
                self._begin(held, self._bring(held))
                under_way += 1
            elif now - max(schedule.held_at_seconds, schedule.not_before_seconds) > POLL_SECONDS:
                self._begin(held, self._look(held))
                under_way += 1

    async def emptied(self) -> None:
        """Wait until nothing is held here for the under store, for as long as that takes; not for what metadata does
        not know, which stays."""
        while any(not held.is_unknown for held in self._copies.values()):  # noqa: ASYNC110  # looks end uploads too
            await asyncio.sleep(LOOK_SECONDS)

    def _begin(self, held: _Held, work: Coroutine[Any, Any, None]) -> None:
        held.is_busy = True
        self._start(work)

    def _show(self) -> None:
        now = self._clock()
        self._metrics.held_files.set(len(self._copies))
        self._metrics.held_bytes.set(self.held_bytes)
        oldest = min((held.schedule.held_at_seconds for held in self._copies.values()), default=now)
        self._metrics.held_oldest_seconds.set(max(0.0, now - oldest))
        self._metrics.held_unknown.set(sum(held.is_unknown for held in self._copies.values()))

    async def _bring(self, held: _Held) -> None:
        """One try to bring a file to the under store."""
        record = held.copy.record
        turn = uuid.uuid4().hex
        is_done = False
        try:
            found = await self._metadata.claim_held(record.uid, record.etag, self._me.node, self._me.epoch, turn)
            if found.state == pb.HeldState.WAITING:
                found = await self._upload(held, found.path, turn)
            is_done = True
        except Missing as error:
            if await self._is_removed(record.uid):
                self._unknown(held, error.message)
            else:
                self._failed(held, error)
        except CacheError as error:
            self._failed(held, error)
        finally:
            if not is_done:
                self._turns.end(record.uid, turn)
                held.is_busy = False
        if is_done:
            try:
                await self._after(held, found)
            finally:
                held.is_busy = False

    async def _is_removed(self, uid: str) -> bool:
        try:
            await self._datasets.get(uid)
        except Missing:
            return True
        except CacheError:
            return False
        return False

    async def _look(self, held: _Held, *, is_told: bool = False) -> None:
        """Find out whether a copy is needed still. `is_told`: the other holder says that it is not."""
        record = held.copy.record
        try:
            found = await self._metadata.find_held(record.uid, record.etag)
            if is_told and found.state == pb.HeldState.UNKNOWN:
                await self._drop(held)  # it was acknowledged to nobody, or ended before metadata was restored
            else:
                await self._after(held, found)
        except Missing as error:
            if is_told:
                await self._drop(held)
            else:
                self._unknown(held, error.message)
        except CacheError as error:
            log.info("held_file_not_found_out", etag=record.etag, error=error.message)
            held.schedule.later(self._clock(), 1.0)
        finally:
            held.is_busy = False

    async def _upload(self, held: _Held, path: str, turn: str) -> pb.HeldState:
        record = held.copy.record
        location = await self._datasets.locate_writable(record.uid, path)
        try:
            descriptor = await self._store.run(held_files.open_checked, held.copy)
        except OSError as error:
            raise CacheError(f"the held file is damaged: {error.strerror}", is_retryable=True) from error
        try:
            info = await self._put_while_heard(location.store.put(location.key, descriptor, record.size_bytes))
        except UnderStoreError as error:
            raise from_store(error) from error
        finally:
            os.close(descriptor)
        found = await self._metadata.finish_held(
            record.uid, record.etag, turn=turn, object_etag=info.etag, size_bytes=info.size_bytes
        )
        if found.state == pb.HeldState.UPLOADED:
            self._metrics.held_uploads.labels("done").inc()
            log.info("held_file_uploaded", dataset=record.uid, size_bytes=record.size_bytes, etag=record.etag)
        return found

    async def _put_while_heard(self, put: Coroutine[Any, Any, ObjectInfo]) -> ObjectInfo:
        task = asyncio.ensure_future(put)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=1.0)
                if not task.done() and self._clock() - self._workers.heard_at_seconds > SILENT_SECONDS:
                    raise CacheError("metadata is not heard; the other holder may be uploading", is_retryable=True)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _after(self, held: _Held, found: pb.HeldState) -> None:
        """Do what metadata's word on a copy means."""
        record = held.copy.record
        if found.state in (pb.HeldState.UPLOADED, pb.HeldState.GONE):
            if found.state == pb.HeldState.UPLOADED:
                await self._keep_as_cache(held, Version(record.uid, found.path, found.object_etag, record.size_bytes))
            await self._drop(held)
            try:
                await self._metadata.forget_held(record.uid, record.etag, self._me.node)
            except CacheError as error:
                log.info("drop_not_told", etag=record.etag, error=error.message)
        elif found.state == pb.HeldState.UNKNOWN:
            since = self._unconfirmed.get(record.etag)
            if since is not None and self._clock() - since > UNCONFIRMED_SECONDS:
                await self._drop(held)
            elif since is not None:
                held.schedule.later(self._clock(), UNCONFIRMED_SECONDS)
            elif await self._was_never_shown(held):
                await self._drop(held)
            else:
                self._unknown(held, "metadata has never heard of it")
        elif found.state == pb.HeldState.WAITING:
            # A name was found for a commit that nobody answered for.
            self._unconfirmed.pop(record.etag, None)
            held.is_unknown = False
            held.schedule.later(self._clock(), LOOK_SECONDS)
        else:
            held.schedule.later(self._clock(), LOOK_SECONDS)

    async def _was_never_shown(self, held: _Held) -> bool:
        """Whether the writer's worker has no trace of a version metadata does not know either."""
        record, writer = held.copy.record, held.name.holders[0]
        peer = self._workers.leased().get(writer)
        if writer == self._me.node or peer is None:
            return False
        try:
            return not await self._peers.ask_held(peer, AskHeld(uid=record.uid, etag=record.etag, disk=record.disk))
        except CacheError as error:
            log.info("writer_not_asked", peer=writer, error=error.message)
            return False

    def _unknown(self, held: _Held, why: str) -> None:
        """Never dropped: its commit may have been acknowledged by a metadata service that was restored since."""
        if not held.is_unknown:
            record = held.copy.record
            log.error(
                "held_file_unknown",
                why=why,
                dataset=record.uid,
                path=record.path,
                size_bytes=record.size_bytes,
                etag=record.etag,
                file=str(held.copy.path),
                notice="it stays; copy it to the under store, or remove it and its record, by hand",
            )
        held.is_unknown = True
        held.schedule.later(self._clock(), UNCONFIRMED_SECONDS)

    def _failed(self, held: _Held, error: CacheError) -> None:
        self._metrics.held_uploads.labels("failed").inc()
        record = held.copy.record
        held.schedule.failed(self._clock())
        log.warning(
            "held_file_not_uploaded",
            dataset=record.uid,
            etag=record.etag,
            failures=held.schedule.failures,
            error=error.message,
        )

    async def _keep_as_cache(self, held: _Held, version: Version) -> None:
        """The same bytes are an object's now: what is cached of them is of that; the writer's own copy becomes it."""
        record, store = held.copy.record, self._store
        old = store.find(Version(version.uid, version.path, record.etag, version.size_bytes))
        if old is not None and (old.references or old.map.is_complete):
            store.rekey(old.version, version)
        elif old is not None:
            store.drop(old)
        is_kept = store.find(version) is not None
        if is_kept or not record.checksums or record.block_size_bytes != store.block_size_bytes:
            return
        try:
            info = await self._datasets.get(record.uid)
        except CacheError:
            return
        if held.name.holders[0] == self._me.node and self._filler.may_be_home(info):
            held_files.drop_record(held.copy)
            as_home = self._filler.keep(info, version, 0) is Keep.HOME
            store.adopt(version, held.copy.path, held.tier, record.checksums, as_home=as_home)

    async def _drop(self, held: _Held) -> None:
        """Let a copy go, and tell the other holder."""
        record = held.copy.record
        if self._copies.pop(record.etag, None) is None:
            return
        self._unconfirmed.pop(record.etag, None)
        try:
            await self._store.run(held_files.drop, held.copy)
        except OSError as error:
            log.warning("held_file_not_removed", file=str(held.copy.path), error=error.strerror)
        other = next((node for node in held.name.holders if node != self._me.node), None)
        if other is not None and record.etag not in self._dropped:
            self._start(self._tell_dropped(other, record.uid, record.etag))

    async def _tell_dropped(self, node: str, uid: str, etag: str) -> None:
        peer = self._workers.leased().get(node)
        if peer is None:
            return  # it asks metadata when it is back
        try:
            await self._peers.drop_held(peer, DropHeld(uid=uid, etag=etag))
        except CacheError as error:
            log.info("holder_not_told", peer=node, error=error.message)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Await blocking work to its end, also when this is cancelled: it has a descriptor in its hands."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._metrics.bugs.labels("holding").inc()
            log.error("bug", op="holding", exc_info=error)

    async def close(self) -> None:
        """Stop; the next start, or the other holder, goes on."""
        tasks = [*self._tasks, *self._keeping.values()]
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
