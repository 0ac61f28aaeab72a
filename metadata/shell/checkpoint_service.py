"""gRPC service Checkpoints: which steps of a directory are complete, and who holds them."""

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from metadata.core import datasets, paths
from metadata.core.checkpoints import Checkpoint, checkpoints
from metadata.core.formats.registry import checkpoint_format
from metadata.shell import convert, edge
from metadata.shell.catalog import Catalog, require_dataset
from metadata.shell.edge import Context
from metadata.stores.base import Reader


class CheckpointService(metadata_pb2_grpc.CheckpointsServicer):
    """Checkpoints, read from the namespace at each call."""

    def __init__(self, catalog: Catalog) -> None:
        self._database = catalog.database
        self._residency = catalog.residency

    @edge.unary
    async def List(self, request: pb.ListCheckpointsRequest, context: Context) -> pb.ListCheckpointsResponse:
        """A directory that does not exist yet has no checkpoints: the first attempt asks before it writes."""
        paths.checked("path", request.path, may_be_root=True)
        kind = checkpoint_format(request.format, request.marker)

        def read(reader: Reader) -> list[Checkpoint]:
            dataset = datasets.require_snapshot(require_dataset(reader, request.uid))
            return checkpoints(
                reader.children(dataset.id, request.path),
                lambda directory: list(reader.below(dataset.id, directory)),
                kind,
            )

        found = await self._database.read(read)
        return pb.ListCheckpointsResponse(
            checkpoints=[
                convert.checkpoint_message(one, self._residency.ledger.below(request.uid, [one.path])) for one in found
            ]
        )
