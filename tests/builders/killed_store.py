"""A block store that is ended by SIGKILL in the midst of its file work, and what must hold when it starts again.

Every call that changes a file system (`CALLS`) is a failpoint, in the order in which the store makes them; a write may
also be torn half way. A child process counts its calls and kills itself at the wanted one, so the parent knows from its
wait status that the fault took place. Acknowledged blocks come through a pipe, as a reader would have heard of them.
"""

import asyncio
import os
import random
import signal
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.tiers import Tier
from cacheruntime.worker import tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.mover import Mover
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.tier_files import CachedFile

BLOCK = 4096
CALLS = ("open", "pwrite", "ftruncate", "rename", "unlink", "mkdir")


def bytes_of(version: Version) -> bytes:
    """The right bytes of a version; no two versions share a block."""
    return random.Random(f"{version.path}/{version.etag}").randbytes(version.size_bytes)


@dataclass
class Node:
    """A store over two levels, a mover whose turns are taken by hand, and a clock that goes by hand."""

    folder: Path
    mem_bytes: int = 6 * BLOCK
    ssd_bytes: int = 64 * BLOCK
    now: float = 100.0
    acknowledged: Callable[[str], None] = lambda _: None
    tiers: list[Tier] = field(init=False)

    def __post_init__(self) -> None:
        self.tiers = [
            Tier("MEM", self.mem_bytes, 1 << 20, high=0.8, low=0.4),
            Tier("SSD", self.ssd_bytes, 1 << 20, moving_room_bytes=4 * BLOCK),
        ]
        metrics = Metrics()
        self.threads = ThreadPoolExecutor(2)
        self.store = BlockStore(
            [TierFolder(tier, self.folder / tier.medium) for tier in self.tiers],
            block_size_bytes=BLOCK,
            threads=self.threads,
            clock=lambda: self.now,
            metrics=metrics,
            changed=lambda _: None,
        )

        async def sleep(_: float) -> None:
            return

        self.mover = Mover(
            self.store, metrics, bytes_per_second=0, interval_seconds=1.0, clock=lambda: self.now, sleep=sleep
        )

    async def start(self) -> None:
        await self.store.recover()

    async def fill(self, version: Version) -> None:
        """Store every block that is missing, and acknowledge each."""
        self.now += 100
        file = await self.store.acquire(version, wanted_bytes=version.size_bytes, as_home=True)
        for index in range(file.map.count):
            piece = memoryview(bytes_of(version))[index * BLOCK : (index + 1) * BLOCK]
            if await self._store(file, index, piece):
                self.acknowledged(f"{version.path} {index}")
        self.store.release(file)

    async def _store(self, file: CachedFile, index: int, piece: memoryview) -> bool:
        """By both ways in turn: when the bytes are here, and by the thread that reads them."""
        storing = self.store.begin_block(file, index, as_home=True) if index % 2 else None
        if storing is None:
            return await self.store.store_block(file, index, piece, crc32c(piece), as_home=True)
        await storing.store(piece)
        storing.finish()
        return await storing.done

    async def use(self, version: Version) -> None:
        self.now += 100
        self.store.release(await self.store.acquire(version, wanted_bytes=0, as_home=False))

    def drop(self, version: Version) -> None:
        self.acknowledged(f"{version.path} -")
        file = self.store.find(version)
        if file is not None:
            self.store.drop(file)

    def close(self) -> None:
        self.store.close()
        self.threads.shutdown()


Scenario = Callable[[Node], Awaitable[None]]


def run_killed(folder: Path, scenario: Scenario, at_call: int, *, is_torn: bool) -> tuple[bool, list[str]]:
    """Run a scenario in a child that SIGKILLs itself at its `at_call`-th change of a file system; return whether it was
    killed (else it had no such call and ended well), and what it acknowledged before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_killed(folder, scenario, writing, at_call, is_torn=is_torn)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        acknowledged = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True, acknowledged
    assert os.waitstatus_to_exitcode(status) == 0, "the scenario failed by itself; its trace is above"
    return False, acknowledged


def _be_killed(folder: Path, scenario: Scenario, pipe: int, at_call: int, *, is_torn: bool) -> None:
    def tell(line: str) -> None:
        os.write(pipe, f"{line}\n".encode())

    async def run() -> None:
        node = Node(folder, acknowledged=tell)
        await node.start()
        await scenario(node)

    code = 1
    try:
        _arm(at_call, is_torn=is_torn)
        asyncio.run(run())
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def _arm(at_call: int, *, is_torn: bool) -> None:
    count = 0
    write = os.pwrite

    def armed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            count += 1
            if count == at_call:
                if is_torn and name == "pwrite":
                    write(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, armed(name, getattr(os, name)))


async def check_after_restart(folder: Path, versions: list[Version], acknowledged: list[str]) -> None:
    """Start again and hold every promise: right bytes only, nothing acknowledged lost, nothing counted twice."""
    node = Node(folder)
    await node.start()
    held = set()
    for version in versions:
        file = await node.store.acquire(version, wanted_bytes=0, as_home=False)
        for index in file.map.resident_blocks():
            data = await node.store.read_block(file, index)
            assert data is not None, "a checked block is damaged"
            assert bytes(data) == bytes_of(version)[index * BLOCK : (index + 1) * BLOCK], "wrong bytes would be served"
            held.add(f"{version.path} {index}")
        node.store.release(file)
    assert expected_blocks(acknowledged) <= held, "an acknowledged block is lost"
    on_disk: set[Path] = set()
    for number, tier in enumerate(node.tiers):
        files = [file for file in node.store.files_of("u1") if file.tier == number]
        assert tier.used_bytes == sum(file.map.resident_bytes for file in files) <= tier.quota_bytes
        assert tier.reserved_bytes == 0
        on_disk |= {path for path in (folder / tier.medium).rglob("*") if path.is_file()}
    known = {path for file in node.store.files_of("u1") for path in (file.path, tier_files.map_path(file.path))}
    assert on_disk == known, "something lies there that nobody counts, or one version lies there twice"
    node.close()


def expected_blocks(acknowledged: list[str]) -> set[str]:
    """Blocks that were told to be kept and not told to go since."""
    blocks: set[str] = set()
    for line in acknowledged:
        path, index = line.split()
        if index == "-":
            blocks = {block for block in blocks if block.split()[0] != path}
        else:
            blocks.add(line)
    return blocks
