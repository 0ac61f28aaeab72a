"""Brings a block here: from whoever is nearest to it, once.

Owns the route of a block and single flight. Does not keep bytes: callers store what they got.

    resident here? -> yes: done
    am I a home?   -> no: the homes, best first (a home fetches from the under store itself)
                   -> yes, not the first: the homes before me
                      (a straggler is raced: whoever is next has the block, or the under store; core/hedging.py)
    then           -> if I joined after the next in line: does it still have the block?
                   -> if who was its home is leaving: has it still?
                   -> the under store, pinned to the etag; of a version that is not there yet, its holders

Invariants: one fetch of a block from the under store at a time on a node, whoever waits for it; a peer's request
goes to the under store and never on to another peer (no rings); bytes without their checksum are asked for again
and never handed on; a changed object is VersionChanged for everyone who waits.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import structlog

from api.byteplane import Read
from api.gen import metadata_pb2 as pb
from api.held import is_held
from cacheruntime.core.blocks import Version, block_length, version_name
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.fills import Fills, Join
from cacheruntime.core.hedging import LOOK_SECONDS, SILENT_SECONDS, Hedging, Silence
from cacheruntime.core.homes import eligible, former_home, rank
from cacheruntime.core.rates import BusyRate, Limits
from cacheruntime.errors import CacheError, NotResident, PeerFailed, from_store
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.datasets import Datasets, Location
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import CorruptAnswer, PeerBytes, PeerRefused, Peers
from cacheruntime.worker.storing import Storing
from cacheruntime.worker.workers import Peer, Workers
from understores.base import ThreadedStore
from understores.errors import UnderStoreError

log = structlog.get_logger()

SPARE_PEERS = 1
"""Asked after all homes failed, before the under store: the next in line is the home once they are known dead."""

RATES_MAX = 1000
"""Datasets whose under store's speed, and peers whose speed, is remembered."""


class Source(StrEnum):
    """Where a block's bytes came from, seen from this node."""

    LOCAL = "local"
    PEER = "peer"
    ORIGIN = "origin"


class Why(StrEnum):
    """Why a block was read from the under store, seen from the node that read it."""

    HOME = "home"
    """We are its home, and nobody who was it before has it."""
    ASKED = "asked"
    """A peer takes us to be its home."""
    NO_HOME = "no_home"
    """None of the workers that may keep it is alive and unsuspected."""
    PEER_FAILED = "peer_failed"
    """Those who should have it failed, or refused."""
    HEDGE = "hedge"
    """The peer that was asked first is stalled."""
    MEDIUM = "medium"
    """It is resident here, and its medium does not give it now."""


class Keep(StrEnum):
    """Whether a block may stay on this node."""

    NO = "no"
    COPY = "copy"
    HOME = "home"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A block's bytes; not yet kept."""

    data: memoryview
    checksum: int
    source: Source
    is_settled: bool = False
    """It was stored while it was read, or its medium failed."""


Key: TypeAlias = tuple[str, str, int]
R = TypeVar("R", str, Peer)
FillHeld: TypeAlias = Callable[[Version, int, memoryview], Coroutine[Any, Any, None]]
"""Fills a buffer with the bytes of a held version from an offset on, or raises CacheError."""


class Keeper(Protocol):
    """Stores a block if it may stay."""

    async def keep(self, fetched: Fetched) -> None:
        """Store what was fetched."""
        ...

    def begin(self) -> Storing | None:
        """Return what stores the block while it is read; None: `keep` decides when it is here."""
        ...


class Filler:
    """Fetches blocks."""

    def __init__(
        self,
        workers: Workers,
        peers: Peers,
        datasets: Datasets,
        metrics: Metrics,
        *,
        block_size_bytes: int,
        origin_streams: int,
        peer_streams: int,
        origin_seconds: float,
        clock: Callable[[], float],
        buffers: Buffers,
    ) -> None:
        self._workers = workers
        self._peers = peers
        self._datasets = datasets
        self._metrics = metrics
        self._block_size_bytes = block_size_bytes
        self._origin_slots = asyncio.Semaphore(origin_streams)
        self._peer_slots = asyncio.Semaphore(peer_streams)
        self._question_slots = asyncio.Semaphore(peer_streams)
        self._origin_seconds = origin_seconds
        self._clock = clock
        self._buffers = buffers
        self._hedging: Hedging[Peer] = Hedging()
        self._fills: Fills[Key] = Fills()
        self._flights: dict[Key, asyncio.Task[Fetched]] = {}
        self.origin_rate = BusyRate()
        self._origin_rates: dict[str, BusyRate] = {}
        self._peer_rates: dict[Peer, BusyRate] = {}
        self._eligible: tuple[Mapping[str, Peer], pb.DatasetInfo | None, tuple[str, ...]] = {}, None, ()
        """Who may keep a dataset's blocks, as asked for last; of these live workers and this record."""
        self._limits = Limits()
        self.rates_allowed: Callable[[str], tuple[int, int]] = lambda _: (0, 0)
        """Bytes a second that this worker may fetch for a dataset, and for all; 0 = no limit."""
        self.peer_rate = BusyRate()
        self.fill_held: FillHeld | None = None
        """Where versions come from that the under store does not have yet: their holders."""

    # Who keeps what

    def ranking(self, info: pb.DatasetInfo, version: Version, index: int) -> list[Peer]:
        """Return the live workers that may keep the block, best home first."""
        live = self._workers.live()
        if self._eligible[0] is not live or self._eligible[1] is not info:
            self._eligible = live, info, eligible(live, info.eligible_nodes)
        nodes = self._eligible[2]
        return [live[node] for node in rank(version.uid, version.path, index, nodes)]

    def keep(self, info: pb.DatasetInfo, version: Version, index: int) -> Keep:
        """Return whether a block that a reader of this node wants may stay here."""
        if info.eligible_nodes and self._workers.me.node not in info.eligible_nodes:
            return Keep.NO
        homes = self.ranking(info, version, index)[: max(1, info.replicas)]
        if self._workers.me in homes:
            return Keep.HOME
        return Keep.COPY if info.local_copies else Keep.NO

    def may_be_home(self, info: pb.DatasetInfo) -> bool:
        """Whether this node may keep blocks of the dataset at all."""
        return not info.eligible_nodes or self._workers.me.node in info.eligible_nodes

    def refetch_seconds_per_byte(self, uid: str) -> float:
        """Return what a byte of a dataset costs to bring back from its under store; 0 = nothing was measured."""
        rate = self._origin_bytes_per_second(uid)
        return 1 / rate if rate else 0.0

    def _origin_bytes_per_second(self, uid: str) -> float:
        """As measured here of this dataset, or of any; else by other workers; 0 = by nobody."""
        rates = (self._origin_rates.get(uid, self.origin_rate), self.origin_rate)
        mine = next((rate.bytes_per_second for rate in rates if rate.bytes_per_second), 0.0)
        return mine or self._workers.origin_bytes_per_second

    # Fetching

    async def fetch(
        self, info: pb.DatasetInfo, version: Version, index: int, keep: Keeper, *, before: str | None = None
    ) -> Fetched:
        """Return a block by the shortest way; for this node's own readers and loads. A node `before` us that may have a
        copy is asked before the block's home.

        `keep` of whoever starts the fetch is awaited before anyone gets the block: between the fetch and its being
        resident there is no moment in which another one would start.
        """
        ranking = self.ranking(info, version, index)
        if ranking and ranking[0] == self._workers.me:
            return await self.fetch_for_peer(info, version, index, keep, Why.HOME)
        return await self._fly(
            ("route", version_name(version), index), lambda: self._route(info, version, index, keep, before), keep
        )

    async def fetch_for_peer(
        self, info: pb.DatasetInfo, version: Version, index: int, keep: Keeper, why: Why = Why.ASKED
    ) -> Fetched:
        """Return a block that a peer takes us to be the home of: never asks a peer to fetch it."""
        return await self._fly(
            ("origin", version_name(version), index), lambda: self._at_home(info, version, index, keep, why), keep
        )

    async def _fly(self, key: Key, fetch: Callable[[], Coroutine[Any, Any, Fetched]], keep: Keeper) -> Fetched:
        join = self._fills.join(key, self._clock())
        if join is Join.REFUSED:
            raise self._fills.refusal(key)
        if join is Join.START:
            # A task of its own: a reader that leaves takes nothing from those who still wait.
            self._flights[key] = asyncio.create_task(self._finish(key, fetch, keep))
            self._flights[key].add_done_callback(lambda task: task.cancelled() or task.exception())
        fetched = await asyncio.shield(self._flights[key])
        if join is not Join.START and fetched.source is Source.ORIGIN:
            # Each byte from the under store is told once: by whoever caused it to be fetched.
            return replace(fetched, source=Source.LOCAL)
        return fetched

    async def _finish(self, key: Key, fetch: Callable[[], Coroutine[Any, Any, Fetched]], keep: Keeper) -> Fetched:
        try:
            fetched = await fetch()
            if not fetched.is_settled:
                await keep.keep(fetched)
        except BaseException as error:
            is_pause = isinstance(error, CacheError) and error.is_retryable
            reason = error if isinstance(error, Exception) else CacheError("the worker is stopping")
            self._fills.fail(key, self._clock(), reason, pause=is_pause)
            raise
        else:
            self._fills.succeed(key)
            return fetched
        finally:
            del self._flights[key]

    async def _route(
        self, info: pb.DatasetInfo, version: Version, index: int, keep: Keeper, before: str | None
    ) -> Fetched:
        """Of a block that others are the home of before us."""
        if before is not None and (copy := self._workers.live().get(before)) is not None:
            try:
                found = await self._ask(copy, version, index, resident_only=True)
                return Fetched(found.data, found.checksum, Source.PEER)
            except (PeerFailed, NotResident):
                pass
        ranking = self.ranking(info, version, index)
        homes = ranking[: max(1, info.replicas)]
        me = self._workers.me
        ahead = homes[: homes.index(me)] if me in homes else ranking[: len(homes) + SPARE_PEERS]
        for peer in ahead:
            if peer == me:
                break
            others = [other for other in ranking if other not in (peer, me)]
            second = self._second_way((*others[:1], peer), info, version, index, keep)
            try:
                return await self._race(peer, version, index, second)
            except (PeerFailed, NotResident) as error:
                log.info("peer_failed", peer=peer.node, error=error.message)
        why = Why.PEER_FAILED if ahead else Why.NO_HOME
        return await self.fetch_for_peer(info, version, index, keep, why)

    async def _race(
        self, peer: Peer, version: Version, index: int, second: Callable[[], Coroutine[Any, Any, Fetched]]
    ) -> Fetched:
        """Ask a peer; when it is a straggler and the budget allows, ask somebody else too and take who is first."""
        first = asyncio.create_task(self._first_way(peer, version, index))
        racing: set[asyncio.Task[Fetched]] = {first}
        try:
            done, _ = await asyncio.wait(racing, timeout=self._hedging.delay_seconds)
            if not done and self._hedging.may_hedge(at_origin=False):
                self._metrics.hedges.inc()
                racing.add(asyncio.create_task(second()))
            while racing:
                done, racing = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
                won = [task for task in done if task.exception() is None]
                if won and first not in won:
                    self._metrics.hedges_won.inc()
                    if not first.done() and self._hedging.lost(peer):
                        self._workers.suspect(peer, "others were faster several times in a row")
                if won:
                    return won[0].result()
        finally:
            for task in racing:
                task.cancel()
        return first.result()  # both failed: what the peer said is what counts

    async def _first_way(self, peer: Peer, version: Version, index: int) -> Fetched:
        found = await self._ask(peer, version, index, resident_only=False)
        return Fetched(found.data, found.checksum, Source.ORIGIN if found.from_origin else Source.PEER)

    def _second_way(
        self, peers: Sequence[Peer], info: pb.DatasetInfo, version: Version, index: int, keep: Keeper
    ) -> Callable[[], Coroutine[Any, Any, Fetched]]:
        """Race the last of `peers`: one before it may have the block; else, if it is stalled, the under store. A home
        that says it has not got the block yet is at the under store itself."""

        async def fetch() -> Fetched:
            stalled = peers[-1]
            silence = Silence(self._clock(), self._peers.received_bytes(stalled))
            for other in peers:
                question = asyncio.create_task(self._ask(other, version, index, resident_only=True))
                try:
                    done, _ = await asyncio.wait({question}, timeout=SILENT_SECONDS)
                finally:
                    question.cancel()
                if done and not isinstance(question.exception(), PeerFailed):
                    if other != stalled and isinstance(question.exception(), NotResident):
                        continue
                    found = question.result()
                    return Fetched(found.data, found.checksum, Source.PEER)
            await self._watch(stalled, silence, SILENT_SECONDS * len(peers), version.uid)
            if not self._hedging.may_hedge(at_origin=True):
                raise NotResident("no other peer has the block, and the budget for asking the under store is used up")
            return await self.fetch_for_peer(info, version, index, keep, Why.HEDGE)

        return fetch

    async def _watch(self, peer: Peer, silence: Silence, waited_seconds: float, uid: str) -> None:
        """Return when a silent peer had better be replaced by the under store; NotResident when it says something."""
        while True:
            if silence.look(self._clock(), self._peers.received_bytes(peer), waited_seconds):
                raise NotResident("the peer is busy with other blocks; more load helps nobody")
            rate = _rate_of(self._peer_rates, peer).until(self._clock())
            if silence.is_worth_origin(rate, self._origin_bytes_per_second(uid)):
                return
            await asyncio.sleep(LOOK_SECONDS)
            waited_seconds = LOOK_SECONDS

    async def _at_home(self, info: pb.DatasetInfo, version: Version, index: int, keep: Keeper, why: Why) -> Fetched:
        ranking = self.ranking(info, version, index)
        me = self._workers.me
        # Whoever was home before this incarnation started may have it still.
        asked = [ranking[1]] if len(ranking) > 1 and ranking[0] == me and ranking[1].epoch < me.epoch else []
        for peer in (self._former(info, version, index), self._home_that_leaves(info, version, index)):
            if peer is not None and peer not in (me, *asked):
                asked.append(peer)
        for peer in asked:
            try:
                found = await self._ask(peer, version, index, resident_only=True)
                return Fetched(found.data, found.checksum, Source.PEER)
            except (PeerFailed, NotResident):
                pass
        return await self._origin(version, index, keep, why)

    def _home_that_leaves(self, info: pb.DatasetInfo, version: Version, index: int) -> Peer | None:
        """Return the worker that would be before us if it did not hand its blocks over."""
        leaving = {peer.node: peer for peer in self._workers.leaving()}
        if not leaving:
            return None
        nodes = eligible((*self._workers.live(), *leaving), info.eligible_nodes)
        homes = rank(version.uid, version.path, index, nodes)[: max(1, info.replicas) + 1]
        return next((leaving[node] for node in homes if node in leaving), None)

    def _former(self, info: pb.DatasetInfo, version: Version, index: int) -> Peer | None:
        """Whose home it was before other nodes were to keep the dataset: another pool, another affinity."""
        if not info.former_nodes:
            return None
        live = self._workers.live()
        before = eligible(live, () if "*" in info.former_nodes else info.former_nodes)
        now = eligible(live, info.eligible_nodes)
        found = former_home(version.uid, version.path, index, before, now)
        return None if found is None else live[found]

    async def _ask(self, peer: Peer, version: Version, index: int, *, resident_only: bool) -> PeerBytes:
        length = block_length(index, version.size_bytes, self._block_size_bytes)

        def request(*, verify: bool) -> Read:
            return Read(
                uid=version.uid,
                path=version.path,
                etag=version.etag,
                size_bytes=version.size_bytes,
                offset_bytes=index * self._block_size_bytes,
                length_bytes=length,
                resident_only=resident_only,
                verify=verify,
            )

        # Questions that no fetch waits behind must not wait behind fetches: two workers could wait for each other.
        async with self._question_slots if resident_only else self._peer_slots:
            asked = self._clock()
            rates = (self.peer_rate, _rate_of(self._peer_rates, peer))
            for rate in rates:
                rate.start(asked)
            if not resident_only:
                self._hedging.asked()
            moved = 0
            try:
                try:
                    found = await self._peers.read(peer, request(verify=False))
                except CorruptAnswer:
                    self._metrics.corrupt_blocks.labels("peer").inc()
                    found = await self._peers.read(peer, request(verify=True))
                moved = length if not found.from_origin else 0
            except CorruptAnswer:
                self._metrics.corrupt_blocks.labels("peer").inc()
                raise
            except PeerRefused:
                self._metrics.failed_peers.inc()
                raise
            except PeerFailed as error:
                self._metrics.failed_peers.inc()
                self._workers.suspect(peer, error.message)
                raise
            finally:
                for rate in rates:
                    rate.finish(self._clock(), moved)
        self._metrics.peer_bytes.inc(length)
        self._hedging.answered(peer, self._clock() - asked)
        return found

    async def _from_holders(self, version: Version, index: int) -> Fetched:
        if self.fill_held is None:
            raise CacheError(f"{version.path!r} is not in the under store yet")
        data = self._buffers.take(block_length(index, version.size_bytes, self._block_size_bytes))
        async with self._origin_slots:
            await self.fill_held(version, index * self._block_size_bytes, data)
        self._metrics.peer_bytes.inc(len(data))
        return Fetched(data, crc32c(data), Source.PEER)

    async def _origin(self, version: Version, index: int, keep: Keeper, why: Why) -> Fetched:
        if is_held(version.etag):
            return await self._from_holders(version, index)
        location = await self._datasets.locate(version.uid, version.path)
        length = block_length(index, version.size_bytes, self._block_size_bytes)
        await self._wait_for_turn(version.uid, length)
        async with self._origin_slots:
            rates = (self.origin_rate, _rate_of(self._origin_rates, version.uid))
            for rate in rates:
                rate.start(self._clock())
            moved = 0
            try:
                fetched = await self._from_store(location, version, index, keep.begin())
                moved = length
            except UnderStoreError as error:
                raise from_store(error) from error
            except TimeoutError:
                seconds = self._origin_seconds
                message = f"the under store sent {version.path!r} block {index} not within {seconds} s"
                raise CacheError(message, is_retryable=True) from None
            finally:
                for rate in rates:
                    rate.finish(self._clock(), moved)
        self._metrics.origin_bytes.inc(length)
        self._metrics.origin_blocks.labels(why.value).inc()
        return fetched

    async def _wait_for_turn(self, uid: str, size_bytes: int) -> None:
        """Wait until the limits allow the bytes: before a slot is taken, which others may use meanwhile."""
        of_dataset, of_all = self.rates_allowed(uid)
        if delay := self._limits.of_dataset(uid, size_bytes, self._clock(), of_dataset):
            self._metrics.limited_seconds.labels("dataset").inc(delay)
            await asyncio.sleep(delay)
        if delay := self._limits.of_all(size_bytes, self._clock(), of_all):
            self._metrics.limited_seconds.labels("pool").inc(delay)
            await asyncio.sleep(delay)

    async def _from_store(self, location: Location, version: Version, index: int, storing: Storing | None) -> Fetched:
        """Read a block, and store it meanwhile. A medium that takes too long is not waited for."""
        store, key, offset_bytes = location.store, location.key, index * self._block_size_bytes
        data = self._buffers.take(block_length(index, version.size_bytes, self._block_size_bytes))
        if storing is None:
            async with asyncio.timeout(self._origin_seconds):
                await store.get_range(key, offset_bytes, data, etag=version.etag)
            return Fetched(data, crc32c(data), Source.ORIGIN)
        is_here = False
        try:
            async with asyncio.timeout(self._origin_seconds) as limit:
                storing.watch(limit)
                if getattr(store, "can_sink", False):
                    await cast(ThreadedStore, store).sink_range(key, offset_bytes, data, storing, etag=version.etag)
                else:
                    await store.get_range(key, offset_bytes, data, etag=version.etag)
                    is_here = True
                    await storing.store(data)
            return Fetched(data, storing.checksum, Source.ORIGIN, storing.is_settled)
        except (TimeoutError, UnderStoreError):
            if not storing.is_late:
                raise
        finally:
            storing.finish()
        if is_here:
            return Fetched(data, crc32c(data), Source.ORIGIN, is_settled=True)
        # The thread may still read into this buffer.
        return replace(await self._from_store(location, version, index, None), is_settled=True)


def _rate_of(rates: dict[R, BusyRate], key: R) -> BusyRate:
    if key not in rates and len(rates) >= RATES_MAX:
        del rates[next(iter(rates))]
    return rates.setdefault(key, BusyRate())
