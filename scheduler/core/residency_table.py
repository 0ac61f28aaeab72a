"""What is cached where, and how fast each node reads: bytes int64[row, medium], speeds float64[row].

Owns NodeCaches and dataset sizes as columns, and the arithmetic from bytes to seconds of stage-in. Does not
weigh seconds against anything (plugins/stage_in.py, core/placement.py). Invariants: a node whose worker is
not there has nothing resident; bytes of another dataset uid do not count; a row's resident bytes never count
for more than the dataset has. `version` rises with every change.

Bytes on peers are estimated from counts: what is resident anywhere is at most the sum over all nodes and at
most the whole dataset; a block that two nodes hold is not known to be the same one.

A request for `paths` counts the top-level directories they are in, where Dataset and NodeCaches tell bytes by
directory (at most 64 of them); otherwise the whole dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from kube.objects import CachedDataset, Dataset, NodeCache
from scheduler.core.data_request import DataRequest
from scheduler.core.node_table import NodeTable

FloatArray = NDArray[np.float64]
MEDIA = ("MEM", "SSD", "HDD")
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ReadSpeeds:
    """Bytes per second assumed where nothing was measured."""

    mem: float
    ssd: float
    hdd: float
    network: float
    origin: float

    @property
    def by_medium(self) -> tuple[float, float, float]:
        """In the order of MEDIA."""
        return (self.mem, self.ssd, self.hdd)


PEER_FILE_SECONDS = 0.001
"""What a file costs beside its bytes when a peer has it: a first pass over 17 KiB files took 1.25 ms each through the
worker (docs/performance.md). Without it small files on peers would look as near as local ones."""
ORIGIN_FILE_SECONDS = 0.0025
"""The same for the under store: an answer in 20 ms, eight at a time."""


@dataclass(frozen=True, slots=True)
class DatasetSize:
    """The current snapshot of a dataset."""

    uid: str
    snapshot: str
    size_bytes: int
    files: int = 0
    groups: Mapping[str, int] = field(default_factory=dict)  # bytes by top-level directory; empty: not known

    def part(self, paths: Sequence[str]) -> "DatasetSize":
        """What of it a request for these paths reads: the top-level directories they are in, all of it when one is
        not known. Files are taken to be of one size."""
        tops = {path.strip("/").partition("/")[0] for path in paths}
        if not tops or not tops <= self.groups.keys():
            return replace(self, groups={})
        groups = {top: self.groups[top] for top in sorted(tops)}
        size = sum(groups.values())
        files = -(-self.files * size // self.size_bytes) if self.size_bytes else 0
        return DatasetSize(self.uid, self.snapshot, size, files, groups)


@dataclass(frozen=True, slots=True)
class Sources:
    """Per row: bytes here by medium [row, medium], on peers only, and nowhere; and the seconds they cost."""

    local: FloatArray
    peers: FloatArray
    origin: FloatArray
    seconds: FloatArray


@dataclass(frozen=True, slots=True)
class Coming:
    """Per row, as seconds from the origin at its default speed: bytes that are missing there, and those of them that
    push others out because the cache has no room."""

    missing: FloatArray
    displacing: FloatArray


def _shown_by(dataset: Dataset) -> tuple[Key, str] | None:
    """The Dataset that one shows (`dataset://NAMESPACE/NAME/PATH`), and the path inside it."""
    mounts = dataset.spec.get("mounts")
    point = mounts[0].get("mountPoint") if isinstance(mounts, list) and mounts and isinstance(mounts[0], dict) else None
    if not isinstance(point, str) or not point.startswith("dataset://"):
        return None
    namespace, _, rest = point.removeprefix("dataset://").partition("/")
    name, _, path = rest.partition("/")
    return (namespace, name), path.strip("/")


class ResidencyTable:
    """NodeCaches and Datasets as last seen. One writer."""

    def __init__(self, table: NodeTable, defaults: ReadSpeeds) -> None:
        self._table = table
        self._defaults = defaults
        self._caches: dict[str, NodeCache] = {}
        self._entries: dict[str, dict[Key, list[CachedDataset]]] = {}  # of those that serve, by node
        self._datasets: dict[Key, DatasetSize] = {}
        self._shown: dict[Key, tuple[Key, str]] = {}  # Dataset that shows another one -> that, and the path inside
        self._holders: dict[Key, set[str]] = {}  # dataset -> nodes that list it
        self.version = 0
        # Speeds and room by row, of a version of the table, and whose NodeCaches changed since they were looked at.
        self._speeds_cache: tuple[int, _Speeds] | None = None
        self._unseen: set[str] = set()
        # All are good for one (version, version of the table).
        self._priced_at = (-1, -1)
        self._sources_cache: dict[object, Sources] = {}
        self._coming_cache: dict[object, Coming] = {}
        self._whole_cache: dict[DataRequest, NDArray[np.bool_]] = {}

    def put_cache(self, cache: NodeCache) -> bool:
        """Take a NodeCache; returns whether anything that counts changed."""
        name = cache.metadata.name
        old = self._caches.get(name)
        if old is not None and old.status == cache.status:
            return False
        self._caches[name] = cache
        self._unseen.add(name)
        self._set_entries(name, _served(old), _served(cache))
        self.version += 1
        return True

    def remove_cache(self, name: str) -> bool:
        """A node's cache is gone, and all it held."""
        old = self._caches.pop(name, None)
        if old is None:
            return False
        self._unseen.add(name)
        self._set_entries(name, _served(old), ())
        self.version += 1
        return True

    def put_dataset(self, dataset: Dataset) -> bool:
        """Take a Dataset; returns whether its size or snapshot changed."""
        meta, snapshot = dataset.metadata, dataset.status.snapshot
        new = (
            DatasetSize(meta.uid, str(snapshot.version), snapshot.bytes, snapshot.files, snapshot.groups)
            if snapshot
            else DatasetSize(meta.uid, "", 0)
        )
        key = (meta.namespace, meta.name)
        # Without a snapshot it is not granted, or not there.
        shown = _shown_by(dataset) if snapshot else None
        if self._datasets.get(key) == new and self._shown.get(key) == shown:
            return False
        self._datasets[key] = new
        self._shown.pop(key, None)
        if shown is not None:
            self._shown[key] = shown
        self.version += 1
        return True

    def remove_dataset(self, key: Key) -> bool:
        """A Dataset was deleted."""
        self._shown.pop(key, None)
        if self._datasets.pop(key, None) is None:
            return False
        self.version += 1
        return True

    def size_of(self, key: Key) -> DatasetSize | None:
        """The dataset's current snapshot; None when there is no such Dataset."""
        return self._datasets.get(key)

    def cold_seconds(self, data: Sequence[DataRequest], checkpoint: Sequence[tuple[str, int]]) -> float:
        """Seconds if nothing were cached anywhere: all bytes and files from the origin at its default speed."""
        sizes = [size for item in data if (size := self._wanted(item)) is not None]
        total = sum(size.size_bytes for size in sizes) + max((size for _, size in checkpoint), default=0)
        return total / self._defaults.origin + sum(size.files for size in sizes) * ORIGIN_FILE_SECONDS

    def sources(self, data: Sequence[DataRequest], checkpoint: Sequence[tuple[str, int]] = ()) -> Sources:
        """Bytes by source and seconds of stage-in on every row of the table, all datasets added."""
        speeds = self._speeds()
        asked = (tuple(data), tuple(checkpoint))
        found = self._sources_cache.get(asked)
        if found is None:
            found = self._sources_cache[asked] = self._compute(data, checkpoint, speeds)
        return found

    def coming_seconds(self, data: Sequence[DataRequest]) -> "Coming":
        """What reading the data on each row would bring there. A row without a cache has no room for it."""
        speeds = self._speeds()
        asked = tuple(data)
        found = self._coming_cache.get(asked)
        if found is None:
            sources = self.sources(data)
            missing = sources.peers + sources.origin
            displacing = np.maximum(0.0, missing - speeds.room)
            found = Coming(missing / self._defaults.origin, displacing / self._defaults.origin)
            self._coming_cache[asked] = found
        return found

    def _compute(
        self, data: Sequence[DataRequest], checkpoint: Sequence[tuple[str, int]], speeds: "_Speeds"
    ) -> Sources:
        row_of, rows = self._table.row_of, self._table.size
        total: Sources | None = None
        for item in data:
            size = self._wanted(item)
            if size is not None and size.size_bytes > 0:
                priced = _priced(self._resident(self._held_as(item), size), size.size_bytes, speeds, size.files)
                total = priced if total is None else _add(total, priced)
        if checkpoint:
            local = np.zeros((rows, len(MEDIA)))
            for node, size_bytes in checkpoint:
                row = row_of.get(node)
                if row is not None:
                    # Which tier holds it is not said; the SSD tier is the careful guess.
                    local[row, 1] = size_bytes
            priced = _priced(local, max(size for _, size in checkpoint), speeds)
            total = priced if total is None else _add(total, priced)
        return _empty(rows) if total is None else total

    def is_resident(self, item: DataRequest) -> NDArray[np.bool_]:
        """Per row: whether everything that is asked of the dataset's current snapshot is resident there."""
        self._drop_stale()
        found = self._whole_cache.get(item)
        if found is None:
            found = self._whole_cache[item] = self._whole(item)
            found.flags.writeable = False
        return found

    def _whole(self, item: DataRequest) -> NDArray[np.bool_]:
        size = self._wanted(item)
        if size is None or not size.snapshot:
            return np.zeros(self._table.size, dtype=np.bool_)
        held = self._resident(self._held_as(item), size, current_only=True).sum(axis=1)
        return np.asarray(held >= size.size_bytes) & self._serving_rows()

    def _wanted(self, item: DataRequest) -> DatasetSize | None:
        """The part of a dataset that is asked for; None when there is no such Dataset."""
        size = self._datasets.get(self._held_as(item))
        _, inside = self._shown.get(item.key, (None, ""))
        return None if size is None else size.part((inside,) if inside else item.paths)

    def _held_as(self, item: DataRequest) -> Key:
        """Whose blocks nodes have of it: of the Dataset that it shows, or its own."""
        return self._shown.get(item.key, (item.key, ""))[0]

    def _serving_rows(self) -> NDArray[np.bool_]:
        mask = np.zeros(self._table.size, dtype=np.bool_)
        for name, cache in self._caches.items():
            row = self._table.row_of.get(name)
            if row is not None and is_serving(cache):
                mask[row] = True
        return mask

    def _drop_stale(self) -> None:
        versions = (self.version, self._table.version)
        if self._priced_at != versions:
            self._priced_at = versions
            self._sources_cache.clear()
            self._coming_cache.clear()
            self._whole_cache.clear()

    def _speeds(self) -> "_Speeds":
        self._drop_stale()
        if self._speeds_cache is None or self._speeds_cache[0] != self._table.version:
            speeds = _Speeds(self._table.size, self._defaults)
            self._speeds_cache = (self._table.version, speeds)
            self._unseen.update(self._caches)
        speeds = self._speeds_cache[1]
        for name in self._unseen:
            row = self._table.row_of.get(name)
            if row is not None:
                speeds.put(row, self._caches.get(name))
        self._unseen.clear()
        return speeds

    def _resident(self, key: Key, size: DatasetSize, *, current_only: bool = False) -> FloatArray:
        local = np.zeros((self._table.size, len(MEDIA)))
        row_of, entries = self._table.row_of, self._entries
        rows: list[int] = []
        amounts: list[tuple[int, int, int]] = []
        for name in self._holders.get(key, ()):
            row = row_of.get(name)
            if row is None:
                continue
            listed = entries[name][key]
            if len(listed) == 1 and not size.groups and not current_only:
                # Nearly always so: told once, and all of it counts.
                if listed[0].uid == size.uid:
                    get = listed[0].resident_bytes.get
                    rows.append(row)
                    amounts.append((max(0, get("MEM", 0)), max(0, get("SSD", 0)), max(0, get("HDD", 0))))
                continue
            for entry in listed:
                if entry.uid != size.uid:
                    continue
                # After a new listing most objects are the same, so older counts still price well;
                # `required` is a promise and takes the current snapshot only.
                if current_only and str(entry.snapshot) != size.snapshot:
                    continue
                held = [max(0, entry.resident_bytes.get(medium, 0)) for medium in MEDIA]
                local[row] += np.array(held) * _share(entry, size, sum(held))
        if rows:
            local[rows] = amounts
        return local

    def _set_entries(self, node: str, before: Sequence[CachedDataset], now: Sequence[CachedDataset]) -> None:
        """What a node lists from now on. Of hundreds of entries few are other objects than before: only those cost."""
        old, new = dict(zip(map(id, before), before, strict=True)), dict(zip(map(id, now), now, strict=True))
        listed = self._entries.setdefault(node, {})
        for entry in map(old.__getitem__, old.keys() - new.keys()):
            key = (entry.namespace, entry.name)
            left = [other for other in listed.pop(key) if other is not entry]
            if left:
                listed[key] = left
            else:
                self._holders[key].discard(node)
                if not self._holders[key]:
                    del self._holders[key]
        for entry in map(new.__getitem__, new.keys() - old.keys()):
            key = (entry.namespace, entry.name)
            listed.setdefault(key, []).append(entry)
            self._holders.setdefault(key, set()).add(node)
        if not listed:
            del self._entries[node]


def _served(cache: NodeCache | None) -> Sequence[CachedDataset]:
    """What a node's worker is there to serve."""
    return cache.status.datasets if cache is not None and is_serving(cache) else ()


def _share(entry: CachedDataset, size: DatasetSize, held: int) -> float:
    """Which part of what a node holds of a dataset counts for the directories asked for. A directory's bytes are not
    told by medium; they are taken to be spread like the whole."""
    if not size.groups or not held:
        return 1.0
    return min(1.0, sum((entry.groups or {}).get(top, 0) for top in size.groups) / held)


def is_serving(cache: NodeCache) -> bool:
    """Whether the node's worker is there to serve what it holds."""
    return cache.status.worker is not None and bool(cache.status.worker.endpoint)


class _Speeds:
    """Measured read speeds per row, the defaults where a figure is 0 or missing; and bytes of free cache."""

    def __init__(self, rows: int, defaults: ReadSpeeds) -> None:
        self._defaults = defaults
        self.media = np.tile(np.array(defaults.by_medium), (rows, 1))
        self.network = np.full(rows, defaults.network)
        self.origin = np.full(rows, defaults.origin)
        self.room = np.zeros(rows)

    def put(self, row: int, cache: NodeCache | None) -> None:
        """What a row's NodeCache says now; None: it has none."""
        defaults = self._defaults
        media, network, origin, room = list(defaults.by_medium), defaults.network, defaults.origin, 0
        if cache is not None:
            status = cache.status
            if is_serving(cache):
                room = sum(max(0, tier.capacity - tier.used) for tier in status.tiers)
            for tier in status.tiers:
                if tier.medium in MEDIA and tier.read_bytes_per_second > 0:
                    media[MEDIA.index(tier.medium)] = tier.read_bytes_per_second
            if status.network.read_bytes_per_second > 0:
                network = status.network.read_bytes_per_second
            if status.origin.read_bytes_per_second > 0:
                origin = status.origin.read_bytes_per_second
        self.media[row] = media
        self.network[row], self.origin[row], self.room[row] = network, origin, room


def _priced(local: FloatArray, size_bytes: int, speeds: _Speeds, files: int = 0) -> Sources:
    held = _added(local)
    anywhere = min(float(held.sum()), float(size_bytes))
    excess = np.maximum(held, 1.0)
    local = local * np.minimum(1.0, size_bytes / excess)[:, None]
    here = np.minimum(held, size_bytes)
    peers = np.maximum(0.0, anywhere - here)
    origin = np.maximum(0.0, size_bytes - here - peers)
    seconds = _added(local / speeds.media) + peers / speeds.network + origin / speeds.origin
    # Files are assumed to be of one size: the part of the bytes that is elsewhere is the part of the files.
    if files:
        seconds += files * (peers * PEER_FILE_SECONDS + origin * ORIGIN_FILE_SECONDS) / size_bytes
    return Sources(local, peers, origin, seconds)


def _added(by_medium: FloatArray) -> FloatArray:
    """All media of each row: what a sum over so short an axis gives, in a tenth of the time."""
    return np.asarray(by_medium[:, 0] + by_medium[:, 1] + by_medium[:, 2])


def _empty(rows: int) -> Sources:
    return Sources(np.zeros((rows, len(MEDIA))), np.zeros(rows), np.zeros(rows), np.zeros(rows))


def _add(one: Sources, two: Sources) -> Sources:
    return Sources(one.local + two.local, one.peers + two.peers, one.origin + two.origin, one.seconds + two.seconds)
