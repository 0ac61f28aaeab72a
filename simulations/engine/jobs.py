"""A running job: segments of reading and computing, f = min(f*, b / (1 - c/d)) in each.

Owns what a segment is, what it uses of the links, and what it leaves in the caches. Does not know time or other
jobs. While a node's cache can still grow an epoch is cut in parts, so that readers see what others brought, and is
cut anew when one comes who may bring something (`gains`); when nothing changes any more a segment covers half of the
epochs left. Compute and reading overlap: a segment takes the longer of the two. A restart first reads the checkpoint,
computing nothing.

With fixed workers only these keep blocks, each an equal share, and what a reader fetches stays there.

A block is fetched once (single flight): what was missing at a segment's start and came by another reader before its
end counts as local, or as a peer's where it came to another node. The links a segment uses are planned with what the
others are going to bring meanwhile: n readers that begin cold take what the origin needs to send everything once, not
n times that.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from simulations.engine.cache import Cache, Shares
from simulations.engine.driver import Attempt
from simulations.engine.model import JobSpec, World
from simulations.engine.network import NOTHING, Links, Usage, usage

PARTS, PARTS_ALONE, PARTS_COLD, PARTS_CROWDED = 4, 2, 8, 32
"""Parts of an epoch while caches fill: with other readers of the dataset on one of the nodes, without, with readers
anywhere while a part of it is nowhere, and where few have what many read, so that those who read serve the others soon,
as they do block by block."""


@dataclass(slots=True)
class Bytes:
    """Bytes by source."""

    local: float = 0.0
    near: float = 0.0
    far: float = 0.0
    origin: float = 0.0

    def add(self, other: "Bytes") -> None:
        """Count another's too."""
        self.local += other.local
        self.near += other.near
        self.far += other.far
        self.origin += other.origin


@dataclass(slots=True)
class Segment:
    """What a job does until something changes. `units`: bytes, or seconds of compute without data; `shares` at its
    start, by node."""

    is_restore: bool
    units: float
    cap: float
    growth: float
    use: Usage
    shares: dict[int, Shares] = field(default_factory=dict)

    @property
    def is_fetching(self) -> bool:
        """Whether it reads bytes of its dataset that were not on the reader's node."""
        return any(at.remote > 1e-9 for at in self.shares.values())


@dataclass(slots=True)
class Running:
    """A started attempt. `done` and `goal` are in units; `read`: by node, bytes read in this
    training epoch, and of those the ones that came from afar and were not kept."""

    attempt: Attempt
    slot: int
    started: float
    pods_on: dict[int, int]
    done: float
    goal: float
    restore_from: dict[int, float] = field(default_factory=dict)
    restore_bytes: float = 0.0
    read: dict[int, tuple[float, float]] = field(default_factory=dict)
    segment: Segment | None = None
    segment_started: float = 0.0

    @property
    def spec(self) -> JobSpec:
        """Its job."""
        return self.attempt.spec


def goal_units(spec: JobSpec, world: World) -> float:
    """All the units of a job: bytes of all its epochs, or seconds."""
    if spec.dataset is None:
        return spec.compute_seconds
    return spec.epochs * world.datasets[spec.dataset].size_bytes


def full_speed(spec: JobSpec, world: World) -> float:
    """f*: units a second when nothing is waited for."""
    return goal_units(spec, world) / spec.compute_seconds


def pods_by_node(attempt: Attempt) -> dict[int, int]:
    """How many pods are on each node."""
    return dict(sorted(Counter(attempt.node_of.values()).items()))


class Reading:
    """Makes segments and settles them."""

    def __init__(self, world: World, links: Links, cache: Cache, workers: Sequence[tuple[int, ...]] = ()) -> None:
        """`workers`: the only nodes that keep a dataset, by dataset; empty: readers' nodes keep what they read."""
        self._world, self._links, self._cache, self._workers = world, links, cache, workers
        self._rack = [node.rack for node in world.nodes]

    def next_segment(self, job: Running) -> Segment:
        """What the job does next; it has something left."""
        spec = job.spec
        if job.restore_bytes > 0:
            return self._restore(job)
        left = job.goal - job.done
        if spec.dataset is None:
            return Segment(False, left, 1.0, 1.0, NOTHING)
        size = self._world.datasets[spec.dataset].size_bytes
        into = job.done % size
        if into < 1.0 or size - into < 1.0:
            into = 0.0
        if into == 0.0:
            job.read.clear()
        shares = {node: self._cache.shares(node, spec.dataset, *job.read.get(node, (0.0, 0.0))) for node in job.pods_on}
        keepers = self._workers[spec.dataset] if self._workers else tuple(job.pods_on)
        fills = any(self._cache.can_admit(node, spec.dataset) for node in keepers)
        is_all_local = all(item.remote <= 1e-9 for item in shares.values())
        if is_all_local:
            units = left
        elif fills or into > 0.0:
            units = min(left, size - into, size / self._parts(job, spec.dataset))
        else:
            units = min(left, size * max(1.0, round(left / size / 2)))
        return self._segment(job, shares, units)

    def gains(self, job: Running, nodes: Collection[int]) -> bool:
        """Whether readers that come to these nodes may bring what a running job's segment was to fetch."""
        dataset = job.spec.dataset
        if dataset is None or job.segment is None or not job.segment.is_fetching:
            return False
        keepers = self._workers[dataset] if self._workers else nodes
        if not any(self._cache.can_admit(node, dataset) for node in keepers):
            return False
        return self._cache.is_absent(dataset) or (not self._workers and any(node in nodes for node in job.pods_on))

    def _parts(self, job: Running, dataset: int) -> int:
        cache = self._cache
        if cache.is_crowded(dataset):
            return PARTS_CROWDED
        if cache.is_absent(dataset) and cache.is_read_beside(dataset, job.pods_on):
            return PARTS_COLD
        return PARTS if any(cache.readers(node, dataset) > 1 for node in job.pods_on) else PARTS_ALONE

    def _meanwhile(self, job: Running, shares: dict[int, Shares], units: float) -> dict[int, Shares]:
        """Where a job's bytes are in the mean of a segment: others bring some of what is missing at its start."""
        dataset = job.spec.dataset
        assert dataset is not None
        if all(at.remote <= 1e-9 for at in shares.values()):
            return shares
        size, workers = self._world.datasets[dataset].size_bytes, self._workers[dataset] if self._workers else ()
        # Pods of one job share an epoch: they do not bring each other what they want.
        everywhere = self._cache.bringers(dataset, workers) - (len(job.pods_on) - 1)
        found: dict[int, Shares] = {}
        for node, pods in job.pods_on.items():
            at, unread = shares[node], size - job.read.get(node, (0.0, 0.0))[0]
            part = min(1.0, units * pods / job.spec.pods / unread) if unread > 0 else 1.0
            keeps = self._cache.can_admit(node, dataset) and (not workers or node in workers)
            here = self._cache.readers(node, dataset) if keeps else 1
            remote = at.remote * _still_missing(here, part)
            origin = min(remote, at.origin * _still_missing(max(here, everywhere), part))
            peers, known = remote - origin, at.near + at.far
            near = peers * at.near / known if known > 0 else 0.0
            found[node] = Shares(at.mem + at.remote - remote, at.ssd, near, peers - near, origin)
        return found

    def _segment(self, job: Running, shares: dict[int, Shares], units: float) -> Segment:
        spec, links, speeds = job.spec, self._links, self._world.speeds
        assert spec.dataset is not None
        uses: dict[int, float] = {}
        cap = full_speed(spec, self._world)
        worst = 0.0
        meanwhile = self._meanwhile(job, shares, units)
        for node, pods in job.pods_on.items():
            part, at = pods / spec.pods, meanwhile[node]
            _add(uses, node, part * at.remote)
            _add(uses, links.uplink(self._rack[node]), part * (at.far + at.origin))
            _add(uses, links.origin, part * at.origin)
            _add(uses, links.disk(node), part * at.ssd)
            _add(uses, links.peers(spec.dataset), part * (at.near + at.far))
            worst = max(worst, at.remote)
            if at.mem > 0:
                cap = min(cap, speeds.mem / (part * at.mem))
            # The most one pod's stream gets, whatever is free.
            if at.near + at.far > 1e-9:
                cap = min(cap, speeds.peer_stream * spec.pods / (at.near + at.far))
            if at.origin > 1e-9:
                cap = min(cap, speeds.origin_stream * spec.pods / at.origin)
        return Segment(False, units, cap, spec.pods / max(worst, 1e-6), usage(uses), shares)

    def _restore(self, job: Running) -> Segment:
        spec, links, speeds = job.spec, self._links, self._world.speeds
        uses: dict[int, float] = {}
        cap = float("inf")
        for node, pods in job.pods_on.items():
            part = pods / spec.pods
            if node in job.restore_from:
                _add(uses, links.disk(node), part)
                cap = min(cap, speeds.ssd * spec.pods)
                continue
            _add(uses, node, part)
            _add(uses, links.uplink(self._rack[node]), part)
            if not job.restore_from:
                _add(uses, links.origin, part)
            stream = speeds.peer_stream if job.restore_from else speeds.origin_stream
            cap = min(cap, min(stream, speeds.nic) * spec.pods)
        return Segment(True, job.restore_bytes, cap, spec.pods, usage(uses))

    def settle(self, job: Running, units: float, now: float) -> Bytes:
        """`units` of the segment were done: advance the job, fill caches; returns what came from where."""
        segment, spec = job.segment, job.spec
        assert segment is not None
        total = Bytes()
        if segment.is_restore:
            job.restore_bytes = max(0.0, job.restore_bytes - units)
            if job.restore_bytes < 1.0:
                job.restore_bytes = 0.0
            for node, pods in job.pods_on.items():
                part = units * pods / spec.pods
                if node in job.restore_from:
                    total.local += part
                elif job.restore_from:
                    total.far += part
                else:
                    total.origin += part
            return total
        job.done = job.goal if job.goal - job.done - units < 1e-6 * job.goal else job.done + units
        if spec.dataset is not None:
            for node, pods in job.pods_on.items():
                total.add(self._read(job, node, units * pods / spec.pods, segment.shares[node], now))
        return total

    def _read(self, job: Running, node: int, size: float, then: Shares, now: float) -> Bytes:
        dataset, cache = job.spec.dataset, self._cache
        assert dataset is not None
        missing = size * then.remote
        read, passed = job.read.get(node, (0.0, 0.0))
        if missing <= 0:
            job.read[node] = (read + size, passed)
            return Bytes(local=size)
        after = cache.shares(node, dataset, read, passed)
        fetched = missing * min(1.0, after.remote / then.remote)
        # Blocks have one home, where a fill is single flight: what others brought from the origin meanwhile came from
        # a peer.
        at = after if after.remote > 0 else then
        near, far, origin = (fetched * part / at.remote for part in (at.near, at.far, at.origin))
        came = Bytes(size - fetched, near, far, origin)
        # What several nodes fetched from the origin at once is new only once.
        new = came.origin * min(1.0, self._absent(dataset) / max(1.0, came.origin)) if came.origin > 0 else 0.0
        if self._workers:
            before = cache.local(node, dataset)
            self._keep_on_workers(dataset, new, now)
            kept = cache.local(node, dataset) - before
            job.read[node] = (read + size, passed + max(0.0, fetched - kept))
            return came
        kept = cache.admit(node, dataset, fetched, new, now) if fetched > 0 else 0.0
        job.read[node] = (read + size, passed + fetched - kept)
        return came

    def _keep_on_workers(self, dataset: int, new: float, now: float) -> None:
        """Blocks have their homes on the workers, equally many on each; they are there once."""
        workers = self._workers[dataset]
        for worker in workers if new > 0 else ():
            self._cache.admit(worker, dataset, new / len(workers), new / len(workers), now)

    def _absent(self, dataset: int) -> float:
        return max(0.0, self._world.datasets[dataset].size_bytes - self._cache.distinct(dataset))


def _still_missing(readers: int, part: float) -> float:
    """Of bytes that `readers` all miss, and of which each reads `part` in an order of its own, finding what the others
    brought: the share that is still missing when one of them comes to it, in the mean."""
    return (1.0 - (1.0 - part) ** readers) / (readers * part) if readers > 1 and part > 1e-9 else 1.0


def _add(uses: dict[int, float], resource: int, share: float) -> None:
    uses[resource] = uses.get(resource, 0.0) + share
