"""What every node's cache holds: blocks at their homes, and copies of what its own readers read.

Owns residency and its arithmetic, as a worker has it (cacheruntime/): a block that a reader's node lacks is asked of
its home, which fetches it from the origin if it lacks it too, and keeps it; the reader's node keeps a copy. So others
find a block at its home or nowhere, and a copy serves its own node alone. Both are admitted until the cache is full,
then bypassed. Of what is there, goes first: copies of a dataset that is not read here, the one not read for longest;
for bytes at their home then copies of their own dataset (`_displace`); then home bytes of datasets nobody reads.
Nothing of a dataset with a reader goes for another one.

Blocks are not told apart: which are resident is random, but copies are mostly of blocks whose homes have them
(`paired`). Invariants: used <= capacity in every tier; 0 <= paired, loose <= copies; what is at homes <= the dataset.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cacheruntime.core.admission import EVICT_PERCENT
from simulations.engine.homes import Homes
from simulations.engine.model import DatasetSpec, NodeSpec
from simulations.engine.network import FloatArray, IntArray
from simulations.engine.shares import NO_COPIES, NOTHING_YET, Here, Read, Shares, near_part, shares_at

TIERS = 2  # MEM, SSD
MAX_PARTS = 16
"""Of shares a home had of a dataset, for which is kept what follows: they change with every node that goes."""
Held = list[float]
TOLD_PART = 0.01
"""Of a dataset: a node that has less of it at home, and no copies, does not tell of it. What is so little on each of a
hundred nodes or more tells none of them apart."""


@dataclass(frozen=True, slots=True)
class Gang:
    """The nodes of a job, also as rows of arrays; their racks; and where their home bytes are."""

    nodes: tuple[int, ...]
    rows: IntArray
    racks: IntArray
    on_ssd: tuple[bool, ...]


@dataclass(slots=True)
class Copies:
    """Of a dataset on a node, beside what has its home there. `paired`: those whose homes have them too; `loose`: those
    files of which this node is no block's home: only these give way to home bytes of their dataset; `gave_way`: so many
    did, all in all."""

    by_tier: Held = field(default_factory=lambda: [0.0] * TIERS)
    paired: float = 0.0
    loose: float = 0.0
    gave_way: float = 0.0

    @property
    def size(self) -> float:
        """All of them."""
        return self.by_tier[0] + self.by_tier[1]

    def shrink(self, share: float) -> None:
        """Only this share is left of what they were paired with."""
        self.paired *= share


@dataclass(frozen=True, slots=True)
class Disk:
    """What is on the disk of a node that is away, by dataset."""

    homes: dict[int, float] = field(default_factory=dict)
    copies: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    copies: dict[int, Copies] = field(default_factory=dict)
    read_at: dict[int, float] = field(default_factory=dict)


class Cache:
    """All nodes' caches. `dirty`: nodes whose content changed since somebody last took the set; `take_changed`: which
    datasets' on one."""

    def __init__(
        self,
        nodes: tuple[NodeSpec, ...],
        datasets: tuple[DatasetSpec, ...],
        workers: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """`workers`: the only homes of each dataset, by dataset, and nobody keeps copies (Fluid); empty: every node
        with a cache, or those the dataset names, are its homes, and keep copies of what they read."""
        self._rack = [node.rack for node in nodes]
        self._racks = np.array(self._rack, dtype=np.int64)
        self._nodes = [_Node() for _ in nodes]
        self._specs = datasets
        self._size = [dataset.size_bytes for dataset in datasets]
        self._capacity: FloatArray = np.array([[node.mem_bytes for node in nodes], [node.ssd_bytes for node in nodes]])
        self._used: FloatArray = np.zeros_like(self._capacity)
        self._on_ssd = self._capacity[1] > 0
        self._is_all_ssd = bool(self._on_ssd.all())
        self._keeps_copies = not workers
        count = int((self._capacity.sum(axis=0) > 0).sum())
        self._telling = np.full(len(nodes), bool(workers) or count * TOLD_PART <= 1.0)
        self._is_telling = bool(self._telling.any())
        self.homes = Homes(self._size, self._rack, self._home_shares(workers))
        self.holders: list[dict[int, float]] = [{} for _ in datasets]
        """Copies by dataset and node."""
        self._reading: list[dict[int, int]] = [{} for _ in datasets]  # node → jobs
        self._readers = [0] * len(datasets)  # all of them added
        self._read_at = [0.0] * len(datasets)
        self._loose_parts: list[dict[float, float]] = [{} for _ in datasets]  # by a home's share
        # How often anything here changed, and what `bringable` said when it had changed so often, by dataset.
        self._changes = 0
        self._bringable: dict[int, tuple[int, float]] = {}
        self.dirty: set[int] = set()
        self._changed: list[set[int]] = [set() for _ in nodes]
        for number in range(len(datasets)):
            self._place_residents(number)

    def _home_shares(self, workers: Sequence[tuple[int, ...]]) -> list[FloatArray]:
        everywhere = (self._capacity.sum(axis=0) > 0).astype(np.float64)
        if workers:
            return [_worker_shares(spec, where, everywhere) for spec, where in zip(self._specs, workers, strict=True)]
        return [_only(everywhere, spec.homes) if spec.homes else everywhere for spec in self._specs]

    def _place_residents(self, dataset: int) -> None:
        """What is on a node at the start is first of all what has its home there."""
        resident = self._specs[dataset].resident
        if not resident:
            return
        kept = np.zeros(len(self._nodes))
        for node, size in resident.items():
            kept[node] = min(size, self.homes.share(dataset, node), self._home_room(node))
        self._keep_homes(dataset, kept)
        for node, size in resident.items():
            elsewhere = self._size[dataset] - self.homes.share(dataset, node)
            others = self.homes.total[dataset] - self.homes.here(dataset, node)
            self._admit(node, dataset, size - kept[node], others / elsewhere if elsewhere > 0 else 0.0, 0.0)

    # ---- views ------------------------------------------------------------------------------

    def told(self, node: int, dataset: int) -> Held | None:
        """Bytes of a dataset by tier that a node tells of; None: it tells nothing of it."""
        at_home, tier = self.homes.here(dataset, node), self._home_tier(node)
        copies = self._nodes[node].copies.get(dataset)
        if copies is None and not (self._telling[node] and at_home):
            return None
        found = list(copies.by_tier) if copies is not None else [0.0] * TIERS
        found[tier] += at_home
        return found

    def held(self, node: int) -> dict[int, Held]:
        """The same of all datasets of which it tells."""
        listed = {*self._nodes[node].copies, *np.flatnonzero(self.homes.held[:, node]).tolist()}
        return {dataset: sizes for dataset in sorted(listed) if (sizes := self.told(node, dataset)) is not None}

    def take_changed(self, node: int) -> set[int]:
        """Datasets of which what a node tells may have changed since this was last asked."""
        changed, self._changed[node] = self._changed[node], set()
        return changed

    def copied(self, node: int) -> Collection[int]:
        """Datasets of which a node has copies."""
        return self._nodes[node].copies.keys()

    def copies(self, node: int, dataset: int) -> Copies:
        """A node's copies of a dataset; not to be changed."""
        return self._nodes[node].copies.get(dataset) or Copies()

    def gave_way(self, node: int, dataset: int) -> float:
        """How many of a node's copies of a dataset gave way to home bytes, all in all."""
        copies = self._nodes[node].copies.get(dataset)
        return copies.gave_way if copies is not None else 0.0

    def local(self, node: int, dataset: int) -> float:
        """Bytes of a dataset on a node."""
        return self.homes.here(dataset, node) + self.holders[dataset].get(node, 0.0)

    def absent(self, dataset: int) -> float:
        """Bytes of a dataset that its homes do not have: they come from the origin."""
        return self.homes.absent(dataset)

    def may_bring(self, dataset: int) -> bool:
        """Whether `bring` would do anything."""
        return self.homes.absent(dataset) > 0.0 and self.homes.lacking(dataset) > 0.5

    def is_absent(self, dataset: int) -> bool:
        """Whether there are any."""
        return self.homes.absent(dataset) > 1.0

    def capacity(self, node: int) -> Held:
        """Bytes by tier."""
        return [float(self._capacity[tier, node]) for tier in range(TIERS)]

    def used(self, node: int) -> Held:
        """Bytes taken by tier."""
        return [float(self._used[tier, node]) for tier in range(TIERS)]

    def gang(self, nodes: Collection[int]) -> Gang:
        """Nodes that are asked about together."""
        rows = np.array(list(nodes), dtype=np.int64)
        return Gang(tuple(nodes), rows, self._racks[rows], tuple(self._on_ssd[rows].tolist()))

    def readers(self, node: int, dataset: int) -> int:
        """Jobs that read a dataset on a node."""
        return self._reading[dataset].get(node, 0)

    def readers_everywhere(self, dataset: int) -> int:
        """Jobs that read a dataset, each counted once for every node it is on."""
        return self._readers[dataset]

    def is_read_beside(self, dataset: int, nodes: Collection[int]) -> bool:
        """Whether others read a dataset than one job on these nodes."""
        return self.readers_everywhere(dataset) > len(nodes)

    def start_reading(self, node: int, dataset: int, now: float) -> None:
        """A reader came: its dataset stays until it left."""
        reading = self._reading[dataset]
        self._changes += 1
        reading[node] = reading.get(node, 0) + 1
        self._readers[dataset] += 1
        self._nodes[node].read_at[dataset] = self._read_at[dataset] = now

    def stop_reading(self, node: int, dataset: int, now: float) -> None:
        """A reader left."""
        reading = self._reading[dataset]
        self._changes += 1
        reading[node] -= 1
        self._readers[dataset] -= 1
        if not reading[node]:
            del reading[node]
        self._nodes[node].read_at[dataset] = self._read_at[dataset] = now

    def shares(self, node: int, dataset: int, read: Read = NOTHING_YET) -> Shares:
        """Where the unread bytes of an epoch are, for a reader that read as much of it."""
        homes = self.homes
        copies = self._nodes[node].copies.get(dataset)
        mem, ssd, paired = NO_COPIES if copies is None else (*copies.by_tier, copies.paired)
        here = (
            homes.here(dataset, node),
            homes.part(dataset, node),
            homes.in_rack(dataset, self._rack[node]),
            bool(self._on_ssd[node]),
            mem,
            ssd,
            paired,
            read,
        )
        return shares_at(self._size[dataset], homes.total[dataset], here)

    def shares_of_gang(self, gang: Gang, dataset: int, reads: Sequence[Read]) -> list[Shares]:
        """The same of a job's nodes, in their order. Most are alike: what is alike is worked out once."""
        if len(reads) == 1:
            return [self.shares(gang.nodes[0], dataset, reads[0])]
        homes, size, nodes = self.homes, self._size[dataset], self._nodes
        total = homes.total[dataset]
        at_home = homes.held[dataset, gang.rows].tolist()
        parts = homes.parts(dataset)[gang.rows].tolist()
        in_racks = homes.in_racks(dataset)[gang.racks].tolist()
        known: dict[Here, Shares] = {}
        last: Here | None = None
        found: list[Shares] = []
        for index, node in enumerate(gang.nodes):
            copies = nodes[node].copies.get(dataset)
            mem, ssd, paired = NO_COPIES if copies is None else (*copies.by_tier, copies.paired)
            here = (at_home[index], parts[index], in_racks[index], gang.on_ssd[index], mem, ssd, paired, reads[index])
            if here == last:
                found.append(found[-1])
                continue
            last, at = here, known.get(here)
            if at is None:
                at = known[here] = shares_at(size, total, here)
            found.append(at)
        return found

    def near_part(self, node: int, dataset: int) -> float:
        """Of what a node finds at other homes: the part in its rack; 0.0 while they have nothing."""
        at_home = self.homes.here(dataset, node)
        in_rack = self.homes.in_rack(dataset, self._rack[node])
        return near_part(self.homes.total[dataset] - at_home, in_rack - at_home)

    # ---- what may come ----------------------------------------------------------------------

    def can_admit(self, node: int, dataset: int) -> bool:
        """Whether some more copies of a dataset would be kept."""
        if not self._keeps_copies or self._copies_missing(node, dataset) <= 1.0:
            return False
        return self._free(node) > 1.0 or any(self._idle_copies(node, dataset)) or any(self._idle_homes(node, dataset))

    def can_bring(self, dataset: int) -> bool:
        """Whether homes would keep some of what they lack."""
        return self.bringable(dataset) > 1.0

    def bringable(self, dataset: int) -> float:
        """How much homes would keep of what they lack, about."""
        absent = self.homes.absent(dataset)
        if absent <= 1.0:
            return 0.0
        known = self._bringable.get(dataset)
        if known is None or known[0] != self._changes:
            known = self._bringable[dataset] = self._changes, self._would_keep(dataset, absent)
        return known[1]

    def _would_keep(self, dataset: int, absent: float) -> float:
        lacking, room = self.homes.missing(dataset), self._home_rooms()
        fits = float(np.minimum(lacking, room).sum())
        if fits >= absent - 1.0:
            return fits
        for node in self.holders[dataset]:
            loose = self._nodes[node].copies[dataset].loose
            fits += max(0.0, min(float(lacking[node] - room[node]), loose))
        if any(
            other != dataset and not self._reading[other] and (self.holders[other] or self.homes.total[other] > 1.0)
            for other in range(len(self._size))
        ):
            return absent
        return fits

    # ---- what comes -------------------------------------------------------------------------

    def bring(self, dataset: int, size_bytes: float, now: float, *, beside: float = 0.0) -> float:
        """The origin sent `size_bytes` that homes did not have: each keeps its share of them; returns what was kept.
        `beside`: what a reader wants copied meanwhile, as all others do."""
        whole = self.homes.lacking(dataset)
        if whole <= 0.5 or size_bytes <= 0.0:
            return 0.0
        lacking = self.homes.missing(dataset)
        coming = lacking * min(1.0, size_bytes / whole)
        room = self._home_rooms()
        kept: FloatArray = np.minimum(coming, room)
        readers = len(self._reading[dataset])
        for node in np.flatnonzero(coming > room).tolist():
            wanted, reads = float(coming[node]), node in self._reading[dataset]
            rivals = beside / readers if reads and readers else 0.0
            kept[node] = min(wanted, self._make_home_room(node, dataset, wanted, rivals))
        return self._keep_homes(dataset, kept)

    def _keep_homes(self, dataset: int, kept: FloatArray) -> float:
        absent, more = self.homes.absent(dataset), float(kept.sum())
        if more <= 0.0:
            return 0.0
        self.homes.keep(dataset, kept)
        if self._is_all_ssd:
            self._used[1] += kept
        else:
            self._used[1] += np.where(self._on_ssd, kept, 0.0)
            self._used[0] += np.where(self._on_ssd, 0.0, kept)
        self._changes += 1
        holders = self.holders[dataset]
        if holders:
            self._pair(dataset, absent, more)
            nodes = np.fromiter(holders, dtype=np.int64, count=len(holders))
            gained = kept[nodes] > 0.0
            # A node has a block once: copies of what is now its own share were fetched before others went.
            twice = (
                self.homes.held[dataset, nodes] + np.fromiter(holders.values(), dtype=np.float64) - self._size[dataset]
            )
            for index in np.flatnonzero(gained & (twice > 0.0)).tolist():
                self._cut_copies(int(nodes[index]), dataset, float(twice[index]))
            for node in nodes[gained].tolist():
                self._touch(node, dataset)
        if self._is_telling:
            for node in np.flatnonzero((kept > 0.0) & self._telling).tolist():
                self._touch(node, dataset)
        return more

    def _keep_home(self, dataset: int, node: int, size_bytes: float) -> None:
        """`_keep_homes` of one home."""
        if size_bytes <= 0.0:
            return
        absent = self.homes.absent(dataset)
        self.homes.keep_one(dataset, node, size_bytes)
        self._used[self._home_tier(node), node] += size_bytes
        self._pair(dataset, absent, size_bytes)
        twice = self.local(node, dataset) - self._size[dataset]
        is_holder = node in self.holders[dataset]
        if is_holder and twice > 0.0:
            self._cut_copies(node, dataset, twice)
        if is_holder or self._telling[node]:
            self._touch(node, dataset)
        self._changes += 1

    def _pair(self, dataset: int, absent: float, more: float) -> None:
        """Of copies whose homes lacked them, as many have a pair now as of all that homes lacked."""
        share = min(1.0, more / max(absent, more))
        for node in self.holders[dataset]:
            copies = self._nodes[node].copies[dataset]
            copies.paired += (copies.size - copies.paired) * share

    def _touch(self, node: int, dataset: int) -> None:
        self._changes += 1
        self.dirty.add(node)
        self._changed[node].add(dataset)

    def admit(self, node: int, dataset: int, size_bytes: float, paired: float, now: float) -> float:
        """Keep up to `size_bytes` more copies, of which the part `paired` is at its homes too; return what was kept."""
        return self._admit(node, dataset, size_bytes, paired, now) if self._keeps_copies else 0.0

    def _admit(self, node: int, dataset: int, size_bytes: float, paired: float, now: float) -> float:
        missing = self._copies_missing(node, dataset)
        wanted = missing if missing < size_bytes else size_bytes
        if wanted <= 0:
            return 0.0
        if self._free(node) < wanted:
            self._make_room(node, dataset, wanted)
        kept, at = 0.0, self._nodes[node]
        copies = at.copies.get(dataset) or Copies()
        for tier in range(TIERS):
            room = float(self._capacity[tier, node] - self._used[tier, node])
            part = room if room < wanted - kept else wanted - kept
            if part > 0:
                copies.by_tier[tier] += part
                self._used[tier, node] += part
                kept += part
        if kept > 0:
            at.copies[dataset] = copies
            copies.paired += kept * (paired if paired < 1.0 else 1.0)
            copies.loose += kept * self._loose_part(node, dataset)
            at.read_at[dataset] = now
            self.holders[dataset][node] = copies.by_tier[0] + copies.by_tier[1]
            self._touch(node, dataset)
        return kept

    def _copies_missing(self, node: int, dataset: int) -> float:
        """Bytes of others' shares that a node has no copies of and may have."""
        spec = self._specs[dataset]
        if spec.homes and node not in spec.homes:
            return 0.0
        share, here = self.homes.share(dataset, node), float(self.homes.held[dataset, node])
        missing = spec.size_bytes - (share if share > here else here) - self.holders[dataset].get(node, 0.0)
        return missing if missing > 0.0 else 0.0

    def _loose_part(self, node: int, dataset: int) -> float:
        """Of copies: those in files of which none of the other blocks has its home here either."""
        part = self.homes.part(dataset, node)
        known = self._loose_parts[dataset]
        found = known.get(part)
        if found is None:
            if len(known) > MAX_PARTS:
                known.clear()
            spec = self._specs[dataset]
            blocks = max(1.0, spec.file_bytes / spec.block_bytes)
            found = known[part] = float((1.0 - part) ** (blocks - 1.0))
        return found

    # ---- nodes that go and come -------------------------------------------------------------

    def take_away(self, node: int) -> Disk:
        """A node's worker is gone and serves nothing; returns what is on its disk."""
        at, tier = self._nodes[node], self._home_tier(node)
        disk = Disk(copies={number: one.by_tier[1] for number, one in sorted(at.copies.items()) if one.by_tier[1] > 0})
        for dataset in list(at.copies):
            self._drop_copies(node, dataset)
        for dataset in np.flatnonzero(self.homes.held[:, node]).tolist():
            gone = self._drop_home(node, dataset, float("inf"))
            if tier == 1:
                disk.homes[dataset] = gone
        self._used[:, node] = 0.0
        self.homes.set_up(node, is_up=False)
        self._changes += 1
        return disk

    def bring_back(self, node: int, disk: Disk, now: float) -> None:
        """A node's worker is there again with what was on its disk. What others fetched meanwhile for its share counts
        once."""
        self.homes.set_up(node, is_up=True)
        self._changes += 1
        for dataset, size in disk.homes.items():
            back = min(size, self.homes.absent(dataset), self.homes.share(dataset, node), self._home_room(node))
            self._keep_home(dataset, node, back)
        memory = float(self._capacity[0, node])
        self._capacity[0, node] = 0.0
        for dataset, size in disk.copies.items():
            # Overlap with what is at homes is taken as random.
            self._admit(node, dataset, size, self.homes.total[dataset] / self._size[dataset], now)
        self._capacity[0, node] = memory

    # ---- room -------------------------------------------------------------------------------

    def _home_tier(self, node: int) -> int:
        return 1 if self._on_ssd[node] else 0

    def _home_rooms(self) -> FloatArray:
        if self._is_all_ssd:
            return np.asarray(np.maximum(self._capacity[1] - self._used[1], 0.0))
        free = self._capacity - self._used
        rooms: FloatArray = np.maximum(np.where(self._on_ssd, free[1], free[0]), 0.0)
        return rooms

    def _home_room(self, node: int) -> float:
        tier = self._home_tier(node)
        return max(0.0, float(self._capacity[tier, node] - self._used[tier, node]))

    def _free(self, node: int) -> float:
        capacity, used = self._capacity, self._used
        return float(capacity[0, node] - used[0, node] + capacity[1, node] - used[1, node])

    def _idle_copies(self, node: int, dataset: int) -> Iterable[int]:
        return (other for other in self._nodes[node].copies if other != dataset and node not in self._reading[other])

    def _idle_homes(self, node: int, dataset: int) -> list[int]:
        held = np.flatnonzero(self.homes.held[:, node]).tolist()
        return [other for other in held if other != dataset and not self._reading[other]]

    def _make_room(self, node: int, dataset: int, wanted: float) -> None:
        while self._free(node) < wanted:
            at = self._nodes[node]
            idle = list(self._idle_copies(node, dataset))
            if not idle:
                self._drop_idle_homes(node, dataset, wanted - self._free(node))
                return
            self._drop_copies(node, min(idle, key=lambda other: (at.read_at.get(other, 0.0), other)))

    def _make_home_room(self, node: int, dataset: int, wanted: float, rivals: float) -> float:
        """Room for bytes at their home, as far as there can be; returns it."""
        at, tier = self._nodes[node], self._home_tier(node)
        while self._home_room(node) < wanted:
            idle = [other for other in self._idle_copies(node, dataset) if at.copies[other].by_tier[tier] > 0]
            if not idle:
                break
            self._drop_copies(node, min(idle, key=lambda other: (at.read_at.get(other, 0.0), other)))
        if self._home_room(node) < wanted:
            self._displace(node, dataset, wanted - self._home_room(node), rivals)
        if self._home_room(node) < wanted:
            self._drop_idle_homes(node, dataset, wanted - self._home_room(node))
        return self._home_room(node)

    def _displace(self, node: int, dataset: int, wanted: float, rivals: float) -> None:
        """Copies of the same dataset give way to bytes at their home. Whole files go, and some at a time, so that more
        room comes free than was wanted, and who comes first takes it: home bytes, or `rivals`, copies for the node's
        own reader, which are no gain and less loose than those that went."""
        copies = self._nodes[node].copies.get(dataset)
        if copies is None or copies.loose <= 0.0:
            return
        spec, tier = self._specs[dataset], self._home_tier(node)
        at_once = max(spec.block_bytes, spec.file_bytes, float(self._capacity[tier, node]) * EVICT_PERCENT / 100)
        ours = wanted / (wanted + rivals)
        each = at_once / (spec.block_bytes + (at_once - spec.block_bytes) * ours)
        # Of what goes, as much is in the homes' tier as of all.
        there = copies.by_tier[tier] / copies.size
        gone = min(wanted * each / max(there, 1e-9), copies.loose)
        placed = gone / each
        loose = copies.loose - gone + (gone - placed) * self._loose_part(node, dataset)
        self._cut_copies(node, dataset, placed)
        copies.loose = min(copies.size, max(0.0, loose))
        copies.gave_way += placed

    def _cut_copies(self, node: int, dataset: int, size_bytes: float) -> None:
        copies = self._nodes[node].copies[dataset]
        left = max(0.0, 1.0 - size_bytes / copies.size)
        for tier in range(TIERS):
            gone = copies.by_tier[tier] * (1.0 - left)
            copies.by_tier[tier] -= gone
            self._used[tier, node] = max(0.0, float(self._used[tier, node]) - gone)
        copies.paired *= left
        copies.loose *= left
        self.holders[dataset][node] = copies.size
        self._touch(node, dataset)

    def _drop_copies(self, node: int, dataset: int) -> None:
        gone = self._nodes[node].copies.pop(dataset)
        for tier in range(TIERS):
            self._used[tier, node] = max(0.0, float(self._used[tier, node]) - gone.by_tier[tier])
        del self.holders[dataset][node]
        self._touch(node, dataset)

    def _drop_home(self, node: int, dataset: int, size_bytes: float) -> float:
        before, tier = self.homes.total[dataset], self._home_tier(node)
        gone = self.homes.lose(dataset, node, size_bytes)
        self._used[tier, node] = max(0.0, float(self._used[tier, node]) - gone)
        left = max(0.0, 1.0 - gone / before) if before > 0 else 0.0
        for holder in self.holders[dataset]:
            self._nodes[holder].copies[dataset].shrink(left)
        self._touch(node, dataset)
        return gone

    def _drop_idle_homes(self, node: int, dataset: int, wanted: float) -> None:
        for other in sorted(self._idle_homes(node, dataset), key=lambda number: (self._read_at[number], number)):
            if wanted <= 0.0:
                return
            wanted -= self._drop_home(node, other, wanted)


def _only(nodes: FloatArray, homes: tuple[int, ...]) -> FloatArray:
    found = np.zeros(len(nodes))
    found[list(homes)] = nodes[list(homes)]
    return found


def _worker_shares(spec: DatasetSpec, workers: tuple[int, ...], nodes: FloatArray) -> FloatArray:
    """A master knows where every block is: what is there at the start stays where it is, whole where it is whole; what
    comes is spread equally."""
    found = np.zeros(len(nodes))
    left = spec.size_bytes
    for node, size in sorted(spec.resident.items(), key=lambda item: (-item[1], item[0])):
        found[node] = min(size, left)
        left -= found[node]
    if workers:
        found[list(workers)] += left / len(workers)
    return found
