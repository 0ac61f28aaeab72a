"""Loads: this worker's share of a DataLoad, as a background task.

Owns the loads by id and their progress. Which blocks are ours is core/load_plan.py; fetching is reader.py.

    planning --manifest read--> loading --every share tried--> done --workers changed--> planning (what is missing)
    done --another run asks--> planning (what was evicted meanwhile)
    any --cancel--> done

Invariants: bytes count as loaded when their checksum is stored here; a load planned on workers that are no longer
the live ones is not done; one file's failure does not stop the others.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from api.gen import metadata_pb2 as pb
from api.gen import worker_pb2
from cacheruntime.core.blocks import Version
from cacheruntime.core.homes import eligible
from cacheruntime.core.load_plan import Progress, Scope, Share, place_of, share_of, stages
from cacheruntime.core.rates import TokenBucket
from cacheruntime.errors import CacheError, Missing
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.fetched import Source
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.reader import Reader, in_parallel
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.workers import Workers

log = structlog.get_logger()

LOADS_MAX: Final = 256
"""Kept; the oldest finished ones are forgotten first."""
RUNS_MAX: Final = 64
"""Remembered of each load; of DataLoads of one target as many run at once at most."""
RETRY_SECONDS: Final = 1.0
"""Before files that failed for a passing reason are tried once more."""


@dataclass(slots=True)
class Load:
    """One load on this worker."""

    request: worker_pb2.StartLoadRequest
    progress: Progress = field(default_factory=Progress)
    scope: Scope | None = None
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False
    unfinished: Counter[str] = field(default_factory=Counter)
    """Parts of each file that are not here yet."""
    failed: set[str] = field(default_factory=set)
    runs: dict[str, None] = field(default_factory=dict)
    """Runs that have asked, oldest first: what this load found is theirs."""

    @property
    def is_running(self) -> bool:
        """Whether its task has work left."""
        return self.task is not None and not self.task.done()

    def asked_by(self, run: str) -> None:
        """Take a run in; one that comes after the end is not told what was resident before it asked."""
        if run in self.runs:
            return
        if self.runs and not self.is_running:
            self.scope = None
        self.runs[run] = None
        if len(self.runs) > RUNS_MAX:
            del self.runs[next(iter(self.runs))]


class Loads:
    """The loads of this worker."""

    def __init__(
        self,
        *,
        store: BlockStore,
        reader: Reader,
        datasets: Datasets,
        metadata: MetadataClient,
        workers: Workers,
        metrics: Metrics,
        streams: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._reader = reader
        self._datasets = datasets
        self._metadata = metadata
        self._workers = workers
        self._metrics = metrics
        self._streams = streams
        self._clock = clock
        self._loads: dict[str, Load] = {}

    async def start(self, request: worker_pb2.StartLoadRequest) -> worker_pb2.LoadProgress:
        """Start a load, or join it; a finished one goes on when the workers are others now. Missing."""
        load = self._loads.get(request.load_id)
        if load is None:
            await self._datasets.get(request.uid)
            self._forget_oldest()
            load = self._loads[request.load_id] = Load(request)
        elif load.is_cancelled and not load.is_running:
            load.is_cancelled = False
            load.scope = None
        load.asked_by(request.run)
        return await self._advance(load)

    def dataset_of(self, load_id: str) -> str:
        """Return the uid of a load's dataset; "" when the load is not known."""
        load = self._loads.get(load_id)
        return "" if load is None else load.request.uid

    async def get(self, load_id: str) -> worker_pb2.LoadProgress:
        """Return a load's progress; Missing."""
        return await self._advance(self._known(load_id))

    async def cancel(self, load_id: str) -> worker_pb2.LoadProgress:
        """Stop a load; what is loaded stays."""
        load = self._known(load_id)
        load.is_cancelled = True
        if load.task is not None:
            load.task.cancel()
            await asyncio.wait({load.task}, timeout=5)
        return self._message(load)

    def cancel_dataset(self, uid: str) -> None:
        """Stop every load of a dataset."""
        for load in self._loads.values():
            if load.request.uid == uid and load.task is not None:
                load.is_cancelled = True
                load.task.cancel()

    async def close(self) -> None:
        """Stop all."""
        tasks = [load.task for load in self._loads.values() if load.task is not None and not load.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _known(self, load_id: str) -> Load:
        load = self._loads.get(load_id)
        if load is None:
            raise Missing(f"load {load_id!r} is not known here; start it")
        return load

    def _forget_oldest(self) -> None:
        for load_id in [i for i, load in self._loads.items() if not load.is_running][: len(self._loads) - LOADS_MAX]:
            del self._loads[load_id]

    async def _advance(self, load: Load) -> worker_pb2.LoadProgress:
        if not load.is_running and not load.is_cancelled:
            await self._workers.refresh()
            scope = await self._scope(load)
            if scope != load.scope and not load.is_running:
                load.scope = scope
                load.task = asyncio.create_task(self._run(load, scope))
        return self._message(load)

    async def _scope(self, load: Load) -> Scope:
        info = await self._datasets.get(load.request.uid)
        return Scope(
            node=self._workers.me.node,
            # Suspects count: a peer that misses one answer must not make everyone plan anew.
            nodes=eligible(self._workers.listed(), info.eligible_nodes),
            replicas=load.request.replicas or max(1, info.replicas),
            whole_on=frozenset(load.request.nodes),
        )

    async def _run(self, load: Load, scope: Scope) -> None:
        try:
            shares = await self._plan(load, scope)
            load.progress.plan(shares)
            parts = stages(shares, self._store.block_size_bytes, scope)
            load.unfinished = Counter(part.version.path for stage in parts for part in stage)
            load.failed.clear()
            bucket = TokenBucket(load.request.rate_limit_bytes_per_second)
            again: list[Share] = []
            for stage in parts:
                again += await self._bring(load, stage, bucket, scope, is_last=False)
            if again:
                await asyncio.sleep(RETRY_SECONDS)
                await self._bring(load, again, bucket, scope, is_last=True)
        except CacheError as error:
            load.progress.fail("", error.message)
            if error.is_retryable:
                load.scope = None  # whoever asks next makes it try again
            log.warning("load_failed", load=load.request.load_id, error=error.message)
        except Exception as error:
            load.progress.fail("", f"a bug in the worker, see its log: {type(error).__name__}")
            self._metrics.bugs.labels("load").inc()
            log.exception("bug", load=load.request.load_id)
        else:
            progress = load.progress
            log.info(
                "load_done",
                load=load.request.load_id,
                files=progress.files_loaded,
                bytes=progress.bytes_loaded,
                failed=progress.failed_count,
            )

    async def _plan(self, load: Load, scope: Scope) -> list[Share]:
        shares: list[Share] = []
        if scope.node not in (scope.whole_on or scope.nodes):
            return shares
        async for batch in self._metadata.manifest(load.request.uid, list(load.request.paths)):
            shares.extend(filter(None, (self._share(load, entry, scope) for entry in batch.entries)))
            await asyncio.sleep(0)
        return shares

    def _share(self, load: Load, entry: pb.Entry, scope: Scope) -> Share | None:
        if entry.is_directory:
            return None
        version = Version(load.request.uid, entry.path, entry.etag, entry.size_bytes)
        return share_of(version, self._store.block_size_bytes, scope)

    async def _bring(
        self, load: Load, shares: list[Share], bucket: TokenBucket, scope: Scope, *, is_last: bool
    ) -> list[Share]:
        """Fetch the shares; return those that failed and may succeed later (none when it is the last time)."""
        slots = asyncio.Semaphore(self._streams)
        again: list[Share] = []

        async def one(share: Share) -> None:
            try:
                await self._bring_file(load, share, _Way(bucket, slots, scope), is_last=is_last)
            except CacheError as error:
                if error.is_retryable and not is_last:
                    again.append(share)
                elif share.version.path not in load.failed:
                    load.failed.add(share.version.path)
                    load.progress.fail(share.version.path, error.message)

        # Many small files at once, and the blocks of a large one: `slots` bounds both together.
        await in_parallel(shares, self._streams, one)
        return again

    async def _bring_file(self, load: Load, share: Share, way: "_Way", *, is_last: bool) -> None:
        if not share.blocks:
            load.progress.files_loaded += 1
            return
        # A copy that was asked for by name is worth as much as a home: it is not the first to go.
        file = await self._store.acquire(share.version, wanted_bytes=share.size_bytes, as_home=True)
        try:
            await self._bring_blocks(load, share, file, way, is_last=is_last)
        finally:
            self._store.release(file)
        path = share.version.path
        load.unfinished[path] -= 1
        if not load.unfinished[path]:
            load.progress.files_loaded += 1

    async def _bring_blocks(self, load: Load, share: Share, file: CachedFile, way: "_Way", *, is_last: bool) -> None:
        progress = load.progress
        loaded = dict.fromkeys(Source, 0)

        async def one(index: int) -> None:
            length = file.map.length(index)
            async with way.slots:
                if not file.map.has(index) and (delay := way.bucket.delay_seconds(length, self._clock())):
                    await asyncio.sleep(delay)
                before = place_of(share.version, index, way.scope).parent
                source = await self._reader.load_block(file, index, as_home=True, before=before)
            loaded[source] += length
            progress.bytes_loaded += length

        try:
            await in_parallel(share.blocks, self._streams, one)
        except CacheError as error:
            if error.is_retryable and not is_last:
                progress.bytes_loaded -= sum(loaded.values())  # counted again when the file is tried again
            raise
        finally:
            progress.origin_bytes += loaded[Source.ORIGIN]
            progress.peer_bytes += loaded[Source.PEER]

    def _message(self, load: Load) -> worker_pb2.LoadProgress:
        progress = load.progress
        return worker_pb2.LoadProgress(
            load_id=load.request.load_id,
            done=not load.is_running and (load.task is not None or load.is_cancelled),
            bytes_total=progress.bytes_total,
            bytes_loaded=progress.bytes_loaded,
            files_total=progress.files_total,
            files_loaded=progress.files_loaded,
            failed=[worker_pb2.FailedFile(path=path, error=error) for path, error in progress.failed],
            failed_count=progress.failed_count,
            origin_bytes=progress.origin_bytes,
            peer_bytes=progress.peer_bytes,
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """How blocks of a load come: its rate, the streams all its files share, and who takes part."""

    bucket: TokenBucket
    slots: asyncio.Semaphore
    scope: Scope
