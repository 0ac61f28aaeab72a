"""The copies of held versions on this node: which there are, their quota, and what goes on with each of them.

Owns the memory of them, the room they take and the work that is under way; the files are held_files.py's. Who makes a
copy is holding.py, who finds out that it is not needed is held_uploads.py.

Invariants: held bytes have a quota of their own, beside what is cached, and never more; memory holds nothing; one thing
at a time goes on with a copy; whoever lets a copy go says so to the other holder.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from api.byteplane import DropHeld
from api.held import HeldName, held_name
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.held import Record, Schedule, quota_bytes
from cacheruntime.errors import CacheError, NotResident
from cacheruntime.worker import held_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.held_files import HeldCopy
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import Peers
from cacheruntime.worker.workers import Peer, Workers

log = structlog.get_logger()

DROPPED_MAX: Final = 4096


@dataclass(slots=True)
class Held:
    """One copy on this node."""

    copy: HeldCopy
    name: HeldName
    tier: int
    schedule: Schedule
    is_confirmed: bool
    """Metadata may know of it: its commit has been answered, or was another worker's."""
    unanswered_since_seconds: float | None = None
    """Nobody knows whether the namespace took it."""
    is_busy: bool = False
    is_unknown: bool = False


class HeldCopies:
    """All held copies of this node."""

    def __init__(
        self,
        *,
        me: Peer,
        store: BlockStore,
        workers: Workers,
        peers: Peers,
        metrics: Metrics,
        percent: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`percent` of the tiers' quotas may be held."""
        self._me = me
        self._store = store
        self._workers = workers
        self._peers = peers
        self._metrics = metrics
        self.clock = clock
        self.wall_clock_ns = wall_clock_ns
        self.quota_bytes = quota_bytes([(tier.medium, tier.quota_bytes) for tier in store.tiers], percent)
        self.tier = next((i for i, tier in enumerate(store.tiers) if tier.medium != "MEM" and tier.quota_bytes), None)
        """Where copies are made; None: no tier outlives its node."""
        self.disk = ""
        """The name of its folder (held_files.disk_id); "" until something is held."""
        self._copies: dict[str, Held] = {}
        self._dropped: OrderedDict[str, None] = OrderedDict()
        self._reserved_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held_bytes(self) -> int:
        """Bytes this node holds, or is about to."""
        return self._reserved_bytes + sum(held.copy.record.size_bytes for held in self._copies.values())

    def has_room(self, size_bytes: int) -> bool:
        """Whether so much more may be held."""
        return self.held_bytes + size_bytes <= self.quota_bytes

    @contextmanager
    def reserved(self, size_bytes: int) -> Iterator[None]:
        """Count what is about to be held."""
        self._reserved_bytes += size_bytes
        try:
            yield
        finally:
            self._reserved_bytes -= size_bytes

    def folder(self, tier: int) -> Path:
        """Return where a tier's copies lie."""
        return self._store.directory(tier) / held_files.FOLDER

    def get(self, etag: str) -> Held | None:
        """Return the copy of a version, if there is one."""
        return self._copies.get(etag)

    def all(self) -> list[Held]:
        """Return every copy."""
        return list(self._copies.values())

    # Coming

    async def recover(self) -> None:
        """Take up what an earlier run held. CacheError when a folder cannot be read."""
        for number, tier in enumerate(self._store.tiers):
            if tier.medium == "MEM":
                continue
            folder = self.folder(number)
            try:
                copies = await self._store.run(held_files.scan, folder)
            except OSError as error:
                raise CacheError(f"the folder {folder} of held files cannot be read: {error.strerror}") from error
            for copy in copies:
                self._add(copy, number, is_confirmed=True)
        if self.tier is not None:
            self.disk = await self._store.run(held_files.known_disk_id, self.folder(self.tier))
        if self._copies:
            log.info("held_files_found", files=len(self._copies), bytes=self.held_bytes)

    async def keep(self, tier: int, source: Path, record: Record, *, is_confirmed: bool) -> Held:
        """Make a copy of a file whose bytes are on the medium; OSError."""
        copy = await self._store.run(held_files.keep, self.folder(tier), source, record)
        return self._add(copy, tier, is_confirmed=is_confirmed)

    def _add(self, copy: HeldCopy, tier: int, *, is_confirmed: bool) -> Held:
        name = held_name(copy.record.etag)
        assert name is not None, "a record is of a held version"
        age = max(0.0, (self.wall_clock_ns() - copy.record.held_at_ns) / 1e9)
        held = self._copies[copy.record.etag] = Held(copy, name, tier, Schedule(self.clock() - age), is_confirmed)
        return held

    # While they are here

    def has_traces(self, etag: str) -> bool:
        """Whether anything of a version is here, known or only on a disk."""
        name = held_name(etag)
        folders = [self.folder(number) for number in range(len(self._store.tiers))]
        return etag in self._copies or name is None or any(held_files.has_traces(folder, name.id) for folder in folders)

    async def read(self, held: Held, start: int, length: int) -> tuple[memoryview, int]:
        """Return a range of one block, and its checksum; NotResident, CacheError."""
        etag = held.copy.record.etag
        try:
            data = await self._store.run(held_files.read_range, held.copy, start, length)
        except FileNotFoundError:
            raise NotResident(f"{etag!r} is not held here any more") from None
        except OSError as error:
            self._metrics.corrupt_blocks.labels("held").inc()
            log.error("held_block_unreadable", etag=etag, offset=start, error=error.strerror)
            raise CacheError(f"a held block cannot be read: {error.strerror}", is_retryable=True) from error
        return data, crc32c(data)

    def show(self) -> None:
        """Set the gauges."""
        now = self.clock()
        self._metrics.held_files.set(len(self._copies))
        self._metrics.held_bytes.set(self.held_bytes)
        oldest = min((held.schedule.held_at_seconds for held in self._copies.values()), default=now)
        self._metrics.held_oldest_seconds.set(max(0.0, now - oldest))
        self._metrics.held_unknown.set(sum(held.is_unknown for held in self._copies.values()))

    # Going

    async def drop(self, held: Held) -> None:
        """Let a copy go, and tell the other holder."""
        record = held.copy.record
        if self._copies.pop(record.etag, None) is None:
            return
        try:
            await self._store.run(held_files.drop, held.copy)
        except OSError as error:
            log.warning("held_file_not_removed", file=str(held.copy.path), error=error.strerror)
        other = next((node for node in held.name.holders if node != self._me.node), None)
        if other is not None and not self.is_dropped(record.etag):
            self.tell_dropped(other, record.uid, record.etag)

    def tell_dropped(self, node: str, uid: str, etag: str) -> None:
        """Tell another holder, meanwhile, that a version is not needed."""
        self.start(self._tell_dropped(node, uid, etag))

    async def _tell_dropped(self, node: str, uid: str, etag: str) -> None:
        peer = self._workers.leased().get(node)
        if peer is None:
            return  # it asks metadata when it is back
        try:
            await self._peers.drop_held(peer, DropHeld(uid=uid, etag=etag))
        except CacheError as error:
            log.info("holder_not_told", peer=node, error=error.message)

    def note_dropped(self, etag: str) -> None:
        """Another holder said that a version is not needed."""
        self._dropped[etag] = None
        if len(self._dropped) > DROPPED_MAX:
            self._dropped.popitem(last=False)

    def is_dropped(self, etag: str) -> bool:
        """Whether another holder said so."""
        return etag in self._dropped

    # Work

    def begin(self, held: Held, work: Coroutine[Any, Any, None]) -> None:
        """Start what is to be done with a copy that is not busy; the work ends that."""
        held.is_busy = True
        self.start(work)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start work that nobody waits for."""
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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
