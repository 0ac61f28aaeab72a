"""READ of a few bytes: small blocks in memory are answered at once, pieces of large ones from a checked block."""

import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from api.byteplane import HEADER, Header, Op, Read, ReadReply, decode_header, decode_meta, encode
from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import NotResident
from cacheruntime.worker import byte_plane, tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.byte_plane import ReadAnswerer
from cacheruntime.worker.fetched import Fetched, Source
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.trust import OpenGate

BLOCK = 1 << 20
DATA = os.urandom(BLOCK + 5000)
VERSION = Version("u", "a/file", "etag", len(DATA))


@dataclass
class Link:
    """Keeps what was sent."""

    frames: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def send(self, head: bytes, data: memoryview | None = None) -> None:
        self.frames.append((head, bytes(data or b"")))


@dataclass
class Blocks:
    """Stands for the way that reads and checks whole blocks."""

    asked: list[int] = field(default_factory=list)

    async def block(self, version: Version, index: int, *, for_peer: bool) -> Fetched:
        self.asked.append(index)
        at = index * BLOCK if version == VERSION else 0
        data = DATA[at : at + BLOCK]
        return Fetched(memoryview(data), crc32c(data), Source.ORIGIN)


@dataclass
class Plane:
    store: BlockStore
    answerer: ReadAnswerer
    link: Link
    blocks: Blocks
    file: CachedFile
    reply: ReadReply = field(default_factory=lambda: ReadReply(crc32c=0))

    async def read(
        self, offset: int, length: int, *, verify: bool = False, resident_only: bool = False
    ) -> tuple[ReadReply, bytes]:
        read = Read(
            uid=VERSION.uid, path=VERSION.path, etag=VERSION.etag, size_bytes=VERSION.size_bytes,
            offset_bytes=offset, length_bytes=length, verify=verify, resident_only=resident_only,
        )  # fmt: skip
        data = await self.send(read)
        return self.reply, data

    async def send(self, read: Read) -> bytes:
        raw = encode(Op.READ, 7, read)
        header: Header = decode_header(raw)
        await self.answerer.answer(cast(Any, self.link), header, raw[HEADER.size :], OpenGate(), for_peer=True)
        head, data = self.link.frames.pop()
        self.reply = decode_meta(head[HEADER.size :], ReadReply)
        assert self.reply.crc32c == crc32c(data)
        return data


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    with ThreadPoolExecutor(2) as threads:
        metrics = Metrics()
        store = BlockStore(
            [TierFolder(Tier("SSD", 1 << 30, 1 << 26), tmp_path)],
            block_size_bytes=BLOCK, threads=threads, clock=time.monotonic, metrics=metrics, changed=lambda _: None,
        )  # fmt: skip
        file = await store.acquire(VERSION, wanted_bytes=0, as_home=True)
        for index in range(2):
            data = memoryview(DATA)[index * BLOCK : (index + 1) * BLOCK]
            assert await store.store_block(file, index, data, crc32c(data), as_home=True)
        link, blocks = Link(), Blocks()
        yield Plane(store, ReadAnswerer(store, cast(Any, blocks), metrics, threads), link, blocks, file)
        store.release(file)


@pytest.mark.parametrize(("offset", "length"), [(0, 4096), (8191, 3), (BLOCK - 1, 1), (BLOCK + 9, 4991)])
async def test_a_block_is_read_and_checked_once_for_its_pieces(plane: Plane, offset: int, length: int) -> None:
    for _ in range(2):
        reply, data = await plane.read(offset, length)
        assert data == DATA[offset : offset + length]
        assert reply.crc32c == crc32c(data)
    assert plane.blocks.asked == [offset // BLOCK]


async def test_a_whole_small_block_is_read_no_further(plane: Plane) -> None:
    reply, data = await plane.read(BLOCK, 5000)
    assert data == DATA[BLOCK:]
    assert reply == ReadReply(crc32c=crc32c(data))
    assert plane.blocks.asked == []


async def test_a_piece_of_a_block_that_lost_its_checksum_is_not_sent(plane: Plane) -> None:
    for _ in range(2):
        os.pwrite(plane.file.descriptor, b"x" if DATA[:1] != b"x" else b"y", 0)
        plane.file.written_ns = os.fstat(plane.file.descriptor).st_mtime_ns  # a bad cell leaves no trace
        _, data = await plane.read(0, 4096)
        assert data == DATA[:4096]


async def test_blocks_that_cannot_stay_are_kept_in_memory_few_of_them(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_plane, "BYPASSED_BLOCKS_MAX", 1)
    for index in (0, 1):
        plane.store.drop_corrupt(plane.file, index, found="test")
    for offset in (0, 5, BLOCK + 9, 0):
        _, data = await plane.read(offset, 100)
        assert data == DATA[offset : offset + 100]
    assert plane.blocks.asked == [0, 1, 0]
    with pytest.raises(NotResident):
        await plane.read(0, 100, resident_only=True)


@pytest.mark.parametrize("offset", [0, 16_384, 20_000, BLOCK - 4096])
async def test_a_piece_damaged_after_its_block_was_checked_is_not_sent(plane: Plane, offset: int) -> None:
    await plane.read(offset, 4096)
    file = plane.file
    damaged = offset + 4000
    os.pwrite(file.descriptor, bytes([DATA[damaged] ^ 1]), damaged)
    file.written_ns = os.fstat(file.descriptor).st_mtime_ns  # a bad cell leaves no trace
    _, data = await plane.read(offset, 4096)
    assert data == DATA[offset : offset + 4096]
    assert plane.blocks.asked == [0, 0]  # the second time the long way, which checks the block


async def test_pieces_of_many_blocks_are_read_without_reading_the_blocks_again(plane: Plane) -> None:
    size = 40 * BLOCK
    version = Version("u", "large", "etag", size)
    file = await plane.store.acquire(version, wanted_bytes=size, as_home=True)
    try:
        for index in range(40):
            data = memoryview(DATA)[:BLOCK]
            assert await plane.store.store_block(file, index, data, crc32c(data), as_home=True)
        for _ in range(2):
            for index in range(40):
                read = Read(
                    uid=version.uid, path=version.path, etag=version.etag, size_bytes=size,
                    offset_bytes=index * BLOCK + 100_000, length_bytes=300_000,
                )  # fmt: skip
                assert await plane.send(read) == DATA[100_000:400_000]
    finally:
        plane.store.release(file)
    assert len(plane.blocks.asked) == 40


async def test_only_what_needs_no_waiting_is_answered_at_once(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(offset: int, length: int, **fields: bool) -> bytes | None:
        read = Read(
            uid=VERSION.uid, path=VERSION.path, etag=VERSION.etag, size_bytes=VERSION.size_bytes,
            offset_bytes=offset, length_bytes=length, **fields,
        )  # fmt: skip
        raw = encode(Op.READ, 7, read)
        ready = plane.answerer.answer_now(decode_header(raw), raw[HEADER.size :], OpenGate(), for_peer=True)
        if ready is None:
            return None
        head, data = ready
        assert decode_meta(head[HEADER.size :], ReadReply) == ReadReply(crc32c=crc32c(data))
        assert decode_header(head).data_bytes == len(data)
        return bytes(data)

    assert at_once(BLOCK, 5000) == DATA[BLOCK:]
    assert at_once(7, 4096) is None  # its block was not checked yet
    await plane.read(0, 1)
    assert at_once(7, 4096) == DATA[7:4103]
    assert at_once(7, 4096, verify=True) is None
    assert at_once(0, byte_plane.NOW_BYTES_MAX + 1) is None
    assert at_once(BLOCK - 10, 20) is None  # leaves its block: `answer` refuses it in words
    with monkeypatch.context() as patch:
        patch.setattr(tier_files, "read_now", lambda *_: None)
        assert at_once(7, 4096) is None
    plane.file.is_verified = False
    assert at_once(7, 4096) is None
    plane.file.is_verified = True
    plane.store.drop_corrupt(plane.file, 0, found="test")
    assert at_once(7, 4096) is None


async def test_pieces_that_are_not_in_memory_are_waited_for(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    await plane.read(0, 4096)
    monkeypatch.setattr(tier_files, "read_now", lambda *_: None)
    _, data = await plane.read(50_000, 4096)
    assert data == DATA[50_000:54_096]
    assert plane.blocks.asked == [0]


async def test_nothing_is_sent_of_a_file_that_was_evicted_and_is_another_now(plane: Plane) -> None:
    await plane.read(0, 4096)
    plane.store.release(plane.file)
    plane.store.drop(plane.file)
    with pytest.raises(NotResident):
        await plane.read(0, 4096, resident_only=True)
    _, data = await plane.read(0, 4096)
    assert data == DATA[:4096]
    assert plane.blocks.asked == [0, 0]
    plane.file = await plane.store.acquire(VERSION, wanted_bytes=0, as_home=True)


async def test_a_whole_small_block_that_lost_its_checksum_is_not_sent(plane: Plane) -> None:
    os.pwrite(plane.file.descriptor, b"x" if DATA[BLOCK : BLOCK + 1] != b"x" else b"y", BLOCK)
    plane.file.written_ns = os.fstat(plane.file.descriptor).st_mtime_ns  # a bad cell leaves no trace
    reply, data = await plane.read(BLOCK, 5000)
    assert data == DATA[BLOCK:]
    assert reply.from_origin
    assert plane.blocks.asked == [1]


async def test_verify_goes_the_way_that_checks_the_whole_block(plane: Plane) -> None:
    await plane.read(0, 4096, verify=True)
    assert plane.blocks.asked == [0]


async def test_a_block_that_is_not_resident_is_fetched(plane: Plane) -> None:
    plane.store.drop_corrupt(plane.file, 0, found="test")
    _, data = await plane.read(100, 10)
    assert data == DATA[100:110]
    assert plane.blocks.asked == [0]
