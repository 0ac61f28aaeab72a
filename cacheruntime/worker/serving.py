"""One worker from its parts: wiring, start and stop.

Owns the order in which parts begin and end. Decides nothing.
"""

import asyncio
import gc
import os
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import grpc
import structlog

from api.byteplane import HelloReply
from api.gen.worker_pb2_grpc import add_WorkerControlServicer_to_server
from api.trust.files import REFUSED_FILES
from api.trust.identity import Identity, Role
from cacheruntime.core.held import Settings as HoldSettings
from cacheruntime.core.reports import ReportState
from cacheruntime.core.scrub import ScrubSchedule
from cacheruntime.errors import CacheError
from cacheruntime.worker import local_socket, places
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.byte_plane import PeerSession, ReadAnswerer
from cacheruntime.worker.control_service import ControlService
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.filler import Filler
from cacheruntime.worker.frame_server import FrameServer
from cacheruntime.worker.frame_socket import FrameSocket
from cacheruntime.worker.held_copies import HeldCopies
from cacheruntime.worker.held_reader import HeldReader
from cacheruntime.worker.held_uploads import HeldUploads
from cacheruntime.worker.holding import Holding
from cacheruntime.worker.leaver import Leaver
from cacheruntime.worker.left_objects import LeftObjects
from cacheruntime.worker.loads import Loads
from cacheruntime.worker.local_socket import LocalSession
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.mover import Mover
from cacheruntime.worker.names import Names
from cacheruntime.worker.path_order import PathOrder
from cacheruntime.worker.peers import Peers
from cacheruntime.worker.preheater import Preheater
from cacheruntime.worker.promoter import Promoter
from cacheruntime.worker.pruner import Pruner
from cacheruntime.worker.reader import Reader, in_parallel
from cacheruntime.worker.renames import Renames
from cacheruntime.worker.reporter import Reporter
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.scrubber import Scrubber
from cacheruntime.worker.settings import Address, WorkerSettings
from cacheruntime.worker.terms import TermsKeeper
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.trees import Trees
from cacheruntime.worker.trust import ControlGate, Gate, OpenGate, ShutGate, TokenGate, TokenKeys
from cacheruntime.worker.turns import Turns
from cacheruntime.worker.workers import Peer, Workers
from cacheruntime.worker.writes import Writes
from kube.errors import ConfigError
from kube.http import serve

log = structlog.get_logger()

RECHECKS = 2
"""Files verified at once after a restart: the rest of the disk's speed is the readers'."""


async def serve_until_cancelled(settings: WorkerSettings, leavers: list[Leaver]) -> None:
    """Serve until cancelled; `leavers` has the one who can hand blocks over, once there are any. CacheError."""
    tunables = settings.tunables
    metrics = Metrics()
    trust = places.trusted(settings)
    metrics.registry.register(REFUSED_FILES)
    state = ReportState()
    threads = ThreadPoolExecutor(tunables.io_threads, thread_name_prefix="io")
    # Their own threads: a peer that takes nothing for a while must not hold up the disks.
    senders = ThreadPoolExecutor(tunables.send_threads, thread_name_prefix="send")
    folders = [
        TierFolder(places.tier_of(settings, number), tier.directory) for number, tier in enumerate(settings.tiers)
    ]
    spare = places.spare_folders(settings)
    store = BlockStore(
        [*folders, *spare],
        block_size_bytes=tunables.block_size_bytes,
        threads=threads,
        clock=time.monotonic,
        metrics=metrics,
        changed=state.changed,
        idle_files_max=min(tunables.idle_descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4),
        reuse_seconds=tunables.reuse_seconds,
        slow_seconds=tunables.slow_disk_seconds,
    )
    locks = [await store.run(places.lock, folder.directory) for folder in (*folders, *spare)]
    found = await store.recover()
    log.info("recovered", files=len(found), bytes=sum(tier.used_bytes for tier in store.tiers))
    speeds = [await places.measured(store, tier.directory, tunables.probe_bytes) for tier in settings.tiers] + [
        0
    ] * len(spare)

    listener = places.listen(settings.listen, "--listen")
    me = Peer(
        settings.node,
        await store.run(places.next_epoch, settings.tiers[-1].directory),
        places.endpoint_of(listener, settings),
    )
    metadata = MetadataClient(
        str(settings.metadata),
        node=settings.node,
        call_seconds=tunables.metadata_seconds,
        mutation_seconds=tunables.mutation_seconds,
        trust=trust,
    )
    keys = TokenKeys(metadata, time.monotonic)
    datasets = Datasets(
        metadata,
        settings.credentials_dir,
        node=settings.node,
        fresh_seconds=tunables.dataset_seconds,
        clock=time.monotonic,
    )
    buffers = Buffers(tunables.block_size_bytes)
    peers = Peers(
        me.node,
        connect_seconds=tunables.peer_connect_seconds,
        read_seconds=tunables.peer_read_seconds,
        buffers=buffers,
        trust=trust,
        tokens=metadata.tokens,
    )
    workers = Workers(
        me,
        metadata,
        interval_seconds=tunables.workers_seconds,
        clock=time.monotonic,
        changed=peers.keep_only,
    )
    filler = Filler(
        workers,
        peers,
        datasets,
        metrics,
        block_size_bytes=tunables.block_size_bytes,
        origin_streams=tunables.origin_streams,
        peer_streams=tunables.peer_streams,
        origin_seconds=tunables.origin_read_seconds,
        clock=time.monotonic,
        buffers=buffers,
    )
    store.index.refetch_seconds_per_byte = filler.origin.refetch_seconds_per_byte
    terms = TermsKeeper(store.index, datasets, workers, interval_seconds=tunables.dataset_seconds)
    store.index.terms = terms.of
    filler.origin.rates_allowed = lambda uid: terms.rates(uid, tunables.origin_bytes_per_second)
    reader = Reader(store, filler, datasets, metrics)
    turns = Turns(me, datasets, metadata, wait_seconds=tunables.turn_seconds)
    held_copies = HeldCopies(
        me=me, store=store, workers=workers, peers=peers, metrics=metrics, percent=tunables.held_percent
    )
    held_uploads = HeldUploads(
        me=me,
        store=store,
        copies=held_copies,
        workers=workers,
        peers=peers,
        filler=filler,
        datasets=datasets,
        metadata=metadata,
        metrics=metrics,
        turns=turns,
        settings=HoldSettings(tunables.held_settle_seconds, tunables.held_takeover_seconds),
        at_once=tunables.held_uploads,
    )
    holding = Holding(
        me=me,
        store=store,
        copies=held_copies,
        uploads=held_uploads,
        workers=workers,
        peers=peers,
        metrics=metrics,
        hold_seconds=tunables.hold_seconds,
    )
    filler.origin.fill_held = HeldReader(
        me=me, read_here=holding.read, workers=workers, peers=peers, datasets=datasets, metadata=metadata
    ).fill
    await held_copies.recover()
    writes = Writes(
        store=store,
        reader=reader,
        filler=filler,
        datasets=datasets,
        metadata=metadata,
        metrics=metrics,
        holding=holding,
        turns=turns,
    )
    order = PathOrder()
    left_objects = LeftObjects(node=me.node, datasets=datasets, metadata=metadata, order=order, turns=turns)
    renames = Renames(store, writes, datasets, metadata, left_objects)
    names = Names(metadata)
    answerer = ReadAnswerer(store, reader, metrics, senders)
    loads = Loads(
        store=store,
        reader=reader,
        datasets=datasets,
        metadata=metadata,
        workers=workers,
        metrics=metrics,
        streams=tunables.load_streams,
        clock=time.monotonic,
    )
    preheater = Preheater(
        store=store,
        reader=reader,
        metadata=metadata,
        metrics=metrics,
        streams=tunables.preheat_streams,
        bytes_max=min(tunables.preheat_bytes, min(tier.temporary_limit_bytes for tier in store.tiers) // 2),
        learns=tunables.preheat_rows,
        clock=time.monotonic,
    )
    promoter = Promoter(store, metrics, reader.bring, lambda file, moved: reader.came_ahead(file.version, moved))
    if tunables.whole_weights:
        reader.on_read = promoter.read
    pruner = Pruner(store, datasets, metadata, interval_seconds=tunables.prune_seconds)

    scrubber = Scrubber(
        store,
        ScrubSchedule(tunables.scrub_bytes_per_second, tunables.scrub_pass_seconds),
        metrics,
        repair=lambda file, index: reader.load_block(file, index, as_home=file.map.is_home),
        clock=time.monotonic,
    )

    mover = Mover(
        store,
        metrics,
        bytes_per_second=tunables.move_bytes_per_second,
        interval_seconds=tunables.move_seconds,
        clock=time.monotonic,
    )

    greeting = HelloReply(
        node=me.node,
        epoch=me.epoch,
        block_size_bytes=tunables.block_size_bytes,
        needs_tokens=trust is not None,
        sets_modes=True,
    )

    def gate_of(peer: Identity | None) -> Gate:
        if trust is None:
            return OpenGate()
        if peer is None:
            # The unix socket: no certificate tells who it is, so tokens of this node's own clients are taken.
            return TokenGate(keys, Identity(Role.NODE, me.node), metrics)
        if peer.role in (Role.WORKER, Role.ADMIN):
            return TokenGate(keys, peer, metrics)
        return ShutGate(f"{peer} may not read here; the byte plane is for workers", metrics)

    def peer_session(link: FrameSocket, peer: Identity | None) -> PeerSession:
        return PeerSession(link, greeting, answerer, gate_of(peer), holding)

    def local_session(link: FrameSocket, peer: Identity | None) -> LocalSession:
        return LocalSession(
            link,
            greeting=greeting,
            store=store,
            reader=reader,
            writes=writes,
            renames=renames,
            names=names,
            answerer=answerer,
            order=order,
            metrics=metrics,
            gate=gate_of(peer),
            preheater=preheater,
        )

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    leaver = Leaver(
        store=store,
        workers=workers,
        peers=peers,
        datasets=datasets,
        metrics=metrics,
        # A report, and a look of every peer at the list; twice, since each may come late.
        known_seconds=2 * (tunables.report_seconds + tunables.workers_seconds),
        emptied=held_uploads.emptied,
    )
    service = ControlService(
        loads, store, Trees(metadata, writes), leaver=leaver, metrics=metrics, gate=ControlGate(keys, metrics)
    )
    add_WorkerControlServicer_to_server(service, server)
    control = Address(settings.control.host, places.bind_control(server, settings.control, trust))
    reporter = Reporter(
        me=me,
        control_endpoint=str(control),
        state=state,
        store=store,
        filler=filler,
        reader=reader,
        datasets=datasets,
        metadata=metadata,
        metrics=metrics,
        interval_seconds=tunables.report_seconds,
        tier_speeds=speeds,
        is_leaving=lambda: workers.is_leaving,
    )
    local_listener = local_socket.listen(settings.socket)
    ready = asyncio.Event()
    try:
        async with _probes(settings, metrics, ready.is_set), asyncio.TaskGroup() as tasks:
            tasks.create_task(FrameServer(listener, peer_session, metrics, trust).run())
            await server.start()
            await reporter.register()
            if trust is not None:
                await keys.refresh()
                tasks.create_task(keys.run())
            await workers.refresh()
            await left_objects.begin()
            tasks.create_task(FrameServer(local_listener, local_session, metrics).run())
            tasks.create_task(reporter.run())
            tasks.create_task(workers.run())
            tasks.create_task(pruner.run())
            tasks.create_task(terms.run())
            tasks.create_task(_recheck(store, found))
            tasks.create_task(mover.run())
            tasks.create_task(held_uploads.run())
            tasks.create_task(left_objects.run())
            tasks.create_task(preheater.run())
            if tunables.scrub_bytes_per_second:
                tasks.create_task(scrubber.run())
            # What is there now stays: looking through it again and again took half of the event loop's busy time.
            gc.collect()
            gc.freeze()
            leavers.append(leaver)
            ready.set()
            log.info("worker_ready", pid=os.getpid(), node=me.node, listen=me.endpoint, control=str(control))
    finally:
        settings.socket.unlink(missing_ok=True)
        leavers.clear()
        await promoter.close()
        await leaver.close()
        await loads.close()
        await server.stop(grace=1)
        await peers.close()
        await writes.close()
        await holding.close()
        await held_copies.close()
        await turns.close()
        await datasets.close()
        await metadata.close()
        store.close()
        for pool in (threads, senders):
            pool.shutdown(wait=False, cancel_futures=True)
        for lock in locks:
            os.close(lock)
        for folder in spare:
            shutil.rmtree(folder.directory, ignore_errors=True)


@asynccontextmanager
async def _probes(settings: WorkerSettings, metrics: Metrics, is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    address = None if settings.metrics is None else str(settings.metrics)
    try:
        async with serve(address, is_ready=is_ready, registry=metrics.registry):
            yield
    except ConfigError as error:
        raise CacheError(str(error)) from error


async def _recheck(store: BlockStore, found: list[CachedFile]) -> None:
    """Verify what earlier runs left, so that it can be reported; readers who come first verify by themselves."""

    async def one(file: CachedFile) -> None:
        if file.is_verified or store.find(file.version) is not file:
            return
        try:
            store.release(await store.acquire(file.version, wanted_bytes=0, as_home=False))
        except CacheError as error:
            log.warning("file_not_verified", file=file.name, error=error.message)

    if found:
        await in_parallel(found, RECHECKS, one)
        log.info("verified", files=len(store.index.names()), bytes=sum(tier.used_bytes for tier in store.tiers))
