"""The scrubber over a real directory: what it finds, what it leaves alone. No sockets."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.scrub import ScrubSchedule
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import CacheError, Missing
from cacheruntime.worker import medium_check
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.scrubber import Scrubber
from cacheruntime.worker.tier_files import CachedFile

BLOCK = 8192
RATE = 1 << 20


class Scrubbed:
    """A store, a scrubber that does not wait, and its clock, which its sleeps move on."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.tier = Tier("SSD", 1 << 30, 1 << 26)
        self.store = BlockStore(
            [TierFolder(self.tier, folder)],
            block_size_bytes=BLOCK, threads=threads, clock=lambda: self.now, metrics=self.metrics,
            changed=lambda _: None,
        )  # fmt: skip
        self.repaired: list[tuple[str, int]] = []
        self.repair_fails: CacheError | None = None
        self.scrubber = Scrubber(
            self.store,
            ScrubSchedule(RATE, 10.0),
            self.metrics,
            repair=self._repair,
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    async def add(self, path: str, size: int) -> CachedFile:
        """A whole file that nobody holds."""
        version = Version("u", path, "e", size)
        file = await self.store.acquire(version, wanted_bytes=size, as_home=True)
        for index in range(file.map.count):
            data = memoryview(bytes_of(version))[index * BLOCK : (index + 1) * BLOCK]
            assert await self.store.store_block(file, index, data, crc32c(data), as_home=True)
        self.store.release(file)
        return file

    async def one_pass(self) -> None:
        """Run until everything was read once more."""
        before, task = self.counted("scrub_passes_total"), asyncio.create_task(self.scrubber.run())
        async with asyncio.timeout(20):
            while self.counted("scrub_passes_total") == before:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"headrace_worker_{name}", labels) or 0.0

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    async def _repair(self, file: CachedFile, index: int) -> None:
        self.repaired.append((file.version.path, index))
        if self.repair_fails is not None:
            raise self.repair_fails


def bytes_of(version: Version) -> bytes:
    return bytes((i * 31 + sum(map(ord, version.path))) % 251 for i in range(version.size_bytes))


def flip(path: Path, at: int) -> None:
    """One bit, leaving no trace on the file."""
    status = path.stat()
    with path.open("r+b") as damaged:
        damaged.seek(at)
        byte = damaged.read(1)[0]
        damaged.seek(at)
        damaged.write(bytes([byte ^ 0x04]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
async def scrubbed(tmp_path: Path) -> AsyncIterator[Scrubbed]:
    with ThreadPoolExecutor(2) as threads:
        yield Scrubbed(tmp_path, threads)


@pytest.mark.parametrize("at", [0, BLOCK, 2 * BLOCK - 1, 2 * BLOCK + 99])
async def test_a_flipped_bit_is_found_dropped_and_counted(scrubbed: Scrubbed, at: int) -> None:
    file = await scrubbed.add("damaged", 2 * BLOCK + 100)
    whole = await scrubbed.add("whole", 3 * BLOCK)
    flip(file.path, at)
    await scrubbed.one_pass()
    assert file.map.resident_blocks() == [index for index in range(3) if index != at // BLOCK]
    assert whole.map.is_complete
    assert scrubbed.counted("corrupt_blocks_total", found="scrub") == 1
    assert scrubbed.counted("scrubbed_bytes_total") == 5 * BLOCK + 100
    assert scrubbed.tier.used_bytes == file.map.resident_bytes + 3 * BLOCK
    assert scrubbed.repaired == []  # nobody reads it: whoever does next fetches it
    await scrubbed.one_pass()
    assert scrubbed.counted("corrupt_blocks_total", found="scrub") == 1


async def test_a_file_that_lost_its_only_block_leaves(scrubbed: Scrubbed) -> None:
    file = await scrubbed.add("small", 100)
    flip(file.path, 50)
    await scrubbed.one_pass()
    assert scrubbed.store.find(file.version) is None
    assert not file.path.exists()
    assert scrubbed.tier.used_bytes == 0


async def test_a_file_that_became_shorter_loses_its_end(scrubbed: Scrubbed) -> None:
    file = await scrubbed.add("short", 2 * BLOCK)
    os.truncate(file.path, BLOCK + 10)
    scrubbed.store.peek(file)
    try:
        assert medium_check.is_sound(file, 0)
    finally:
        scrubbed.store.leave(file)
    await scrubbed.one_pass()
    assert file.map.resident_blocks() == [0]


@pytest.mark.parametrize("fails", [None, Missing("the store is away")])
async def test_a_block_under_an_open_reader_is_fetched_again(scrubbed: Scrubbed, fails: CacheError | None) -> None:
    file = await scrubbed.add("open", 2 * BLOCK)
    held = await scrubbed.store.acquire(file.version, wanted_bytes=0, as_home=False)
    flip(file.path, BLOCK + 1)
    scrubbed.repair_fails = fails
    await scrubbed.one_pass()
    assert scrubbed.repaired == [("open", 1)]
    assert held.references == 1
    scrubbed.store.release(held)


async def test_a_check_is_no_use_and_keeps_nothing_from_eviction(scrubbed: Scrubbed) -> None:
    file = await scrubbed.add("old", 4 * BLOCK)
    used = file.last_used_seconds
    scrubbed.now = 500.0
    await scrubbed.one_pass()
    assert (file.last_used_seconds, file.references) == (used, 0)
    assert scrubbed.now > 500.0


async def test_a_file_evicted_during_its_check_is_left(scrubbed: Scrubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await scrubbed.add("evicted", 4 * BLOCK)
    checked: list[int] = []

    def evict_meanwhile(held: CachedFile, index: int) -> bool:
        checked.append(index)
        return True

    monkeypatch.setattr(medium_check, "is_sound", evict_meanwhile)
    task = asyncio.create_task(scrubbed.scrubber.run())
    async with asyncio.timeout(20):
        while not checked:
            await asyncio.sleep(0)
    scrubbed.store.drop(file)
    async with asyncio.timeout(20):
        while not scrubbed.counted("scrub_passes_total"):
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(checked) < 4
    assert scrubbed.tier.used_bytes == 0


async def test_a_medium_that_takes_no_direct_reads_is_read_as_usual(
    scrubbed: Scrubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, mode)

    file = await scrubbed.add("plain", 2 * BLOCK)
    flip(file.path, 3)
    monkeypatch.setattr(os, "open", refuse)
    await scrubbed.one_pass()
    assert file.map.resident_blocks() == [1]


async def test_bytes_the_medium_cannot_give_back_are_damaged(
    scrubbed: Scrubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await scrubbed.add("bad-sector", 2 * BLOCK)

    def fail(descriptor: int, buffers: object, offset: int, flags: int = 0) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    await scrubbed.one_pass()
    assert scrubbed.counted("corrupt_blocks_total", found="scrub") == 2
    assert scrubbed.store.find(file.version) is None
