"""Fluid's Datasets and its labels on nodes, told to the core as Datasets and NodeCaches; off unless asked for.

Fluid says how much of a Dataset is cached in all, and on which nodes it has workers (a label), but not how much each
holds: the bytes are taken to be spread evenly over them. So a node without a worker is known to be cold, and of a
dataset on one worker it is known exactly what is there; between several workers the estimate decides nothing.

Owns that estimate, and putting it beside what a node's own NodeCache says. Pure: events in, events out, all others
unchanged and in their order. Invariants: a Dataset of ours goes before one of Fluid's of the same name; what is told of
a node follows from what was seen last, whatever the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from api import names
from kube.fluid_objects import FluidDataset
from kube.identity import ObjectMeta
from kube.objects import (
    CachedDataset,
    CacheWorker,
    Dataset,
    DatasetSnapshot,
    DatasetStatus,
    Node,
    NodeCache,
    NodeCacheStatus,
)
from scheduler.core import events
from scheduler.core.events import Event, FluidDatasetChanged, FluidDatasetGone

Key = tuple[str, str]
SNAPSHOT: Final = 1
"""Fluid has none: a dataset is one state for ever, as Fluid itself takes it."""
WORKER: Final = CacheWorker(endpoint="fluid")


@dataclass(slots=True)
class _Seen:
    """One Dataset of Fluid's."""

    uid: str
    size_bytes: int
    files: int
    cached_bytes: int
    holders: set[str] = field(default_factory=set)


class FluidView:
    """One for the process; the shell sends every batch of events through `translate`."""

    def __init__(self) -> None:
        self._datasets: dict[Key, _Seen] = {}
        self._ours: set[Key] = set()
        self._labels: dict[str, frozenset[str]] = {}
        self._own: dict[str, NodeCache] = {}

    def translate(self, batch: Sequence[Event]) -> list[Event]:
        """Return the events the core is to be told."""
        told: list[Event] = []
        for event in batch:
            told += self._one(event)
        return told

    def _one(self, event: Event) -> list[Event]:
        match event:
            case FluidDatasetChanged(dataset):
                return self._dataset(dataset)
            case FluidDatasetGone(namespace, name):
                return self._dataset_gone((namespace, name))
            case events.NodeChanged(node):
                return [event, *self._node(node)]
            case events.NodeGone(name):
                self._labels.pop(name, None)
                for seen in self._datasets.values():
                    seen.holders.discard(name)
                return [event]
            case events.CacheChanged(cache):
                self._own[cache.metadata.name] = cache
                return [events.CacheChanged(self._cache(cache.metadata.name))]
            case events.CacheGone(name):
                self._own.pop(name, None)
                merged = self._cache(name)
                return [events.CacheChanged(merged) if merged.status.datasets else event]
            case events.DatasetChanged(dataset):
                key = (dataset.metadata.namespace, dataset.metadata.name)
                is_new = key not in self._ours
                self._ours.add(key)
                return [event, *(self._caches(self._holders(key)) if is_new else ())]
            case events.DatasetGone(namespace, name):
                key = (namespace, name)
                self._ours.discard(key)
                return [event, *self._told(key), *self._caches(self._holders(key))]
        return [event]

    def _dataset(self, dataset: FluidDataset) -> list[Event]:
        meta = dataset.metadata
        key = (meta.namespace, meta.name)
        digits = dataset.status.file_num or ""
        new = _Seen(meta.uid, dataset.size_bytes or 0, int(digits) if digits.isdecimal() else 0, dataset.cached_bytes)
        marks = _labels_of(key, meta.uid)
        new.holders = {node for node, labels in self._labels.items() if labels & marks}
        old = self._datasets.get(key)
        if old == new:
            return []
        self._datasets[key] = new
        return [*self._told(key), *self._caches(new.holders)]

    def _dataset_gone(self, key: Key) -> list[Event]:
        old = self._datasets.pop(key, None)
        if old is None:
            return []
        gone = [] if key in self._ours else [events.DatasetGone(*key)]
        return [*gone, *self._caches(old.holders)]

    def _holders(self, key: Key) -> set[str]:
        seen = self._datasets.get(key)
        return set() if seen is None else seen.holders

    def _told(self, key: Key) -> list[Event]:
        """What the core is told of a Dataset of Fluid's: nothing while one of ours has its name."""
        seen = self._datasets.get(key)
        if seen is None or key in self._ours:
            return []
        meta = ObjectMeta(namespace=key[0], name=key[1], uid=seen.uid)
        snapshot = DatasetSnapshot(version=SNAPSHOT, files=seen.files, bytes=seen.size_bytes)
        return [events.DatasetChanged(Dataset(metadata=meta, status=DatasetStatus(phase="Bound", snapshot=snapshot)))]

    def _node(self, node: Node) -> list[Event]:
        name = node.metadata.name
        labels = frozenset(label for label in node.metadata.labels if label.startswith(names.FLUID_STORAGE_LABEL))
        if labels == self._labels.get(name, frozenset()):
            return []
        self._labels[name] = labels
        touched = {name}
        for key, seen in self._datasets.items():
            holds = bool(labels & _labels_of(key, seen.uid))
            if holds != (name in seen.holders):
                # The others' part of what is cached is another one now.
                touched |= seen.holders
                (seen.holders.add if holds else seen.holders.discard)(name)
        return self._caches(touched)

    def _caches(self, nodes: Iterable[str]) -> list[Event]:
        return [events.CacheChanged(self._cache(node)) for node in sorted(nodes)]

    def _cache(self, node: str) -> NodeCache:
        """What is known of a node: its own NodeCache, and Fluid's datasets beside it."""
        own = self._own.get(node)
        status = own.status if own is not None else NodeCacheStatus()
        held = [
            CachedDataset(
                namespace=key[0],
                name=key[1],
                uid=seen.uid,
                snapshot=SNAPSHOT,
                resident_bytes={"SSD": min(seen.cached_bytes // len(seen.holders), seen.size_bytes)},
            )
            for key, seen in self._datasets.items()
            if node in seen.holders and key not in self._ours
        ]
        meta = own.metadata if own is not None else ObjectMeta(name=node)
        if not held:
            return own or NodeCache(metadata=meta)
        # A worker of ours that died holds nothing any more, whatever its object still says.
        kept = status.datasets if status.worker is not None else []
        status = msgspec.structs.replace(status, worker=status.worker or WORKER, datasets=[*kept, *held])
        return NodeCache(metadata=meta, status=status)


def _labels_of(key: Key, uid: str) -> frozenset[str]:
    """Which label a node with a worker of the dataset has: one with its name, or its uid where that is too long."""
    return frozenset({f"{names.FLUID_STORAGE_LABEL}{key[0]}-{key[1]}", f"{names.FLUID_STORAGE_LABEL}{uid}"})
