"""A client's channel follows its certificate, and neither a call nor a stream under way notices."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from api.trust import files
from api.trust.channels import add_port, caller_of, open_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, Role
from headrace.trust.authority import TrustAuthority

NODE = Identity(Role.NODE, "n1")


class Service(metadata_pb2_grpc.NamespaceServicer):
    """Tells who calls, by the names of datasets."""

    def __init__(self) -> None:
        self.connections: set[str] = set()

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: object) -> pb.ListDatasetsResponse:
        self.connections.add(context.peer())  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        return pb.ListDatasetsResponse(datasets=[pb.DatasetInfo(name=str(caller_of(context)))])

    async def WatchDatasets(self, request: pb.WatchDatasetsRequest, context: object) -> AsyncIterator[pb.DatasetStates]:
        number = 0
        while True:
            number += 1
            yield pb.DatasetStates(datasets=[pb.DatasetState(snapshot_version=number)])
            await asyncio.sleep(0.01)


async def test_calls_and_streams_go_on_while_certificates_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHECK_SECONDS", 0.0)
    authority = TrustAuthority(tmp_path / "authority")
    folders = {METADATA_SERVER: tmp_path / "server", NODE: tmp_path / "client"}
    for who, folder in folders.items():
        authority.issue(who, folder)
    service, server = Service(), grpc.aio.server()  # type: ignore[abstract]  # two methods are called
    metadata_pb2_grpc.add_NamespaceServicer_to_server(service, server)
    port = add_port(server, "127.0.0.1:0", TrustFiles(folders[METADATA_SERVER]))
    await server.start()
    channel = open_channel(f"127.0.0.1:{port}", TrustFiles(folders[NODE]), METADATA_SERVER)
    stub = metadata_pb2_grpc.NamespaceStub(channel)
    seen = [0]

    async def watch() -> None:
        async for message in stub.WatchDatasets(pb.WatchDatasetsRequest()):
            (state,) = message.datasets
            assert state.snapshot_version == seen[0] + 1, "it is one stream from beginning to end"
            seen[0] = state.snapshot_version

    watching = asyncio.create_task(watch())
    try:
        for step in range(6):
            calls = [asyncio.ensure_future(stub.ListDatasets(pb.ListDatasetsRequest(), timeout=10)) for _ in range(5)]
            await asyncio.sleep(0.01)
            if step % 3 == 0:
                authority.add_issuer()
            for who, folder in folders.items():
                if step % 3 == 1:
                    authority.issue(who, folder)
                else:
                    if step % 3 == 2:
                        authority.forget_issuers()
                    authority.trust_only(folder)
            for answer in await asyncio.gather(*calls):
                assert answer.datasets[0].name == NODE.uri
        await stub.ListDatasets(pb.ListDatasetsRequest(), timeout=10)
        before = seen[0]
        async with asyncio.timeout(10):
            while seen[0] < before + 10:
                await asyncio.sleep(0.01)
        assert len(service.connections) > 5, "each certificate has a connection of its own"
        assert len(channel._calls) == 2, "the one of the stream, and the newest"  # type: ignore[attr-defined]
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await channel.close()
        await server.stop(0)
