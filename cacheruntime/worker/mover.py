"""Moves files between the levels of this node, slowly.

Owns the background loop and the order of one move; what moves is core/tiering.py's.

    reserve room -> copy block by block into a staging file, each checked -> bytes get their name -> the map gets its
    name: from here on the copy counts -> the old map and bytes go

Invariants: the old file is served until the copy has all of it; a crash leaves the old one, or both with the same
bytes, of which a restart keeps one; a file that changed, or that others began to read before it was complete, stays
where it is; what is planned is looked at again when its turn comes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cacheruntime.core import tiering
from cacheruntime.core.rates import TokenBucket
from cacheruntime.core.tiering import Move
from cacheruntime.errors import CacheError
from cacheruntime.worker import file_copies
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.file_copies import BlockUnreadable
from cacheruntime.worker.file_index import candidate
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.tier_files import CachedFile

log = structlog.get_logger()

PROMOTE: Final = "promote"
DEMOTE: Final = "demote"
QUIET_SECONDS_MAX: Final = 30.0
"""How long a tier above its watermark that can demote nothing is left alone at most: each look is at every file."""


class Mover:
    """The loop over promotions and demotions."""

    def __init__(
        self,
        store: BlockStore,
        metrics: Metrics,
        *,
        bytes_per_second: int,
        interval_seconds: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`bytes_per_second` limits what is copied; 0 = no limit."""
        self._store = store
        self._metrics = metrics
        self._bucket = TokenBucket(bytes_per_second)
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._sleep = sleep
        self._quiet_seconds = 0.0
        self._quiet_until = float("-inf")

    async def run(self) -> None:
        """Move for ever."""
        while True:
            await self._sleep(self._interval_seconds)
            await self.turn()

    async def turn(self) -> int:
        """Do what is due now; return how many files moved."""
        moved = 0
        for name in list(self._store.reused):
            self._store.reused.pop(name, None)
            moved += await self._promote(name)
        return moved + await self._demote()

    async def _promote(self, name: str) -> int:
        file = self._store.index.get(name)
        if file is None or file.is_unlinked:
            return 0
        index = self._store.index
        moves = tiering.promotion(self._store.tiers, candidate(file), index.all_candidates, self._clock())
        moved = 0
        for move in moves:
            # Each makes room for the next one.
            if not await self._move(move, PROMOTE if move.name == name else DEMOTE):
                break
            moved += 1
        return moved

    async def _demote(self) -> int:
        now = self._clock()
        if now < self._quiet_until or not tiering.overfull(self._store.tiers):
            return 0
        moves = tiering.demotions(self._store.tiers, self._store.index.all_candidates(), now)
        moved = sum([await self._move(move, DEMOTE) for move in moves])
        self._quiet_seconds = 0.0 if moved else min(QUIET_SECONDS_MAX, 2 * self._quiet_seconds + self._interval_seconds)
        self._quiet_until = self._clock() + self._quiet_seconds
        return moved

    async def _move(self, move: Move, why: str) -> bool:
        file, tier = self._store.index.get(move.name), self._store.tiers[move.target]
        if file is None or not _may_move(file, move, why) or self._store.is_unread(file):
            return False
        size_bytes = file.map.resident_bytes
        if tier.room_for_moves_bytes(self._clock()) < size_bytes:
            return False
        tier.reserve(size_bytes)
        try:
            self._store.peek(file)
        except CacheError as error:
            tier.release(size_bytes)
            log.warning("move_failed", file=file.name, error=error.message)
            return False
        try:
            is_moved = await self._copy(file, move, why)
        finally:
            tier.release(size_bytes)
            self._store.leave(file)
        if is_moved:
            source = self._store.tiers[move.source].medium
            self._metrics.moved_bytes.labels(why, source, tier.medium).inc(size_bytes)
        return is_moved

    async def _copy(self, file: CachedFile, move: Move, why: str) -> bool:
        target = move.target
        try:
            copy, staging = await self._store.run(file_copies.begin_copy, file, target, self._store.directory(target))
        except OSError as error:
            self._store.medium_failed(target, error)
            return False
        is_moved = False
        try:
            is_whole = await self._copy_blocks(file, copy)
            # Who opened it while it was on its way down wants it where it is.
            is_wanted = why == PROMOTE or file.references == 1
            is_moved = is_whole and is_wanted and self._store.relocate(file, copy, staging)
        except BlockUnreadable as error:
            self._store.failed(file, error.error)
        except OSError as error:
            self._store.medium_failed(target, error)
        # Not when the worker stops: a thread may still write to it. The next start removes what is staged.
        if not is_moved:
            file_copies.discard_copy(copy, staging)
        return is_moved

    async def _copy_blocks(self, file: CachedFile, copy: CachedFile) -> bool:
        for index in file.map.resident_blocks():
            await self._sleep(self._bucket.delay_seconds(file.map.length(index), self._clock()))
            if not file.map.has(index) or file.is_unlinked:
                return False
            if not await self._store.run(file_copies.copy_block, file, index, copy):
                self._store.drop_corrupt(file, index, found="move")
                return False
        return True


def _may_move(file: CachedFile, move: Move, why: str) -> bool:
    is_planned = file.tier == move.source and not file.is_unlinked and file.is_verified and file.map.resident_bytes > 0
    if not is_planned or file.writes:
        return False
    return not file.references if why == DEMOTE else not file.references or file.map.is_complete
