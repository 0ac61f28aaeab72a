"""Asks the metadata service which checkpoints a job has.

Owns the channel, the deadline and the translation of its answers. Keeps nothing."""

from __future__ import annotations

import grpc
import grpc.aio

from api.gen import metadata_pb2, metadata_pb2_grpc
from api.training_v1alpha1 import CheckpointSpec
from jobcontroller.core.observed import CheckpointView
from jobcontroller.errors import MetadataUnavailable

#: what `format: auto` means as long as the service knows markers only
DEFAULT_FORMAT = "Marker"


class CheckpointClient:
    """One channel to one metadata service. Close it at the end."""

    def __init__(self, address: str, deadline_seconds: float) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._namespace = metadata_pb2_grpc.NamespaceStub(self._channel)
        self._checkpoints = metadata_pb2_grpc.CheckpointsStub(self._channel)
        self._deadline_seconds = deadline_seconds

    async def newest_first(self, namespace: str, spec: CheckpointSpec) -> tuple[CheckpointView, ...]:
        """Return the checkpoints below the job's directory, newest step first.

        A directory that is not there yet has none. Raises MetadataUnavailable."""
        request = metadata_pb2.DatasetRequest(namespace=namespace, name=spec.dataset or "")
        try:
            dataset = await self._namespace.GetDataset(request, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            raise MetadataUnavailable(f"Dataset {spec.dataset}: {_text(error)}") from error
        wanted = metadata_pb2.ListCheckpointsRequest(
            uid=dataset.uid,
            path=spec.path.strip("/"),
            format=DEFAULT_FORMAT if spec.format == "auto" else spec.format,
            marker=spec.marker,
        )
        try:
            answer = await self._checkpoints.List(wanted, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return ()
            raise MetadataUnavailable(f"checkpoints in Dataset {spec.dataset}: {_text(error)}") from error
        return tuple(_view(checkpoint) for checkpoint in answer.checkpoints)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _view(checkpoint: metadata_pb2.Checkpoint) -> CheckpointView:
    return CheckpointView(
        step=checkpoint.step,
        path=checkpoint.path,
        is_complete=checkpoint.complete,
        size_bytes=checkpoint.bytes,
        node_bytes=dict(checkpoint.nodes),
        completed_at=checkpoint.completed_at_ns / 1e9 if checkpoint.completed_at_ns else None,
    )


def _text(error: grpc.aio.AioRpcError) -> str:
    return f"the metadata service answered {error.code().name}: {(error.details() or 'no details')[:300]}"
