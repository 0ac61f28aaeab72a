"""Fetches all of a file that is read like weights, while its reader reads.

Owns the tasks; which files is core/weights.py. Only what may stay in the cache is fetched: room for the whole file was
set aside when it was opened. Invariants: advice only: what fails here fails nobody, the reader fetches for itself; it
ends when nobody else holds the file any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from cacheruntime.core.blocks import block_count, blocks_of_range
from cacheruntime.core.weights import WeightLike
from cacheruntime.errors import CacheError
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.fetched import Source
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.tier_files import CachedFile

log = structlog.get_logger()

FILES_MAX: Final = 4
"""At a time; who reads more of them is served as they read."""
PIECE_BLOCKS: Final = 16
"""After so many it is looked whether anybody still reads the file."""

Bring = Callable[[CachedFile, int, int], Awaitable[dict[Source, int]]]
CameAhead = Callable[[CachedFile, Mapping[Source, int]], None]


class Promoter:
    """`bring` makes a range of a held file readable; `came_ahead` is told of what did before its reader asked."""

    def __init__(self, store: BlockStore, metrics: Metrics, bring: Bring, came_ahead: CameAhead) -> None:
        self._store = store
        self._metrics = metrics
        self._bring = bring
        self._came_ahead = came_ahead
        self._reads = WeightLike()
        self._running: dict[str, asyncio.Task[None]] = {}

    def read(self, file: CachedFile, offset_bytes: int, length_bytes: int) -> None:
        """A reader asks for a range of a held file."""
        version, block_size = file.version, self._store.block_size_bytes
        if file.map.is_complete:
            self._reads.forget(file.name)
            return
        blocks = blocks_of_range(offset_bytes, length_bytes, version.size_bytes, block_size)
        if not blocks or not self._reads.read(file.name, version.path, blocks[0], blocks[-1]):
            return
        may_stay = file.map.resident_bytes + file.reserved_bytes >= version.size_bytes
        if may_stay and len(blocks) < block_count(version.size_bytes, block_size):
            self._start(file, blocks[-1] + 1)

    def _start(self, file: CachedFile, first_block: int) -> None:
        if file.name in self._running or len(self._running) >= FILES_MAX:
            return
        self._store.hold(file)
        task = self._running[file.name] = asyncio.create_task(self._fetch(file, first_block))
        task.add_done_callback(lambda _: self._running.pop(file.name, None))

    async def _fetch(self, file: CachedFile, first_block: int) -> None:
        size_bytes, block_size = file.version.size_bytes, self._store.block_size_bytes
        piece_bytes = PIECE_BLOCKS * block_size
        begin = first_block * block_size
        # On from where the reader is; then what lies before that.
        pieces = [(at, min(at + piece_bytes, size_bytes)) for at in range(begin, size_bytes, piece_bytes)]
        pieces += [(at, min(at + piece_bytes, begin)) for at in range(0, min(begin, size_bytes), piece_bytes)]
        self._metrics.promoted_files.inc()
        try:
            for start, end in pieces:
                # Every piece ends before the next begins, so that who holds the file beside us is a reader.
                if file.references == 1 or file.map.is_complete:
                    break
                moved = await self._bring(file, start, end - start)
                self._came_ahead(file, moved)
        except CacheError as error:
            log.info("not_promoted", dataset=file.version.uid, error=error.message)
        except Exception:
            self._metrics.bugs.labels("promote").inc()
            log.exception("bug", op="promote")
        finally:
            self._store.release(file)

    async def close(self) -> None:
        """End all."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
