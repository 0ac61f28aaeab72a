"""gRPC service Checkpoints: which steps of a directory are complete, and who holds them."""

import asyncio

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from metadata.core import datasets, paths
from metadata.core.checkpoints import contents_wanted, judged, scene
from metadata.core.datasets import Dataset
from metadata.core.formats.base import Scene
from metadata.core.formats.registry import checkpoint_format
from metadata.shell import convert, edge
from metadata.shell.catalog import Catalog, require_dataset
from metadata.shell.edge import Context
from metadata.shell.small_files import SmallFiles
from metadata.stores.base import Reader


class CheckpointService(metadata_pb2_grpc.CheckpointsServicer):
    """Checkpoints, read from the namespace at each call, and where a format asks for it from the under store."""

    def __init__(self, catalog: Catalog, small_files: SmallFiles) -> None:
        self._database = catalog.database
        self._residency = catalog.residency
        self._small_files = small_files

    @edge.unary
    async def List(self, request: pb.ListCheckpointsRequest, context: Context) -> pb.ListCheckpointsResponse:
        """A directory that does not exist yet has no checkpoints: the first attempt asks before it writes."""
        paths.checked("path", request.path, may_be_root=True)
        kind = checkpoint_format(request.format, request.marker)

        def read(reader: Reader) -> tuple[Dataset, Scene]:
            dataset = datasets.require_snapshot(require_dataset(reader, request.uid))
            children = reader.children(dataset.id, request.path)
            return dataset, scene(children, lambda directory: list(reader.below(dataset.id, directory)), kind)

        dataset, seen = await self._database.read(read)
        contents = await self._small_files.read(dataset, contents_wanted(seen, kind))
        # In a thread: a large `.metadata` takes seconds to look through.
        found = await asyncio.to_thread(judged, seen, kind, contents)
        return pb.ListCheckpointsResponse(
            checkpoints=[
                convert.checkpoint_message(one, self._residency.ledger.below(request.uid, [one.path])) for one in found
            ]
        )
