"""A daemon that waits to serve has its connection to the metadata service made, over real sockets."""

import asyncio
import socket
from contextlib import suppress

import grpc
import pytest

from fuse.client import metadata_client
from fuse.client.metadata_client import MetadataClient


async def _serving(port: int) -> grpc.aio.Server:
    server = grpc.aio.server()
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


async def _until(client: MetadataClient, wanted: grpc.ChannelConnectivity) -> None:
    async with asyncio.timeout(10):
        while (state := client.channel.get_state()) is not wanted:
            await client.channel.wait_for_state_change(state)


async def test_whoever_waits_is_connected_and_connected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_client, "CONNECTED_SECONDS", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    client = MetadataClient(f"127.0.0.1:{port}")
    assert client.channel.get_state() is grpc.ChannelConnectivity.IDLE
    # It may wait before the service is there.
    waiting = asyncio.ensure_future(client.stay_connected())
    await _until(client, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
    for _ in range(2):
        server = await _serving(port)
        await _until(client, grpc.ChannelConnectivity.READY)
        await server.stop(None)
        async with asyncio.timeout(10):
            await client.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await client.close()
