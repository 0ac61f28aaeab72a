"""gRPC service Namespace: datasets, names, mutations.

Owns checking requests and answering; what a mutation means is `core/mutations.py`'s, how it is committed
`catalog.py`'s. Invariant: nothing here waits for an under store.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Final

import structlog

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from api.held import is_held
from metadata.core import datasets, fences, left, mutations, paths
from metadata.core.datasets import Dataset
from metadata.core.entries import DIRECTORY_MODE, FILE_MODE, Changes, Entry, Kind
from metadata.errors import InvalidRequest, MetadataError, NotFound, Precondition, Unavailable
from metadata.shell import convert, edge
from metadata.shell.catalog import Catalog, find_dataset, require_dataset
from metadata.shell.edge import Context
from metadata.stores.base import Reader, Transaction

PAGE_ENTRIES_MAX: Final = 10_000
PAGE_PATH_BYTES_MAX: Final = 2 << 20
"""Paths of one answer: with 4 KiB paths 10,000 entries would pass gRPC's 4 MiB."""
MANIFEST_ENTRIES: Final = 500
LEFT_OBJECTS: Final = 1000
"""Of one answer: who took them away asks again."""
PURGE_ROWS: Final = 10_000
"""Rows of a removed dataset deleted a commit: a few tens of ms, so that others' writes are not held up."""

log = structlog.get_logger()


class NamespaceService(metadata_pb2_grpc.NamespaceServicer):
    """Datasets and their files."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._database = catalog.database
        self._control = asyncio.Lock()  # Sync and RemoveDataset: few, and each must see the other's outcome
        self._purges: set[asyncio.Task[None]] = set()

    @edge.change
    async def Sync(self, request: pb.SyncRequest, context: Context) -> pb.DatasetInfo:
        specification = datasets.check(convert.specification(request))

        def record(transaction: Transaction) -> tuple[Dataset, bool, bool]:
            known = transaction.dataset(specification.uid)
            wanted = datasets.with_specification(known, specification)
            has_new_mounts = known is None or known.specification.mounts != specification.mounts
            stored = known if known == wanted and known is not None else transaction.put_dataset(wanted)
            return stored, has_new_mounts, known != stored

        listings = self._catalog.listings
        async with self._control:
            ended = listings.ended
            dataset, has_new_mounts, is_another = await self._database.write(record)
            if is_another:
                self._catalog.watchers.changed(dataset.uid)
            if listings.ended != ended:
                # Settled and old at once: who sees that lists again for nothing.
                dataset = await self._catalog.read(lambda reader: require_dataset(reader, dataset.uid))
            if datasets.needs_listing(
                dataset, force=request.force, has_new_mounts=has_new_mounts, leaves_failed=request.leave_failed
            ):
                await listings.start(dataset)
        return self._catalog.info(dataset)

    @edge.unary
    async def GetDataset(self, request: pb.DatasetRequest, context: Context) -> pb.DatasetInfo:
        return self._catalog.info(await self._catalog.read(lambda reader: find_dataset(reader, request)))

    @edge.unary
    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        return await self._catalog.list(request.namespace, request.since)

    @edge.change
    async def RemoveDataset(self, request: pb.DatasetRequest, context: Context) -> pb.RemoveDatasetResponse:
        async with self._control:
            try:
                dataset = await self._database.read(lambda reader: find_dataset(reader, request))
            except NotFound:
                return pb.RemoveDatasetResponse()
            if dataset.held.files and not request.force:
                raise Unavailable(
                    f"{dataset.held.files} files ({dataset.held.bytes} bytes) of dataset {dataset.label} are not in the"
                    " under store yet; their workers are uploading them."
                )
            await self._catalog.listings.cancel(dataset.uid)
            await self._database.write(lambda transaction: transaction.remove_dataset(dataset.uid))
            self._catalog.residency.forget_dataset(dataset.uid)
            self._catalog.group_sizes.forget(dataset.uid)
            self._catalog.watchers.changed(dataset.uid)
        self._start_purge(dataset.id)
        return pb.RemoveDatasetResponse()

    @edge.unary
    async def Lookup(self, request: pb.LookupRequest, context: Context) -> pb.Entry:
        paths.checked("path", request.path, may_be_root=True)
        entry = await self._database.read(lambda reader: _lookup(reader, request.uid, request.path))
        return convert.entry_message(entry)

    @edge.unary
    async def ReadDirectory(self, request: pb.ReadDirectoryRequest, context: Context) -> pb.ReadDirectoryResponse:
        paths.checked("path", request.path, may_be_root=True)
        limit = min(request.limit or PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX)

        def read(reader: Reader) -> pb.ReadDirectoryResponse:
            dataset = _with_snapshot(reader, request.uid)
            directory = _entry(reader, dataset, request.path)
            if not directory.is_directory:
                raise Precondition(f"{request.path!r} is a file, not a directory.")
            found = reader.children(dataset.id, request.path, after=request.after, limit=limit + 1)
            shown = _fitting(found[:limit])
            return pb.ReadDirectoryResponse(
                entries=[convert.entry_message(entry) for entry in shown],
                more=len(shown) < len(found),
                snapshot_version=dataset.version,
            )

        return await self._database.read(read)

    @edge.stream
    async def Manifest(self, request: pb.ManifestRequest, context: Context) -> AsyncIterator[pb.EntryBatch]:
        for path in request.paths:
            paths.checked("paths", path, may_be_root=True)
        tops = paths.without_nested(request.paths) or [""]
        async with self._database.snapshot() as snapshot:
            dataset = await snapshot.read(lambda reader: _with_snapshot(reader, request.uid))
            found = await snapshot.read(lambda reader: files_in_order(reader, dataset, tops))
            while batch := await snapshot.read(lambda _: list(islice(found, MANIFEST_ENTRIES))):
                yield pb.EntryBatch(
                    entries=[convert.entry_message(entry) for entry in batch],
                    snapshot_version=dataset.version,
                )

    @edge.change
    async def PutFile(self, request: pb.PutFileRequest, context: Context) -> pb.Mutation:
        if is_held(request.etag):
            raise InvalidRequest(f"etag {request.etag!r} is of a file two workers hold; PutHeld shows those.")
        return await put_file(self._catalog, request, node=edge.node_of(request, context), turn=request.turn)

    @edge.change
    async def MakeDirectory(self, request: pb.MakeDirectoryRequest, context: Context) -> pb.Mutation:
        node = edge.node_of(request, context)
        mtime_ns = request.mtime_ns or time.time_ns()
        version = await self._catalog.mutate(
            request.uid,
            edge.request_key(request, node),
            request.path,
            lambda view, _: mutations.make_directory(view, request.path, request.mode or DIRECTORY_MODE, mtime_ns),
            node=node,
        )
        return pb.Mutation(snapshot_version=version)

    @edge.change
    async def SetMode(self, request: pb.SetModeRequest, context: Context) -> pb.Mutation:
        node = edge.node_of(request, context)
        version = await self._catalog.mutate(
            request.uid,
            edge.request_key(request, node),
            request.path,
            lambda view, _: mutations.set_mode(view, request.path, request.mode),
            node=node,
        )
        return pb.Mutation(snapshot_version=version)

    @edge.change
    async def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.Mutation:
        node = edge.node_of(request, context)
        version = await self._catalog.mutate(
            request.uid,
            edge.request_key(request, node),
            request.path,
            lambda view, dataset: mutations.remove(
                view, request.path, directory=request.directory, mounts=dataset.specification.mounts
            ),
            node=node,
            turn=request.turn,
        )
        return pb.Mutation(snapshot_version=version)

    @edge.change
    async def Rename(self, request: pb.RenameRequest, context: Context) -> pb.Mutation:
        now_ns, node = time.time_ns(), edge.node_of(request, context)

        def decide(view: mutations.View, dataset: Dataset) -> Changes:
            datasets.require_writable(dataset, request.source)
            fences.require_none(dataset.fences, node, request.source, now_ns)
            return mutations.rename(
                view,
                request.source,
                request.target,
                target_etag=request.target_etag,
                source_etag=request.source_etag,
                leaves_source=request.leaves_source,
                mtime_ns=now_ns,
                mounts=dataset.specification.mounts,
            )

        version = await self._catalog.mutate(
            request.uid, edge.request_key(request, node), request.target, decide, node=node, turn=request.turn
        )
        return pb.Mutation(snapshot_version=version)

    @edge.unary
    async def ListLeft(self, request: pb.ListLeftRequest, context: Context) -> pb.LeftObjects:
        found = await self._database.read(lambda reader: reader.all_left())
        standing = self._catalog.residency.standing()
        return pb.LeftObjects(
            objects=[
                pb.LeftObject(uid=uid, path=one.path, etag=one.etag, version=one.version)
                for uid, objects in found.items()
                for one in left.to_take_away(objects, request.node, standing)
            ][:LEFT_OBJECTS]
        )

    @edge.change
    async def ForgetLeft(self, request: pb.LeftObjects, context: Context) -> pb.ForgetLeftResponse:
        def forget(transaction: Transaction) -> None:
            listed = {listing.origin.uid for listing in transaction.unfinished_listings()}
            for one in request.objects:
                dataset = transaction.dataset(one.uid)
                known = None if dataset is None else transaction.left_at(dataset.id, one.path)
                if dataset is None or known is None or known.version != one.version:
                    continue
                kept = left.gone(known, is_listing=one.uid in listed)
                if kept is None:
                    transaction.drop_left(dataset.id, one.path)
                else:
                    transaction.put_left(dataset.id, kept)

        await self._database.write(forget)
        return pb.ForgetLeftResponse()

    @edge.stream
    async def WatchDatasets(
        self, request: pb.WatchDatasetsRequest, context: Context
    ) -> AsyncIterator[pb.DatasetStates]:
        watchers = self._catalog.watchers
        with watchers.subscribe() as subscription:
            while not subscription.is_closed:
                for message in await subscription.next_messages():
                    yield message
                await asyncio.sleep(watchers.pause_seconds)

    async def resume_purges(self) -> None:
        """Go on deleting rows of datasets whose removal a restart interrupted."""
        for dataset_id in await self._database.write(lambda transaction: transaction.orphans()):
            self._start_purge(dataset_id)

    async def close(self) -> None:
        """Stop purges; the next start goes on with them."""
        for task in self._purges:
            task.cancel()
        await asyncio.gather(*self._purges, return_exceptions=True)

    def _start_purge(self, dataset_id: int) -> None:
        task = asyncio.create_task(self._purge(dataset_id), name=f"purge-{dataset_id}")
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)

    async def _purge(self, dataset_id: int) -> None:
        try:
            more = True
            while more:
                more = await self._database.write(lambda transaction: transaction.purge(dataset_id, PURGE_ROWS))
        except MetadataError as error:
            log.warning("metadata.purge_stopped", dataset_id=dataset_id, message=error.message)


async def put_file(catalog: Catalog, request: pb.PutFileRequest, *, node: str, turn: str) -> pb.Mutation:
    """Show a file's new version."""
    entry = Entry(
        request.path,
        Kind.FILE,
        request.size_bytes,
        request.etag,
        request.mtime_ns or time.time_ns(),
        request.mode or FILE_MODE,
    )
    version = await catalog.mutate(
        request.uid,
        edge.request_key(request, node),
        request.path,
        lambda view, _: mutations.put_file(view, entry),
        node=node,
        turn=turn,
    )
    return pb.Mutation(snapshot_version=version)


def files_in_order(reader: Reader, dataset: Dataset, tops: list[str]) -> Iterator[Entry]:
    """Files at and below `tops`, by names level by level, as a walk through sorted directories meets them.

    NotFound at once when one of `tops` is missing; the rest is read while iterating.
    """
    starts = [_entry(reader, dataset, top) for top in tops]

    def walk() -> Iterator[Entry]:
        stack = starts[::-1]
        while stack:
            entry = stack.pop()
            if entry.is_directory:
                stack.extend(reversed(reader.children(dataset.id, entry.path)))
            else:
                yield entry

    return walk()


def _with_snapshot(reader: Reader, uid: str) -> Dataset:
    return datasets.require_snapshot(require_dataset(reader, uid))


def _lookup(reader: Reader, uid: str, path: str) -> Entry:
    return _entry(reader, _with_snapshot(reader, uid), path)


def _entry(reader: Reader, dataset: Dataset, path: str) -> Entry:
    if not path:
        return Entry("", Kind.MADE, mtime_ns=dataset.synced_at_ns, mode=DIRECTORY_MODE, version=dataset.version)
    entry = reader.entry(dataset.id, path)
    if entry is None:
        raise NotFound(f"there is no {path!r} in dataset {dataset.label}.")
    return entry


def _fitting(entries: list[Entry]) -> list[Entry]:
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.path)
        if size > PAGE_PATH_BYTES_MAX and count:
            return entries[:count]
    return entries
