"""Requests that are answered in the receiving loop: none lost, none too many, and a bug costs one. Socket pairs."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from api.byteplane import HEADER, Flag, Header, Hello, Op, encode
from cacheruntime.worker.frame_server import REPLIES_MAX, FrameServer
from cacheruntime.worker.frame_socket import FrameSocket
from cacheruntime.worker.metrics import Metrics

DATA = memoryview(bytes(range(256)) * 64)
META = Hello(client="c", node="n")


@dataclass
class Answers:
    """A session whose even requests need no waiting."""

    link: FrameSocket
    now: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)

    def answer_now(self, header: Header, meta: bytes) -> tuple[bytes, memoryview] | None:
        if header.request_id == 13:
            raise RuntimeError("a bug")
        if header.request_id % 2:
            return None
        self.now.append(header.request_id)
        return reply(header), DATA

    async def handle(self, header: Header, meta: bytes) -> None:
        self.later.append(header.request_id)
        await self.link.send(reply(header), DATA)

    async def close(self) -> None:
        """Nothing is held."""


def reply(header: Header) -> bytes:
    return encode(Op.HELLO, header.request_id, META, data_bytes=len(DATA), flags=Flag.REPLY)


@dataclass
class Served:
    sessions: list[Answers]
    metrics: Metrics
    client: socket.socket


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    sessions: list[Answers] = []

    def session(link: FrameSocket, _: object) -> Answers:
        sessions.append(Answers(link))
        return sessions[-1]

    metrics = Metrics()
    task = asyncio.create_task(FrameServer(listener, session, metrics).run())
    client = socket.create_connection(listener.getsockname())
    client.setblocking(False)
    yield Served(sessions, metrics, client)
    client.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def received(client: socket.socket, count: int) -> list[int]:
    """Request ids of so many replies."""
    loop, found, raw = asyncio.get_running_loop(), list[int](), bytearray()
    size = len(encode(Op.HELLO, 1, META)) + len(DATA)
    async with asyncio.timeout(30):
        while len(found) < count:
            piece = await loop.sock_recv(client, 1 << 20)
            assert piece, "the server hung up"
            raw += piece
            while len(raw) >= size:
                assert raw[size - len(DATA) : size] == DATA
                found.append(HEADER.unpack_from(raw)[5])
                del raw[:size]
    return found


async def test_every_request_is_answered_once(served: Served) -> None:
    loop, numbers = asyncio.get_running_loop(), range(20, 820)
    sending = asyncio.create_task(
        loop.sock_sendall(served.client, b"".join(encode(Op.HELLO, number, META) for number in numbers))
    )
    assert sorted(await received(served.client, len(numbers))) == list(numbers)
    await sending
    (session,) = served.sessions
    assert session.now == [number for number in numbers if number % 2 == 0]
    assert sorted(session.later) == [number for number in numbers if number % 2]


async def test_a_client_that_reads_nothing_is_not_answered_on(served: Served) -> None:
    loop, numbers = asyncio.get_running_loop(), range(20, 20 + 2 * 4_000, 2)
    frames = b"".join(encode(Op.HELLO, number, META) for number in numbers)
    sending = asyncio.create_task(loop.sock_sendall(served.client, frames))
    answered, quiet = -1, 0
    async with asyncio.timeout(30):
        while quiet < 20:  # rounds in which nothing more was answered
            await asyncio.sleep(0.01)
            now = len(served.sessions[0].now) if served.sessions else 0
            quiet = quiet + 1 if now == answered and now else 0
            answered = now
    # 64 MB of replies: the kernel's buffers take a part, and one batch waits here.
    assert REPLIES_MAX <= answered < len(numbers)
    assert sorted(await received(served.client, len(numbers))) == list(numbers)
    await sending


async def test_a_bug_costs_one_request_at_most(served: Served) -> None:
    await asyncio.get_running_loop().sock_sendall(
        served.client, b"".join(encode(Op.HELLO, number, META) for number in (12, 13, 14))
    )
    assert sorted(await received(served.client, 3)) == [12, 13, 14]
    assert served.sessions[0].later == [13]
    assert served.metrics.registry.get_sample_value("headrace_worker_bugs_total", {"where": "HELLO"}) == 1
