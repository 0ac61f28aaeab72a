"""How big each top-level directory of a dataset is, for whoever asks for parts of it.

Owns the sizes of the current snapshots, counted once each in the background: a sum over ten million files takes
seconds, and nobody should wait for it. Only of read-only datasets with few top-level directories; those that are
written have a new version with every file. Soft state: counted again after a restart.
"""

import asyncio
from dataclasses import dataclass

import structlog

from metadata.core.datasets import Dataset
from metadata.core.residency import GROUPS_MAX
from metadata.errors import MetadataError
from metadata.shell.database import Database
from metadata.shell.watchers import Watchers
from metadata.stores.base import Reader

ROOT_ENTRIES_MAX = 4096
"""A root with more names is not looked at: it is one of files, or has too many directories anyway."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Known:
    version: int
    sizes: dict[str, int]


class GroupSizes:
    """See the module's docstring. One event loop."""

    def __init__(self, database: Database, watchers: Watchers) -> None:
        self._database = database
        self._watchers = watchers
        self._known: dict[str, _Known] = {}
        self._counting: dict[str, asyncio.Task[None]] = {}

    def of(self, dataset: Dataset) -> dict[str, int]:
        """Bytes by top-level directory of the current snapshot; none when there are too many, or not counted yet:
        then watchers are told once they are."""
        if dataset.specification.writable or dataset.version == 0:
            return {}
        known = self._known.get(dataset.uid)
        if known is not None and known.version == dataset.version:
            return known.sizes
        if dataset.uid not in self._counting:
            task = asyncio.create_task(self._count(dataset), name=f"group-sizes-{dataset.uid}")
            self._counting[dataset.uid] = task
        return {}

    def forget(self, uid: str) -> None:
        """The dataset is gone."""
        self._known.pop(uid, None)

    async def close(self) -> None:
        """Stop counting."""
        tasks = list(self._counting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _count(self, dataset: Dataset) -> None:
        try:
            sizes = await self._database.read(lambda reader: sizes_by_top(reader, dataset.id))
        except MetadataError as error:
            # The next question counts again.
            log.warning("metadata.group_sizes_not_counted", dataset=dataset.label, message=error.message)
            return
        finally:
            del self._counting[dataset.uid]
        self._known[dataset.uid] = _Known(dataset.version, sizes)
        if sizes:
            self._watchers.changed(dataset.uid)


def sizes_by_top(reader: Reader, dataset_id: int) -> dict[str, int]:
    """Bytes below each directory of the root; none when there are more than GROUPS_MAX."""
    root = reader.children(dataset_id, "", limit=ROOT_ENTRIES_MAX + 1)
    tops = [entry.path for entry in root if entry.is_directory]
    if len(root) > ROOT_ENTRIES_MAX or len(tops) > GROUPS_MAX:
        return {}
    return {top: reader.bytes_below(dataset_id, top) for top in tops}
