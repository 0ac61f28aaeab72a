"""One mount's listing: several requests at a time over the parts of its key space, staged as pages come.

Owns the tasks and the staging. Which part is listed or cut is `core/listing_ranges.py`'s. Invariants: at most
`requests_max` requests are under way; an entry is staged in the same commit as the progress that says so; entries
in memory stay bounded, since a part that has more waits for the commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import structlog

from metadata.core.entries import Entry
from metadata.core.listing import ListingBuilder
from metadata.core.listing_ranges import KeyRange, ListingRanges
from metadata.shell import metrics
from understores.base import UnderStore
from understores.errors import UnderStoreError

STAGE_ENTRIES: Final = 5_000
"""Entries a write; larger groups gain nothing, smaller ones cost commits."""

NewBuilder = Callable[[], ListingBuilder]
Stage = Callable[[list[Entry], Sequence[tuple[str, str]]], Awaitable[None]]
log = structlog.get_logger()


class MountListing:
    """Lists what `ranges` says is left; call `run` once."""

    def __init__(
        self,
        store: UnderStore,
        ranges: ListingRanges,
        *,
        new_builder: NewBuilder,
        stage: Stage,
        requests_max: int,
    ) -> None:
        """`stage` commits entries together with what is then left; `new_builder` makes one for a part."""
        self._store = store
        self._ranges = ranges
        self._new_builder = new_builder
        self._stage = stage
        self._requests_max = requests_max
        self._waiting: list[Entry] = []
        self._staging = asyncio.Lock()
        self._changed = asyncio.Event()
        self._may_cut = requests_max > 1

    async def run(self, first: list[Entry]) -> None:
        """List and stage everything, `first` before the rest; raises the first UnderStoreError or MetadataError."""
        self._waiting = list(first)
        tasks = [asyncio.create_task(self._work()) for _ in range(self._requests_max)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._flush(0)

    async def _work(self) -> None:
        while not self._ranges.is_done:
            if (keys := self._ranges.claim()) is not None:
                await self._list(keys)
            elif self._may_cut and (keys := self._ranges.worth_cutting()) is not None:
                await self._cut(keys)
            else:
                # No deadline: a part is under way, and its requests have one.
                await self._changed.wait()

    async def _list(self, keys: KeyRange) -> None:
        builder = self._new_builder()
        async with aclosing(self._store.list(start_after=keys.after)) as pages:
            async for page in pages:
                taken = self._ranges.take(keys, page)
                metrics.LISTED_OBJECTS.inc(len(taken))
                # With `finish`: what is left begins behind the page, so nothing of it may wait in the builder.
                self._waiting += builder.add(taken)
                self._waiting += builder.finish()
                self._wake()
                await self._flush(STAGE_ENTRIES)
                if not self._ranges.is_running(keys):
                    break
        self._ranges.finish(keys)
        self._wake()

    async def _cut(self, keys: KeyRange) -> None:
        try:
            points = await self._store.split_points(keys.after, keys.until)
        except UnderStoreError as error:
            # Some stores and bucket policies allow only plain lists: slower, not wrong.
            if self._may_cut:
                log.warning("metadata.listing_not_parallel", reason=error.reason, message=error.message)
                metrics.LISTINGS_NOT_PARALLEL.inc()
            self._may_cut = False
            return
        if self._ranges.cut(keys, points, self._requests_max - self._ranges.open + 1):
            self._wake()

    async def _flush(self, least: int) -> None:
        """Stage what waits if it is so much; who finds the commit of another part under way waits for it."""
        if len(self._waiting) < least:
            return
        async with self._staging:
            if len(self._waiting) < least:
                return
            entries, self._waiting = self._waiting, []
            await self._stage(entries, self._ranges.left)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
