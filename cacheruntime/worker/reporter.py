"""Tells metadata that this worker lives and what it holds.

Owns registration, the reporting loop and the numbers in a report. What is due is core/reports.py. A worker that
learns that a newer incarnation of its node registered stops: two must not serve one node.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog

from api.gen import metadata_pb2 as pb
from cacheruntime.core.hit_ratio import expected_hit_ratio
from cacheruntime.core.reports import ReportState
from cacheruntime.core.tiers import levels_of
from cacheruntime.errors import CacheError
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.fetched import Source
from cacheruntime.worker.filler import Filler
from cacheruntime.worker.metadata_client import Fenced, MetadataClient
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.reader import Reader
from cacheruntime.worker.workers import Peer

log = structlog.get_logger()

REGISTER_RETRY_SECONDS: Final = 0.5


class Reporter:
    """The reporting loop of one incarnation."""

    def __init__(
        self,
        *,
        me: Peer,
        control_endpoint: str,
        state: ReportState,
        store: BlockStore,
        filler: Filler,
        reader: Reader,
        datasets: Datasets,
        metadata: MetadataClient,
        metrics: Metrics,
        interval_seconds: float,
        tier_speeds: Sequence[int],
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._me = me
        self._control_endpoint = control_endpoint
        self._state = state
        self._store = store
        self._filler = filler
        self._reader = reader
        self._datasets = datasets
        self._metadata = metadata
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._tier_speeds = tier_speeds
        self._is_leaving = is_leaving

    async def register(self) -> None:
        """Register, waiting for metadata as long as it takes; Fenced when a newer incarnation lives."""
        request = pb.RegisterRequest(
            node=self._me.node,
            epoch=self._me.epoch,
            data_endpoint=self._me.endpoint,
            control_endpoint=self._control_endpoint,
            tiers=self._tiers(),
        )
        is_told = False
        while True:
            try:
                lease_seconds = await self._metadata.register(request)
                break
            except Fenced:
                raise
            except CacheError as error:
                if not error.is_retryable:
                    raise
                if not is_told:
                    log.warning("waiting_for_metadata", error=error.message)
                    is_told = True
            await asyncio.sleep(REGISTER_RETRY_SECONDS)
        self._state.need_full()
        # Four signs of life a lease: one lost or late must not look like death.
        self._interval_seconds = min(self._interval_seconds, lease_seconds / 4 or self._interval_seconds)
        log.info("registered", node=self._me.node, epoch=self._me.epoch, lease_seconds=lease_seconds)

    async def run(self) -> None:
        """Report for ever; Fenced ends the worker."""
        while True:
            is_more = await self._report()
            self._show()
            if not is_more:
                await asyncio.sleep(self._interval_seconds)

    async def _report(self) -> bool:
        batch = self._state.next_batch(self._names())
        files, gone = self._describe(batch.names)
        report = pb.BlockReport(
            node=self._me.node,
            epoch=self._me.epoch,
            sequence=batch.sequence,
            full=batch.is_full,
            files=files,
            tiers=self._tiers(),
            network_read_bytes_per_second=int(self._filler.peers.rate.bytes_per_second),
            origin_read_bytes_per_second=int(self._filler.origin.rate.bytes_per_second),
            counters=_counters(self._reader.counters.by_source),
            leaving=self._is_leaving(),
            reads=[
                pb.DatasetReads(uid=uid, recent=_counters(reads.by_source))
                for uid, reads in self._reader.counters.recent.items()
            ],
        )
        try:
            need_full = await self._metadata.report(report)
        except Fenced:
            # Metadata forgot us, or a newer one came; registering tells which.
            self._state.failed(batch)
            await self.register()
            return True
        except CacheError as error:
            log.warning("report_failed", error=error.message)
            self._state.failed(batch)
            return False
        self._store.index.forget_gone(gone)
        if need_full:
            self._state.need_full()
        return self._state.has_changes and (need_full or len(batch.names) == self._state.batch_files_max)

    def _names(self) -> Iterator[str]:
        """All of them, looked for only when they are wanted."""
        yield from self._store.index.names()

    def _describe(self, names: Sequence[str]) -> tuple[list[pb.ResidentFile], list[str]]:
        files: list[pb.ResidentFile] = []
        gone: list[str] = []
        for name in names:
            version, file = self._store.index.named(name)
            if version is None:
                continue
            line = pb.ResidentFile(uid=version.uid, path=version.path, etag=version.etag, size_bytes=version.size_bytes)
            if file is None or not file.map.resident_bytes:
                gone.append(name)
            else:
                line.medium = self._store.tiers[file.tier].medium
                line.resident_bytes = file.map.resident_bytes
                line.blocks = file.map.bitmap()
                line.block_size_bytes = file.map.block_size_bytes
            files.append(line)
        return files, gone

    def _tiers(self) -> list[pb.Tier]:
        tiers = self._store.tiers
        # Spare memory keeps nothing, so nobody plans with it.
        return [self._level(level) for level in levels_of(tiers) if any(tiers[number].quota_bytes for number in level)]

    def _level(self, level: Sequence[int]) -> pb.Tier:
        """All paths of one medium as one tier. A file lies on one path, so the slowest one is what may be promised."""
        tiers = [self._store.tiers[number] for number in level]
        return pb.Tier(
            medium=tiers[0].medium,
            capacity_bytes=sum(tier.quota_bytes for tier in tiers),
            used_bytes=sum(tier.used_bytes for tier in tiers),
            read_bytes_per_second=min(self._tier_speeds[number] for number in level),
        )

    def _show(self) -> None:
        read, found, expected = 0, 0, 0.0
        for uid, reads in self._reader.counters.recent.items():
            info, total = self._datasets.known(uid), sum(reads.by_source.values())
            if info is not None and info.bytes:
                read += total
                found += total - reads.by_source.get(Source.ORIGIN, 0)
                expected += total * expected_hit_ratio(info.cached_bytes, info.bytes)
        if read:
            self._metrics.hit_ratio.labels("measured").set(found / read)
            self._metrics.hit_ratio.labels("expected").set(expected / read)
        self._metrics.files.set(len(self._store.index))
        for medium in {tier.medium for tier in self._store.tiers}:
            tiers = [tier for tier in self._store.tiers if tier.medium == medium]
            self._metrics.used_bytes.labels(medium).set(sum(tier.used_bytes for tier in tiers))
            self._metrics.temporary_bytes.labels(medium).set(sum(tier.temporary_bytes for tier in tiers))


def _counters(by_source: Mapping[Any, int]) -> pb.ReadCounters:
    local, peer, origin = (by_source.get(source, 0) for source in (Source.LOCAL, Source.PEER, Source.ORIGIN))
    return pb.ReadCounters(local_bytes=local, peer_bytes=peer, origin_bytes=origin)
