"""What each dataset may have of this node's room, kept up to date.

Owns reading the records of all datasets at intervals, also of those that nobody reads here: their terms decide what may
be evicted. Does not decide (core/shares.py). Invariant: as long as a dataset's record was never read, as after a start
without metadata, nothing of it makes room for others: it may be pinned.
"""

import asyncio

import structlog

from cacheruntime.core.homes import eligible
from cacheruntime.core.shares import Terms
from cacheruntime.errors import CacheError
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.file_index import FileIndex
from cacheruntime.worker.workers import Workers

log = structlog.get_logger()


class TermsKeeper:
    """The loop, and the terms."""

    def __init__(self, index: FileIndex, datasets: Datasets, workers: Workers, *, interval_seconds: float) -> None:
        self._index = index
        self._datasets = datasets
        self._workers = workers
        self._interval_seconds = interval_seconds
        self._pinned: dict[str, tuple[str, ...]] = {}
        """What the index was told last, by dataset."""

    def of(self, uid: str) -> Terms | None:
        """Return a dataset's terms on this node; None = not known yet."""
        info = self._datasets.known(uid)
        if info is None:
            return None
        terms = Terms(
            info.terms.priority, info.terms.guaranteed_bytes, info.terms.maximum_bytes, tuple(info.terms.pinned)
        )
        return terms.on_one_of(len(eligible(self._workers.listed(), info.eligible_nodes)))

    async def run(self) -> None:
        """Read for ever."""
        while True:
            try:
                await self._datasets.read_all()
            except CacheError as error:
                log.warning("terms_not_read", error=error.message)
            self._pin()
            await asyncio.sleep(self._interval_seconds)

    def _pin(self) -> None:
        pinned: dict[str, tuple[str, ...]] = {}
        for uid in self._index.uids():
            terms = self.of(uid)
            if terms is not None:
                pinned[uid] = terms.pinned
                if self._pinned.get(uid, ()) != terms.pinned:
                    self._index.pin(uid)
        self._pinned = pinned
