"""A running job: segments of reading and computing, f = min(f*, b / (1 - c/d)) in each.

Owns what a segment is, what it uses of the links, and what it leaves in the caches. Does not know time or other
jobs. While caches can still grow an epoch is cut in parts, so that readers see what others brought, and is cut anew
when one comes who may bring something (`gains`); when nothing changes any more a segment covers half of the epochs
left. Compute and reading overlap: a segment takes the longer of the two. A restart first reads the checkpoint,
computing nothing.

A block is fetched by its home, once (single flight): what homes lacked at a segment's start and another reader made
them fetch before its end counts as a peer's, or as local where the home is the reader's own node; so does what another
reader wants at the same moment (`in_flight_bytes`), kept or not. The links a segment uses are planned with what the
others are going to bring meanwhile: n readers that begin cold take what the origin needs to send everything once, not
n times that.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from simulations.engine.cache import NOTHING_YET, Cache, Read, Shares
from simulations.engine.driver import Attempt
from simulations.engine.model import JobSpec, World
from simulations.engine.network import NOTHING, Links, Usage, usage

HARDLY_ANY = 1e-5
"""Of what a reader reads next: so little from afar changes nothing that is worth a segment of its own, as when one of
many homes goes."""
PARTS, PARTS_ALONE, PARTS_COLD = 4, 2, 16
"""Parts of an epoch while caches fill: with other readers of the dataset on one of the nodes, without, and with readers
anywhere while homes lack a part of it."""


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
        return any(at.remote > HARDLY_ANY for at in self.shares.values())


@dataclass(slots=True)
class Running:
    """A started attempt. `done` and `goal` are in units; `read`: by node, in this training epoch; `gave_way`: by node,
    what was last seen of Copies.gave_way."""

    attempt: Attempt
    slot: int
    started: float
    pods_on: dict[int, int]
    done: float
    goal: float
    restore_from: dict[int, float] = field(default_factory=dict)
    restore_bytes: float = 0.0
    read: dict[int, Read] = field(default_factory=dict)
    gave_way: dict[int, float] = field(default_factory=dict)
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

    def __init__(self, world: World, links: Links, cache: Cache) -> None:
        self._world, self._links, self._cache = world, links, cache
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
        shares = {node: self._cache.shares(node, spec.dataset, self._read_so_far(job, node)) for node in job.pods_on}
        is_all_local = all(item.remote <= HARDLY_ANY for item in shares.values())
        if is_all_local:
            units = left
        elif into > 0.0 or self._fills(job, spec.dataset):
            units = min(left, size - into, size / self._parts(job, spec.dataset))
        else:
            units = min(left, size * max(1.0, round(left / size / 2)))
        return self._segment(job, shares, units)

    def _read_so_far(self, job: Running, node: int) -> Read:
        """`read` of a node. Of copies that gave way to home bytes meanwhile those not used for longest went first: in a
        job's first epoch they were read in it, later in the one before."""
        dataset = job.spec.dataset
        assert dataset is not None
        read, gone = job.read.get(node, NOTHING_YET), self._cache.copies(node, dataset).gave_way
        more = gone - job.gave_way.get(node, gone)
        job.gave_way[node] = gone
        if more > 0 and job.done < self._world.datasets[dataset].size_bytes:
            more = min(more, read.size - read.passed)
            read = job.read[node] = Read(read.size, read.passed + more, read.found + more)
        return read

    def _fills(self, job: Running, dataset: int) -> bool:
        return self._cache.can_bring(dataset) or any(self._cache.can_admit(node, dataset) for node in job.pods_on)

    def gains(self, job: Running, nodes: Collection[int]) -> bool:
        """Whether readers that come to these nodes may bring what a running job's segment was to fetch."""
        dataset = job.spec.dataset
        if dataset is None or job.segment is None or not job.segment.is_fetching:
            return False
        if self._cache.can_bring(dataset):
            return True
        return any(node in nodes and self._cache.can_admit(node, dataset) for node in job.pods_on)

    def _parts(self, job: Running, dataset: int) -> int:
        cache = self._cache
        if cache.is_absent(dataset) and cache.is_read_beside(dataset, job.pods_on):
            return PARTS_COLD
        return PARTS if any(cache.readers(node, dataset) > 1 for node in job.pods_on) else PARTS_ALONE

    def _in_flight(self, job: Running, dataset: int) -> float:
        """The share of what a job makes homes fetch that another one has made them fetch at that moment."""
        others = self._cache.readers_everywhere(dataset) - len(job.pods_on)
        window = self._world.in_flight_bytes / self._world.datasets[dataset].size_bytes
        return 1.0 - (1.0 - min(1.0, window)) ** others if others > 0 and window > 0 else 0.0

    def _meanwhile(self, job: Running, shares: dict[int, Shares], units: float) -> dict[int, Shares]:
        """Where a job's bytes are in the mean of a segment: others bring some of what is missing at its start."""
        dataset = job.spec.dataset
        assert dataset is not None
        if all(at.remote <= HARDLY_ANY for at in shares.values()):
            return shares
        cache, size = self._cache, self._world.datasets[dataset].size_bytes
        # Pods of one job share an epoch: they do not bring each other what they want.
        fits = cache.bringable(dataset)
        others = cache.readers_everywhere(dataset) - (len(job.pods_on) - 1)
        alone = 1.0 - self._in_flight(job, dataset)
        found: dict[int, Shares] = {}
        for node, pods in job.pods_on.items():
            at, unread = shares[node], size - job.read.get(node, NOTHING_YET).size
            part = min(1.0, units * pods / job.spec.pods / unread) if unread > 0 else 1.0
            here = cache.readers(node, dataset) if cache.can_admit(node, dataset) else 1
            copied = _still_missing(here, part)
            # Of what all of them want of the origin, homes keep what fits; others have no more than is on its way.
            wanted = cache.absent(dataset) * (1.0 - (1.0 - part) ** others)
            stays = min(1.0, fits / wanted) if wanted > 1.0 else 1.0
            brought = stays * _still_missing(others, part) + (1.0 - stays) * alone
            own = at.own * min(copied, brought)
            origin = (at.origin - at.own) * min(copied, brought) + own
            remote = (at.remote - at.own) * copied + own
            peers, known = remote - origin, at.near + at.far
            near = peers * (at.near / known if known > 0 else cache.near_part(node, dataset))
            found[node] = Shares(at.mem + at.remote - remote, at.ssd, near, peers - near, origin, own)
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
        read = self._read_so_far(job, node)
        if missing <= 0:
            job.read[node] = Read(read.size + size, read.passed, read.found)
            return Bytes(local=size)
        after = cache.shares(node, dataset, read)
        fetched = missing * min(1.0, after.remote / then.remote)
        at = after if after.remote > 0 else then
        near, far, origin, own = (fetched * part / at.remote for part in (at.near, at.far, at.origin, at.own))
        foreign = fetched - own
        before = cache.homes.here(dataset, node)
        # What several nodes fetched from the origin at once is new only once.
        brought = cache.bring(dataset, min(origin, cache.absent(dataset)), now, beside=foreign)
        mine = min(own, cache.homes.here(dataset, node) - before)
        kept = brought / origin if origin > 0 else 0.0
        paired = (near + far + (origin - own) * kept) / max(1.0, foreign)
        copied = cache.admit(node, dataset, foreign, paired, now)
        passed = max(0.0, fetched - mine - copied)
        found = min(passed, paired * (foreign - copied))
        job.read[node] = Read(read.size + size, read.passed + passed, read.found + found)
        # What no home keeps, another reader may want at the same moment.
        joined = (origin - brought) * self._in_flight(job, dataset)
        others = joined * (origin - own) / origin if origin > 0 else 0.0
        close = others * cache.near_part(node, dataset)
        return Bytes(size - fetched + joined - others, near + close, far + others - close, origin - joined)


def _still_missing(readers: int, part: float) -> float:
    """Of bytes that `readers` all miss, and of which each reads `part` in an order of its own, finding what the others
    brought: the share that is still missing when one of them comes to it, in the mean."""
    return (1.0 - (1.0 - part) ** readers) / (readers * part) if readers > 1 and part > 1e-9 else 1.0


def _add(uses: dict[int, float], resource: int, share: float) -> None:
    uses[resource] = uses.get(resource, 0.0) + share
