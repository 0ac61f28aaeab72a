"""Which datasets there are, by the metadata service's word."""

from typing import Final

import grpc

from api.fence_lifting import FenceLifter
from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from api.trust.channels import open_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER
from fuse.csi.core.volumes import DatasetRef
from fuse.csi.errors import NoSuchVolume, NotNow

CALL_SECONDS: Final = 10.0


class Catalogue:
    """A client of the metadata service; close it."""

    def __init__(self, target: str, trust: TrustFiles | None = None) -> None:
        """`target`: HOST:PORT."""
        self._target = target
        # A restarted service is found again within a second, not after grpc's two minutes.
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = open_channel(target, trust, METADATA_SERVER, options)
        self._stub: metadata_pb2_grpc.NamespaceAsyncStub = metadata_pb2_grpc.NamespaceStub(self._channel)

    async def is_writable(self, ref: DatasetRef) -> bool:
        """Whether a dataset takes writes. NoSuchVolume when there is none of that name, NotNow."""
        request = pb.DatasetRequest(namespace=ref.namespace, name=ref.name)
        try:
            info = await self._stub.GetDataset(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NoSuchVolume(
                    f"there is no dataset {ref} (the metadata service knows none); make a Dataset of that name"
                ) from None
            raise NotNow(
                f"the metadata service at {self._target} cannot tell of dataset {ref} ({error.code().name}); trying "
                "again is safe"
            ) from None
        return info.writable

    def fences(self, node: str) -> FenceLifter:
        """Return what lifts the fences of a node."""
        return FenceLifter(self._channel, node)

    async def is_answering(self) -> bool:
        """Whether the metadata service answers at all."""
        try:
            await self._stub.GetDataset(pb.DatasetRequest(uid="-"), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return True

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
