"""A block that is stored by the thread that reads it: booked once, whatever fails, is late or leaves. Real files."""

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from api.gen import metadata_pb2 as pb
from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import VersionChanged
from cacheruntime.worker import tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.datasets import Datasets, Location
from cacheruntime.worker.fetched import Fetched, Source
from cacheruntime.worker.filler import Filler
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.peers import Peers
from cacheruntime.worker.reader import Reader
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.storing import Storing
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.workers import Peer, Workers
from understores.base import UnderStore
from understores.posix import PosixStore

BLOCK = 4096
DATA = bytes((i * 31) % 251 for i in range(3 * BLOCK - 10))
UID = "u"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def tier() -> Tier:
    return Tier("SSD", 1 << 20, 1 << 20)


@pytest.fixture
async def store(tmp_path: Path, threads: ThreadPoolExecutor, tier: Tier) -> BlockStore:
    (tmp_path / "tier").mkdir()
    return BlockStore(
        [TierFolder(tier, tmp_path / "tier")],
        block_size_bytes=BLOCK,
        threads=threads,
        clock=asyncio.get_running_loop().time,
        metrics=Metrics(),
        changed=lambda _: None,
        slow_seconds=0.05,
    )


async def opened(store: BlockStore, path: str = "p") -> CachedFile:
    return await store.acquire(Version(UID, path, "e", len(DATA)), wanted_bytes=len(DATA), as_home=True)


def block(index: int) -> memoryview:
    return memoryview(DATA)[index * BLOCK : (index + 1) * BLOCK]


def begun(store: BlockStore, file: CachedFile, index: int = 0) -> Storing:
    storing = store.begin_block(file, index, as_home=True)
    assert storing is not None
    return storing


async def test_a_block_taken_in_pieces_is_resident_and_found_again(
    store: BlockStore, tier: Tier, tmp_path: Path
) -> None:
    file = await opened(store)
    for index in range(3):
        storing = begun(store, file, index)
        assert storing.begin()
        for at in range(0, len(block(index)), 1000):
            storing.take(at, block(index)[at : at + 1000])
        assert not file.map.has(index)
        storing.end()
        storing.leave()
        storing.finish()
        assert storing.is_settled and storing.checksum == crc32c(block(index))
    store.release(file)
    assert file.map.is_complete and file.is_home
    assert (tier.used_bytes, tier.reserved_bytes) == (len(DATA), 0)
    (found,) = tier_files.scan(tmp_path / "tier", 0, BLOCK)
    tier_files.open_file(found)
    assert found.map.is_complete and tier_files.verify(found) == []
    tier_files.close_file(found)


async def test_a_read_that_fails_leaves_no_block_and_no_charge(store: BlockStore, tier: Tier) -> None:
    file = await opened(store)
    storing = begun(store, file)
    assert storing.begin()
    storing.take(0, block(0)[:100])
    storing.leave()
    storing.finish()
    assert not storing.is_settled and not file.map.has(0)
    assert await storing.done is False
    store.release(file)
    assert (tier.used_bytes, tier.reserved_bytes) == (0, 0)
    assert store.find(file.version) is None


async def test_a_repeated_read_begins_anew(store: BlockStore) -> None:
    file = await opened(store)
    storing = begun(store, file)
    assert storing.begin()
    storing.take(0, memoryview(bytes(100)))
    storing.leave()
    await storing.store(block(0))
    storing.finish()
    assert file.map.has(0) and file.map.checksum(0) == crc32c(block(0))
    store.release(file)


async def test_room_stays_charged_until_the_thread_is_done(store: BlockStore, tier: Tier) -> None:
    file = await opened(store)
    storing = begun(store, file)
    assert storing.begin()
    storing.finish()
    store.release(file)
    assert tier.used_bytes == BLOCK and file.references == 1
    await asyncio.to_thread(storing.take, 0, block(0))
    await asyncio.to_thread(storing.end)
    await asyncio.to_thread(storing.leave)
    assert await storing.done
    assert file.references == 0 and file.map.has(0) and tier.used_bytes == BLOCK


async def test_what_was_left_before_it_began_is_not_begun(store: BlockStore, tier: Tier) -> None:
    file = await opened(store)
    storing = begun(store, file)
    storing.finish()
    assert not storing.begin()
    assert not file.map.has(0) and tier.used_bytes == 0
    store.release(file)


async def test_a_block_on_its_way_is_nobody_elses_to_store(store: BlockStore, tier: Tier) -> None:
    file = await opened(store)
    storing = begun(store, file)
    assert store.begin_block(file, 0, as_home=True) is None
    other = asyncio.create_task(store.store_block(file, 0, block(0), crc32c(block(0)), as_home=True))
    await storing.store(block(0))
    storing.finish()
    assert await other
    assert store.begin_block(file, 0, as_home=True) is None
    assert tier.used_bytes == BLOCK
    store.release(file)


async def test_nobody_makes_room_for_bytes_that_may_not_come(store: BlockStore, tier: Tier) -> None:
    idle = await opened(store, "idle")
    await begun(store, idle).store(block(0))
    file = await opened(store)
    tier.quota_bytes = BLOCK
    file.reserved_bytes, reserved = 0, file.reserved_bytes
    tier.release(reserved)
    assert store.begin_block(file, 0, as_home=True) is None
    store.release(file)
    assert store.begin_block(file, 1, as_home=True) is None  # nobody holds it


@pytest.mark.parametrize(("number", "is_settled"), [(errno.ENOSPC, False), (errno.EIO, True)])
async def test_a_medium_that_refuses_keeps_the_reader_from_nothing(
    store: BlockStore, tier: Tier, monkeypatch: pytest.MonkeyPatch, number: int, is_settled: bool
) -> None:
    file = await opened(store)

    def refuse(descriptor: int, data: memoryview, offset: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tier_files, "write_at", refuse)
    storing = begun(store, file)
    await storing.store(block(0))
    storing.finish()
    assert storing.checksum == crc32c(block(0))
    assert storing.is_settled is is_settled and not file.map.has(0)
    # Of a full medium others' bytes can still be dropped; one that fails is left alone for a while.
    assert tier.is_blocked(asyncio.get_running_loop().time()) is is_settled
    assert tier.used_bytes == 0
    store.release(file)


@dataclass
class OneMount:
    """Every path lies in one store."""

    store: object
    info: pb.DatasetInfo = field(default_factory=lambda: pb.DatasetInfo(uid=UID, local_copies=True, replicas=1))

    async def get(self, uid: str) -> pb.DatasetInfo:
        return self.info

    def known(self, uid: str) -> pb.DatasetInfo:
        return self.info

    async def locate(self, uid: str, path: str) -> Location:
        return Location(cast(UnderStore, self.store), path, is_read_only=True)


@dataclass
class Alone:
    """One worker."""

    me: Peer = field(default_factory=lambda: Peer("a", 1, "127.0.0.1:1"))
    origin_bytes_per_second: float = 0.0

    def live(self) -> dict[str, Peer]:
        return {"a": self.me}

    def leaving(self) -> tuple[Peer, ...]:
        return ()


class WithoutThreads:
    """A store whose reads are awaited."""

    def __init__(self, inner: PosixStore) -> None:
        self.reads = 0
        self._inner = inner

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        self.reads += 1
        await self._inner.get_range(key, offset_bytes, buffer, etag=etag)


@dataclass
class Site:
    reader: Reader
    metrics: Metrics
    origin: Path
    etag: str

    async def file(self, store: BlockStore) -> CachedFile:
        return await store.acquire(Version(UID, "f", self.etag, len(DATA)), wanted_bytes=len(DATA), as_home=True)


@pytest.fixture(params=["threads", "awaited"])
async def site(tmp_path: Path, store: BlockStore, request: pytest.FixtureRequest) -> Site:
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "f").write_bytes(DATA)
    posix = PosixStore(tmp_path / "origin")
    info = await posix.head("f")
    datasets = OneMount(posix if request.param == "threads" else WithoutThreads(posix))
    metrics = Metrics()
    filler = Filler(
        cast(Workers, Alone()),
        cast(Peers, None),
        cast(Datasets, datasets),
        metrics,
        buffers=Buffers(BLOCK),
        block_size_bytes=BLOCK,
        origin_streams=4,
        peer_streams=4,
        origin_seconds=10,
        clock=asyncio.get_running_loop().time,
    )
    return Site(Reader(store, filler, cast(Datasets, datasets), metrics), metrics, tmp_path / "origin" / "f", info.etag)


async def test_a_reader_finds_what_came_in_its_file(site: Site, store: BlockStore, tier: Tier) -> None:
    file = await site.file(store)
    ensured = await site.reader.ensure(file, 0, len(DATA))
    assert ensured.is_resident and ensured.origin_bytes == len(DATA)
    assert os.pread(file.descriptor, len(DATA), 0) == DATA
    assert tier.used_bytes == len(DATA) and file.references == 1 and not file.writes
    store.release(file)


async def test_many_readers_of_a_block_are_one_fetch(site: Site, store: BlockStore) -> None:
    file = await site.file(store)
    sources = [sum(e.origin_bytes for e in await asyncio.gather(*(site.reader.ensure(file, 0, 10) for _ in range(9))))]
    assert sources == [10]
    assert site.metrics.registry.get_sample_value("headrace_worker_origin_read_bytes_total") == BLOCK
    store.release(file)


async def test_bytes_of_another_version_are_never_resident(site: Site, store: BlockStore, tier: Tier) -> None:
    file = await site.file(store)
    site.origin.write_bytes(DATA[::-1])
    with pytest.raises(VersionChanged):
        await site.reader.ensure(file, 0, 10)
    assert tier.used_bytes == 0 and not file.map.resident_blocks()
    store.release(file)


async def test_a_medium_that_stalls_is_not_waited_for(
    site: Site, store: BlockStore, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Version(UID, "f", site.etag, len(DATA))
    file = await store.acquire(version, wanted_bytes=len(DATA), as_home=True)
    go_on, real = threading.Event(), tier_files.write_at

    def stalled(descriptor: int, data: memoryview, offset: int) -> None:
        go_on.wait(30)
        real(descriptor, data, offset)

    monkeypatch.setattr(tier_files, "write_at", stalled)
    fetched = await site.reader.block(version, 0, for_peer=True)
    assert bytes(fetched.data) == DATA[:BLOCK] and fetched.source is Source.ORIGIN
    assert tier.used_bytes == BLOCK and not file.map.has(0)
    go_on.set()
    async with asyncio.timeout(30):
        while file.writes:
            await asyncio.sleep(0.01)
    assert file.map.has(0) and tier.used_bytes == BLOCK
    store.release(file)


def _blocks_in_memory() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, Fetched | Storing)]


async def test_nothing_keeps_the_memory_of_a_block_that_is_stored(site: Site, store: BlockStore) -> None:
    file = await site.file(store)
    gc.collect()
    gc.disable()
    try:
        # Of tests before this one something may be left in a frame of a thread.
        before = _blocks_in_memory()
        await site.reader.ensure(file, 0, len(DATA))
        await asyncio.sleep(0)
        assert not [each for each in _blocks_in_memory() if all(each is not other for other in before)]
    finally:
        gc.enable()
    store.release(file)
