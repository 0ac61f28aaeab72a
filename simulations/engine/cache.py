"""What every node's cache holds: bytes by dataset and tier, admitted until full, then bypassed.

Owns residency and its arithmetic, for the model of a worker that keeps what its own node reads. Within a dataset
nothing is evicted; between datasets the one not read here for longest goes, never one with a reader. Blocks are not
told apart: which are resident is taken as random, and what is resident anywhere (`distinct`) grows by what came from
the origin. Invariants: used <= capacity in every tier; Σ held >= distinct; 0 <= distinct <= size.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from simulations.engine.model import DatasetSpec, NodeSpec

TIERS = 2  # MEM, SSD
Held = list[float]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the bytes a reader has not read in this epoch: where they are. They add up to 1."""

    mem: float
    ssd: float
    near: float  # peers in the same rack
    far: float  # peers across racks
    origin: float

    @property
    def remote(self) -> float:
        """What is not on this node."""
        return self.near + self.far + self.origin


@dataclass(slots=True)
class _Node:
    capacity: Held
    used: Held = field(default_factory=lambda: [0.0] * TIERS)
    held: dict[int, Held] = field(default_factory=dict)
    read_at: dict[int, float] = field(default_factory=dict)


class Cache:
    """All nodes' caches. `dirty`: nodes whose content changed since somebody last took the set."""

    def __init__(self, nodes: tuple[NodeSpec, ...], datasets: tuple[DatasetSpec, ...]) -> None:
        self._rack = [node.rack for node in nodes]
        self._nodes = [_Node([node.mem_bytes, node.ssd_bytes]) for node in nodes]
        self._size = [dataset.size_bytes for dataset in datasets]
        self._distinct = [0.0] * len(datasets)
        self._total = [0.0] * len(datasets)
        self._by_rack: list[dict[int, float]] = [{} for _ in datasets]
        self.holders: list[dict[int, float]] = [{} for _ in datasets]
        self._reading: list[dict[int, int]] = [{} for _ in datasets]  # node → jobs
        self.dirty: set[int] = set()
        for number, dataset in enumerate(datasets):
            for node, size in dataset.resident.items():
                self.admit(node, number, size, size, 0.0)

    def held(self, node: int) -> dict[int, Held]:
        """Bytes by dataset and tier on a node."""
        return self._nodes[node].held

    def local(self, node: int, dataset: int) -> float:
        """Bytes of a dataset on a node."""
        return self.holders[dataset].get(node, 0.0)

    def distinct(self, dataset: int) -> float:
        """Bytes of a dataset that are resident anywhere."""
        return self._distinct[dataset]

    def is_absent(self, dataset: int) -> bool:
        """Whether a part of a dataset is resident nowhere."""
        return self._size[dataset] - self._distinct[dataset] > 1.0

    def capacity(self, node: int) -> Held:
        """Bytes by tier."""
        return self._nodes[node].capacity

    def used(self, node: int) -> Held:
        """Bytes taken by tier."""
        return self._nodes[node].used

    def readers(self, node: int, dataset: int) -> int:
        """Jobs that read a dataset on a node."""
        return self._reading[dataset].get(node, 0)

    def is_read_beside(self, dataset: int, nodes: Collection[int]) -> bool:
        """Whether others read a dataset than one job on these nodes."""
        return sum(self._reading[dataset].values()) > len(nodes)

    def bringers(self, dataset: int, workers: Sequence[int]) -> int:
        """Jobs whose reading brings missing bytes of a dataset to where the others find them: those on nodes that
        still keep some; with fixed `workers` all of them, while a worker still keeps some."""
        reading = self._reading[dataset]
        if workers:
            return sum(reading.values()) if any(self.can_admit(node, dataset) for node in workers) else 0
        return sum(jobs for node, jobs in reading.items() if self.can_admit(node, dataset))

    def is_crowded(self, dataset: int) -> bool:
        """Whether more nodes read a dataset than twice as many as have some of it."""
        return len(self._reading[dataset]) > 2 * len(self.holders[dataset])

    def start_reading(self, node: int, dataset: int, now: float) -> None:
        """A reader came: its dataset stays until it left."""
        reading = self._reading[dataset]
        reading[node] = reading.get(node, 0) + 1
        self._nodes[node].read_at[dataset] = now

    def stop_reading(self, node: int, dataset: int, now: float) -> None:
        """A reader left."""
        reading = self._reading[dataset]
        reading[node] -= 1
        if not reading[node]:
            del reading[node]
        self._nodes[node].read_at[dataset] = now

    def shares(self, node: int, dataset: int, read: float = 0.0, passed: float = 0.0) -> Shares:
        """Where the unread bytes of an epoch are, for a reader that read `read` bytes of it, of which `passed` came
        from afar and were not kept. What it read and is kept is not missing any more, so all else that is missing is
        unread."""
        size = self._size[dataset]
        held = self._nodes[node].held.get(dataset)
        local = min(self.local(node, dataset), size)
        unread = size - read
        absent = size - local
        missing = min(1.0, max(0.0, absent - passed) / unread) if unread > 0.5 else 0.0
        here = 1.0 - missing
        elsewhere = max(0.0, self._distinct[dataset] - local)
        on_peers = missing * (elsewhere / absent) if absent > 0 else 0.0
        in_rack = self._by_rack[dataset].get(self._rack[node], 0.0) - self.local(node, dataset)
        near = min(on_peers, missing * max(0.0, in_rack) / absent) if absent > 0 else 0.0
        in_memory = here * held[0] / (held[0] + held[1]) if held is not None and held[0] + held[1] > 0 else 0.0
        return Shares(in_memory, here - in_memory, near, on_peers - near, missing - on_peers)

    def can_admit(self, node: int, dataset: int) -> bool:
        """Whether some more of a dataset would be kept."""
        at = self._nodes[node]
        if self._size[dataset] - self.local(node, dataset) <= 1.0:
            return False
        free = sum(at.capacity) - sum(at.used)
        return free > 1.0 or any(other != dataset and node not in self._reading[other] for other in at.held)

    def admit(self, node: int, dataset: int, size_bytes: float, from_origin: float, now: float) -> float:
        """Keep up to `size_bytes` more, of which `from_origin` are nowhere else; returns what was kept."""
        at = self._nodes[node]
        wanted = min(size_bytes, self._size[dataset] - self.local(node, dataset))
        if wanted <= 0:
            return 0.0
        self._make_room(node, dataset, wanted)
        kept = 0.0
        held = at.held.setdefault(dataset, [0.0] * TIERS)
        for tier in range(TIERS):
            part = min(wanted - kept, at.capacity[tier] - at.used[tier])
            if part > 0:
                held[tier] += part
                at.used[tier] += part
                kept += part
        if not any(held):
            del at.held[dataset]
        if kept > 0:
            at.read_at[dataset] = now
            self._count(node, dataset, kept)
            new = from_origin * kept / size_bytes
            self._distinct[dataset] = min(self._size[dataset], self._total[dataset], self._distinct[dataset] + new)
        return kept

    def take_away(self, node: int) -> dict[int, float]:
        """A node's worker is gone and serves nothing; returns what is on its disk, by dataset."""
        at = self._nodes[node]
        disk = {dataset: held[1] for dataset, held in sorted(at.held.items()) if held[1] > 0}
        for dataset, held in list(at.held.items()):
            self._count(node, dataset, -sum(held))
        at.held.clear()
        at.used = [0.0] * TIERS
        return disk

    def bring_back(self, node: int, disk: dict[int, float], now: float) -> None:
        """A node's worker is there again with what was on its disk; overlap with others is taken as random."""
        memory = self._nodes[node].capacity[0]
        self._nodes[node].capacity[0] = 0.0
        for dataset, size in disk.items():
            new = size * (1.0 - self._distinct[dataset] / self._size[dataset])
            self.admit(node, dataset, size, new, now)
        self._nodes[node].capacity[0] = memory

    def _make_room(self, node: int, dataset: int, wanted: float) -> None:
        at = self._nodes[node]
        free = sum(at.capacity) - sum(at.used)
        while free < wanted:
            idle = [other for other in at.held if other != dataset and node not in self._reading[other]]
            if not idle:
                return
            victim = min(idle, key=lambda other: (at.read_at.get(other, 0.0), other))
            held = at.held.pop(victim)
            for tier in range(TIERS):
                at.used[tier] = max(0.0, at.used[tier] - held[tier])
            self._count(node, victim, -sum(held))
            free = sum(at.capacity) - sum(at.used)

    def _count(self, node: int, dataset: int, more: float) -> None:
        holders, racks, rack = self.holders[dataset], self._by_rack[dataset], self._rack[node]
        holders[node] = holders.get(node, 0.0) + more
        racks[rack] = racks.get(rack, 0.0) + more
        if more < 0 and holders[node] <= 0.5:
            del holders[node]
        self._total[dataset] = max(0.0, self._total[dataset] + more) if holders else 0.0
        if not holders:
            racks.clear()
        self._distinct[dataset] = min(self._distinct[dataset], self._total[dataset])
        self.dirty.add(node)
