"""A peer that answers late: when the under store is asked in its place, and what it costs the other requests."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from api.byteplane import Flag, Header, HelloReply, Op, Read, ReadReply, decode_meta, encode
from api.gen import metadata_pb2 as pb
from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.errors import NotResident, PeerFailed
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.datasets import Datasets, Location
from cacheruntime.worker.fetched import Fetched, Source
from cacheruntime.worker.filler import Filler
from cacheruntime.worker.frame_server import FrameServer
from cacheruntime.worker.frame_socket import FrameSocket
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import PeerRefused, Peers
from cacheruntime.worker.workers import Peer, Workers
from understores.base import UnderStore

BLOCK = 1 << 20
DATA = memoryview(bytes(range(256)) * (BLOCK // 256))
UID = "u"
INFO = pb.DatasetInfo(uid=UID, eligible_nodes=["b"], replicas=1)


@dataclass
class LatePeer:
    """A session of the byte plane that holds back the blocks of "late.bin" until it is let go."""

    link: FrameSocket
    go: asyncio.Event
    reads: list[str]

    def answer_now(self, header: Header, meta: bytes) -> tuple[bytes, memoryview] | None:
        return None

    async def handle(self, header: Header, meta: bytes) -> None:
        if header.op is Op.HELLO:
            hello = HelloReply(node="b", epoch=1, block_size_bytes=BLOCK)
            await self.link.send(encode(Op.HELLO, header.request_id, hello, flags=Flag.REPLY))
            return
        read = decode_meta(meta, Read)
        self.reads.append(read.path)
        if read.path == "late.bin":
            await self.go.wait()
        reply = ReadReply(crc32c=crc32c(DATA))
        await self.link.send(encode(Op.READ, header.request_id, reply, data_bytes=BLOCK, flags=Flag.REPLY), DATA)

    async def close(self) -> None:
        """Nothing is held."""


class CountingStore:
    """An under store that only counts."""

    def __init__(self) -> None:
        self.reads = 0

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        self.reads += 1
        buffer[:] = DATA


@dataclass
class OneStore:
    """Every path lies in one store."""

    store: CountingStore = field(default_factory=CountingStore)

    async def locate(self, uid: str, path: str) -> Location:
        return Location(cast(UnderStore, self.store), path, is_read_only=True)


@dataclass
class TwoWorkers:
    """This one and "b", as metadata would list them."""

    b: Peer
    origin_bytes_per_second: float = 0.0
    suspected: list[str] = field(default_factory=list)
    me: Peer = field(default_factory=lambda: Peer("a", 1, "127.0.0.1:1"))

    def live(self) -> dict[str, Peer]:
        return {"a": self.me} if self.suspected else {"a": self.me, "b": self.b}

    def leaving(self) -> tuple[Peer, ...]:
        return ()

    def suspect(self, peer: Peer, why: str) -> None:
        self.suspected.append(why)


@dataclass
class Setting:
    peer: Peer
    peers: Peers
    go: asyncio.Event
    reads: list[str]
    """Paths that the peer was asked for."""


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    listener = socket.create_server(("127.0.0.1", 0))
    go, reads = asyncio.Event(), list[str]()
    server = FrameServer(listener, lambda link, _: LatePeer(link, go, reads), Metrics())
    serving = asyncio.create_task(server.run())
    peers = Peers("a", connect_seconds=2, read_seconds=60, buffers=Buffers(BLOCK))
    yield Setting(Peer("b", 1, f"127.0.0.1:{listener.getsockname()[1]}"), peers, go, reads)
    await peers.close()
    while server._connections:
        await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.wait({serving})


class KeepsNothing:
    """A keeper of nothing."""

    async def keep(self, fetched: Fetched) -> None:
        """No."""

    def begin(self) -> None:
        """No."""


nothing = KeepsNothing()


def version(path: str) -> Version:
    return Version(UID, path, "etag", BLOCK)


def a_read(path: str, *, resident_only: bool = False) -> Read:
    return Read(
        uid=UID,
        path=path,
        etag="etag",
        size_bytes=BLOCK,
        offset_bytes=0,
        length_bytes=BLOCK,
        resident_only=resident_only,
        verify=False,
    )


@pytest.mark.parametrize(("origin_bytes_per_second", "source"), [(1e6, Source.PEER), (1e12, Source.ORIGIN)])
async def test_the_under_store_is_asked_for_a_silent_peer_only_if_it_can_replace_it(
    setting: Setting, origin_bytes_per_second: float, source: Source
) -> None:
    store, metrics = OneStore(), Metrics()
    workers = TwoWorkers(setting.peer, origin_bytes_per_second)
    filler = Filler(
        cast(Workers, workers),
        setting.peers,
        cast(Datasets, store),
        metrics,
        buffers=Buffers(BLOCK),
        block_size_bytes=BLOCK,
        origin_streams=4,
        peer_streams=4,
        origin_seconds=10,
        clock=asyncio.get_running_loop().time,
    )
    for number in range(30):
        fetched = await filler.fetch(INFO, version(f"{number}.bin"), 0, nothing)
        assert fetched.source is Source.PEER
    asyncio.get_running_loop().call_later(3, setting.go.set)
    fetched = await filler.fetch(INFO, version("late.bin"), 0, nothing)
    assert fetched.data == DATA
    assert metrics.hedges._value.get() == 1, "the peer was noticed to be late"
    assert fetched.source is source
    assert store.store.reads == (source is Source.ORIGIN)
    assert metrics.origin_blocks.labels("hedge")._value.get() == (source is Source.ORIGIN)
    assert not workers.suspected


async def test_a_question_taken_back_costs_the_others_nothing(setting: Setting) -> None:
    first = asyncio.create_task(setting.peers.read(setting.peer, a_read("late.bin")))
    second = asyncio.create_task(setting.peers.read(setting.peer, a_read("late.bin")))
    while len(setting.reads) < 2:
        await asyncio.sleep(0.01)
    for turns in range(4):  # before it is sent, while it is, and after
        question = asyncio.create_task(setting.peers.read(setting.peer, a_read("early.bin", resident_only=True)))
        for _ in range(turns):
            await asyncio.sleep(0)
        question.cancel()
        await asyncio.wait({question})
    setting.go.set()
    for task in (first, second):
        assert (await task).data == DATA


async def test_one_late_answer_does_not_end_the_connections_of_a_busy_peer(setting: Setting) -> None:
    setting.peers._read_seconds = 1
    late = asyncio.create_task(setting.peers.read(setting.peer, a_read("late.bin")))
    while not late.done():
        assert (await setting.peers.read(setting.peer, a_read("early.bin"))).data == DATA
    with pytest.raises(PeerRefused, match="too busy"):
        late.result()


async def test_a_peer_that_is_silent_loses_its_connections(setting: Setting) -> None:
    setting.peers._read_seconds = 1
    with pytest.raises(PeerFailed, match="did not answer") as caught:
        await setting.peers.read(setting.peer, a_read("late.bin"))
    assert not isinstance(caught.value, PeerRefused | NotResident)
    assert not setting.peers._links
