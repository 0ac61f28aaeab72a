"""Reads what is cached again, slowly, and drops blocks that lost their bytes without anybody writing to them.

Owns the background loop; order and pace are core/scrub.py's. Invariants: a check does not count as a use and does
not keep a file from being evicted for longer than one block takes; a block that is damaged under an open reader is
fetched again at once, since its reader has the descriptor and asks nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cacheruntime.core.scrub import ScrubSchedule
from cacheruntime.errors import CacheError
from cacheruntime.worker import medium_check
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.tier_files import CachedFile

log = structlog.get_logger()

Repair = Callable[[CachedFile, int], Awaitable[object]]


class Scrubber:
    """The loop over all tiers."""

    def __init__(
        self,
        store: BlockStore,
        schedule: ScrubSchedule,
        metrics: Metrics,
        *,
        repair: Repair,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`repair` makes a block of a held file resident again, or raises CacheError."""
        self._store = store
        self._schedule = schedule
        self._metrics = metrics
        self._repair = repair
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Check for ever."""
        while True:
            name = self._schedule.take(self._store.index.names, self._clock())
            if name is None:
                await self._sleep(self._schedule.pause_seconds(self._clock()))
                continue
            try:
                await self._scrub(name)
            except CacheError as error:
                log.warning("scrub_failed", file=name, error=error.message)
            if self._schedule.is_between_passes:
                self._metrics.scrub_passes.inc()

    async def _scrub(self, name: str) -> None:
        file = self._store.index.get(name)
        if file is None:
            return
        for index in file.map.resident_blocks():
            length = file.map.length(index)
            await self._sleep(self._schedule.delay_seconds(length, self._clock()))
            # Only now: while we waited it may have been evicted, unlinked or renamed.
            if self._store.index.get(file.name) is not file or file.is_unlinked or self._store.is_unread(file):
                return
            await self._check(file, index)
            self._metrics.scrubbed_bytes.inc(length)

    async def _check(self, file: CachedFile, index: int) -> None:
        is_read = file.references > 0
        self._store.peek(file)
        try:
            if await self._store.run(medium_check.is_sound, file, index):
                return
            self._store.drop_corrupt(file, index, found="scrub")
            if is_read:
                await self._repair(file, index)
        except OSError as error:
            raise self._store.failed(file, error) from error
        finally:
            self._store.leave(file)
