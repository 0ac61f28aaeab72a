"""gRPC service Residency: workers report, others ask where bytes are. Owns requests and answers only."""

from collections.abc import Set
from typing import Final

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from metadata.core import paths
from metadata.core.datasets import Dataset
from metadata.core.residency import NodeBytes
from metadata.shell import convert, edge
from metadata.shell.catalog import Catalog, require_dataset
from metadata.shell.edge import Context
from metadata.stores.base import Reader

ONE_BY_ONE_MAX: Final = 500
"""Datasets that are read one by one; of more, all are."""


class ResidencyService(metadata_pb2_grpc.ResidencyServicer):
    """Workers and what they hold."""

    def __init__(self, catalog: Catalog) -> None:
        self._database = catalog.database
        self._residency = catalog.residency

    @edge.unary
    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        await self._residency.register(convert.registration(request))
        return pb.RegisterResponse(lease_seconds=self._residency.lease_seconds)

    @edge.unary
    async def Report(self, request: pb.BlockReport, context: Context) -> pb.ReportResponse:
        need_full = await self._residency.report(
            request.node,
            request.epoch,
            request.sequence,
            full=request.full,
            readings=convert.readings(request),
            files=[convert.residence(file) for file in request.files],
        )
        return pb.ReportResponse(need_full=need_full)

    @edge.unary
    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        return pb.ListWorkersResponse(
            workers=[convert.worker_message(worker) for worker in self._residency.workers.all()]
        )

    @edge.unary
    async def ByNode(self, request: pb.ByNodeRequest, context: Context) -> pb.ByNodeResponse:
        found = [
            (worker, self._residency.ledger.on_node(worker.registration.node))
            for worker in self._residency.workers.all()
            if request.node in ("", worker.registration.node)
        ]
        wanted = {uid for _, resident in found for uid in resident}
        known = await self._database.read(lambda reader: known_datasets(reader, wanted)) if wanted else {}
        return pb.ByNodeResponse(
            nodes=[
                pb.NodeResidency(
                    worker=convert.worker_message(worker),
                    datasets=[
                        _dataset_on_node(known[uid], counts) for uid, counts in sorted(resident.items()) if uid in known
                    ],
                )
                for worker, resident in found
            ]
        )

    @edge.unary
    async def Locate(self, request: pb.LocateRequest, context: Context) -> pb.LocateResponse:
        for path in request.paths:
            paths.checked("paths", path, may_be_root=True)
        tops = paths.without_nested(request.paths) or [""]
        total = await self._database.read(lambda reader: _total_bytes(reader, request.uid, tops))
        return pb.LocateResponse(
            resident_bytes={
                node: convert.uint64(count) for node, count in self._residency.ledger.below(request.uid, tops).items()
            },
            total_bytes=total,
        )


def known_datasets(reader: Reader, wanted: Set[str]) -> dict[str, Dataset]:
    """Return those of these uids that there are. Asked for every second, so what nobody caches must cost nothing."""
    if len(wanted) > ONE_BY_ONE_MAX:
        return {one.uid: one for one in reader.datasets() if one.uid in wanted}
    return {uid: one for uid in wanted if (one := reader.dataset(uid)) is not None}


def _dataset_on_node(dataset: Dataset, counts: NodeBytes) -> pb.DatasetOnNode:
    return pb.DatasetOnNode(
        uid=dataset.uid,
        namespace=dataset.specification.namespace,
        name=dataset.specification.name,
        snapshot_version=dataset.version,
        resident_bytes={medium: convert.uint64(count) for medium, count in counts.by_medium.items()},
        groups={group: convert.uint64(count) for group, count in counts.by_group.items()},
    )


def _total_bytes(reader: Reader, uid: str, tops: list[str]) -> int:
    """Bytes of the files at and below `tops`; paths that do not exist have none."""
    dataset = require_dataset(reader, uid)
    total = 0
    for top in tops:
        if not top:
            return dataset.bytes
        entry = reader.entry(dataset.id, top)
        if entry is not None:
            total += reader.bytes_below(dataset.id, top) if entry.is_directory else entry.size_bytes
    return total
