"""Asks peers for blocks, and races one that is slow.

Owns the streams to peers, their measured speeds, and the race. Whom to ask first is filler.py's, when a race begins
core/hedging.py's. Invariants: bytes without their checksum are asked for once more and never handed on; a question that
no fetch waits behind does not wait behind fetches.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from api.byteplane import Read
from cacheruntime.core.blocks import Version, block_length
from cacheruntime.core.hedging import LOOK_SECONDS, SILENT_SECONDS, Hedging, Silence
from cacheruntime.core.rates import BusyRate, rate_of
from cacheruntime.errors import NotResident, PeerFailed
from cacheruntime.worker.fetched import Fetched, Source
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import CorruptAnswer, PeerBytes, PeerRefused, Peers
from cacheruntime.worker.workers import Peer, Workers

Fetch: TypeAlias = Callable[[], Coroutine[Any, Any, Fetched]]


class PeerReads:
    """Reads of blocks that peers have, or fetch."""

    def __init__(
        self,
        workers: Workers,
        peers: Peers,
        metrics: Metrics,
        *,
        block_size_bytes: int,
        streams: int,
        clock: Callable[[], float],
        origin_bytes_per_second: Callable[[str], float],
    ) -> None:
        """`streams` at a time; `origin_bytes_per_second` is the speed of a dataset's under store, 0 = not known."""
        self._workers = workers
        self._peers = peers
        self._metrics = metrics
        self._block_size_bytes = block_size_bytes
        self._slots = asyncio.Semaphore(streams)
        self._question_slots = asyncio.Semaphore(streams)
        self._clock = clock
        self._origin_bytes_per_second = origin_bytes_per_second
        self._hedging: Hedging[Peer] = Hedging()
        self.rate = BusyRate()
        self._rates: dict[Peer, BusyRate] = {}

    async def copy(self, peer: Peer, version: Version, index: int) -> Fetched:
        """Return a block that a peer has already; PeerFailed, NotResident."""
        found = await self._ask(peer, version, index, resident_only=True)
        return Fetched(found.data, found.checksum, Source.PEER)

    async def race(self, peer: Peer, others: Sequence[Peer], version: Version, index: int, origin: Fetch) -> Fetched:
        """Ask a peer, which fetches the block if need be; when it is a straggler and the budget allows, ask `others`
        too, or the under store by `origin`, and take who is first. PeerFailed, NotResident."""
        first = asyncio.create_task(self._first_way(peer, version, index))
        racing: set[asyncio.Task[Fetched]] = {first}
        try:
            done, _ = await asyncio.wait(racing, timeout=self._hedging.delay_seconds)
            if not done and self._hedging.may_hedge(at_origin=False):
                self._metrics.hedges.inc()
                racing.add(asyncio.create_task(self._second_way((*others, peer), version, index, origin)))
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

    async def _second_way(self, peers: Sequence[Peer], version: Version, index: int, origin: Fetch) -> Fetched:
        """Race the last of `peers`: one before it may have the block; else, if it is stalled, the under store. A home
        that says it has not got the block yet is at the under store itself."""
        stalled = peers[-1]
        silence = Silence(self._clock(), self._peers.received_bytes(stalled))
        for other in peers:
            question = asyncio.create_task(self.copy(other, version, index))
            try:
                done, _ = await asyncio.wait({question}, timeout=SILENT_SECONDS)
            finally:
                question.cancel()
            if done and not isinstance(question.exception(), PeerFailed):
                if other != stalled and isinstance(question.exception(), NotResident):
                    continue
                return question.result()
        await self._watch(stalled, silence, SILENT_SECONDS * len(peers), version.uid)
        if not self._hedging.may_hedge(at_origin=True):
            raise NotResident("no other peer has the block, and the budget for asking the under store is used up")
        return await origin()

    async def _watch(self, peer: Peer, silence: Silence, waited_seconds: float, uid: str) -> None:
        """Return when a silent peer had better be replaced by the under store; NotResident when it says something."""
        while True:
            if silence.look(self._clock(), self._peers.received_bytes(peer), waited_seconds):
                raise NotResident("the peer is busy with other blocks; more load helps nobody")
            rate = rate_of(self._rates, peer).until(self._clock())
            if silence.is_worth_origin(rate, self._origin_bytes_per_second(uid)):
                return
            await asyncio.sleep(LOOK_SECONDS)
            waited_seconds = LOOK_SECONDS

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
        async with self._question_slots if resident_only else self._slots:
            asked = self._clock()
            rates = (self.rate, rate_of(self._rates, peer))
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
