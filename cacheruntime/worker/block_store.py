"""Every block on this node: kept in the cached files, read from them, checked.

Owns the writes and reads that are under way; the files, and the room they take, are cached_files.py's.

Invariants:
- a block is counted (and reported) only while its checksum is stored and its room is charged;
- nothing is overwritten with other bytes while a reader has the file open;
- nobody waits for a medium longer than a few slow answers; what it does after that still holds its file, and is booked.
"""

import asyncio
import errno
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from cacheruntime.core.block_map import BlockMap
from cacheruntime.core.blocks import Version
from cacheruntime.core.eviction import victims
from cacheruntime.errors import MediumFailed, NoRoom
from cacheruntime.worker import tier_files
from cacheruntime.worker.cached_files import CachedFiles
from cacheruntime.worker.late_work import LateWork
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import FULL_ERRNOS, TierFolder
from cacheruntime.worker.storing import Storing
from cacheruntime.worker.tier_files import CachedFile

log = structlog.get_logger()

LATE_FACTOR: Final = 3
"""Nobody waits for a medium longer than so many slow answers."""

T = TypeVar("T")


class BlockStore(CachedFiles):
    """The cached files, and the blocks in them."""

    def __init__(
        self,
        folders: list[TierFolder],
        *,
        block_size_bytes: int,
        threads: Executor,
        clock: Callable[[], float],
        metrics: Metrics,
        changed: Callable[[str], None],
        idle_files_max: int = 64,
        reuse_seconds: float = 10.0,
        slow_seconds: float = 10.0,
    ) -> None:
        """As `CachedFiles`."""
        super().__init__(
            folders,
            block_size_bytes=block_size_bytes,
            threads=threads,
            clock=clock,
            metrics=metrics,
            changed=changed,
            idle_files_max=idle_files_max,
            reuse_seconds=reuse_seconds,
            slow_seconds=slow_seconds,
        )
        self._late = LateWork(LATE_FACTOR * slow_seconds)
        self._storing: dict[tuple[CachedFile, int], asyncio.Future[bool]] = {}

    # In

    async def store_block(
        self, file: CachedFile, index: int, data: memoryview, checksum: int, *, as_home: bool
    ) -> bool:
        """Keep one block of a held file; False when there is no room for it. Waits for another one's same block."""
        key = (file, index)
        if (other := self._storing.get(key)) is not None:
            done, _ = await asyncio.wait({other}, timeout=self._late.seconds)
            return bool(done) and other.result()
        if file.map.has(index):
            return True
        if not self._admit(file, len(data), as_home=as_home):
            self._metrics.bypassed_bytes.labels(self.tiers[file.tier].medium).inc(len(data))
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._storing[key] = future
        try:
            return await self._in_time(file.tier, self._store_one(future, file, index, data, checksum, as_home=as_home))
        except TimeoutError:
            return False  # the medium may still take it; until then its room is charged

    def begin_block(self, file: CachedFile, index: int, *, as_home: bool) -> Storing | None:
        """Charge the room for a block whose bytes are still to come, and return what stores it as they do; None when
        others would have to make room first, when nobody holds the file, and for a block that is here or on its way."""
        key = (file, index)
        if not file.references or file.is_unlinked or file.has(index) or key in self._storing:
            return None
        if not file.is_verified or tier_files.is_touched(file):
            return None
        if not self._admit(file, file.map.length(index), as_home=as_home, may_evict=False):
            return None
        storing = Storing(
            file,
            index,
            as_home=as_home,
            late_seconds=self._late.seconds,
            threads=self._threads,
            late=self._is_late,
            ended=self._ended,
        )
        self._storing[key] = storing.done
        file.references += 1
        file.writes += 1
        return storing

    def _ended(self, storing: Storing) -> None:
        file, index, now = storing.file, storing.index, self._clock()
        del self._storing[file, index]
        if storing.is_stored:
            self._rooms.answered(file.tier, now - storing.medium_seconds)
        elif storing.error is not None and storing.is_settled:
            self._rooms.failed(file.tier, storing.error, now - storing.medium_seconds)
        self._stored(file, index, storing.length, is_stored=storing.is_stored)

    def _is_late(self, storing: Storing) -> None:
        self._rooms.answered(storing.file.tier, self._clock() - self._late.seconds)

    async def _store_one(
        self,
        future: asyncio.Future[bool],
        file: CachedFile,
        index: int,
        data: memoryview,
        checksum: int,
        *,
        as_home: bool,
    ) -> bool:
        is_stored = False
        try:
            is_stored = await self._write(file, index, data, checksum, as_home=as_home)
        finally:
            del self._storing[file, index]
            future.set_result(is_stored)
        return is_stored

    async def _write(self, file: CachedFile, index: int, data: memoryview, checksum: int, *, as_home: bool) -> bool:
        asked = self._clock()
        file.references += 1
        file.writes += 1
        is_stored = False
        try:
            await self._write_with_room(
                file, len(data), lambda: tier_files.write_block(file, index, data, checksum, as_home=as_home)
            )
            is_stored = True
            self._rooms.answered(file.tier, asked)
        except OSError as error:
            self._rooms.failed(file.tier, error, asked)
        finally:
            self._stored(file, index, len(data), is_stored=is_stored)
        return is_stored

    def _stored(self, file: CachedFile, index: int, size_bytes: int, *, is_stored: bool) -> None:
        """Book the end of a write whose room was charged, and let the file go that was held for it."""
        file.writes -= 1
        if not is_stored:
            self._refund(file, size_bytes)
        elif index in file.temporary:
            file.temporary.discard(index)
            self.tiers[file.tier].return_temporary(size_bytes)
        self.index.note(file)
        self.release(file)

    async def hold_temporarily(self, file: CachedFile, index: int, data: memoryview) -> None:
        """Make a block readable until the held file's last release; NoRoom when that is too much."""
        if file.has(index):
            return
        tier = self.tiers[file.tier]
        if tier.is_unread(self._clock()):
            raise MediumFailed(f"the {tier.medium} tier failed a short while ago")
        if not tier.take_temporary(len(data), self._clock()):
            raise NoRoom(
                f"the cache is full and {tier.temporary_bytes} bytes of readers it cannot keep fill the "
                f"{tier.medium} tier's temporary room of {tier.temporary_limit_bytes}"
            )
        try:
            await self._in_time(file.tier, self._write_temporarily(file, index, data))
        except TimeoutError:
            raise MediumFailed(f"the {tier.medium} tier did not take a block in time") from None

    async def _write_temporarily(self, file: CachedFile, index: int, data: memoryview) -> None:
        tier, asked = self.tiers[file.tier], self._clock()
        file.references += 1
        file.writes += 1
        try:
            await self._write_with_room(file, len(data), lambda: tier_files.write_temporary_block(file, index, data))
            self._rooms.answered(file.tier, asked)
        except OSError as error:
            tier.return_temporary(len(data))
            raise self._rooms.failed(file.tier, error, asked) from error
        else:
            if file.has(index):
                tier.return_temporary(len(data))
            else:
                file.temporary.add(index)
        finally:
            file.writes -= 1
            self.leave(file)

    async def _write_with_room(self, file: CachedFile, size_bytes: int, write: Callable[[], None]) -> None:
        """Write; when the medium is fuller than its quota says, a reader is worth more than what nobody reads."""
        try:
            await self.run(write)
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            everything = self.index.candidates("", as_home=True)
            chosen = victims(everything, needed_bytes=size_bytes, tier=file.tier, uid="", as_home=True)
            if not chosen:
                raise
            log.warning("medium_full", medium=self.tiers[file.tier].medium, dropped=len(chosen))
            self._evict(chosen)
            self._rooms.forget_measure()
            await self.run(write)

    def adopt(self, version: Version, staging: Path, tier: int, checksums: list[int], *, as_home: bool) -> bool:
        """Make a written file, whose bytes are durable elsewhere, the cached file of `version`; False = no room."""
        if self.find(version) is not None or not checksums:
            return False
        path = tier_files.data_path(self.directory(tier), version)
        file = CachedFile(BlockMap(version, self.block_size_bytes, is_home=as_home), tier, path)
        if not self._admit(file, version.size_bytes, as_home=as_home):
            return False
        file.references += 1
        self.index.add(file)
        try:
            tier_files.take_over(file, staging, checksums)
            self.index.note(file)
        except OSError as error:
            self._rooms.failed(file.tier, error)
            self._refund(file, version.size_bytes)
        finally:
            self.release(file)
        return file.map.is_complete

    # Out

    async def read_block(self, file: CachedFile, index: int) -> memoryview | None:
        """Return a resident block of a held file, checked; None when it is damaged, which drops it, or when its medium
        does not give it now."""
        if self.is_unread(file):
            return None
        try:
            data = await self._in_time(file.tier, self._read(file, index))
        except OSError as error:
            if error.errno == errno.EIO:
                self.drop_corrupt(file, index, found="read")
                return None
            raise MediumFailed(f"a block cannot be read: {error.strerror}") from error
        except TimeoutError:
            return None
        if data is None:
            self.drop_corrupt(file, index, found="read")
        return data

    async def _read(self, file: CachedFile, index: int) -> memoryview | None:
        asked = self._clock()
        file.references += 1  # also when nobody waits any more: its descriptor is in use
        try:
            data = await self.run(tier_files.read_block, file, index)
        except OSError as error:
            self._rooms.failed(file.tier, error, asked)
            raise
        finally:
            self.leave(file)
        self._rooms.answered(file.tier, asked)
        return data

    def is_unread(self, file: CachedFile) -> bool:
        """Whether the file's blocks are better fetched from elsewhere now."""
        return self.tiers[file.tier].is_unread(self._clock())

    async def _in_time(self, tier: int, work: Coroutine[Any, Any, T]) -> T:
        """Await work on a medium; TimeoutError when it takes the time of several slow answers."""
        asked = self._clock()
        try:
            return await self._late.wait_for(work)
        except TimeoutError:
            self._rooms.answered(tier, asked)
            raise
