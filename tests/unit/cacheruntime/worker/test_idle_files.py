"""Descriptors that stay open: how many, and that what is gone is closed."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.tiers import Tier
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.tier_files import CachedFile

BLOCK = 4096
IDLE_MAX = 3


class Idle:
    """A store, and what the process has open in its folder."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.folder = folder
        self.now = 0.0
        self.metrics = Metrics()
        self.tier = Tier("SSD", 8 * BLOCK, 0)
        self.store = BlockStore(
            [TierFolder(self.tier, folder)],
            block_size_bytes=BLOCK, threads=threads, clock=lambda: self.now, metrics=self.metrics,
            changed=lambda _: None, idle_files_max=IDLE_MAX,
        )  # fmt: skip

    async def add(self, name: str, *, uid: str = "u", etag: str = "e", blocks: int = 1) -> CachedFile:
        version = Version(uid, name, etag, blocks * BLOCK)
        self.now += 1
        file = await self.store.acquire(version, wanted_bytes=version.size_bytes, as_home=True)
        for index in range(blocks):
            data = memoryview(content(version))
            assert await self.store.store_block(file, index, data, crc32c(data), as_home=True)
        self.store.release(file)
        return file

    async def read(self, version: Version) -> bytes:
        self.now += 1
        file = await self.store.acquire(version, wanted_bytes=0, as_home=False)
        try:
            return bytes(await self.store.read_block(file, 0) or b"") if file.map.has(0) else b""
        finally:
            self.store.release(file)

    def opened(self) -> list[str]:
        """Names of what is open, `(deleted)` behind those that are gone."""
        found = []
        for link in Path("/proc/self/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue  # the listing's own
            if target.startswith(str(self.folder)):
                found.append(target.rpartition("/")[2])
        return sorted(found)


def content(version: Version) -> bytes:
    return (f"{version.uid}/{version.path}@{version.etag};" * BLOCK).encode()[:BLOCK]


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Idle]:
    with ThreadPoolExecutor(2) as threads:
        made = Idle(tmp_path, threads)
        yield made
        made.store.close()
        assert made.opened() == []


async def test_the_last_used_stay_open_and_no_others(idle: Idle) -> None:
    files = [await idle.add(f"f{number}") for number in range(6)]
    assert idle.opened() == sorted(file.name for file in files[-IDLE_MAX:])
    for file in (files[0], files[4], files[0]):
        assert await idle.read(file.version) == content(file.version)
    assert idle.opened() == sorted(file.name for file in (files[5], files[4], files[0]))
    descriptor = files[0].descriptor
    await idle.read(files[0].version)
    assert files[0].descriptor == descriptor  # not opened again


async def test_a_held_file_is_open_beside_them(idle: Idle) -> None:
    files = [await idle.add(f"f{number}") for number in range(6)]
    held = await idle.store.acquire(files[0].version, wanted_bytes=0, as_home=False)
    for file in files[1:]:
        await idle.read(file.version)
    assert idle.opened() == sorted(file.name for file in (files[0], *files[-IDLE_MAX:]))
    idle.store.release(held)
    assert len(idle.opened()) == IDLE_MAX


async def test_what_is_evicted_for_others_is_closed_and_its_room_is_back(idle: Idle) -> None:
    old = [await idle.add(f"old{number}", uid="old", blocks=4) for number in range(2)]
    assert idle.opened() == sorted(file.name for file in old)
    new = await idle.add("new", uid="new", blocks=4)
    assert idle.store.find(old[0].version) is None
    assert idle.opened() == sorted(file.name for file in (old[1], new))
    assert idle.tier.used_bytes == 8 * BLOCK
    assert await idle.read(old[0].version) == b""  # nothing of the evicted one is served


async def test_dropped_and_replaced_versions_are_closed(idle: Idle) -> None:
    first = await idle.add("p", etag="1")
    second = await idle.add("p", etag="2")
    idle.store.drop_path("u", "p", keep=second.name)
    assert idle.opened() == [second.name]
    assert await idle.read(first.version) == b""
    assert await idle.read(second.version) == content(second.version)
    idle.store.drop(second)
    assert idle.opened() == []


async def test_a_file_that_lost_its_last_block_is_closed(idle: Idle) -> None:
    file = await idle.add("p")
    held = await idle.store.acquire(file.version, wanted_bytes=0, as_home=False)
    idle.store.drop_corrupt(held, 0, found="test")
    idle.store.release(held)
    assert idle.opened() == []


async def test_a_renamed_file_stays_open_under_its_new_name(idle: Idle) -> None:
    file = await idle.add("p")
    before, bytes_before = file.version, content(file.version)
    after = replace(before, path="q", etag="3")
    idle.store.rekey(before, after)
    assert idle.opened() == [file.name]
    assert await idle.read(after) == bytes_before
    assert await idle.read(before) == b""


async def test_what_is_written_to_an_idle_file_is_seen_at_the_next_open(idle: Idle) -> None:
    file = await idle.add("p")
    assert idle.opened() == [file.name]
    with file.path.open("r+b") as other:
        other.write(b"x")
    assert await idle.read(file.version) == b""
    assert idle.tier.used_bytes == 0


async def test_an_idle_file_that_somebody_removed_is_not_served_on(idle: Idle) -> None:
    file = await idle.add("p")
    file.path.unlink()
    assert await idle.read(file.version) == b""
    assert idle.opened() == []
    assert idle.tier.used_bytes == 0
