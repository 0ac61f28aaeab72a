"""Reads blocks from under stores.

Owns the streams, the limits and the measured speeds of that. Does not say which node reads a block: filler.py does.
Invariants: what is read is of exactly that version, pinned to its etag; nobody holds a stream while a limit holds it
back; a medium that takes too long to store what is read is not waited for.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeAlias, cast

from api.held import is_held
from cacheruntime.core.blocks import Version, block_length
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.rates import BusyRate, Limits, rate_of
from cacheruntime.errors import CacheError, from_store
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.datasets import Datasets, Location
from cacheruntime.worker.fetched import Fetched, Keeper, Source, Why
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.storing import Storing
from cacheruntime.worker.workers import Workers
from understores.base import ThreadedStore
from understores.errors import UnderStoreError

FillHeld: TypeAlias = Callable[[Version, int, memoryview], Coroutine[Any, Any, None]]
"""Fills a buffer with the bytes of a held version from an offset on, or raises CacheError."""


class Origin:
    """The under stores of all datasets."""

    def __init__(
        self,
        workers: Workers,
        datasets: Datasets,
        metrics: Metrics,
        *,
        block_size_bytes: int,
        streams: int,
        seconds: float,
        clock: Callable[[], float],
        buffers: Buffers,
    ) -> None:
        """`streams` at a time; a block may take `seconds`."""
        self._workers = workers
        self._datasets = datasets
        self._metrics = metrics
        self._block_size_bytes = block_size_bytes
        self._slots = asyncio.Semaphore(streams)
        self._seconds = seconds
        self._clock = clock
        self._buffers = buffers
        self.rate = BusyRate()
        self._rates: dict[str, BusyRate] = {}
        self._limits = Limits()
        self.rates_allowed: Callable[[str], tuple[int, int]] = lambda _: (0, 0)
        """Bytes a second that this worker may fetch for a dataset, and for all; 0 = no limit."""
        self.fill_held: FillHeld | None = None
        """Where versions come from that the under store does not have yet: their holders."""

    def refetch_seconds_per_byte(self, uid: str) -> float:
        """Return what a byte of a dataset costs to bring back from its under store; 0 = nothing was measured."""
        rate = self.bytes_per_second(uid)
        return 1 / rate if rate else 0.0

    def bytes_per_second(self, uid: str) -> float:
        """Return the speed as measured here of this dataset, or of any; else by other workers; 0 = by nobody."""
        rates = (self._rates.get(uid, self.rate), self.rate)
        mine = next((rate.bytes_per_second for rate in rates if rate.bytes_per_second), 0.0)
        return mine or self._workers.origin_bytes_per_second

    async def fetch(self, version: Version, index: int, keep: Keeper, why: Why) -> Fetched:
        """Return a block, of a version that is not there yet from its holders. CacheError."""
        if is_held(version.etag):
            return await self._from_holders(version, index)
        location = await self._datasets.locate(version.uid, version.path)
        length = block_length(index, version.size_bytes, self._block_size_bytes)
        await self._wait_for_turn(version.uid, length)
        async with self._slots:
            rates = (self.rate, rate_of(self._rates, version.uid))
            for rate in rates:
                rate.start(self._clock())
            moved = 0
            try:
                fetched = await self._from_store(location, version, index, keep.begin())
                moved = length
            except UnderStoreError as error:
                raise from_store(error) from error
            except TimeoutError:
                seconds = self._seconds
                message = f"the under store sent {version.path!r} block {index} not within {seconds} s"
                raise CacheError(message, is_retryable=True) from None
            finally:
                for rate in rates:
                    rate.finish(self._clock(), moved)
        self._metrics.origin_bytes.inc(length)
        self._metrics.origin_blocks.labels(why.value).inc()
        return fetched

    async def _from_holders(self, version: Version, index: int) -> Fetched:
        if self.fill_held is None:
            raise CacheError(f"{version.path!r} is not in the under store yet")
        data = self._buffers.take(block_length(index, version.size_bytes, self._block_size_bytes))
        async with self._slots:
            await self.fill_held(version, index * self._block_size_bytes, data)
        self._metrics.peer_bytes.inc(len(data))
        return Fetched(data, crc32c(data), Source.PEER)

    async def _wait_for_turn(self, uid: str, size_bytes: int) -> None:
        """Wait until the limits allow the bytes: before a slot is taken, which others may use meanwhile."""
        of_dataset, of_all = self.rates_allowed(uid)
        if delay := self._limits.of_dataset(uid, size_bytes, self._clock(), of_dataset):
            self._metrics.limited_seconds.labels("dataset").inc(delay)
            await asyncio.sleep(delay)
        if delay := self._limits.of_all(size_bytes, self._clock(), of_all):
            self._metrics.limited_seconds.labels("pool").inc(delay)
            await asyncio.sleep(delay)

    async def _from_store(self, location: Location, version: Version, index: int, storing: Storing | None) -> Fetched:
        """Read a block, and store it meanwhile. A medium that takes too long is not waited for."""
        store, key, offset_bytes = location.store, location.key, index * self._block_size_bytes
        data = self._buffers.take(block_length(index, version.size_bytes, self._block_size_bytes))
        if storing is None:
            async with asyncio.timeout(self._seconds):
                await store.get_range(key, offset_bytes, data, etag=version.etag)
            return Fetched(data, crc32c(data), Source.ORIGIN)
        is_here = False
        try:
            async with asyncio.timeout(self._seconds) as limit:
                storing.watch(limit)
                if getattr(store, "can_sink", False):
                    await cast(ThreadedStore, store).sink_range(key, offset_bytes, data, storing, etag=version.etag)
                else:
                    await store.get_range(key, offset_bytes, data, etag=version.etag)
                    is_here = True
                    await storing.store(data)
            return Fetched(data, storing.checksum, Source.ORIGIN, storing.is_settled)
        except (TimeoutError, UnderStoreError):
            if not storing.is_late:
                raise
        finally:
            storing.finish()
        if is_here:
            return Fetched(data, crc32c(data), Source.ORIGIN, is_settled=True)
        # The thread may still read into this buffer.
        return replace(await self._from_store(location, version, index, None), is_settled=True)
