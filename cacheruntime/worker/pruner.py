"""Drops what no snapshot has any more: versions that were replaced or removed elsewhere, datasets that are gone.

Admit-then-bypass never evicts inside a dataset, so without this a dataset that changes would fill up with the
past. Looks only when a dataset's snapshot changed; open files are left to their readers.
"""

import asyncio
from typing import Final

import structlog

from cacheruntime.errors import CacheError, Missing
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.metadata_client import MetadataClient

log = structlog.get_logger()

GRACE_FILES: Final = 1000
"""Up to so many files are looked up one by one; beyond, one manifest is cheaper."""


class Pruner:
    """The background loop."""

    def __init__(
        self, store: BlockStore, datasets: Datasets, metadata: MetadataClient, *, interval_seconds: float
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._metadata = metadata
        self._interval_seconds = interval_seconds
        self._seen: dict[str, int] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            for uid in self._store.index.uids():
                try:
                    await self._look(uid)
                except CacheError as error:
                    log.warning("prune_failed", dataset=uid, error=error.message)

    async def _look(self, uid: str) -> None:
        try:
            info = await self._datasets.get(uid)
        except Missing:
            self._seen.pop(uid, None)
            freed = sum(map(self._store.drop, self._store.files_of(uid)))
            log.info("dataset_dropped", dataset=uid, bytes=freed)
            return
        if info.snapshot_version == 0 or self._seen.get(uid) == info.snapshot_version:
            return
        held = [file for file in self._store.files_of(uid) if not file.references]
        current = await self._current(uid, {file.version.path for file in held})
        # What was opened or stored while we asked is newer than the answer.
        stale = [file for file in held if not file.references and current.get(file.version.path) != file.version.etag]
        freed = sum(map(self._store.drop, stale))
        self._seen[uid] = info.snapshot_version
        if stale:
            log.info("pruned", dataset=uid, files=len(stale), bytes=freed)

    async def _current(self, uid: str, paths: set[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        if len(paths) <= GRACE_FILES:
            for path in paths:
                try:
                    found[path] = (await self._metadata.lookup(uid, path)).etag
                except Missing:
                    continue
            return found
        async for batch in self._metadata.manifest(uid, []):
            found.update((entry.path, entry.etag) for entry in batch.entries if entry.path in paths)
        return found
