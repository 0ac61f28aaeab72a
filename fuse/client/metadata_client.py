"""The metadata service as the core sees it: names with deadlines, and the watch of snapshots.

Owns the channel, deadlines, retries and single flight (many readers of one directory make one call). Does not
cache: directories.py does.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import grpc
import structlog

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from api.trust.channels import open_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER
from fuse.core.contracts import Dataset, Entry, Page
from fuse.errors import (
    AccessDenied,
    AlreadyExists,
    FileSystemError,
    InvalidRequest,
    NotFound,
    Stale,
    Unavailable,
)

log = structlog.get_logger()

CALL_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 15.0
OUTAGE_PATIENCE_SECONDS: Final = 0.5
BACKOFF_FIRST_SECONDS: Final = 0.05
BACKOFF_MAX_SECONDS: Final = 1.0
WATCH_PAUSE_SECONDS: Final = 1.0
CONNECTED_SECONDS: Final = 10.0
"""So often a daemon that waits to serve looks after its connection."""
WATCH_SECONDS: Final = 600.0
"""A stream is opened anew after half of that to all of it, and tells everything again: what a fault lost is not lost for
good, as with the watches of Kubernetes' own clients."""
MESSAGE_BYTES_MAX: Final = 64 << 20

_RETRYABLE: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    # What grpc's aio server answers to calls that arrive while it stops; giving up ourselves is no AioRpcError.
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_ERRORS: Final[dict[grpc.StatusCode, type[FileSystemError]]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: Stale,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
}

_T = TypeVar("_T")


class Watcher(Protocol):
    """Who is told of datasets."""

    def watch_begins(self) -> None:
        """A stream is about to be opened: `all_datasets` will have what was there at this moment, or is gone."""

    async def all_datasets(self, datasets: list[Dataset]) -> None:
        """These are all there are, in their state of now."""

    async def dataset_changed(self, dataset: Dataset) -> None:
        """One is new, or has a new snapshot or another record."""

    async def dataset_removed(self, uid: str) -> None:
        """One is gone."""

    def watching(self, is_watching: bool) -> None:
        """The stream stands and has told of all datasets, or it was lost."""


class MetadataClient:
    """Implements the core's Namespace."""

    def __init__(
        self,
        target: str,
        *,
        call_seconds: float = CALL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        trust: TrustFiles | None = None,
    ) -> None:
        #: Also for what else is asked of the service; closed with this client.
        self.channel = open_channel(
            target,
            trust,
            METADATA_SERVER,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                # A restarted service is found again within a second, not after grpc's two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 5_000),
            ],
        )
        self._stub = metadata_pb2_grpc.NamespaceStub(self.channel)
        self._call_seconds = call_seconds
        self._patience_seconds = patience_seconds
        #: The last call ran out of patience.
        self._is_out = False
        self._flights: dict[tuple[Any, ...], asyncio.Task[Any]] = {}
        """Calls under way."""
        self._next: dict[tuple[Any, ...], asyncio.Task[Any]] = {}
        """Calls that begin when the one under way has ended."""

    async def list_datasets(self, namespace: str = "") -> list[Dataset]:
        """Return every dataset, or those of a namespace; Unavailable."""
        request = pb.ListDatasetsRequest(namespace=namespace)
        response = await self._once(("list", namespace), lambda: self._call(self._stub.ListDatasets, request))
        return [_dataset(info) for info in response.datasets]

    async def get_dataset(self, namespace: str, name: str) -> Dataset:
        """Return one dataset; NotFound, Unavailable."""
        request = pb.DatasetRequest(namespace=namespace, name=name)
        call = self._once(("dataset", namespace, name), lambda: self._call(self._stub.GetDataset, request))
        return _dataset(await call)

    async def lookup(self, uid: str, path: str) -> Entry:
        """Return the entry at `path`; NotFound, Unavailable."""
        request = pb.LookupRequest(uid=uid, path=path)
        return _entry(await self._once(("lookup", uid, path), lambda: self._call(self._stub.Lookup, request)))

    async def read_directory(self, uid: str, path: str, after: str, limit: int) -> Page:
        """Return one page of a directory; NotFound, Unavailable."""
        request = pb.ReadDirectoryRequest(uid=uid, path=path, after=after, limit=limit)
        key = ("directory", uid, path, after, limit)
        response = await self._once(key, lambda: self._call(self._stub.ReadDirectory, request))
        strip = len(path) + 1 if path else 0
        entries = [(each.path[strip:], _entry(each)) for each in response.entries]
        return Page(entries=entries, more=response.more, snapshot_version=response.snapshot_version)

    async def _once(self, key: tuple[Any, ...], start: Callable[[], Awaitable[_T]]) -> _T:
        """Join the next call for `key`, or make it. Not the one under way: what the caller knows to be done, because it
        was told so before it asked, may have come too late for that one. A call goes on when its callers give up."""
        flight = self._next.get(key)
        if flight is None:
            before = self._flights.get(key)
            flight = asyncio.ensure_future(self._after(key, before, start))
            (self._flights if before is None else self._next)[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        result: _T = await asyncio.shield(flight)
        return result

    async def _after(
        self, key: tuple[Any, ...], before: "asyncio.Task[Any] | None", start: Callable[[], Awaitable[_T]]
    ) -> _T:
        if before is not None:
            await asyncio.wait({before})
            # Whoever comes from now on comes too late for this one too.
            self._flights[key] = self._next.pop(key)
        return await start()

    def _landed(self, key: tuple[Any, ...], flight: "asyncio.Task[Any]") -> None:
        for flights in (self._flights, self._next):
            if flights.get(key) is flight:
                del flights[key]
        if not flight.cancelled():
            flight.exception()

    async def _call(self, method: Callable[..., Awaitable[_T]], request: object) -> _T:
        """Call until an answer, a refusal or the end of our patience. A short restart is waited for; an outage is
        waited for once, and then each caller hears of it soon, so that what is cached goes on being served."""
        deadline = time.monotonic() + (OUTAGE_PATIENCE_SECONDS if self._is_out else self._patience_seconds)
        pause = BACKOFF_FIRST_SECONDS
        while True:
            try:
                answer = await method(request, timeout=min(self._call_seconds, max(0.1, deadline - time.monotonic())))
            except grpc.aio.AioRpcError as error:
                is_retryable = error.code() in _RETRYABLE
                if not is_retryable or time.monotonic() + pause >= deadline:
                    self._is_out = is_retryable
                    kind = _ERRORS.get(error.code(), Unavailable)
                    raise kind(f"metadata: {error.details() or error.code().name}") from error
            else:
                self._is_out = False
                return answer
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, BACKOFF_MAX_SECONDS)

    async def watch(self, watcher: Watcher) -> None:
        """Tell the watcher of every dataset and of what changes, for ever."""
        while True:
            watcher.watch_begins()
            first: list[Dataset] | None = []
            ends_at = time.monotonic() + WATCH_SECONDS * random.uniform(0.5, 1.0)
            pause_seconds = WATCH_PAUSE_SECONDS * random.uniform(0.75, 1.25)
            try:
                call = self._stub.WatchDatasets(pb.WatchDatasetsRequest(), timeout=ends_at - time.monotonic())
                async for message in call:
                    if first is None:
                        await _tell(watcher, message)
                        continue
                    first += [_dataset(state) for state in message.datasets]
                    if not message.more:
                        await watcher.all_datasets(first)
                        first = None
                        watcher.watching(True)
                reason = "the service ended the stream"
            except grpc.aio.AioRpcError as error:
                if first is None and time.monotonic() >= ends_at:
                    continue  # what is told is as it was, until the next stream tells all of it
                reason = error.details() or error.code().name
            watcher.watching(False)
            log.warning("watch_interrupted", reason=reason)
            await asyncio.sleep(pause_seconds)

    async def stay_connected(self) -> None:
        """Have a connection at hand before anything is asked, for ever."""
        while True:
            # One that is lost, or unused for half an hour, is not made again by itself.
            self.channel.get_state(try_to_connect=True)
            await asyncio.sleep(CONNECTED_SECONDS)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        for task in list(self._flights.values()):
            task.cancel()
        await self.channel.close()


async def _tell(watcher: Watcher, message: pb.DatasetStates) -> None:
    for state in message.datasets:
        if state.removed:
            await watcher.dataset_removed(state.uid)
        else:
            await watcher.dataset_changed(_dataset(state))


def _dataset(info: pb.DatasetInfo | pb.DatasetState) -> Dataset:
    return Dataset(
        uid=info.uid,
        namespace=info.namespace,
        name=info.name,
        snapshot_version=info.snapshot_version,
        writable=info.writable,
        files=info.files,
        size_bytes=info.bytes,
    )


def _entry(entry: pb.Entry) -> Entry:
    return Entry(entry.is_directory, entry.size_bytes, entry.etag, entry.mtime_ns, entry.mode, entry.version)
