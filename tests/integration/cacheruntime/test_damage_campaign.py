"""Damage of every kind to what the cache keeps, while it runs and between two runs: all is found, none is served."""

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from cacheruntime.core.blocks import Version
from cacheruntime.worker import tier_files
from tests.builders.killed_store import BLOCK, Node, bytes_of

VERSIONS = [Version("u1", f"p{number}", "e", number * BLOCK + 100 * number + 1) for number in range(1, 5)]
Block = tuple[str, int]


def flip(draw: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    overwrite(path, bytes(data))


def truncate(draw: random.Random, path: Path) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def scribble(draw: random.Random, path: Path) -> None:
    at = draw.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(draw.randbytes(min(draw.randrange(1, 2 * BLOCK), path.stat().st_size - at)))


def remove(_: random.Random, path: Path) -> None:
    path.unlink()


def overwrite(path: Path, data: bytes) -> None:
    """In place, as a bad disk would; not by a new file."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


class Campaign:
    """Trials over one folder; what each destroyed is filled again for the next."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.draw = random.Random(seed)
        self.node = Node(folder)
        self.kinds: Counter[str] = Counter()
        self.found = 0

    async def run(self, trials: int) -> None:
        await self.node.start()
        for _ in range(trials):
            for version in VERSIONS:
                await self.node.fill(version)
            kind = self.draw.choice(["flip", "truncate", "scribble", "remove", "swap", "swap-blocks"])
            when = self.draw.choice(["running", "no-trace", "restart"])
            wrong = self.damage(kind, when)
            self.kinds[f"{kind} {when}"] += 1
            if when == "restart":
                self.node.close()
                self.node = Node(self.folder)
                await self.node.start()
            served = await self.read_all()
            assert not served & wrong, f"{kind} {when} was served"
            self.found += len(wrong)
            for number, tier in enumerate(self.node.tiers):
                files = [file for file in self.node.store.files_of("u1") if file.tier == number]
                assert tier.used_bytes == sum(file.map.resident_bytes for file in files)
        self.node.close()

    def damage(self, kind: str, when: str) -> set[Block]:
        """Do it; return the blocks that are not right on disk now."""
        one, two = self.draw.sample(VERSIONS, 2)
        first, second = self.path_of(one), self.path_of(two)
        stamps = [(path, path.stat()) for path in (first, second)]
        before = self.wrong_blocks()
        assert not before, "a trial must begin whole"
        if kind == "swap":
            mine, other = first.read_bytes(), second.read_bytes()
            overwrite(first, other)
            overwrite(second, mine)
        elif kind == "swap-blocks":
            data = first.read_bytes()
            overwrite(first, data[BLOCK:] + data[:BLOCK])
        else:
            # The map is damaged only between runs: a running worker has it in memory.
            is_map = when == "restart" and self.draw.random() < 0.3
            path = tier_files.map_path(first) if is_map else first
            {"flip": flip, "truncate": truncate, "scribble": scribble, "remove": remove}[kind](self.draw, path)
        if when == "no-trace":
            for path, stamp in stamps:
                if path.exists():
                    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        return self.wrong_blocks()

    def path_of(self, version: Version) -> Path:
        file = self.node.store.find(version)
        assert file is not None
        return file.path

    def wrong_blocks(self) -> set[Block]:
        wrong: set[Block] = set()
        for version in VERSIONS:
            path, right = self.path_of(version), bytes_of(version)
            data = path.read_bytes() if path.exists() else b""
            for number in range(-(-version.size_bytes // BLOCK)):
                start = number * BLOCK
                if data[start : start + BLOCK] != right[start : start + BLOCK]:
                    wrong.add((version.path, number))
        return wrong

    async def read_all(self) -> set[Block]:
        """Everything the store would hand out, each block held against the right bytes."""
        served: set[Block] = set()
        for version in VERSIONS:
            file = await self.node.store.acquire(version, wanted_bytes=0, as_home=False)
            for number in file.map.resident_blocks():
                data = await self.node.store.read_block(file, number)
                if data is not None:
                    assert bytes(data) == bytes_of(version)[number * BLOCK : (number + 1) * BLOCK], "wrong bytes served"
                    served.add((version.path, number))
            self.node.store.release(file)
        return served


@pytest.mark.parametrize("trials", [150, pytest.param(12_000, marks=pytest.mark.nightly)])
def test_no_damage_is_ever_served(tmp_path: Path, trials: int) -> None:
    campaign = Campaign(tmp_path / "node", seed=trials)
    asyncio.run(campaign.run(trials))
    assert campaign.kinds.total() == trials and len(campaign.kinds) == 18, "every kind of damage was done"
    assert campaign.found > trials / 2, "most trials left wrong bytes on disk"
    print(f"{trials} trials, {campaign.found} wrong blocks, none served: {dict(campaign.kinds)}")
