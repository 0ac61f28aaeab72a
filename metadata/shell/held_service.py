"""gRPC service Held: files that two workers hold, and turns. Owns requests and the order within a transaction; what
they mean is `core/held.py`'s.

Invariant: what is granted, and that an upload was the entry's version, is decided in the transaction that writes it.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Final

from msgspec import structs

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from api.held import is_held
from metadata.core import datasets, held, paths
from metadata.core.datasets import Dataset
from metadata.core.entries import Changes, Entry
from metadata.core.held import HeldFile, HeldState, HeldTally, Standing, Turn
from metadata.errors import InvalidRequest, Precondition, Unavailable
from metadata.shell import edge
from metadata.shell.catalog import Catalog, require_dataset
from metadata.shell.edge import Context
from metadata.shell.namespace_service import put_file
from metadata.stores.base import Reader, Transaction

FORGET_EVERY: Final = 256
"""Uploads after which what ended long ago is looked for: few pay for it."""
_STATES: Final = {
    HeldState.WAITING: pb.HeldState.WAITING,
    HeldState.UPLOADED: pb.HeldState.UPLOADED,
    HeldState.GONE: pb.HeldState.GONE,
}


class HeldService(metadata_pb2_grpc.HeldServicer):
    """Held versions and turns."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._database = catalog.database
        self._uploads = 0

    @edge.change
    async def PutHeld(self, request: pb.PutFileRequest, context: Context) -> pb.Mutation:
        _check(request.etag)
        node = edge.node_of(request, context)
        await self._database.read(partial(_require_new, request, edge.request_key(request, node)))
        return await put_file(self._catalog, request, node=node, turn="")

    @edge.change
    async def TakeTurn(self, request: pb.TakeTurnRequest, context: Context) -> pb.Turn:
        turn = _turn(request.turn, request.node, request.epoch)
        for path in request.paths:
            paths.checked("paths", path)
        standing = self._catalog.residency.standing()

        def take(transaction: Transaction) -> None:
            dataset = require_dataset(transaction, request.uid)
            for path in request.paths:
                if not held.is_free(transaction.turn(dataset.id, path), turn.id, standing):
                    raise Unavailable(f"{path!r} is being changed in the under store by another worker.")
                transaction.put_turn(dataset.id, path, turn)

        await self._database.write(take)
        return pb.Turn(turn=turn.id)

    @edge.change
    async def EndTurn(self, request: pb.EndTurnRequest, context: Context) -> pb.EndTurnResponse:
        def end(transaction: Transaction) -> None:
            dataset = require_dataset(transaction, request.uid)
            transaction.end_turn(dataset.id, request.turn)

        await self._database.write(end)
        return pb.EndTurnResponse()

    @edge.change
    async def ClaimHeld(self, request: pb.ClaimHeldRequest, context: Context) -> pb.HeldState:
        _check(request.etag)
        turn = replace(_turn(request.turn, request.node, request.epoch), is_upload=True)
        standing = self._catalog.residency.standing()
        return await self._database.write(partial(_claim, request, turn, standing))

    @edge.change
    async def FinishHeld(self, request: pb.FinishHeldRequest, context: Context) -> pb.HeldState:
        _check(request.etag)
        if not request.object_etag or is_held(request.object_etag):
            raise InvalidRequest(f"object_etag is {request.object_etag!r}; it must be the under store's.")
        self._uploads += 1
        forgets = self._uploads % FORGET_EVERY == 0
        answer, shown = await self._database.write(partial(_finish, request, forgets))
        if shown is not None:
            dataset, entry = shown
            self._catalog.residency.announce(dataset.uid, dataset.version, Changes([entry]))
            self._catalog.watchers.changed(dataset.uid)
        return answer

    @edge.unary
    async def FindHeld(self, request: pb.FindHeldRequest, context: Context) -> pb.HeldState:
        def find(reader: Reader) -> pb.HeldState:
            return _message(reader.held(require_dataset(reader, request.uid).id, request.etag))

        return await self._database.read(find)

    @edge.change
    async def ForgetHeld(self, request: pb.ForgetHeldRequest, context: Context) -> pb.ForgetHeldResponse:
        def forget(transaction: Transaction) -> None:
            dataset = require_dataset(transaction, request.uid)
            row = transaction.held(dataset.id, request.etag)
            if row is not None and row.state is HeldState.WAITING:
                raise Precondition(f"{row.path!r} is not in the under store yet; its holders may not drop it.")
            if row is not None:
                transaction.put_held(dataset.id, held.forgotten(row, request.node))

        await self._database.write(forget)
        return pb.ForgetHeldResponse()


def _claim(request: pb.ClaimHeldRequest, turn: Turn, standing: Standing, transaction: Transaction) -> pb.HeldState:
    dataset = require_dataset(transaction, request.uid)
    row = transaction.held(dataset.id, request.etag)
    if row is None or row.state is not HeldState.WAITING:
        return _message(row)
    if not held.is_free(transaction.turn(dataset.id, row.path), turn.id, standing):
        return pb.HeldState(state=pb.HeldState.BUSY, path=row.path)
    transaction.put_turn(dataset.id, row.path, turn)
    # From here on an object may be there, whatever becomes of the upload.
    transaction.put_held(dataset.id, replace(row, leaves_object=True))
    return _message(row)


def _finish(
    request: pb.FinishHeldRequest, forgets: bool, transaction: Transaction
) -> tuple[pb.HeldState, tuple[Dataset, Entry] | None]:
    dataset = require_dataset(transaction, request.uid)
    row = transaction.held(dataset.id, request.etag)
    if row is None or row.state is not HeldState.WAITING:
        transaction.end_turn(dataset.id, request.turn)
        return _message(row), None
    turn = transaction.turn(dataset.id, row.path)
    if turn is None or turn.id != request.turn:
        return pb.HeldState(state=pb.HeldState.BUSY, path=row.path), None
    if request.size_bytes != row.size_bytes:
        raise InvalidRequest(f"size_bytes is {request.size_bytes}; {row.path!r} has {row.size_bytes}.")
    entry = transaction.entry(dataset.id, row.path)
    if entry is None or entry.etag != row.etag:
        raise Precondition(f"{row.path!r} does not show the held version that waits there.")
    version, now_ns = dataset.version + 1, time.time_ns()
    transaction.set_etag(dataset.id, row.path, request.object_etag, version)
    row = held.uploaded(row, request.object_etag, now_ns)
    transaction.put_held(dataset.id, row)
    transaction.end_turn(dataset.id, request.turn)
    if forgets:
        transaction.forget_held(dataset.id, now_ns - held.KEPT_NS)
    tally = HeldTally(dataset.held.files - 1, dataset.held.bytes - row.size_bytes)
    dataset = transaction.put_dataset(replace(dataset, version=version, held=tally))
    return _message(row), (dataset, structs.replace(entry, etag=request.object_etag))


def _require_new(request: pb.PutFileRequest, request_key: str, reader: Reader) -> None:
    dataset = datasets.require_snapshot(require_dataset(reader, request.uid))
    if not dataset.specification.write_back:
        raise Precondition(f"dataset {dataset.label} is not written back: its writePolicy is not WriteBack.")
    if request_key and reader.request_version(request_key) is not None:
        return  # a retry, and it may have been uploaded since
    row = reader.held(dataset.id, request.etag)
    if row is not None and row.state is not HeldState.WAITING:
        raise Precondition(f"{request.etag!r} has been {row.state} before.")


def _check(etag: str) -> None:
    if not is_held(etag):
        raise InvalidRequest(f"etag {etag!r} is not of a file two workers hold; api/held.py has its form.")


def _turn(turn: str, node: str, epoch: int) -> Turn:
    if not turn or not node or epoch < 1:
        raise InvalidRequest(f"turn {turn!r}, node {node!r}, epoch {epoch}: none may be empty.")
    return Turn(turn, node, epoch)


def _message(row: HeldFile | None) -> pb.HeldState:
    if row is None:
        return pb.HeldState(state=pb.HeldState.UNKNOWN)
    return pb.HeldState(
        state=_STATES[row.state], path=row.path, object_etag=row.object_etag, leaves_object=row.leaves_object
    )
