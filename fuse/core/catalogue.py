"""Which datasets there are: the two top levels of the tree.

Owns the table of datasets, fed by ListDatasets (which also shows removals) and by the watch (which is faster).
Invariant: once a list was read, a failing metadata service leaves the last good one in place.
"""

from collections.abc import Callable

from fuse.core.contracts import Dataset, Namespace
from fuse.errors import NotFound, Unavailable


class Catalogue:
    """Datasets by namespace and name."""

    def __init__(self, namespace: Namespace, monotonic: Callable[[], float], fresh_seconds: float) -> None:
        self._namespace = namespace
        self._monotonic = monotonic
        self._fresh_seconds = fresh_seconds
        self._datasets: dict[tuple[str, str], Dataset] = {}
        self._by_uid: dict[str, Dataset] = {}
        self._loaded_at: float | None = None

    async def datasets(self) -> dict[tuple[str, str], Dataset]:
        """Return every dataset, at most `fresh_seconds` old. Unavailable when there was never a list."""
        now = self._monotonic()
        if self._loaded_at is None or now - self._loaded_at > self._fresh_seconds:
            try:
                listed = await self._namespace.list_datasets()
            except Unavailable:
                if self._loaded_at is None:
                    raise
            else:
                self._datasets = {(each.namespace, each.name): each for each in listed}
                self._by_uid = {each.uid: each for each in listed}
            self._loaded_at = now
        return self._datasets

    async def find(self, namespace: str, name: str) -> Dataset:
        """Return one dataset; NotFound."""
        dataset = (await self.datasets()).get((namespace, name))
        if dataset is None:
            raise NotFound(f"no dataset {namespace}/{name}")
        return dataset

    def by_uid(self, uid: str) -> Dataset | None:
        """Return the dataset as last heard of."""
        return self._by_uid.get(uid)

    def update(self, dataset: Dataset) -> None:
        """The watch told of this dataset."""
        self._datasets[(dataset.namespace, dataset.name)] = dataset
        self._by_uid[dataset.uid] = dataset

    def remove(self, uid: str) -> Dataset | None:
        """The watch told that this dataset is gone; returns it as last heard of. Its name may be another's by now."""
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
