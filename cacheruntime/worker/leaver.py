"""Hands blocks over before this worker goes: a node that is drained, or a pool that gets smaller.

Owns the run and its progress. Order and targets are core/leaving.py; the bytes are fetched by those who become their
homes, from here (filler.py asks who is leaving before it asks the under store).

    staying --start--> leaving: told to metadata, so that nobody takes us for a home any more
            --peers know--> handing over, hottest files first --nothing left, or the pool is full--> done
    leaving --stay--> staying

Invariants: reads are served all the time, here and to peers; nothing is dropped here; what nobody took is fetched from
the under store again, once it is wanted; it is not done before the under store has what is held for it
(held_uploads.py).
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from api.byteplane import Read
from cacheruntime.core.blocks import Version
from cacheruntime.core.leaving import Held, hottest_first, targets
from cacheruntime.errors import CacheError, NotResident
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import Peers
from cacheruntime.worker.reader import in_parallel
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.workers import Workers

log = structlog.get_logger()

STREAMS: Final = 8
"""Blocks on their way at once: readers of those who stay come first."""
REFUSED_MAX: Final = 64
"""Blocks in a row that nobody kept: the pool is full of what is worth more."""


@dataclass(slots=True)
class Progress:
    """Of handing over."""

    is_leaving: bool = False
    is_done: bool = False
    moved_bytes: int = 0
    refused_bytes: int = 0
    """Asked to take, and not kept or not fetched."""


class _PoolIsFull(Exception):
    """Nobody keeps what we offer."""


class Leaver:
    """`known_seconds`: how long it takes until peers know that we are leaving; `emptied` waits until the under store
    has what this worker holds for it."""

    def __init__(
        self,
        *,
        store: BlockStore,
        workers: Workers,
        peers: Peers,
        datasets: Datasets,
        metrics: Metrics,
        known_seconds: float,
        emptied: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._store = store
        self._workers = workers
        self._peers = peers
        self._datasets = datasets
        self._metrics = metrics
        self._known_seconds = known_seconds
        self._emptied = emptied
        self._task: asyncio.Task[None] | None = None
        self._refused = 0
        self._is_stopping = False
        self.progress = Progress()

    def start(self) -> Progress:
        """Begin to hand over, or tell how far it is."""
        if not self.progress.is_leaving:
            self.progress = Progress(is_leaving=True)
            self._workers.leave()
            self._task = asyncio.create_task(self._run())
        return self.progress

    def stay(self) -> Progress:
        """Not leaving after all, unless the process is to end; what was handed over stays where it is now, too."""
        if self._is_stopping:
            return self.progress
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.progress.is_leaving:
            self.progress.is_leaving = False
            self._workers.leave(False)
        return self.progress

    async def hand_over(self, seconds: float) -> None:
        """Hand over what can be in that time, before the process ends."""
        self._is_stopping = True
        self.start()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=5)

    async def _run(self) -> None:
        progress = self.progress
        try:
            await asyncio.sleep(self._known_seconds)
            await self._workers.refresh()
            for held in hottest_first(map(_held, list(self._store.index.all()))):
                await self._hand_over(held)
        except _PoolIsFull:
            pass
        except Exception:
            self._metrics.bugs.labels("leave").inc()
            log.exception("bug", op="leave")
        await self._emptied()
        progress.is_done = True
        log.info("handed_over", moved_bytes=progress.moved_bytes, refused_bytes=progress.refused_bytes)

    async def _hand_over(self, held: Held) -> None:
        file = self._store.index.get(held.name)
        if file is None:
            return
        try:
            info = await self._datasets.get(held.uid)
        except CacheError as error:
            log.info("not_handed_over", dataset=held.uid, error=error.message)
            return
        wanted = targets(
            held,
            file.map.resident_blocks(),
            me=self._workers.me.node,
            staying=self._workers.live(),
            allowed=info.eligible_nodes,
            replicas=info.replicas,
        )
        version = file.version

        async def one(target: tuple[int, str]) -> None:
            await self._give(version, *target, size_bytes=file.map.length(target[0]))

        await in_parallel(list(wanted), STREAMS, one)

    async def _give(self, version: Version, index: int, node: str, *, size_bytes: int) -> None:
        peer = self._workers.live().get(node)
        if peer is None:
            return

        def ask(*, resident_only: bool) -> Read:
            return Read(
                uid=version.uid,
                path=version.path,
                etag=version.etag,
                size_bytes=version.size_bytes,
                offset_bytes=index * self._store.block_size_bytes,
                length_bytes=1,
                resident_only=resident_only,
            )

        try:
            await self._peers.read(peer, ask(resident_only=False))
            await self._peers.read(peer, ask(resident_only=True))
        except CacheError as error:
            self.progress.refused_bytes += size_bytes
            self._refused += isinstance(error, NotResident)
            if self._refused >= REFUSED_MAX:
                raise _PoolIsFull from None
            return
        self._refused = 0
        self.progress.moved_bytes += size_bytes
        self._metrics.handed_over_bytes.inc(size_bytes)


def _held(file: CachedFile) -> Held:
    version = file.version
    return Held(file.name, version.uid, version.path, file.uses, file.last_used_seconds, file.is_pinned)
