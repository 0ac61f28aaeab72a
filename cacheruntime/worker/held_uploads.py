"""What brings held versions to the under store, and finds out what became of them.

Owns when a copy is looked at and what metadata's word on it means; which copies there are is held_copies.py's, when one
is due core/held.py's. holding.py draws the order. The other holder uploads when the lease of the writer's worker has
ended, or when that one is hopelessly late.

Invariants: a file is uploaded only in its path's turn, which ends whatever comes; a copy goes only after metadata said
that it is not needed. What metadata has never heard of stays, as long as its writer's worker may have shown it.
"""

import asyncio
import os
import uuid
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from api.byteplane import AskHeld
from api.gen import metadata_pb2 as pb
from cacheruntime.core.blocks import Version
from cacheruntime.core.held import Settings
from cacheruntime.errors import CacheError, Missing, from_store
from cacheruntime.worker import held_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.fetched import Keep
from cacheruntime.worker.filler import Filler
from cacheruntime.worker.held_copies import Held, HeldCopies
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import Peers
from cacheruntime.worker.turns import Turns
from cacheruntime.worker.workers import Peer, Workers
from understores.base import ObjectInfo
from understores.errors import UnderStoreError

log = structlog.get_logger()

SILENT_SECONDS: Final = 5.0
"""An upload ends when metadata was not heard for so long: our lease is over, and the other holder uploads."""
LOOK_SECONDS: Final = 0.5
POLL_SECONDS: Final = 30.0
"""How often the other holder asks what became of a file, should the writer's worker not have said so."""
UNCONFIRMED_SECONDS: Final = 60.0
"""After so long no lost call will show a file any more."""
AT_ONCE: Final = Settings(settle_seconds=0.0, takeover_seconds=0.0)
"""Of a worker that is leaving."""


class HeldUploads:
    """Uploads of this node's copies."""

    def __init__(
        self,
        *,
        me: Peer,
        store: BlockStore,
        copies: HeldCopies,
        workers: Workers,
        peers: Peers,
        filler: Filler,
        datasets: Datasets,
        metadata: MetadataClient,
        metrics: Metrics,
        turns: Turns,
        settings: Settings,
        at_once: int,
    ) -> None:
        """`at_once`: how many uploads at a time."""
        self._me = me
        self._store = store
        self._copies = copies
        self._workers = workers
        self._peers = peers
        self._filler = filler
        self._datasets = datasets
        self._metadata = metadata
        self._metrics = metrics
        self._turns = turns
        self._settings = settings
        self._at_once = at_once

    async def run(self) -> None:
        """Upload what waits, for ever."""
        while True:
            self._copies.show()
            self.look_around()
            await asyncio.sleep(LOOK_SECONDS)

    def look_around(self) -> None:
        """Begin what is due now: uploads, the oldest first, and questions."""
        now, live = self._copies.clock(), self._workers.leased().keys()
        settings = AT_ONCE if self._workers.is_leaving else self._settings
        under_way = sum(held.is_busy for held in self._copies.all())
        for held in sorted(self._copies.all(), key=lambda held: held.schedule.held_at_seconds):
            if under_way >= self._at_once:
                return
            if held.is_busy or not held.is_confirmed:
                continue
            schedule = held.schedule
            if schedule.is_due(now, held.name, self._me.node, live, settings):
                self._copies.begin(held, self._bring(held))
                under_way += 1
            elif now - max(schedule.held_at_seconds, schedule.not_before_seconds) > POLL_SECONDS:
                self.look(held)
                under_way += 1

    async def emptied(self) -> None:
        """Wait until nothing is held here for the under store, for as long as that takes; not for what metadata does
        not know, which stays."""
        while any(not held.is_unknown for held in self._copies.all()):  # noqa: ASYNC110  # looks end uploads too
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, held: Held, *, is_told: bool = False) -> None:
        """Begin to find out whether a copy, which is not busy, is needed still. `is_told`: the other holder says
        that it is not."""
        self._copies.begin(held, self._look(held, is_told=is_told))

    async def _bring(self, held: Held) -> None:
        """One try to bring a file to the under store."""
        record = held.copy.record
        turn = uuid.uuid4().hex
        is_done = False
        try:
            found = await self._metadata.claim_held(record.uid, record.etag, self._me.node, self._me.epoch, turn)
            if found.state == pb.HeldState.WAITING:
                found = await self._upload(held, found.path, turn)
            is_done = True
        except Missing as error:
            if await self._is_removed(record.uid):
                self._unknown(held, error.message)
            else:
                self._failed(held, error)
        except CacheError as error:
            self._failed(held, error)
        finally:
            if not is_done:
                self._turns.end(record.uid, turn)
                held.is_busy = False
        if is_done:
            try:
                await self._after(held, found)
            finally:
                held.is_busy = False

    async def _is_removed(self, uid: str) -> bool:
        try:
            await self._datasets.get(uid)
        except Missing:
            return True
        except CacheError:
            return False
        return False

    async def _look(self, held: Held, *, is_told: bool) -> None:
        record = held.copy.record
        try:
            found = await self._metadata.find_held(record.uid, record.etag)
            if is_told and found.state == pb.HeldState.UNKNOWN:
                await self._copies.drop(held)  # it was acknowledged to nobody, or ended before metadata was restored
            else:
                await self._after(held, found)
        except Missing as error:
            if is_told:
                await self._copies.drop(held)
            else:
                self._unknown(held, error.message)
        except CacheError as error:
            log.info("held_file_not_found_out", etag=record.etag, error=error.message)
            held.schedule.later(self._copies.clock(), 1.0)
        finally:
            held.is_busy = False

    async def _upload(self, held: Held, path: str, turn: str) -> pb.HeldState:
        record = held.copy.record
        location = await self._datasets.locate_writable(record.uid, path)
        try:
            descriptor = await self._store.run(held_files.open_checked, held.copy)
        except OSError as error:
            raise CacheError(f"the held file is damaged: {error.strerror}", is_retryable=True) from error
        try:
            info = await self._put_while_heard(location.store.put(location.key, descriptor, record.size_bytes))
        except UnderStoreError as error:
            raise from_store(error) from error
        finally:
            os.close(descriptor)
        found = await self._metadata.finish_held(
            record.uid, record.etag, turn=turn, object_etag=info.etag, size_bytes=info.size_bytes
        )
        if found.state == pb.HeldState.UPLOADED:
            self._metrics.held_uploads.labels("done").inc()
            log.info("held_file_uploaded", dataset=record.uid, size_bytes=record.size_bytes, etag=record.etag)
        return found

    async def _put_while_heard(self, put: Coroutine[Any, Any, ObjectInfo]) -> ObjectInfo:
        task = asyncio.ensure_future(put)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=1.0)
                if not task.done() and self._copies.clock() - self._workers.heard_at_seconds > SILENT_SECONDS:
                    raise CacheError("metadata is not heard; the other holder may be uploading", is_retryable=True)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _after(self, held: Held, found: pb.HeldState) -> None:
        """Do what metadata's word on a copy means."""
        record = held.copy.record
        if found.state in (pb.HeldState.UPLOADED, pb.HeldState.GONE):
            if found.state == pb.HeldState.UPLOADED:
                await self._keep_as_cache(held, Version(record.uid, found.path, found.object_etag, record.size_bytes))
            await self._copies.drop(held)
            try:
                await self._metadata.forget_held(record.uid, record.etag, self._me.node)
            except CacheError as error:
                log.info("drop_not_told", etag=record.etag, error=error.message)
        elif found.state == pb.HeldState.UNKNOWN:
            since = held.unanswered_since_seconds
            if since is not None and self._copies.clock() - since > UNCONFIRMED_SECONDS:
                await self._copies.drop(held)
            elif since is not None:
                held.schedule.later(self._copies.clock(), UNCONFIRMED_SECONDS)
            elif await self._was_never_shown(held):
                await self._copies.drop(held)
            else:
                self._unknown(held, "metadata has never heard of it")
        elif found.state == pb.HeldState.WAITING:
            # A name was found for a commit that nobody answered for.
            held.unanswered_since_seconds = None
            held.is_unknown = False
            held.schedule.later(self._copies.clock(), LOOK_SECONDS)
        else:
            held.schedule.later(self._copies.clock(), LOOK_SECONDS)

    async def _was_never_shown(self, held: Held) -> bool:
        """Whether the writer's worker has no trace of a version metadata does not know either."""
        record, writer = held.copy.record, held.name.holders[0]
        peer = self._workers.leased().get(writer)
        if writer == self._me.node or peer is None:
            return False
        try:
            return not await self._peers.ask_held(peer, AskHeld(uid=record.uid, etag=record.etag, disk=record.disk))
        except CacheError as error:
            log.info("writer_not_asked", peer=writer, error=error.message)
            return False

    def _unknown(self, held: Held, why: str) -> None:
        """Never dropped: its commit may have been acknowledged by a metadata service that was restored since."""
        if not held.is_unknown:
            record = held.copy.record
            log.error(
                "held_file_unknown",
                why=why,
                dataset=record.uid,
                path=record.path,
                size_bytes=record.size_bytes,
                etag=record.etag,
                file=str(held.copy.path),
                notice="it stays; copy it to the under store, or remove it and its record, by hand",
            )
        held.is_unknown = True
        held.schedule.later(self._copies.clock(), UNCONFIRMED_SECONDS)

    def _failed(self, held: Held, error: CacheError) -> None:
        self._metrics.held_uploads.labels("failed").inc()
        record = held.copy.record
        held.schedule.failed(self._copies.clock())
        log.warning(
            "held_file_not_uploaded",
            dataset=record.uid,
            etag=record.etag,
            failures=held.schedule.failures,
            error=error.message,
        )

    async def _keep_as_cache(self, held: Held, version: Version) -> None:
        """The same bytes are an object's now: what is cached of them is of that; the writer's own copy becomes it."""
        record, store = held.copy.record, self._store
        old = store.find(Version(version.uid, version.path, record.etag, version.size_bytes))
        if old is not None and (old.references or old.map.is_complete):
            store.rekey(old.version, version)
        elif old is not None:
            store.drop(old)
        is_kept = store.find(version) is not None
        if is_kept or not record.checksums or record.block_size_bytes != store.block_size_bytes:
            return
        try:
            info = await self._datasets.get(record.uid)
        except CacheError:
            return
        if held.name.holders[0] == self._me.node and self._filler.may_be_home(info):
            held_files.drop_record(held.copy)
            as_home = self._filler.keep(info, version, 0) is Keep.HOME
            store.adopt(version, held.copy.path, held.tier, record.checksums, as_home=as_home)
