"""The block store on a real directory: charges, restart, damage, readers that hold on. No sockets."""

import asyncio
import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import NoRoom
from cacheruntime.worker import tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.tier_files import CachedFile
from understores.posix_put import WRITE_BYTES_MAX

BLOCK = 4096


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Bench:
    """A store over one directory, its changes and its clock."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor, *, quota: int = 1 << 20, temporary: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.tier = Tier("SSD", quota, temporary)
        self.changes: list[str] = []
        self.now = 0.0
        self.metrics = Metrics()
        self.store = BlockStore(
            [TierFolder(self.tier, folder)],
            block_size_bytes=BLOCK,
            threads=threads,
            clock=lambda: self.now,
            metrics=self.metrics,
            changed=self.changes.append,
        )

    async def fill(self, version: Version, data: bytes, *, as_home: bool = True) -> bool:
        file = await self.store.acquire(version, wanted_bytes=len(data), as_home=as_home)
        stored = [await self.put(file, i, data, as_home=as_home) for i in range(file.map.count)]
        self.store.release(file)
        return all(stored)

    async def put(self, file: CachedFile, index: int, data: bytes, *, as_home: bool = True) -> bool:
        piece = memoryview(data)[index * BLOCK : (index + 1) * BLOCK]
        return await self.store.store_block(file, index, piece, crc32c(piece), as_home=as_home)


def a_version(path: str = "p", size: int = 3 * BLOCK - 10, uid: str = "u1", etag: str = "e") -> Version:
    return Version(uid, path, etag, size)


def bytes_of(version: Version) -> bytes:
    return bytes((i * 31 + sum(map(ord, version.path))) % 251 for i in range(version.size_bytes))


async def test_kept_blocks_are_charged_reported_and_found_after_a_restart(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    version = a_version()
    bench = Bench(tmp_path / "t", threads)
    assert await bench.fill(version, bytes_of(version))
    assert (bench.tier.used_bytes, bench.tier.reserved_bytes) == (version.size_bytes, 0)
    assert bench.changes

    again = Bench(tmp_path / "t", threads)
    found = await again.store.recover()
    assert [file.version for file in found] == [version]
    assert again.tier.used_bytes == version.size_bytes
    assert again.store.index.names() == []  # nothing is reported before it was checked
    file = await again.store.acquire(version, wanted_bytes=0, as_home=False)
    assert file.map.is_complete and file.map.is_home and again.store.index.names() == [file.name]
    blocks = [await again.store.read_block(file, i) for i in range(3)]
    assert b"".join(block or b"" for block in blocks) == bytes_of(version)
    again.store.release(file)


@pytest.mark.parametrize("damage", ["flip", "truncate", "torn-map", "swap", "no-map"])
async def test_damage_between_runs_is_never_served(tmp_path: Path, threads: ThreadPoolExecutor, damage: str) -> None:
    one, two = a_version("one"), a_version("two")
    bench = Bench(tmp_path / "t", threads)
    for version in (one, two):
        assert await bench.fill(version, bytes_of(version))
    path = tier_files.data_path(tmp_path / "t", one)
    if damage == "flip":
        raw = bytearray(path.read_bytes())
        raw[BLOCK + 5] ^= 1
        path.write_bytes(raw)
    elif damage == "truncate":
        os.truncate(path, BLOCK)
    elif damage == "torn-map":
        os.truncate(tier_files.map_path(path), 40)
    elif damage == "no-map":
        tier_files.map_path(path).unlink()
    else:
        other = tier_files.data_path(tmp_path / "t", two)
        mine = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(mine)

    again = Bench(tmp_path / "t", threads)
    await again.store.recover()
    file = await again.store.acquire(one, wanted_bytes=0, as_home=False)
    expected = bytes_of(one)
    for index in file.map.resident_blocks():
        assert bytes(await again.store.read_block(file, index) or b"") == expected[index * BLOCK :][:BLOCK]
    assert len(file.map.resident_blocks()) == (2 if damage == "flip" else 0)
    assert again.tier.used_bytes == sum(f.map.resident_bytes for f in again.store.files_of("u1"))
    again.store.release(file)


async def test_a_bit_flipped_while_running_is_found_at_the_next_open(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    version = a_version()
    bench = Bench(tmp_path / "t", threads)
    assert await bench.fill(version, bytes_of(version))
    path = tier_files.data_path(tmp_path / "t", version)
    with path.open("r+b") as damaged:
        damaged.seek(7)
        damaged.write(b"\xff")
    file = await bench.store.acquire(version, wanted_bytes=0, as_home=False)
    assert not file.map.has(0) and file.map.has(1)
    assert bench.tier.used_bytes == version.size_bytes - BLOCK
    assert bench.metrics.corrupt_blocks.labels("check")._value.get() == 1
    bench.store.release(file)


async def test_the_same_block_is_kept_and_charged_once(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    version = a_version()
    bench = Bench(tmp_path / "t", threads)
    file = await bench.store.acquire(version, wanted_bytes=0, as_home=True)
    data = bytes_of(version)
    assert all(await asyncio.gather(*(bench.put(file, i % 3, data) for i in range(30))))
    assert bench.tier.used_bytes == version.size_bytes and file.map.is_complete
    bench.store.release(file)


async def test_a_full_dataset_is_bypassed_and_another_evicts_it(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    bench = Bench(tmp_path / "t", threads, quota=4 * BLOCK)
    first, second, other = (a_version(p, 3 * BLOCK, u) for p, u in [("a", "u1"), ("b", "u1"), ("c", "u2")])
    assert await bench.fill(first, bytes_of(first))
    assert not await bench.fill(second, bytes_of(second))  # one block fits, the rest is bypassed
    assert bench.tier.used_bytes == 4 * BLOCK
    assert bench.store.find(first) is not None
    assert await bench.fill(other, bytes_of(other))
    assert bench.store.find(first) is None
    assert bench.tier.used_bytes <= 4 * BLOCK


async def test_open_files_are_never_victims_and_a_dropped_one_reads_on(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    bench = Bench(tmp_path / "t", threads, quota=3 * BLOCK)
    version, other = a_version("a", 3 * BLOCK), a_version("c", 3 * BLOCK, "u2")
    assert await bench.fill(version, bytes_of(version))
    file = await bench.store.acquire(version, wanted_bytes=0, as_home=False)
    assert not await bench.fill(other, bytes_of(other))
    reader = tier_files.open_for_reader(file)
    assert bench.store.drop(file) == version.size_bytes
    assert os.pread(reader, version.size_bytes, 0) == bytes_of(version)
    os.close(reader)
    assert bench.tier.used_bytes == version.size_bytes  # until the last reader is gone
    bench.store.release(file)
    assert bench.tier.used_bytes == 0 and not list((tmp_path / "t").glob("*/*/*"))
    assert bench.store.index.named(file.name) == (version, None)


async def test_bypassed_bytes_can_be_read_until_close_and_then_give_their_room_back(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    bench = Bench(tmp_path / "t", threads, quota=BLOCK, temporary=2 * BLOCK)
    version = a_version("a", 4 * BLOCK)
    data = bytes_of(version)
    file = await bench.store.acquire(version, wanted_bytes=0, as_home=False)
    assert await bench.put(file, 0, data)
    for index in (1, 2):
        assert not await bench.put(file, index, data)
        await bench.store.hold_temporarily(file, index, memoryview(data)[index * BLOCK : (index + 1) * BLOCK])
    with pytest.raises(NoRoom, match="temporary room"):
        await bench.store.hold_temporarily(file, 3, memoryview(data)[3 * BLOCK :])
    assert os.pread(file.descriptor, 3 * BLOCK, 0) == data[: 3 * BLOCK]
    assert file.map.resident_blocks() == [0]
    bench.store.release(file)
    assert bench.tier.temporary_bytes == 0 and bench.tier.used_bytes == BLOCK
    path = tier_files.data_path(tmp_path / "t", version)
    assert path.stat().st_blocks * 512 <= 2 * BLOCK
    file = await bench.store.acquire(version, wanted_bytes=0, as_home=False)
    assert file.map.has(0) and not file.has(1)
    bench.store.release(file)


async def test_a_medium_fuller_than_its_quota_gives_up_what_nobody_reads(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "t", threads)
    idle, version = a_version("idle"), a_version("wanted")
    assert await bench.fill(idle, bytes_of(idle))
    real = tier_files.write_block

    def write_block(file: CachedFile, index: int, data: memoryview, checksum: int, *, as_home: bool) -> None:
        if bench.store.find(idle) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, index, data, checksum, as_home=as_home)

    monkeypatch.setattr(tier_files, "write_block", write_block)
    assert await bench.fill(version, bytes_of(version))
    assert bench.store.find(idle) is None and bench.tier.used_bytes == version.size_bytes


async def test_a_renamed_file_keeps_its_bytes_and_its_readers(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    bench = Bench(tmp_path / "t", threads)
    old, new = a_version("old"), a_version("new", etag="e2")
    assert await bench.fill(old, bytes_of(old))
    file = await bench.store.acquire(old, wanted_bytes=0, as_home=False)
    bench.store.rekey(old, new)
    assert bench.store.find(old) is None and bench.store.find(new) is file
    bench.store.release(file)
    again = Bench(tmp_path / "t", threads)
    assert [f.version for f in await again.store.recover()] == [new]


async def test_a_written_file_becomes_the_cached_one(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    bench = Bench(tmp_path / "t", threads)
    version = a_version()
    staging = tmp_path / "t" / "written"
    staging.write_bytes(bytes_of(version))
    descriptor = os.open(staging, os.O_RDONLY)
    sums = tier_files.checksums(descriptor, version.size_bytes, BLOCK)
    os.close(descriptor)
    assert bench.store.adopt(version, staging, 0, sums, as_home=False)
    file = await bench.store.acquire(version, wanted_bytes=0, as_home=False)
    assert file.map.is_complete and bench.tier.used_bytes == version.size_bytes
    assert bytes(await bench.store.read_block(file, 2) or b"") == bytes_of(version)[2 * BLOCK :]
    bench.store.release(file)


def test_no_write_is_so_large_that_the_kernel_takes_huge_pages_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(2 * WRITE_BYTES_MAX + 5)
    lengths: list[int] = []
    real = os.pwrite

    def pwrite(descriptor: int, piece: memoryview, offset: int) -> int:
        lengths.append(len(piece))
        is_short = len(lengths) == 1
        return real(descriptor, piece[:-3] if is_short else piece, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with (tmp_path / "file").open("wb") as file:
        tier_files.write_at(file.fileno(), memoryview(data), 7)
    assert (tmp_path / "file").read_bytes() == bytes(7) + data
    assert max(lengths) == WRITE_BYTES_MAX <= 1 << 20
