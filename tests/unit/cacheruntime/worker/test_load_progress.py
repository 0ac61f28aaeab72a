"""What a load counts when files fail. Fetching is a fake; routes and shares have tests of their own."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from api.gen import metadata_pb2 as pb
from api.gen import worker_pb2
from cacheruntime.core.block_map import BlockMap
from cacheruntime.core.blocks import Version
from cacheruntime.core.load_plan import Scope, place_of
from cacheruntime.errors import CacheError
from cacheruntime.worker import loads as loads_module
from cacheruntime.worker.fetched import Source
from cacheruntime.worker.loads import Loads
from cacheruntime.worker.metrics import Metrics

BLOCK = 4096
BLOCKS = 4


class BrokenReader:
    """Brings every block but one."""

    def __init__(self, broken_block: int, *, is_retryable: bool) -> None:
        self._broken_block = broken_block
        self._is_retryable = is_retryable
        self.failures = 0

    async def load_block(self, file: Any, index: int, *, as_home: bool, before: str | None = None) -> Source:
        if index == self._broken_block:
            self.failures += 1
            raise CacheError("the store is broken", is_retryable=self._is_retryable)
        return Source.ORIGIN


def loads_with(reader: "BrokenReader | CountingReader | OrderedReader", members: tuple[str, ...] = ("n",)) -> Loads:
    async def acquire(version: Version, *, wanted_bytes: int, as_home: bool) -> Any:
        return SimpleNamespace(map=BlockMap(version, BLOCK))

    async def get(uid: str) -> pb.DatasetInfo:
        return pb.DatasetInfo(uid=uid)

    async def manifest(uid: str, paths: list[str]) -> AsyncIterator[Any]:
        yield SimpleNamespace(entries=[pb.Entry(path="p", etag="e", size_bytes=BLOCKS * BLOCK)])

    async def refresh() -> None:
        return None

    parts: dict[str, Any] = {
        "store": SimpleNamespace(block_size_bytes=BLOCK, acquire=acquire, release=lambda file: None),
        "reader": reader,
        "datasets": SimpleNamespace(get=get),
        "metadata": SimpleNamespace(manifest=manifest),
        "workers": SimpleNamespace(
            me=SimpleNamespace(node="n"), refresh=refresh, listed=lambda: dict.fromkeys(members)
        ),
    }
    return Loads(**parts, metrics=Metrics(), streams=1, clock=lambda: 0.0)


@pytest.mark.parametrize("is_retryable", [False, True])
async def test_a_failed_file_reports_the_blocks_it_has(monkeypatch: pytest.MonkeyPatch, is_retryable: bool) -> None:
    monkeypatch.setattr(loads_module, "RETRY_SECONDS", 0.0)
    reader = BrokenReader(2, is_retryable=is_retryable)
    loads = loads_with(reader)
    async with asyncio.timeout(20):
        progress = await loads.start(worker_pb2.StartLoadRequest(load_id="l", uid="u"))
        while not progress.done:
            await asyncio.sleep(0)
            progress = await loads.get("l")
    assert reader.failures == (2 if is_retryable else 1)
    assert (progress.bytes_loaded, progress.bytes_total) == (2 * BLOCK, BLOCKS * BLOCK)
    assert (progress.files_loaded, progress.failed_count, progress.failed[0].path) == (0, 1, "p")


class CountingReader:
    """Brings every block and counts them."""

    def __init__(self) -> None:
        self.brought = 0

    async def load_block(self, file: Any, index: int, *, as_home: bool, before: str | None = None) -> Source:
        self.brought += 1
        return Source.ORIGIN


async def test_a_run_that_comes_after_the_end_looks_anew_and_one_that_has_asked_does_not() -> None:
    reader = CountingReader()
    loads = loads_with(reader)

    async def until_done(run: str) -> worker_pb2.LoadProgress:
        async with asyncio.timeout(20):
            while not (progress := await loads.start(worker_pb2.StartLoadRequest(load_id="l", uid="u", run=run))).done:
                await asyncio.sleep(0)
        return progress

    await until_done("first")
    await until_done("first")
    assert reader.brought == BLOCKS
    assert (await until_done("second")).bytes_loaded == BLOCKS * BLOCK
    assert reader.brought == 2 * BLOCKS, "what was evicted since is brought again"
    await until_done("first")
    assert reader.brought == 2 * BLOCKS
    for number in range(2 * loads_module.RUNS_MAX):
        await until_done(f"run-{number}")
    assert len(loads._loads["l"].runs) == loads_module.RUNS_MAX


class OrderedReader:
    """Remembers what was brought, and whom it came from."""

    def __init__(self) -> None:
        self.brought: list[tuple[int, str | None]] = []

    async def load_block(self, file: Any, index: int, *, as_home: bool, before: str | None = None) -> Source:
        self.brought.append((index, before))
        return Source.PEER


async def test_homes_come_first_and_copies_by_their_tree_and_a_file_in_parts_is_one_file() -> None:
    reader = OrderedReader()
    members = ("n", *(f"m{number}" for number in range(9)))
    loads = loads_with(reader, members)
    async with asyncio.timeout(20):
        progress = await loads.start(worker_pb2.StartLoadRequest(load_id="l", uid="u", nodes=members))
        while not progress.done:
            await asyncio.sleep(0)
            progress = await loads.get("l")
    version = Version("u", "p", "e", BLOCKS * BLOCK)
    scope = Scope("n", tuple(sorted(members)), 1, frozenset(members))
    places = {index: place_of(version, index, scope) for index in range(BLOCKS)}
    wanted = sorted(range(BLOCKS), key=lambda index: places[index].depth)
    assert reader.brought == [(index, places[index].parent) for index in wanted]
    assert {place.depth for place in places.values()} != {0}
    assert (progress.files_total, progress.files_loaded, progress.bytes_loaded) == (1, 1, BLOCKS * BLOCK)
