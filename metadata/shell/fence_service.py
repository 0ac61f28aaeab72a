"""gRPC service Fences: who may not change what. Owns requests and answers; what they mean is `core/fences.py`'s."""

import time
from dataclasses import replace

import structlog

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from metadata.core import fences
from metadata.core.datasets import Dataset
from metadata.core.fences import Fence
from metadata.errors import InvalidRequest
from metadata.shell import convert, edge, metrics
from metadata.shell.catalog import Catalog, find_dataset, require_dataset
from metadata.shell.edge import Context
from metadata.stores.base import Transaction

log = structlog.get_logger()


class FenceService(metadata_pb2_grpc.FencesServicer):
    """The fences of every dataset."""

    def __init__(self, catalog: Catalog, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._catalog = catalog
        self._database = catalog.database

    @edge.change
    async def Raise(self, request: pb.RaiseFencesRequest, context: Context) -> pb.RaiseFencesResponse:
        asked = [fences.check(Fence(one.node, one.path, tuple(one.pods))) for one in request.fences]
        if not asked:
            raise InvalidRequest("fences is empty; it must name a node and its pods.")

        def record(transaction: Transaction) -> tuple[Dataset, int]:
            named = pb.DatasetRequest(uid=request.uid, namespace=request.namespace, name=request.name)
            dataset = find_dataset(transaction, named)
            found = fences.raised(dataset.fences, asked, time.time_ns(), settle_seconds=self._settle_seconds)
            changed = transaction.put_dataset(replace(dataset, fences=found))
            return changed, len(_places(changed) - _places(dataset))

        dataset, added = await self._database.write(record)
        metrics.FENCES.labels("raised").inc(added)
        self._catalog.watchers.changed(dataset.uid)
        for one in asked:
            log.info("metadata.fence_raised", dataset=dataset.label, node=one.node, path=one.path, pods=len(one.pods))
        wanted = {(one.node, one.path) for one in asked}
        stands_at_ns = max(one.stands_at_ns for one in dataset.fences if (one.node, one.path) in wanted)
        return pb.RaiseFencesResponse(settle_seconds=max(0.0, (stands_at_ns - time.time_ns()) / 1e9))

    @edge.change
    async def Lift(self, request: pb.LiftFencesRequest, context: Context) -> pb.LiftFencesResponse:
        pods = frozenset(request.pods)

        def record(transaction: Transaction) -> int | None:
            dataset = require_dataset(transaction, request.uid)
            left = fences.lifted(dataset.fences, request.node, pods)
            if left == dataset.fences:
                return None
            return len(_places(dataset) - _places(transaction.put_dataset(replace(dataset, fences=left))))

        opened = await self._database.write(record)
        if opened is not None:
            metrics.FENCES.labels("lifted").inc(opened)
            self._catalog.watchers.changed(request.uid)
            log.info("metadata.fence_lifted", dataset=request.uid, node=request.node, pods=len(pods))
        return pb.LiftFencesResponse()

    @edge.unary
    async def List(self, request: pb.ListFencesRequest, context: Context) -> pb.ListFencesResponse:
        if not request.node:
            raise InvalidRequest("node is empty; it must be the name of a node.")
        fenced = await self._database.read(lambda reader: reader.fenced_datasets())
        return pb.ListFencesResponse(
            fences=[
                convert.fence_message(fence, one.uid)
                for one in fenced
                for fence in one.fences
                if fence.node == request.node
            ]
        )


def _places(dataset: Dataset) -> set[tuple[str, str]]:
    return {(one.node, one.path) for one in dataset.fences}
