"""Asks the metadata service which checkpoints a job has, and a cache worker to remove one.

Owns the channels, the deadlines and the translation of the answers. Keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc
import grpc.aio

from api.gen import metadata_pb2, metadata_pb2_grpc, worker_pb2, worker_pb2_grpc
from api.training_v1alpha1 import CheckpointSpec
from api.trust.channels import open_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, Role
from api.trust.source import TokenSource
from jobcontroller.core.observed import CheckpointView
from jobcontroller.errors import MetadataUnavailable, RemovalFailed

#: workers that are asked to remove something, one after another, before that counts as failed
MAX_WORKERS_TRIED = 3


#: answers that tell of the worker, not of the checkpoint: another one may do better
_OF_THE_WORKER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.CANCELLED,
)


class CheckpointClient:
    """One channel to one metadata service. Close it at the end."""

    def __init__(self, address: str, deadline_seconds: float, trust: TrustFiles | None = None) -> None:
        """`trust` None: in plain text, and there are no tokens."""
        self._trust = trust
        self._channel = open_channel(address, trust, METADATA_SERVER)
        self._tokens = None if trust is None else TokenSource(self._channel)
        self._namespace = metadata_pb2_grpc.NamespaceStub(self._channel)
        self._checkpoints = metadata_pb2_grpc.CheckpointsStub(self._channel)
        self._residency = metadata_pb2_grpc.ResidencyStub(self._channel)
        self._fences = metadata_pb2_grpc.FencesStub(self._channel)
        self._deadline_seconds = deadline_seconds

    async def newest_first(self, namespace: str, spec: CheckpointSpec) -> tuple[CheckpointView, ...]:
        """Return the checkpoints below the job's directory, newest step first.

        A directory that is not there yet has none. Raises MetadataUnavailable."""
        dataset = await self._dataset(namespace, spec)
        wanted = metadata_pb2.ListCheckpointsRequest(
            uid=dataset.uid,
            path=spec.path.strip("/"),
            format=spec.format,
            marker=spec.marker,
        )
        try:
            answer = await self._checkpoints.List(wanted, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return ()
            raise MetadataUnavailable(f"checkpoints in Dataset {spec.dataset}: {_text(error)}") from error
        return tuple(_view(checkpoint) for checkpoint in answer.checkpoints)

    async def changed_at(self, namespace: str, spec: CheckpointSpec, path: str) -> float | None:
        """Return when a file below the checkpoint directory was changed; None = there is none.

        Raises MetadataUnavailable."""
        dataset = await self._dataset(namespace, spec)
        where = "/".join(part for part in (spec.path.strip("/"), path) if part)
        try:
            request = metadata_pb2.LookupRequest(uid=dataset.uid, path=where)
            entry = await self._namespace.Lookup(request, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise MetadataUnavailable(f"{where} in Dataset {spec.dataset}: {_text(error)}") from error
        return entry.mtime_ns / 1e9

    async def remove(self, namespace: str, spec: CheckpointSpec, path: str, first: str) -> None:
        """Have a worker remove a share of a checkpoint, the file `first` in it first; fine if nothing is left of it.

        Raises MetadataUnavailable and RemovalFailed."""
        dataset = await self._dataset(namespace, spec)
        wanted = worker_pb2.RemoveTreeRequest(uid=dataset.uid, path=path, first=first)
        refusal: grpc.aio.AioRpcError | None = None
        for worker in await self._workers(dataset):
            try:
                await self._remove(worker, wanted)
            except grpc.aio.AioRpcError as error:
                refusal = error
                if error.code() not in _OF_THE_WORKER:
                    break
            else:
                return
        if refusal is None:
            text = "no live cache worker may remove it; start one on a node the dataset may use"
        else:
            text = f"a cache worker answered {refusal.code().name}: {(refusal.details() or 'no details')[:300]}"
        raise RemovalFailed(f"checkpoint {path} in Dataset {spec.dataset} is not removed: {text}")

    async def raise_fences(
        self, namespace: str, spec: CheckpointSpec, pods: Mapping[str, Sequence[str]]
    ) -> float | None:
        """Have changes of the job's checkpoints refused from these nodes: uids of pods by node. Return the seconds
        until they are.

        Fine if the Dataset is gone; None: the metadata service is of a release that knows no fences. Raises
        MetadataUnavailable."""
        path = spec.path.strip("/")
        fences = [metadata_pb2.Fence(node=node, path=path, pods=uids) for node, uids in pods.items()]
        request = metadata_pb2.RaiseFencesRequest(namespace=namespace, name=spec.dataset or "", fences=fences)
        try:
            answer = await self._fences.Raise(request, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise MetadataUnavailable(f"Dataset {spec.dataset}: {_text(error)}") from error
            return 0.0
        return answer.settle_seconds

    async def _workers(self, dataset: metadata_pb2.DatasetInfo) -> list[metadata_pb2.Worker]:
        """Return live workers that know the dataset's under store, by node name."""
        try:
            answer = await self._residency.ListWorkers(
                metadata_pb2.ListWorkersRequest(), timeout=self._deadline_seconds
            )
        except grpc.aio.AioRpcError as error:
            raise MetadataUnavailable(f"the list of workers: {_text(error)}") from error
        allowed, fenced = set(dataset.eligible_nodes), {fence.node for fence in dataset.fences}
        usable = [
            worker
            for worker in answer.workers
            if worker.alive and (not allowed or worker.node in allowed) and worker.node not in fenced
        ]
        usable.sort(key=lambda worker: worker.node)
        return usable[:MAX_WORKERS_TRIED]

    async def _remove(self, worker: metadata_pb2.Worker, wanted: worker_pb2.RemoveTreeRequest) -> None:
        bearer = []
        if self._tokens is not None:
            bearer.append(("authorization", f"Bearer {(await self._tokens.get(wanted.uid, write=True)).token}"))
        # A removal in a hundred turns is not worth a channel that is kept.
        who = Identity(Role.WORKER, worker.node)
        async with open_channel(worker.control_endpoint, self._trust, who) as channel:
            stub = worker_pb2_grpc.WorkerControlStub(channel)
            await stub.RemoveTree(wanted, timeout=self._deadline_seconds, metadata=bearer)

    async def _dataset(self, namespace: str, spec: CheckpointSpec) -> metadata_pb2.DatasetInfo:
        request = metadata_pb2.DatasetRequest(namespace=namespace, name=spec.dataset or "")
        try:
            return await self._namespace.GetDataset(request, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            raise MetadataUnavailable(f"Dataset {spec.dataset}: {_text(error)}") from error

    async def close(self) -> None:
        """Close the channel."""
        if self._tokens is not None:
            await self._tokens.close()
        await self._channel.close()


def _view(checkpoint: metadata_pb2.Checkpoint) -> CheckpointView:
    return CheckpointView(
        step=checkpoint.step,
        path=checkpoint.path,
        is_complete=checkpoint.complete,
        size_bytes=checkpoint.bytes,
        node_bytes=dict(checkpoint.nodes),
        completed_at=checkpoint.completed_at_ns / 1e9 if checkpoint.completed_at_ns else None,
        problem=checkpoint.problem,
        seal=checkpoint.seal,
    )


def _text(error: grpc.aio.AioRpcError) -> str:
    return f"the metadata service answered {error.code().name}: {(error.details() or 'no details')[:300]}"
