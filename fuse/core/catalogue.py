"""Which datasets there are: the two top levels of the tree.

Owns the table of datasets, fed by the watch, which tells of all of them when it comes up and then of what changes, and,
while there is none, by ListDatasets. While the watch stands only a name that is not known is asked for: it may be so
new that the watch is about to tell of it.

Invariants: once a list was read, a failing metadata service leaves the last good one in place; a list does not undo
what the watch told while it was read.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fuse.core.contracts import Dataset, Namespace
from fuse.errors import NotFound, Unavailable

_T = TypeVar("_T")


class Catalogue:
    """Datasets by namespace and name."""

    def __init__(self, namespace: Namespace, monotonic: Callable[[], float], fresh_seconds: float) -> None:
        self._namespace = namespace
        self._monotonic = monotonic
        self._fresh_seconds = fresh_seconds
        self._datasets: dict[tuple[str, str], Dataset] = {}
        self._by_uid: dict[str, Dataset] = {}
        self._loaded_at: float | None = None
        self._is_watched = False
        self._told: list[dict[str, Dataset | None]] = []
        """What the watch told since each list that is being read was asked for, by uid; None = removed."""

    def watching(self, *, is_watching: bool) -> None:
        """The watch has told of all datasets, or it was lost."""
        if is_watching or self._is_watched:
            # What it told until now was true until now.
            self._loaded_at = self._monotonic()
        self._is_watched = is_watching

    async def datasets(self) -> dict[tuple[str, str], Dataset]:
        """Return every dataset: as the watch told, or at most `fresh_seconds` old. Unavailable when there was never a
        list."""
        if not self._is_watched and not self._is_younger(self._fresh_seconds):
            told: dict[str, Dataset | None] = {}
            self._told.append(told)
            asked_at = self._monotonic()
            try:
                listed = await self._namespace.list_datasets()
            except Unavailable:
                if self._loaded_at is None:
                    raise
            else:
                self._take(listed, told)
            finally:
                self._told.remove(told)
            self._loaded_at = asked_at
        return self._datasets

    def _is_younger(self, seconds: float) -> bool:
        return self._loaded_at is not None and self._monotonic() - self._loaded_at <= seconds

    def _take(self, listed: list[Dataset], told: dict[str, Dataset | None]) -> None:
        found = {each.uid: each for each in listed}
        for uid, news in told.items():
            if news is None:
                found.pop(uid, None)
            elif uid not in found or found[uid].snapshot_version <= news.snapshot_version:
                found[uid] = news
        self._by_uid = found
        self._datasets = {(each.namespace, each.name): each for each in found.values()}

    async def find(self, namespace: str, name: str) -> Dataset:
        """Return one dataset; NotFound."""
        dataset = (await self.datasets()).get((namespace, name))
        if dataset is None and self._is_watched:
            dataset = await self._ask(self._namespace.get_dataset(namespace, name))
        if dataset is None:
            raise NotFound(f"no dataset {namespace}/{name}")
        return dataset

    async def has_namespace(self, name: str) -> bool:
        """Whether a dataset is in the namespace."""
        if any(namespace == name for namespace, _ in await self.datasets()):
            return True
        return self._is_watched and bool(await self._ask(self._namespace.list_datasets(name)))

    async def _ask(self, question: Awaitable[_T]) -> _T | None:
        """Ask for what the watch has not told of; None when the service does not know it either, or does not answer.

        The answer is not kept: by the time it comes the watch may have told that it is gone."""
        try:
            return await question
        except (NotFound, Unavailable):
            return None

    def uids(self) -> frozenset[str]:
        """The datasets known now."""
        return frozenset(self._by_uid)

    def by_uid(self, uid: str) -> Dataset | None:
        """Return the dataset as last heard of."""
        return self._by_uid.get(uid)

    def update(self, dataset: Dataset) -> None:
        """The watch told of this dataset."""
        self._datasets[(dataset.namespace, dataset.name)] = dataset
        self._by_uid[dataset.uid] = dataset
        for told in self._told:
            told[dataset.uid] = dataset

    def remove(self, uid: str) -> Dataset | None:
        """The watch told that this dataset is gone; returns it as last heard of. Its name may be another's by now."""
        for told in self._told:
            told[uid] = None
        dataset = self._by_uid.pop(uid, None)
        if dataset is not None:
            name = (dataset.namespace, dataset.name)
            named = self._datasets.get(name)
            if named is not None and named.uid == uid:
                del self._datasets[name]
        return dataset

    def totals(self) -> tuple[int, int]:
        """Return the bytes and files of all datasets."""
        known = self._by_uid.values()
        return sum(each.size_bytes for each in known), sum(each.files for each in known)
