"""Files that change their level, on real directories: bytes, charges, readers that hold on, damage, full targets."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.tiers import Tier
from cacheruntime.worker import file_copies, tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.mover import Mover
from cacheruntime.worker.rooms import TierFolder

BLOCK = 4096
FILE_BYTES = 2 * BLOCK + 100


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Node:
    """MEM for four files and SSD for many, each a folder, with a mover whose turns the test takes."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.folder = folder
        quota = 4 * FILE_BYTES
        self.tiers = [Tier("MEM", quota, 1 << 20, high=0.8, low=0.5), Tier("SSD", 10 * quota, 1 << 20)]
        self.names: list[str] = []
        self.now = 100.0
        self.metrics = Metrics()
        self.pauses: list[float] = []
        self.store = BlockStore(
            [TierFolder(tier, folder / tier.medium) for tier in self.tiers],
            block_size_bytes=BLOCK,
            threads=threads,
            clock=lambda: self.now,
            metrics=self.metrics,
            changed=self.names.append,
        )
        for tier in self.tiers:
            (folder / tier.medium).mkdir(parents=True, exist_ok=True)
        self.mover = Mover(
            self.store, self.metrics, bytes_per_second=0, interval_seconds=1.0, clock=lambda: self.now, sleep=self.sleep
        )

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def fill(self, version: Version, blocks: tuple[int, ...] = (0, 1, 2)) -> None:
        self.now += 100
        file = await self.store.acquire(version, wanted_bytes=version.size_bytes, as_home=True)
        for index in blocks:
            piece = memoryview(bytes_of(version))[index * BLOCK : (index + 1) * BLOCK]
            assert await self.store.store_block(file, index, piece, crc32c(piece), as_home=True)
        self.store.release(file)

    async def read(self, version: Version) -> bytes:
        self.now += 100
        file = await self.store.acquire(version, wanted_bytes=0, as_home=False)
        try:
            return b"".join([bytes(await self.store.read_block(file, i) or b"") for i in range(file.map.count)])
        finally:
            self.store.release(file)

    def where(self, *versions: Version) -> list[str]:
        found = [self.store.find(version) for version in versions]
        return ["-" if file is None else self.tiers[file.tier].medium for file in found]

    def check_charges(self) -> None:
        """What is on the media is what is charged, and nothing else lies there."""
        for number, tier in enumerate(self.tiers):
            files = [file for file in self.store.files_of("u1") if file.tier == number]
            assert tier.used_bytes == sum(file.map.resident_bytes for file in files), tier.medium
            assert tier.reserved_bytes == 0
            found = {path for path in (self.folder / tier.medium).rglob("*") if path.is_file()}
            assert found == {path for file in files for path in (file.path, tier_files.map_path(file.path))}


def a_version(name: str) -> Version:
    return Version("u1", name, "e", FILE_BYTES)


def bytes_of(version: Version) -> bytes:
    return bytes((i * 31 + sum(map(ord, version.path))) % 251 for i in range(version.size_bytes))


async def test_a_level_above_its_mark_gives_the_coldest_to_the_next(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcd"]
    for version in versions:
        await node.fill(version)
    assert await node.read(versions[0]) == bytes_of(versions[0])
    assert node.where(*versions) == ["MEM"] * 4
    node.names.clear()
    assert await node.mover.turn() == 2
    assert node.where(*versions) == ["MEM", "SSD", "SSD", "MEM"]
    node.check_charges()
    moved = [node.store.index.named(name)[1] for name in node.names]
    assert {file.tier for file in moved if file} == {
        1
    } and None not in moved  # reported where they are now, never as gone
    for version in versions:
        assert await node.read(version) == bytes_of(version)
    assert node.metrics.moved_bytes.labels("demote", "MEM", "SSD")._value.get() == 2 * FILE_BYTES

    again = Node(tmp_path, threads)
    assert len(await again.store.recover()) == 4
    assert again.where(*versions) == ["MEM", "SSD", "SSD", "MEM"]
    again.check_charges()


async def test_a_file_that_is_used_again_goes_up_when_there_is_room(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcde"]
    for version in versions:
        await node.fill(version)
    assert node.where(versions[4]) == ["SSD"]
    await node.read(versions[4])
    # Full and as hot as it: nothing changes places for a file used once more than others.
    node.tiers[0].high = 1.0
    assert await node.mover.turn() == 0
    file = node.store.find(versions[0])
    assert file is not None and node.store.drop(file)
    await node.read(versions[4])
    assert await node.mover.turn() == 1
    assert node.where(versions[4]) == ["MEM"]
    node.check_charges()
    assert await node.read(versions[4]) == bytes_of(versions[4])


async def test_what_is_much_hotter_changes_places(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcde"]
    for version in versions:
        await node.fill(version)
    node.tiers[0].high = 1.0
    for _ in range(3):
        await node.read(versions[4])
    assert await node.mover.turn() == 2
    assert node.where(*versions) == ["SSD", "MEM", "MEM", "MEM", "MEM"]
    node.check_charges()


async def test_open_files_read_on_and_stay_charged_until_they_are_closed(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcde"]
    for version in versions:
        await node.fill(version)
    first = node.store.find(versions[0])
    assert first is not None and node.store.drop(first)
    node.tiers[0].high = 1.0
    node.now += 100
    held = await node.store.acquire(versions[4], wanted_bytes=0, as_home=False)
    reader = tier_files.open_for_reader(held)
    assert await node.mover.turn() == 1
    moved = node.store.find(versions[4])
    assert moved is not None and moved is not held and moved.tier == 0
    assert node.tiers[1].used_bytes == FILE_BYTES and node.tiers[0].used_bytes == 4 * FILE_BYTES
    assert os.pread(reader, FILE_BYTES, 0) == bytes_of(versions[4])
    # A block that is lost under the old descriptor is put back there, not into the new file.
    node.store.drop_corrupt(held, 0, found="read")
    piece = memoryview(bytes_of(versions[4]))[:BLOCK]
    assert await node.store.store_block(held, 0, piece, crc32c(piece), as_home=True)
    os.close(reader)
    node.store.release(held)
    assert node.store.find(versions[4]) is moved
    node.check_charges()
    assert await node.read(versions[4]) == bytes_of(versions[4])


async def test_what_is_open_or_pinned_is_not_demoted(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcd"]
    for version in versions:
        await node.fill(version)
    held = await node.store.acquire(versions[0], wanted_bytes=0, as_home=False)
    pinned = node.store.find(versions[1])
    assert pinned is not None
    pinned.is_pinned = True
    assert await node.mover.turn() == 2
    assert node.where(*versions) == ["MEM", "MEM", "SSD", "SSD"]
    node.store.release(held)
    node.check_charges()


@pytest.mark.parametrize("what", ["opened", "filled", "dropped", "renamed"])
async def test_a_file_that_changes_while_it_is_copied_stays_as_it_is(
    tmp_path: Path, threads: ThreadPoolExecutor, what: str
) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcd"]
    for version in versions:
        await node.fill(version, blocks=(0, 1) if version.path == "a" else (0, 1, 2))
    node.tiers[0].high, node.tiers[0].low = 0.9, 0.85  # one file goes: the first
    first = node.store.find(versions[0])
    assert first is not None
    held = False

    async def meanwhile(_: float) -> None:
        nonlocal held
        if held:
            return
        held = True
        if what == "dropped":
            node.store.drop(first)
        elif what == "renamed":
            node.store.rekey(versions[0], a_version("z"))
        else:
            await node.store.acquire(versions[0], wanted_bytes=0, as_home=False)
            if what == "filled":
                piece = memoryview(bytes_of(versions[0]))[2 * BLOCK :]
                assert await node.store.store_block(first, 2, piece, crc32c(piece), as_home=True)
                node.store.release(first)

    node.mover._sleep = meanwhile
    assert await node.mover.turn() == 0
    assert held
    if what == "opened":
        node.store.release(first)
    expected = {"dropped": ["-"], "renamed": ["-"]}.get(what, ["MEM"])
    assert node.where(versions[0]) == expected
    if what == "renamed":
        assert node.where(a_version("z")) == ["MEM"]
    node.check_charges()


async def test_a_damaged_block_is_not_copied(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcd"]
    for version in versions:
        await node.fill(version)
    node.tiers[0].high, node.tiers[0].low = 0.9, 0.8
    file = node.store.find(versions[0])
    assert file is not None
    with file.path.open("r+b") as damaged:
        damaged.seek(BLOCK + 3)
        damaged.write(b"\xff")
    assert await node.mover.turn() == 0
    assert node.where(versions[0]) == ["MEM"] and file.map.resident_blocks() == [0, 2]
    assert node.metrics.corrupt_blocks.labels("move")._value.get() == 1
    node.check_charges()


@pytest.mark.parametrize("where", ["begin_copy", "copy_block", "take_place"])
async def test_a_target_that_fails_costs_nothing(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    node = Node(tmp_path, threads)
    versions = [a_version(name) for name in "abcd"]
    for version in versions:
        await node.fill(version)
    failed = []

    def fail(*_: object) -> None:
        failed.append(where)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_copies, where, fail)
    assert await node.mover.turn() == 0
    assert failed == [where], "the full target is asked once, then left alone"
    assert node.where(*versions) == ["MEM"] * 4
    node.check_charges()


async def test_moves_keep_to_their_rate(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    node = Node(tmp_path, threads)
    for name in "abcd":
        await node.fill(a_version(name))
    mover = Mover(
        node.store,
        node.metrics,
        bytes_per_second=BLOCK,
        interval_seconds=1.0,
        clock=lambda: node.now,
        sleep=node.sleep,
    )
    node.pauses.clear()
    assert await mover.turn() == 2
    # A second's worth at once; the clock stands still, so the rest is booked one after another.
    assert max(node.pauses) == pytest.approx(2 * FILE_BYTES / BLOCK - 1)


async def test_while_no_medium_works_files_are_opened_in_spare_memory(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = [Tier("SSD", 1 << 20, 0), Tier("MEM", 0, 2 * BLOCK)]
    now = 0.0
    store = BlockStore(
        [TierFolder(tier, tmp_path / tier.medium) for tier in tiers],
        block_size_bytes=BLOCK,
        threads=threads,
        clock=lambda: now,
        metrics=Metrics(),
        changed=lambda _: None,
    )
    await store.recover()
    version = a_version("a")
    real = tier_files.open_file

    def open_file(file: tier_files.CachedFile) -> None:
        if file.tier == 0 and now < 100:
            raise OSError(errno.EIO, "Input/output error")
        real(file)

    monkeypatch.setattr(tier_files, "open_file", open_file)
    file = await store.acquire(version, wanted_bytes=FILE_BYTES, as_home=True)
    assert file.tier == 1
    piece = memoryview(bytes_of(version))[:BLOCK]
    assert not await store.store_block(file, 0, piece, crc32c(piece), as_home=True)
    await store.hold_temporarily(file, 0, piece)
    assert os.pread(file.descriptor, BLOCK, 0) == piece
    store.release(file)
    now = 100.0
    file = await store.acquire(version, wanted_bytes=FILE_BYTES, as_home=True)
    assert file.tier == 0 and await store.store_block(file, 0, piece, crc32c(piece), as_home=True)
    store.release(file)
    assert tiers[1].used_bytes == tiers[1].temporary_bytes == 0
