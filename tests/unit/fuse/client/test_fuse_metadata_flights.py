"""Calls of the metadata service that are shared by those who wait for the same answer."""

import asyncio
from typing import Any

from api.gen import metadata_pb2 as pb
from fuse.client.metadata_client import MetadataClient


class _Directory:
    """Answers with what it held when the call came to it, once it is let."""

    def __init__(self) -> None:
        self.version = 1
        self.calls = 0
        self.gates: list[asyncio.Event] = []

    async def __call__(self, request: Any, timeout: float) -> pb.ReadDirectoryResponse:
        self.calls += 1
        gate = asyncio.Event()
        self.gates.append(gate)
        answer = pb.ReadDirectoryResponse(snapshot_version=self.version)
        await gate.wait()
        return answer


async def _settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_call_that_began_before_a_change_is_not_joined_after_it() -> None:
    client, directory = MetadataClient("127.0.0.1:1"), _Directory()
    client._stub.ReadDirectory = directory  # type: ignore[assignment]

    async def version() -> int:
        return (await client.read_directory("u", "d", "", 10)).snapshot_version

    early = asyncio.ensure_future(version())
    await _settled()
    directory.version = 2  # a commit of ours, which was acknowledged
    late = [asyncio.ensure_future(version()) for _ in range(5)]
    await _settled()
    assert directory.calls == 1, "the next call waits for the first"
    directory.gates[0].set()
    await _settled()
    directory.version = 3
    latest = asyncio.ensure_future(version())
    await _settled()
    assert directory.calls == 2, "five are served by one call"
    directory.gates[1].set()
    await _settled()
    directory.gates[2].set()
    assert await early == 1
    assert await asyncio.gather(*late) == [2] * 5
    assert await latest == 3
    await _settled()
    assert not client._flights and not client._next
    await client.close()


async def test_a_caller_that_gives_up_does_not_end_the_call_of_the_others() -> None:
    client, directory = MetadataClient("127.0.0.1:1"), _Directory()
    client._stub.ReadDirectory = directory  # type: ignore[assignment]
    first = asyncio.ensure_future(client.read_directory("u", "d", "", 10))
    await _settled()
    second, third = (asyncio.ensure_future(client.read_directory("u", "d", "", 10)) for _ in range(2))
    await _settled()
    first.cancel()
    second.cancel()
    directory.gates[0].set()
    await _settled()
    directory.gates[1].set()
    assert (await third).snapshot_version == 1
    await client.close()
