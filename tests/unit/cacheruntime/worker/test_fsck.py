"""fsck and gc on a real folder: every damage is found, none of it is served, what is whole stays."""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cacheruntime.__main__ import main
from cacheruntime.core.block_map import BlockMap
from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.tiers import Tier
from cacheruntime.worker import tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.fsck import FolderInUse, Problem, examine, lock_folder, repair
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.tier_files import CachedFile

BLOCK = 4096
FILES = {Version("u", name, "e", size): random.Random(name).randbytes(size) for name, size in
         (("a", 3 * BLOCK - 7), ("b", 2 * BLOCK), ("c", 2 * BLOCK), ("d", 5))}  # fmt: skip


def fill(folder: Path) -> None:
    """Write every file whole, as a worker does."""
    for version, data in FILES.items():
        file = CachedFile(BlockMap(version, BLOCK), 0, tier_files.data_path(folder, version))
        tier_files.open_file(file)
        for index in range(file.map.count):
            piece = memoryview(data)[index * BLOCK : (index + 1) * BLOCK]
            tier_files.write_block(file, index, piece, crc32c(piece), as_home=True)
        tier_files.close_file(file)


def path_of(folder: Path, version: Version) -> Path:
    return tier_files.data_path(folder, version)


async def served(folder: Path, threads: ThreadPoolExecutor) -> dict[Version, list[bytes | None]]:
    """What a worker started on this folder gives of each file; None = fetched again."""
    store = BlockStore(
        [TierFolder(Tier("SSD", 1 << 20, 0), folder)],
        block_size_bytes=BLOCK,
        threads=threads,
        clock=lambda: 0.0,
        metrics=Metrics(),
        changed=lambda name: None,
    )
    await store.recover()
    result: dict[Version, list[bytes | None]] = {}
    for version in FILES:
        file = await store.acquire(version, wanted_bytes=0, as_home=True)
        blocks = [await store.read_block(file, i) if file.map.has(i) else None for i in range(file.map.count)]
        result[version] = [None if block is None else bytes(block) for block in blocks]
        store.release(file)
    return result


def pieces(data: bytes) -> list[bytes]:
    return [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]


def flip(folder: Path, dice: random.Random) -> set[Version]:
    version = dice.choice(list(FILES))
    with path_of(folder, version).open("r+b") as file:
        at = dice.randrange(version.size_bytes)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << dice.randrange(8))]))
    return {version}


def truncate(folder: Path, dice: random.Random) -> set[Version]:
    version = dice.choice(list(FILES))
    os.truncate(path_of(folder, version), dice.randrange(version.size_bytes))
    return {version}


def swap_data(folder: Path, dice: random.Random) -> set[Version]:
    one, two = dice.sample(list(FILES), 2)
    _swap(path_of(folder, one), path_of(folder, two))
    return {one, two}


def swap_files_and_maps(folder: Path, dice: random.Random) -> set[Version]:
    one, two = dice.sample(list(FILES), 2)
    _swap(path_of(folder, one), path_of(folder, two))
    _swap(tier_files.map_path(path_of(folder, one)), tier_files.map_path(path_of(folder, two)))
    return {one, two}


def _swap(one: Path, two: Path) -> None:
    other = one.with_name("swap")
    one.rename(other)
    two.rename(one)
    other.rename(two)


DAMAGE = (flip, truncate, swap_data, swap_files_and_maps)


async def _trials(tmp_path: Path, damage: Callable[[Path, random.Random], set[Version]], count: int) -> None:
    dice = random.Random(damage.__name__)
    with ThreadPoolExecutor(2) as threads:
        for number in range(count):
            folder = tmp_path / str(number)
            fill(folder)
            hit = damage(folder, dice)
            found = examine(folder)
            assert {finding.path for finding in found.findings} == {path_of(folder, version) for version in hit}
            for version, blocks in (await served(folder, threads)).items():
                whole = pieces(FILES[version])
                assert all(block is None or block == whole[i] for i, block in enumerate(blocks)), number
                assert (None in blocks) == (version in hit), number


@pytest.mark.parametrize("damage", DAMAGE)
async def test_every_damage_is_found_and_none_is_served(
    tmp_path: Path, damage: Callable[[Path, random.Random], set[Version]]
) -> None:
    await _trials(tmp_path, damage, 60)


@pytest.mark.nightly
@pytest.mark.parametrize("damage", DAMAGE)
async def test_every_damage_is_found_and_none_is_served_ten_thousand_times(
    tmp_path: Path, damage: Callable[[Path, random.Random], set[Version]]
) -> None:
    await _trials(tmp_path, damage, 2500)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_repair_leaves_is_clean_and_keeps_whole_blocks(
    tmp_path: Path, damage: Callable[[Path, random.Random], set[Version]]
) -> None:
    fill(tmp_path)
    total = sum(map(len, FILES.values()))
    hit = damage(tmp_path, random.Random(3))
    for finding in examine(tmp_path).findings:
        repair(finding)
    after = examine(tmp_path)
    assert after.findings == []
    assert total - sum(v.size_bytes for v in hit) <= after.resident_bytes < total


def test_gc_removes_leftovers_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    one, two, *_ = (path_of(tmp_path, version) for version in FILES)
    tier_files.map_path(one).unlink()
    two.unlink()
    leftover = two.with_name("x.map.new")
    leftover.write_bytes(b"half")
    problems = {finding.problem for finding in examine(tmp_path, with_bytes=False).findings}
    assert problems == {Problem.NO_MAP, Problem.NO_DATA, Problem.TEMPORARY}
    assert main(["gc", str(tmp_path)]) == 0
    assert "3 mended" in capsys.readouterr().out
    after = examine(tmp_path)
    assert (after.files, after.findings) == (len(FILES) - 2, [])
    assert not one.exists() and not leftover.exists()


def test_fsck_says_what_is_wrong_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    assert main(["fsck", str(tmp_path)]) == 0
    flip(tmp_path, random.Random(1))
    assert main(["fsck", str(tmp_path)]) == 1
    assert "without their checksum" in capsys.readouterr().out
    assert main(["fsck", str(tmp_path)]) == 1
    assert main(["fsck", "--repair", str(tmp_path)]) == 0
    assert main(["fsck", str(tmp_path)]) == 0


def test_a_folder_in_use_is_read_but_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    lock = lock_folder(tmp_path)
    try:
        with pytest.raises(FolderInUse):
            lock_folder(tmp_path)
        assert main(["fsck", str(tmp_path)]) == 0
        assert main(["gc", str(tmp_path)]) == 2
        assert "stop it first" in capsys.readouterr().out
    finally:
        os.close(lock)
    assert main(["gc", str(tmp_path)]) == 0


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsck", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().out
