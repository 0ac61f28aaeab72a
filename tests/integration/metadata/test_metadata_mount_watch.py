"""What a mount hears of datasets, over restarts of the service and new streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

import fuse.client.metadata_client as of_mount
from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from fuse.core.catalogue import Catalogue
from fuse.core.contracts import Worker
from fuse.metrics import Metrics
from fuse.node.daemon import Daemon


class Watching(Daemon):
    """A daemon without a mount; notes what it is told of the stream itself."""

    def __init__(self, client: of_mount.MetadataClient) -> None:
        super().__init__(client, cast(Worker, None), Metrics(), Path("/nowhere"), allow_other=False)
        self.streams = 0
        self.stands: list[bool] = []

    @property
    def catalogue(self) -> Catalogue:
        return self.operations.state.catalogue

    def watch_begins(self) -> None:
        self.streams += 1
        super().watch_begins()

    def watching(self, is_watching: bool) -> None:
        self.stands.append(is_watching)
        super().watching(is_watching)

    async def until_it_knows(self, uids: set[str]) -> None:
        await until(lambda: self.stands[-1:] == [True] and self.catalogue.uids() == uids)

    async def until_it_knows_version(self, uid: str, version: int) -> None:
        await until(lambda: (found := self.catalogue.by_uid(uid)) is not None and found.snapshot_version >= version)


@asynccontextmanager
async def watching(address: str) -> AsyncIterator[Watching]:
    client = of_mount.MetadataClient(address)
    daemon = Watching(client)
    task = asyncio.create_task(client.watch(daemon))
    try:
        yield daemon
    finally:
        task.cancel()
        await asyncio.wait({task})
        await client.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


async def test_what_was_removed_and_made_while_nobody_told_is_known_afterwards(
    metadata_process: Callable[..., Any], connect: Callable[[Any], Any], tmp_path: Path
) -> None:
    process = metadata_process()
    bare = connect(process)
    for name in ("stays", "goes"):
        await bare.sync(name, f"file://{tmp_path}")
    async with watching(process.address) as daemon:
        await daemon.until_it_knows({"stays", "goes"})
        address, process.address = process.address, "127.0.0.1:0"
        assert await asyncio.to_thread(process.stop) == 0
        await until(lambda: daemon.stands == [True, False])
        # At another address, where the mount does not find it: what happens there nobody tells.
        await asyncio.to_thread(process.start)
        other = connect(process)
        await other.namespace.RemoveDataset(pb.DatasetRequest(uid="goes"), timeout=10)
        await other.sync("new", f"file://{tmp_path}")
        assert daemon.catalogue.uids() == {"stays", "goes"}
        assert await asyncio.to_thread(process.stop) == 0
        process.address = address
        await asyncio.to_thread(process.start)
        await daemon.until_it_knows({"stays", "new"})
        await connect(process).sync("later", f"file://{tmp_path}")
        await daemon.until_it_knows({"stays", "new", "later"})


async def test_a_stream_is_opened_anew_and_nothing_of_it_shows(
    metadata_process: Callable[..., Any],
    connect: Callable[[Any], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(of_mount, "WATCH_SECONDS", 0.3)
    process = metadata_process()
    bare = connect(process)
    await bare.sync("u1", f"file://{tmp_path}")
    async with watching(process.address) as daemon:
        version = 1
        while daemon.streams < 5:
            version = await bare.put("u1", f"f{version}", 1, "e")
            await daemon.until_it_knows_version("u1", version)
        assert set(daemon.stands) == {True}


class InPortions(metadata_pb2_grpc.NamespaceServicer):
    """Tells of three datasets, one a message."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()

    async def WatchDatasets(self, request: pb.WatchDatasetsRequest, context: object) -> AsyncIterator[pb.DatasetStates]:
        for name in ("a", "b", "c"):
            yield pb.DatasetStates(datasets=[pb.DatasetState(uid=name, namespace="ns", name=name)], more=name != "c")
            await self.may_go_on.wait()
        await asyncio.Event().wait()


async def test_a_first_state_in_several_messages_is_known_as_a_whole() -> None:
    service, server = InPortions(), grpc.aio.server()  # type: ignore[abstract]  # one method is called
    metadata_pb2_grpc.add_NamespaceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with watching(f"127.0.0.1:{port}") as daemon:
            await until(lambda: daemon.streams == 1)
            await asyncio.sleep(0.1)
            assert (daemon.catalogue.uids(), daemon.stands) == (frozenset(), [])
            service.may_go_on.set()
            await daemon.until_it_knows({"a", "b", "c"})
    finally:
        await server.stop(0)
