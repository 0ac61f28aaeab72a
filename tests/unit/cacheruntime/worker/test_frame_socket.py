"""Frames of many tasks on one connection: whole, unmixed, few system calls; a lost connection reaches every sender."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.byteplane import HEADER, Empty, Op, decode_header, encode
from cacheruntime.worker.frame_socket import FrameSocket

SMALL, LARGE = 4096, 300_000


@pytest.fixture
async def ends() -> AsyncIterator[tuple[FrameSocket, FrameSocket, socket.socket]]:
    one, other = socket.socketpair()
    loop = asyncio.get_running_loop()
    sender, receiver = FrameSocket(one, loop), FrameSocket(other, loop)
    yield sender, receiver, other
    await sender.close()
    await receiver.close()


def body(number: int, size: int) -> bytes:
    return bytes([number % 251]) * size


async def send(link: FrameSocket, number: int, size: int) -> None:
    await link.send(encode(Op.READ, number, Empty(), data_bytes=size), memoryview(body(number, size)))


async def receive(link: FrameSocket, count: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for _ in range(count):
        header = await link.receive_header()
        assert header is not None
        await link.receive(header.meta_bytes)
        found[header.request_id] = bytes(await link.receive(header.data_bytes))
    return found


async def test_small_and_large_frames_of_many_tasks_arrive_whole(
    ends: tuple[FrameSocket, FrameSocket, socket.socket],
) -> None:
    sender, receiver, _ = ends
    sizes = [LARGE if number % 7 == 0 else number % SMALL for number in range(900)]
    sending = [asyncio.create_task(send(sender, number, size)) for number, size in enumerate(sizes)]
    found = await receive(receiver, len(sizes))
    await asyncio.gather(*sending)
    assert found == {number: body(number, size) for number, size in enumerate(sizes)}


async def test_replies_that_are_ready_together_go_out_together(
    ends: tuple[FrameSocket, FrameSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver, _ = ends
    batches: list[int] = []
    plain = FrameSocket._send

    async def counted(self: FrameSocket, parts: list[memoryview], *, more: bool = False) -> None:
        batches.append(len(parts))
        await plain(self, parts, more=more)

    monkeypatch.setattr(FrameSocket, "_send", counted)
    await asyncio.gather(*(send(sender, number, 100) for number in range(64)))
    assert len(batches) == 1
    assert len(await receive(receiver, 64)) == 64


async def test_a_cancelled_sender_takes_nothing_from_the_others(
    ends: tuple[FrameSocket, FrameSocket, socket.socket],
) -> None:
    sender, receiver, _ = ends
    sending = [asyncio.create_task(send(sender, number, SMALL)) for number in range(400)]
    await asyncio.sleep(0)
    sending[3].cancel()
    found = await receive(receiver, 399)
    await asyncio.gather(*sending, return_exceptions=True)
    assert len(set(range(400)) - found.keys()) == 1
    assert all(data == body(number, SMALL) for number, data in found.items())


async def test_every_waiting_sender_learns_that_the_connection_is_lost(
    ends: tuple[FrameSocket, FrameSocket, socket.socket],
) -> None:
    sender, receiver, _ = ends
    sending = [asyncio.create_task(send(sender, number, 200_000)) for number in range(8)]
    sending += [asyncio.create_task(send(sender, number, SMALL)) for number in range(400)]
    await asyncio.sleep(0)
    await receiver.close()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert sum(isinstance(outcome, ConnectionResetError) for outcome in outcomes) > 300
    assert all(outcome is None or isinstance(outcome, ConnectionResetError) for outcome in outcomes)


async def test_a_file_and_small_frames_do_not_mix(
    ends: tuple[FrameSocket, FrameSocket, socket.socket], tmp_path: Path
) -> None:
    sender, receiver, _ = ends
    content = os.urandom(LARGE)
    (tmp_path / "file").write_bytes(content)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    with ThreadPoolExecutor(1) as threads:
        head = encode(Op.READ, 1000, Empty(), data_bytes=LARGE)
        sending = [asyncio.create_task(send(sender, number, SMALL)) for number in range(20)]
        sending.append(asyncio.create_task(sender.send_file(head, descriptor, 0, LARGE, threads)))
        sending += [asyncio.create_task(send(sender, number, SMALL)) for number in range(20, 40)]
        found = await receive(receiver, 41)
        await asyncio.gather(*sending)
    os.close(descriptor)
    assert found.pop(1000) == content
    assert found == {number: body(number, SMALL) for number in range(40)}
    assert decode_header(head[: HEADER.size]).data_bytes == LARGE


async def test_many_files_and_small_frames_arrive_whole_and_a_cancelled_one_is_left_out(
    ends: tuple[FrameSocket, FrameSocket, socket.socket], tmp_path: Path
) -> None:
    sender, receiver, _ = ends
    contents = [os.urandom(300_000 + number) for number in range(24)]
    (tmp_path / "file").write_bytes(b"".join(contents))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    with ThreadPoolExecutor(2) as threads:
        sending = []
        for number, content in enumerate(contents):
            head = encode(Op.READ, 1000 + number, Empty(), data_bytes=len(content))
            start = sum(len(before) for before in contents[:number])
            sending.append(asyncio.create_task(sender.send_file(head, descriptor, start, len(content), threads)))
            sending.append(asyncio.create_task(send(sender, number, SMALL)))
        await asyncio.sleep(0)
        assert sending[-2].cancel()
        found = await receive(receiver, 47)
        await asyncio.gather(*sending, return_exceptions=True)
    os.close(descriptor)
    assert not sender.is_closed
    assert {number: found[1000 + number] for number in range(23)} == dict(enumerate(contents[:23]))
    assert all(found[number] == body(number, SMALL) for number in range(24))


async def test_a_file_that_ends_early_ends_the_connection_for_every_sender(
    ends: tuple[FrameSocket, FrameSocket, socket.socket], tmp_path: Path
) -> None:
    sender, _, _ = ends
    (tmp_path / "file").write_bytes(b"short")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    with ThreadPoolExecutor(1) as threads:
        head = encode(Op.READ, 1, Empty(), data_bytes=6)
        sending = [sender.send_file(head, descriptor, 0, 6, threads) for _ in range(20)]
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
    os.close(descriptor)
    assert [type(outcome) for outcome in outcomes] == [ConnectionResetError] * 20
    assert "ended early" in str(outcomes[0])


async def test_without_a_thread_the_sender_of_a_file_is_told_so(
    ends: tuple[FrameSocket, FrameSocket, socket.socket],
) -> None:
    sender, _, _ = ends
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(ConnectionResetError, match="before a file was sent"):
        await sender.send_file(encode(Op.READ, 1, Empty(), data_bytes=6), 0, 0, 6, threads)
