"""What each dataset may have of this node's room, kept up to date.

Owns reading the records of all datasets at intervals, also of those that nobody reads here: their terms decide what may
be evicted. Does not decide (core/shares.py). Invariant: as long as a dataset's record was never read, as after a start
without metadata, nothing of it makes room for others: it may be pinned.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from api.gen import metadata_pb2 as pb
from cacheruntime.core.homes import eligible
from cacheruntime.core.shares import Terms
from cacheruntime.errors import CacheError
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.file_index import FileIndex
from cacheruntime.worker.workers import Peer, Workers

log = structlog.get_logger()

MADE_MAX: Final = 1000
"""Datasets whose terms are kept made."""


class TermsKeeper:
    """The loop, and the terms."""

    def __init__(self, index: FileIndex, datasets: Datasets, workers: Workers, *, interval_seconds: float) -> None:
        self._index = index
        self._datasets = datasets
        self._workers = workers
        self._interval_seconds = interval_seconds
        self._pinned: dict[str, tuple[str, ...]] = {}
        """What the index was told last, by dataset."""
        self._made: dict[str, tuple[pb.DatasetInfo, Mapping[str, Peer], Terms]] = {}
        """Terms as asked for last, with the record and the workers they were made of."""

    def of(self, uid: str) -> Terms | None:
        """Return a dataset's terms on this node; None = not known yet."""
        info = self._datasets.known(uid)
        if info is None:
            return None
        workers = self._workers.listed()
        made = self._made.get(uid)
        if made is not None and made[0] is info and made[1] is workers:
            return made[2]
        whole = Terms(
            info.terms.priority,
            info.terms.guaranteed_bytes,
            info.terms.maximum_bytes,
            tuple(info.terms.pinned),
            info.terms.origin_bytes_per_second,
        )
        terms = whole.on_one_of(len(eligible(workers, info.eligible_nodes)))
        self._made[uid] = info, workers, terms
        if len(self._made) > MADE_MAX:
            del self._made[next(iter(self._made))]
        return terms

    def rates(self, uid: str, pool_rate: int) -> tuple[int, int]:
        """Return the bytes a second that this worker may fetch from under stores for a dataset, and for all of them, of
        which the pool may fetch `pool_rate`; 0 = no limit."""
        terms = self.of(uid)
        return terms.origin_bytes_per_second if terms else 0, -(-pool_rate // len(self._workers.listed()))

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
