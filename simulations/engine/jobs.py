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
from typing import NamedTuple

from simulations.engine.cache import Cache, Gang
from simulations.engine.driver import Attempt
from simulations.engine.model import JobSpec, World
from simulations.engine.network import NOTHING, Links, Usage, usage
from simulations.engine.shares import NOTHING_YET, Read, Shares

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
    what was last seen of Copies.gave_way; `gang`: its nodes as the cache has them."""

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
    gang: Gang | None = None
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
        shares = self._shares(job, spec.dataset)
        is_all_local = all(at.remote <= HARDLY_ANY for at in _kinds(shares))
        if is_all_local:
            units = left
        elif into > 0.0 or self._fills(job, spec.dataset):
            units = min(left, size - into, size / self._parts(job, spec.dataset))
        else:
            units = min(left, size * max(1.0, round(left / size / 2)))
        return self._segment(job, shares, units)

    def _shares(self, job: Running, dataset: int) -> dict[int, Shares]:
        """Where what a job reads next is, by node."""
        gang = job.gang
        if gang is None:
            gang = job.gang = self._cache.gang(job.pods_on)
        reads = [self._read_so_far(job, node) for node in gang.nodes]
        return dict(zip(gang.nodes, self._cache.shares_of_gang(gang, dataset, reads), strict=True))

    def _read_so_far(self, job: Running, node: int) -> Read:
        """`read` of a node. Of copies that gave way to home bytes meanwhile those not used for longest went first: in a
        job's first epoch they were read in it, later in the one before."""
        dataset = job.spec.dataset
        assert dataset is not None
        read, gone = job.read.get(node, NOTHING_YET), self._cache.gave_way(node, dataset)
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
        if all(at.remote <= HARDLY_ANY for at in _kinds(shares)):
            return shares
        cache, size = self._cache, self._world.datasets[dataset].size_bytes
        # Pods of one job share an epoch: they do not bring each other what they want.
        fits = cache.bringable(dataset)
        others = cache.readers_everywhere(dataset) - (len(job.pods_on) - 1)
        alone = 1.0 - self._in_flight(job, dataset)
        absent = cache.absent(dataset)
        found: dict[int, Shares] = {}
        known: dict[tuple[int, float, int, int], Shares] = {}
        for node, pods in job.pods_on.items():
            at, read = shares[node], job.read.get(node, NOTHING_YET).size
            here = cache.readers(node, dataset)
            if here > 1 and not cache.can_admit(node, dataset):
                here = 1
            # Most nodes are alike, and those have one object.
            key = (id(at), read, pods, here)
            then = known.get(key)
            if then is None:
                unread = size - read
                part = min(1.0, units * pods / job.spec.pods / unread) if unread > 0 else 1.0
                copied = _still_missing(here, part)
                # Of what all of them want of the origin, homes keep what fits; others have no more than is on its way.
                wanted = absent * (1.0 - (1.0 - part) ** others)
                stays = min(1.0, fits / wanted) if wanted > 1.0 else 1.0
                brought = stays * _still_missing(others, part) + (1.0 - stays) * alone
                own = at.own * min(copied, brought)
                origin = (at.origin - at.own) * min(copied, brought) + own
                remote = (at.remote - at.own) * copied + own
                peers, told = remote - origin, at.near + at.far
                near = peers * (at.near / told if told > 0 else cache.near_part(node, dataset))
                then = Shares(at.mem + at.remote - remote, at.ssd, near, peers - near, origin, own)
                if told > 0:
                    known[key] = then
            found[node] = then
        return found

    def _segment(self, job: Running, shares: dict[int, Shares], units: float) -> Segment:
        spec, links, speeds = job.spec, self._links, self._world.speeds
        assert spec.dataset is not None
        cap = full_speed(spec, self._world)
        worst = origin = peers = 0.0
        nics: dict[int, float] = {}
        uplinks: dict[int, float] = {}
        disks: dict[int, float] = {}
        seen: set[tuple[int, int]] = set()
        meanwhile = self._meanwhile(job, shares, units)
        for node, pods in job.pods_on.items():
            part, at = pods / spec.pods, meanwhile[node]
            peer, remote, rack = at.near + at.far, at.near + at.far + at.origin, self._rack[node]
            nics[node] = part * remote
            uplinks[rack] = uplinks.get(rack, 0.0) + part * (at.far + at.origin)
            origin += part * at.origin
            disks[node] = part * at.ssd
            peers += part * peer
            if (id(at), pods) in seen:
                continue
            seen.add((id(at), pods))
            worst = max(worst, remote)
            if at.mem > 0:
                cap = min(cap, speeds.mem / (part * at.mem))
            # The most one pod's stream gets, whatever is free.
            if peer > 1e-9:
                cap = min(cap, speeds.peer_stream * spec.pods / peer)
            if at.origin > 1e-9:
                cap = min(cap, speeds.origin_stream * spec.pods / at.origin)
        used = links.usage(nics, uplinks, origin, disks, (spec.dataset, peers))
        return Segment(False, units, cap, spec.pods / max(worst, 1e-6), used, shares)

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
            self._read(job, spec.dataset, units, now, total)
        return total

    def _read(self, job: Running, dataset: int, units: float, now: float, total: Bytes) -> None:
        """`units` of a dataset were read: what each node's part leaves in caches; its bytes are added to `total`."""
        segment, cache = job.segment, self._cache
        assert segment is not None
        pods_on, then = job.pods_on, segment.shares
        in_flight = self._in_flight(job, dataset)
        afterwards: dict[int, Shares] = {}
        if len(pods_on) > 1 and not cache.may_bring(dataset) and any(at.remote > 0.0 for at in _kinds(then)):
            # Homes get nothing: what one node reads changes nothing for another.
            afterwards = self._shares(job, dataset)
        known: dict[tuple[int, int, int], _Came] = {}
        for node, pods in pods_on.items():
            size = units * pods / job.spec.pods
            read = job.read.get(node, NOTHING_YET) if afterwards else self._read_so_far(job, node)
            before = then[node]
            if size * before.remote <= 0:
                job.read[node] = Read(read.size + size, read.passed, read.found)
                total.local += size
                continue
            after = afterwards[node] if afterwards else cache.shares(node, dataset, read)
            came = known.get((id(before), id(after), pods)) if afterwards else None
            if came is None:
                came = _came(size, before, after)
                if afterwards:
                    known[id(before), id(after), pods] = came
            self._keep(job, node, came, read, now=now, in_flight=in_flight, total=total)

    def _keep(
        self, job: Running, node: int, came: "_Came", read: Read, *, now: float, in_flight: float, total: Bytes
    ) -> None:
        """What a node does with what came: `_read` of one node that lacked some."""
        dataset, cache = job.spec.dataset, self._cache
        assert dataset is not None
        size, fetched, near, far, origin, own = came
        foreign = fetched - own
        brought = mine = 0.0
        if origin > 0.0 and cache.may_bring(dataset):
            before = cache.homes.here(dataset, node)
            # What several nodes fetched from the origin at once is new only once.
            brought = cache.bring(dataset, min(origin, cache.absent(dataset)), now, beside=foreign)
            mine = min(own, cache.homes.here(dataset, node) - before)
        kept = brought / origin if origin > 0 else 0.0
        paired = (near + far + (origin - own) * kept) / (foreign if foreign > 1.0 else 1.0)
        copied = cache.admit(node, dataset, foreign, paired, now)
        passed = fetched - mine - copied
        passed = passed if passed > 0.0 else 0.0
        found = min(passed, paired * (foreign - copied))
        job.read[node] = Read(read.size + size, read.passed + passed, read.found + found)
        # What no home keeps, another reader may want at the same moment.
        joined = (origin - brought) * in_flight
        others = joined * (origin - own) / origin if origin > 0 else 0.0
        close = others * cache.near_part(node, dataset) if others else 0.0
        total.local += size - fetched + joined - others
        total.near += near + close
        total.far += far + others - close
        total.origin += origin - joined


class _Came(NamedTuple):
    """Of `size` bytes that a node read: what was fetched, and from where; `own`: of those from the origin, whose home
    is the node itself."""

    size: float
    fetched: float
    near: float
    far: float
    origin: float
    own: float


def _came(size: float, then: Shares, after: Shares) -> _Came:
    """Bytes of a segment at whose start the unread was as in `then`, and at whose end as in `after`."""
    fetched = size * then.remote * min(1.0, after.remote / then.remote)
    at = after if after.remote > 0 else then
    remote = at.remote
    return _Came(
        size,
        fetched,
        fetched * at.near / remote,
        fetched * at.far / remote,
        fetched * at.origin / remote,
        fetched * at.own / remote,
    )


def _kinds(shares: dict[int, Shares]) -> Collection[Shares]:
    """What differs among them: nodes that are alike have one object."""
    return {id(at): at for at in shares.values()}.values()


def _still_missing(readers: int, part: float) -> float:
    """Of bytes that `readers` all miss, and of which each reads `part` in an order of its own, finding what the others
    brought: the share that is still missing when one of them comes to it, in the mean."""
    return (1.0 - (1.0 - part) ** readers) / (readers * part) if readers > 1 and part > 1e-9 else 1.0


def _add(uses: dict[int, float], resource: int, share: float) -> None:
    uses[resource] = uses.get(resource, 0.0) + share
