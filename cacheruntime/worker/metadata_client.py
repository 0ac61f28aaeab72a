"""Calls of the metadata service, each with a deadline, as CacheErrors.

Owns the channel and the retry of mutations under one request id. Decides nothing about what the answers mean.
"""

import asyncio
import errno
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import grpc

from api.gen import metadata_pb2 as pb
from api.gen.metadata_pb2_grpc import HeldStub, NamespaceStub, ResidencyStub, TrustStub
from api.trust.channels import open_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER
from api.trust.source import TokenSource
from cacheruntime.errors import CacheError, from_rpc

RETRY_SECONDS: Final = 0.2
MANIFEST_SECONDS: Final = 600.0
"""A stream of millions of entries; each wait of a reader is shorter, but gRPC knows only the whole."""
_OPTIONS: Final = (
    # A restarted service is found again within a second, and full reports are larger than gRPC's 4 MiB.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_send_message_length", 32 << 20),
)

A = TypeVar("A")


class Fenced(CacheError):
    """Metadata knows a newer incarnation of this worker."""


class MetadataClient:
    """The services of one address."""

    def __init__(
        self, address: str, *, node: str, call_seconds: float, mutation_seconds: float, trust: TrustFiles | None = None
    ) -> None:
        """`node` is ours. `trust` None: in plain text, and there are no tokens."""
        self._node = node
        self._channel = open_channel(address, trust, METADATA_SERVER, _OPTIONS)
        #: Of this worker, to show to its peers.
        self.tokens = None if trust is None else TokenSource(self._channel)
        self._trust = TrustStub(self._channel)
        self._namespace = NamespaceStub(self._channel)
        self._residency = ResidencyStub(self._channel)
        self._held = HeldStub(self._channel)
        self._call_seconds = call_seconds
        self._mutation_seconds = mutation_seconds

    async def close(self) -> None:
        """Hang up."""
        if self.tokens is not None:
            await self.tokens.close()
        await self._channel.close()

    async def token_keys(self) -> list[bytes]:
        """Return the public keys tokens are signed with."""
        answer = await self._call("TokenKeys", self._trust.TokenKeys(pb.TokenKeysRequest(), timeout=self._call_seconds))
        return list(answer.keys)

    async def dataset(self, uid: str) -> pb.DatasetInfo:
        """Return a dataset's record; Missing."""
        return await self._call(
            "GetDataset", self._namespace.GetDataset(pb.DatasetRequest(uid=uid), timeout=self._call_seconds)
        )

    async def confirmed_dataset(self, uid: str) -> pb.DatasetInfo:
        """Like `dataset`, asked again like a mutation."""
        request = pb.DatasetRequest(uid=uid)
        return await self._retried(
            "GetDataset", lambda: self._namespace.GetDataset(request, timeout=self._call_seconds)
        )

    async def lookup(self, uid: str, path: str) -> pb.Entry:
        """Return the entry of a path; Missing."""
        request = pb.LookupRequest(uid=uid, path=path)
        return await self._call("Lookup", self._namespace.Lookup(request, timeout=self._call_seconds))

    async def read_directory(self, uid: str, path: str) -> list[pb.Entry]:
        """Return every entry of a directory; Missing."""
        entries: list[pb.Entry] = []
        while True:
            after = entries[-1].path.rpartition("/")[2] if entries else ""
            answer = await self.read_page(uid, path, after=after, limit=0)
            entries.extend(answer.entries)
            if not answer.more or not answer.entries:
                return entries

    async def datasets(self, namespace: str) -> list[pb.DatasetInfo]:
        """Return the records of a namespace's datasets."""
        request = pb.ListDatasetsRequest(namespace=namespace)
        answer = await self._call("ListDatasets", self._namespace.ListDatasets(request, timeout=self._call_seconds))
        return list(answer.datasets)

    async def datasets_since(self, revision: str) -> pb.ListDatasetsResponse:
        """Return what changed since an answer's revision, or everything: see ListDatasets."""
        request = pb.ListDatasetsRequest(since=revision)
        return await self._call("ListDatasets", self._namespace.ListDatasets(request, timeout=self._call_seconds))

    async def read_page(self, uid: str, path: str, *, after: str, limit: int) -> pb.ReadDirectoryResponse:
        """Return the entries of a directory behind the name `after`, `limit` at most; Missing."""
        request = pb.ReadDirectoryRequest(uid=uid, path=path, after=after, limit=limit)
        return await self._call("ReadDirectory", self._namespace.ReadDirectory(request, timeout=self._call_seconds))

    async def manifest(self, uid: str, paths: list[str]) -> AsyncIterator[pb.EntryBatch]:
        """Yield every entry below the paths."""
        try:
            stream = self._namespace.Manifest(pb.ManifestRequest(uid=uid, paths=paths), timeout=MANIFEST_SECONDS)
            async for batch in stream:
                yield batch
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, "Manifest") from error

    async def register(self, request: pb.RegisterRequest) -> float:
        """Announce this incarnation; return the lease in seconds. Fenced when a newer one is known."""
        try:
            answer = await self._residency.Register(request, timeout=self._call_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise Fenced(error.details() or "a newer worker of this node is registered") from error
            raise from_rpc(error, "Register") from error
        return answer.lease_seconds

    async def report(self, request: pb.BlockReport) -> bool:
        """Send a report; return whether a full one is wanted. Fenced when we are not the known incarnation."""
        try:
            answer = await self._residency.Report(request, timeout=self._call_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                raise Fenced(error.details() or "this worker is not registered") from error
            raise from_rpc(error, "Report") from error
        return answer.need_full

    async def workers(self) -> list[pb.Worker]:
        """Return every worker metadata has heard of."""
        answer = await self._call(
            "ListWorkers", self._residency.ListWorkers(pb.ListWorkersRequest(), timeout=self._call_seconds)
        )
        return list(answer.workers)

    async def put_file(
        self, uid: str, path: str, *, size_bytes: int, etag: str, mtime_ns: int, mode: int, turn: str = ""
    ) -> int:
        """Show a durable file in the namespace; return the snapshot version."""
        request = pb.PutFileRequest(
            request_id=_request_id(),
            uid=uid,
            path=path,
            size_bytes=size_bytes,
            etag=etag,
            mtime_ns=mtime_ns,
            mode=mode,
            turn=turn,
            node=self._node,
        )
        return await self._mutate(
            "PutFile",
            lambda: self._namespace.PutFile(request, timeout=self._call_seconds),
            precondition=errno.EISDIR,
        )

    async def put_held(self, uid: str, path: str, *, size_bytes: int, etag: str, mtime_ns: int, mode: int) -> int:
        """Show a file that both holders of its etag keep; return the snapshot version."""
        request = pb.PutFileRequest(
            request_id=_request_id(),
            uid=uid,
            path=path,
            size_bytes=size_bytes,
            etag=etag,
            mtime_ns=mtime_ns,
            mode=mode,
            node=self._node,
        )
        return await self._mutate(
            "PutHeld", lambda: self._held.PutHeld(request, timeout=self._call_seconds), precondition=errno.EISDIR
        )

    async def make_directory(self, uid: str, path: str, *, mode: int, mtime_ns: int) -> int:
        """Show a directory; return the snapshot version."""
        request = pb.MakeDirectoryRequest(
            request_id=_request_id(), uid=uid, path=path, mode=mode, mtime_ns=mtime_ns, node=self._node
        )
        return await self._mutate(
            "MakeDirectory",
            lambda: self._namespace.MakeDirectory(request, timeout=self._call_seconds),
            precondition=errno.ENOTDIR,
        )

    async def set_mode(self, uid: str, path: str, *, mode: int) -> int:
        """Give a file or directory other permission bits; return the snapshot version."""
        request = pb.SetModeRequest(request_id=_request_id(), uid=uid, path=path, mode=mode, node=self._node)
        return await self._mutate("SetMode", lambda: self._namespace.SetMode(request, timeout=self._call_seconds))

    async def remove(self, uid: str, path: str, *, directory: bool, turn: str = "") -> int:
        """Take a path out; a directory that is not empty is ENOTEMPTY. Return the snapshot version."""
        request = pb.RemoveRequest(
            request_id=_request_id(), uid=uid, path=path, directory=directory, turn=turn, node=self._node
        )
        return await self._mutate(
            "Remove",
            lambda: self._namespace.Remove(request, timeout=self._call_seconds),
            precondition=errno.ENOTEMPTY,
        )

    async def rename(
        self,
        uid: str,
        source: str,
        target: str,
        *,
        target_etag: str,
        source_etag: str = "",
        turn: str = "",
        leaves_source: bool = False,
    ) -> int:
        """Rename a file, of that version if one is given; return the snapshot version. `leaves_source`: its object is
        still under the old name."""
        request = pb.RenameRequest(
            request_id=_request_id(),
            uid=uid,
            source=source,
            target=target,
            target_etag=target_etag,
            source_etag=source_etag,
            turn=turn,
            node=self._node,
            leaves_source=leaves_source,
        )
        return await self._mutate(
            "Rename",
            lambda: self._namespace.Rename(request, timeout=self._call_seconds),
            precondition=errno.EISDIR,
        )

    async def left_objects(self, node: str) -> list[pb.LeftObject]:
        """Return objects that renames left, which the worker of that node has to take away."""
        request = pb.ListLeftRequest(node=node)
        answer = await self._call("ListLeft", self._namespace.ListLeft(request, timeout=self._call_seconds))
        return list(answer.objects)

    async def forget_left(self, objects: list[pb.LeftObject]) -> None:
        """Say that such objects are gone."""
        request = pb.LeftObjects(objects=objects)
        await self._call("ForgetLeft", self._namespace.ForgetLeft(request, timeout=self._call_seconds))

    async def take_turn(self, uid: str, paths: list[str], node: str, epoch: int, turn: str) -> None:
        """Take the turn of paths; a retryable CacheError while somebody else has it."""
        request = pb.TakeTurnRequest(uid=uid, paths=paths, node=node, epoch=epoch, turn=turn)
        await self._call("TakeTurn", self._held.TakeTurn(request, timeout=self._call_seconds))

    async def end_turn(self, uid: str, turn: str) -> None:
        """End a turn; Missing when the dataset is gone."""
        request = pb.EndTurnRequest(uid=uid, turn=turn)
        await self._call("EndTurn", self._held.EndTurn(request, timeout=self._call_seconds))

    async def claim_held(self, uid: str, etag: str, node: str, epoch: int, turn: str) -> pb.HeldState:
        """Ask for the turn to upload a held version; Missing when the dataset is gone."""
        request = pb.ClaimHeldRequest(uid=uid, etag=etag, node=node, epoch=epoch, turn=turn)
        return await self._call("ClaimHeld", self._held.ClaimHeld(request, timeout=self._call_seconds))

    async def finish_held(self, uid: str, etag: str, *, turn: str, object_etag: str, size_bytes: int) -> pb.HeldState:
        """Say that a held version is uploaded; return what that made of it. Asked again like a mutation."""
        request = pb.FinishHeldRequest(uid=uid, etag=etag, turn=turn, object_etag=object_etag, size_bytes=size_bytes)
        return await self._retried("FinishHeld", lambda: self._held.FinishHeld(request, timeout=self._call_seconds))

    async def find_held(self, uid: str, etag: str) -> pb.HeldState:
        """Return what became of a held version; Missing when the dataset is gone."""
        request = pb.FindHeldRequest(uid=uid, etag=etag)
        return await self._call("FindHeld", self._held.FindHeld(request, timeout=self._call_seconds))

    async def forget_held(self, uid: str, etag: str, node: str) -> None:
        """Say that this node has dropped a held version."""
        request = pb.ForgetHeldRequest(uid=uid, etag=etag, node=node)
        await self._call("ForgetHeld", self._held.ForgetHeld(request, timeout=self._call_seconds))

    async def _call(self, what: str, call: Awaitable[A]) -> A:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, what) from error

    async def _mutate(
        self, what: str, call: Callable[[], Awaitable[pb.Mutation]], *, precondition: int = errno.EINVAL
    ) -> int:
        return (await self._retried(what, call, precondition=precondition)).snapshot_version

    async def _retried(self, what: str, call: Callable[[], Awaitable[A]], *, precondition: int = errno.EIO) -> A:
        """Ask until there is an answer, for `mutation_seconds`; `precondition` is the errno of FAILED_PRECONDITION."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._mutation_seconds
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION and precondition != errno.EIO:
                    raise CacheError(error.details() or what, number=precondition) from error
                failure = from_rpc(error, what)
                if not failure.is_retryable or loop.time() >= deadline:
                    raise failure from error
            await asyncio.sleep(RETRY_SECONDS)


def _request_id() -> str:
    return uuid.uuid4().hex
