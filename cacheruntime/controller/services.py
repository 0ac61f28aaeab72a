"""The controller's gRPC clients: the metadata service and the workers.

Owns channels and deadlines. Decides nothing. Every call has a deadline; a failed call raises grpc.aio.AioRpcError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from api.gen import metadata_pb2, metadata_pb2_grpc, worker_pb2, worker_pb2_grpc
from api.trust.channels import open_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, Role
from api.trust.source import TokenSource
from kube.errors import KubeError


class Metadata:
    """Calls to the metadata service."""

    def __init__(self, address: str, call_seconds: float, trust: TrustFiles | None = None) -> None:
        """`trust` None: in plain text, and there are no tokens."""
        self._channel = open_channel(address, trust, METADATA_SERVER)
        #: Of the controller, for its calls of workers.
        self.tokens = None if trust is None else TokenSource(self._channel)
        self._seconds = call_seconds
        self._namespace = metadata_pb2_grpc.NamespaceStub(self._channel)
        self._residency = metadata_pb2_grpc.ResidencyStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        if self.tokens is not None:
            await self.tokens.close()
        await self._channel.close()

    async def sync(self, request: metadata_pb2.SyncRequest) -> metadata_pb2.DatasetInfo:
        """Create or update a dataset's record and start its listing."""
        return await self._namespace.Sync(request, timeout=self._seconds)

    async def dataset(self, namespace: str, name: str) -> metadata_pb2.DatasetInfo:
        """Return one dataset; NOT_FOUND when metadata does not know it."""
        return await self._namespace.GetDataset(
            metadata_pb2.DatasetRequest(namespace=namespace, name=name), timeout=self._seconds
        )

    async def datasets_since(self, revision: str) -> metadata_pb2.ListDatasetsResponse:
        """Return what changed since an answer's revision, or every dataset: see ListDatasets."""
        request = metadata_pb2.ListDatasetsRequest(since=revision)
        return await self._namespace.ListDatasets(request, timeout=self._seconds)

    async def remove(self, uid: str, *, force: bool) -> None:
        """Forget a dataset; no error when it is not known. UNAVAILABLE while files of it are not in the under store
        yet, without `force`."""
        request = metadata_pb2.DatasetRequest(uid=uid, force=force)
        await self._namespace.RemoveDataset(request, timeout=self._seconds)

    async def workers(self) -> Sequence[metadata_pb2.Worker]:
        """Return every worker metadata has heard of, dead ones too."""
        answer = await self._residency.ListWorkers(metadata_pb2.ListWorkersRequest(), timeout=self._seconds)
        return answer.workers

    async def by_node(self) -> Sequence[metadata_pb2.NodeResidency]:
        """Return what each live worker holds."""
        answer = await self._residency.ByNode(metadata_pb2.ByNodeRequest(), timeout=self._seconds)
        return answer.nodes


async def alive_workers(metadata: Metadata) -> list[metadata_pb2.Worker]:
    """Return the workers that can be called."""
    return [worker for worker in await metadata.workers() if worker.alive]


def said(error: grpc.aio.AioRpcError | KubeError) -> str:
    """Return what a service, or the API server, said."""
    return (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)


class Workers:
    """Calls to the workers' control services; one channel an endpoint, dropped when the worker is."""

    def __init__(self, call_seconds: float, trust: TrustFiles | None = None, tokens: TokenSource | None = None) -> None:
        self._seconds = call_seconds
        self._trust = trust
        self._tokens = tokens
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def keep_only(self, endpoints: set[str]) -> None:
        """Close channels to workers that are gone."""
        for endpoint in self._channels.keys() - endpoints:
            await self._channels.pop(endpoint).close()

    def _stub(self, worker: metadata_pb2.Worker) -> worker_pb2_grpc.WorkerControlAsyncStub:
        endpoint = worker.control_endpoint
        channel = self._channels.get(endpoint)
        if channel is None:
            who = Identity(Role.WORKER, worker.node)
            channel = self._channels[endpoint] = open_channel(endpoint, self._trust, who)
        return worker_pb2_grpc.WorkerControlStub(channel)

    async def _bearer(self, uid: str) -> list[tuple[str, str]]:
        if self._tokens is None:
            return []
        return [("authorization", f"Bearer {(await self._tokens.get(uid, write=False)).token}")]

    async def start_load(
        self, workers: Sequence[metadata_pb2.Worker], request: worker_pb2.StartLoadRequest
    ) -> list[worker_pb2.LoadProgress]:
        """Start (or join) a load on every worker; return their progress in the same order."""
        bearer = await self._bearer(request.uid)
        return list(
            await asyncio.gather(
                *(self._stub(worker).StartLoad(request, timeout=self._seconds, metadata=bearer) for worker in workers)
            )
        )

    async def leave(self, worker: metadata_pb2.Worker, *, stay: bool) -> worker_pb2.LeaveProgress:
        """Have a worker hand its blocks over, or stay; return how far it is."""
        return await self._stub(worker).Leave(worker_pb2.LeaveRequest(stay=stay), timeout=self._seconds)

    async def evict(self, workers: Sequence[metadata_pb2.Worker], uid: str, paths: Sequence[str] = ()) -> None:
        """Drop a dataset's blocks (below `paths`, if given) on every worker."""
        if not workers:
            return
        request = worker_pb2.EvictRequest(uid=uid, paths=paths)
        try:
            bearer = await self._bearer(uid)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return  # forgotten already; workers drop what no dataset has by themselves
            raise
        await asyncio.gather(
            *(self._stub(worker).Evict(request, timeout=self._seconds, metadata=bearer) for worker in workers)
        )
