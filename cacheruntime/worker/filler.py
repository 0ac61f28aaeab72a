"""Brings a block here: from whoever is nearest to it, once.

Owns the route of a block and single flight. Does not keep bytes: callers store what they got. Peers are asked by
peer_reads.py, under stores by origin.py.

    resident here? -> yes: done
    am I a home?   -> no: the homes, best first (a home fetches from the under store itself)
                   -> yes, not the first: the homes before me
                      (a straggler is raced: whoever is next has the block, or the under store; core/hedging.py)
    then           -> if I joined after the next in line: does it still have the block?
                   -> if who was its home is leaving: has it still?
                   -> the under store, pinned to the etag; of a version that is not there yet, its holders

Invariants: one fetch of a block from the under store at a time on a node, whoever waits for it; a peer's request
goes to the under store and never on to another peer (no rings); a changed object is VersionChanged for everyone who
waits.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import structlog

from api.gen import metadata_pb2 as pb
from cacheruntime.core.blocks import Version, version_name
from cacheruntime.core.fills import Fills, Join
from cacheruntime.core.homes import eligible, former_home, rank
from cacheruntime.errors import CacheError, NotResident, PeerFailed
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.fetched import Fetched, Keep, Keeper, Source, Why
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.origin import Origin
from cacheruntime.worker.peer_reads import PeerReads
from cacheruntime.worker.peers import Peers
from cacheruntime.worker.workers import Peer, Workers

log = structlog.get_logger()

SPARE_PEERS = 1
"""Asked after all homes failed, before the under store: the next in line is the home once they are known dead."""

Key: TypeAlias = tuple[str, str, int]


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
        self._clock = clock
        self.origin = Origin(
            workers,
            datasets,
            metrics,
            block_size_bytes=block_size_bytes,
            streams=origin_streams,
            seconds=origin_seconds,
            clock=clock,
            buffers=buffers,
        )
        self.peers = PeerReads(
            workers,
            peers,
            metrics,
            block_size_bytes=block_size_bytes,
            streams=peer_streams,
            clock=clock,
            origin_bytes_per_second=self.origin.bytes_per_second,
        )
        self._fills: Fills[Key] = Fills()
        self._flights: dict[Key, asyncio.Task[Fetched]] = {}
        self._eligible: tuple[Mapping[str, Peer], pb.DatasetInfo | None, tuple[str, ...]] = {}, None, ()
        """Who may keep a dataset's blocks, as asked for last; of these live workers and this record."""

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
                return await self.peers.copy(copy, version, index)
            except (PeerFailed, NotResident):
                pass
        ranking = self.ranking(info, version, index)
        homes = ranking[: max(1, info.replicas)]
        me = self._workers.me
        ahead = homes[: homes.index(me)] if me in homes else ranking[: len(homes) + SPARE_PEERS]

        def origin() -> Coroutine[Any, Any, Fetched]:
            return self.fetch_for_peer(info, version, index, keep, Why.HEDGE)

        for peer in ahead:
            if peer == me:
                break
            others = [other for other in ranking if other not in (peer, me)]
            try:
                return await self.peers.race(peer, others[:1], version, index, origin)
            except (PeerFailed, NotResident) as error:
                log.info("peer_failed", peer=peer.node, error=error.message)
        why = Why.PEER_FAILED if ahead else Why.NO_HOME
        return await self.fetch_for_peer(info, version, index, keep, why)

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
                return await self.peers.copy(peer, version, index)
            except (PeerFailed, NotResident):
                pass
        return await self.origin.fetch(version, index, keep, why)

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
