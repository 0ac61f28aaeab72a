"""Brings files here before their readers open them, and holds them until then.

Owns the fetching and the holding; which files is core/preheat.py. What may not stay in the cache is held like any
bypassed reader's bytes, and let go when its reader has opened it. Invariants: advice only: what fails here fails
nobody, the reader fetches for itself; every held file is released.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from api import byteplane as bp
from cacheruntime.core.blocks import Version
from cacheruntime.core.preheat import Key, Preheat
from cacheruntime.errors import BadRequest, CacheError, Missing
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import check_path
from cacheruntime.worker.fetched import Source
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.reader import Reader
from cacheruntime.worker.tier_files import CachedFile

log = structlog.get_logger()

PAUSE_SECONDS: Final = 1.0
"""After something failed: the under store, metadata or the room needs time, and readers come first."""
LOOK_SECONDS: Final = 5.0
"""Between looks for files that nobody opened."""


class Preheater:
    """`streams` files at a time."""

    def __init__(
        self,
        *,
        store: BlockStore,
        reader: Reader,
        metadata: MetadataClient,
        metrics: Metrics,
        streams: int,
        bytes_max: int,
        learns: bool,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._reader = reader
        self._metadata = metadata
        self._metrics = metrics
        self._streams = streams
        self._clock = clock
        self._plan = Preheat(bytes_max, learns)
        self._held: dict[Key, tuple[CachedFile, dict[Source, int]]] = {}
        self._changed = asyncio.Event()
        self._paused_until = float("-inf")
        reader.on_open = self._opened

    def declare(self, owner: object, wanted: bp.Declare) -> bp.Declared:
        """Take the order in which `owner` will open files; BadRequest."""
        for path in wanted.paths:
            check_path(path)
        try:
            files = self._plan.declare(owner, wanted.uid, wanted.first, wanted.paths)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        self._changed.set()
        return bp.Declared(files=files)

    def forget(self, owner: object) -> None:
        """`owner` is gone."""
        self._plan.forget(owner)

    async def run(self) -> None:
        """Keep ahead of readers until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._let_go_of_unused())
                slots = asyncio.Semaphore(self._streams)
                while True:
                    await slots.acquire()
                    key = await self._next()
                    tasks.create_task(self._bring_or_drop(key)).add_done_callback(lambda _: slots.release())
        finally:
            for key in list(self._held):
                self._release(key)

    def _opened(self, version: Version, is_resident: bool) -> None:
        key = (version.uid, version.path)
        was_ahead = self._plan.opened(*key, is_resident=is_resident)
        if was_ahead:
            self._metrics.preheated_files.labels("used" if key in self._held else "late").inc()
            if key in self._held and (held := self._held[key])[0].version == version:
                self._reader.came_ahead(version, held[1])
            self._release(key)  # the reader holds it now
        if was_ahead or not is_resident or self._plan.has_orders:
            self._changed.set()

    async def _next(self) -> Key:
        """Return the next file that is not here already."""
        while True:
            pause = self._paused_until - self._clock()
            if pause > 0:
                await asyncio.sleep(pause)
            key = self._plan.next(self._clock())
            if key is None:
                self._changed.clear()
                await self._changed.wait()
            elif any(file.map.is_complete for file in self._store.index.at_path(*key)):
                self._plan.drop(key)  # also when that is another version: no question to metadata for a hint
            else:
                return key

    async def _bring_or_drop(self, key: Key) -> None:
        try:
            await self._bring(key)
        except Missing:
            self._plan.missing(key)
        except CacheError as error:
            self._plan.drop(key)
            self._metrics.preheated_files.labels("failed").inc()
            self._paused_until = self._clock() + PAUSE_SECONDS
            log.info("not_preheated", dataset=key[0], error=error.message)
        except Exception:
            self._plan.drop(key)
            self._metrics.bugs.labels("preheat").inc()
            log.exception("bug", op="preheat")

    async def _bring(self, key: Key) -> None:
        uid, path = key
        entry = await self._metadata.lookup(uid, path)
        if entry.is_directory:
            raise Missing(f"{path!r} is a directory")
        length = self._plan.sized(key, entry.size_bytes)
        if not length:
            self._plan.drop(key)
            return
        file = await self._reader.hold(Version(uid, path, entry.etag, entry.size_bytes))
        try:
            if file.map.is_complete:
                self._plan.drop(key)
                return
            moved = await self._reader.bring(file, 0, length)
            # Whoever opened it meanwhile holds it already.
            if self._plan.is_ahead(key) and key not in self._held:
                self._store.hold(file)
                self._held[key] = (file, moved)
        finally:
            self._store.release(file)
        for source, size_bytes in moved.items():
            self._metrics.preheated_bytes.labels(source.value).inc(size_bytes)

    def _release(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._store.release(held[0])

    async def _let_go_of_unused(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for key in self._plan.unused(self._clock()):
                self._metrics.preheated_files.labels("unused").inc()
                self._release(key)
                self._changed.set()
