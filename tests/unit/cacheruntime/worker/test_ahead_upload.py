"""Uploads that run while their file is written: what becomes visible is what the file had at the end, or nothing."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheruntime.core.ahead import FILE_BYTES_MAX, PIECE_BYTES, Written, whole_pieces
from cacheruntime.worker.ahead_upload import AheadUpload
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.metrics import Metrics
from understores.base import ObjectInfo, Piece
from understores.credentials import SecretOptions
from understores.errors import StoreFailed
from understores.posix import PosixStore, open_posix

PIECE = 4096


class Bench:
    """A staging file and the directory it is sent to."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.root.mkdir()
        self.store: PosixStore = open_posix(f"file://{self.root}", {}, SecretOptions())
        self.descriptor = os.open(folder / "staging", os.O_RDWR | os.O_CREAT)
        self.metrics = Metrics()

    def ahead(self, store: PosixStore | None = None) -> AheadUpload:
        return AheadUpload(
            store or self.store,
            "k",
            self.descriptor,
            run=asyncio.to_thread,
            metrics=self.metrics,
            buffers=Buffers(PIECE),
            piece_bytes=PIECE,
            look_seconds=0.001,
        )

    def count(self, outcome: str) -> float:
        labels = {"outcome": outcome}
        return self.metrics.registry.get_sample_value("headrace_worker_ahead_uploads_total", labels) or 0.0

    def left(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def sent(ahead: AheadUpload, pieces: int) -> None:
    async with asyncio.timeout(10):
        while len(ahead._digests) < pieces:
            await asyncio.sleep(0.001)


async def test_what_is_written_once_is_there_before_the_end(bench: Bench) -> None:
    ahead = bench.ahead()
    data = os.urandom(5 * PIECE + 7)
    os.write(bench.descriptor, data[: 3 * PIECE + 5])
    await sent(ahead, 3)
    os.write(bench.descriptor, data[3 * PIECE + 5 :])
    info = await ahead.finish(len(data))
    assert info == await bench.store.head("k")
    assert (bench.root / "k").read_bytes() == data
    assert bench.count("used") == 1


@pytest.mark.parametrize("change", ["first byte", "truncated", "nothing sent"])
async def test_a_file_that_changed_is_left_to_the_caller(bench: Bench, change: str) -> None:
    ahead = bench.ahead()
    os.write(bench.descriptor, os.urandom(PIECE if change == "nothing sent" else 3 * PIECE))
    if change != "nothing sent":
        await sent(ahead, 3)
    if change == "first byte":
        os.pwrite(bench.descriptor, bytes([os.pread(bench.descriptor, 1, 0)[0] ^ 1]), 0)
    elif change == "truncated":
        os.ftruncate(bench.descriptor, PIECE)
    assert await ahead.finish(os.fstat(bench.descriptor).st_size) is None
    assert bench.left() == []
    assert bench.count("used") == 0


@pytest.mark.parametrize("is_changed", [False, True])
async def test_the_rest_is_sent_while_the_beginning_is_compared_and_shown_only_then(
    bench: Bench, *, is_changed: bool
) -> None:
    """And what turns out to have changed meanwhile is never shown."""
    ahead = bench.ahead()
    data = os.urandom(4 * PIECE + 9)
    os.pwrite(bench.descriptor, data[: 2 * PIECE], 0)
    await sent(ahead, 2)
    may_compare, run = asyncio.Event(), ahead._run

    async def held(function: Callable[..., Any], *arguments: Any) -> Any:
        if function == ahead._digest:
            await may_compare.wait()
        return await run(function, *arguments)

    ahead._run = held
    os.pwrite(bench.descriptor, data[2 * PIECE :], 2 * PIECE)
    if is_changed:
        os.pwrite(bench.descriptor, bytes([data[0] ^ 1]), 0)
    finishing = asyncio.create_task(ahead.finish(len(data)))
    async with asyncio.timeout(10):
        while [path.stat().st_size for path in bench.root.iterdir()] != [len(data)]:
            await asyncio.sleep(0.001)
    assert "k" not in bench.left()
    may_compare.set()
    assert (await finishing is None) == is_changed
    assert bench.left() == ([] if is_changed else ["k"])
    assert is_changed or (bench.root / "k").read_bytes() == data


async def test_a_file_that_rests_is_looked_at_ever_less(bench: Bench) -> None:
    ahead = bench.ahead()
    os.write(bench.descriptor, b"a line")
    async with asyncio.timeout(10):
        while ahead._pause_seconds < 0.008:
            await asyncio.sleep(0.001)
        os.write(bench.descriptor, os.urandom(3 * PIECE))
        await sent(ahead, 3)  # it is looked at again at once, and more often
        assert ahead._pause_seconds < 0.008
    await ahead.give_up()


async def test_a_file_that_is_not_committed_leaves_nothing(bench: Bench) -> None:
    ahead = bench.ahead()
    os.write(bench.descriptor, os.urandom(3 * PIECE))
    await sent(ahead, 3)
    assert any(name.startswith(".headrace-tmp-") for name in bench.left())
    await ahead.give_up()
    await ahead.give_up()
    assert bench.left() == []


async def test_a_store_that_fails_leaves_the_file_to_the_caller(bench: Bench) -> None:
    class Failing(PosixStore):
        async def put_pieces(self, key: str, pieces: AsyncIterator[Piece]) -> ObjectInfo:
            await anext(pieces)
            raise StoreFailed("injected")

    ahead = bench.ahead(Failing(bench.root))
    os.write(bench.descriptor, os.urandom(3 * PIECE))
    await sent(ahead, 1)
    assert await ahead.finish(3 * PIECE) is None
    assert bench.count("failed") == 1


async def settled(ahead: AheadUpload, bench: Bench) -> None:
    """Until all that may be sent has been, or the upload has given up."""
    for _ in range(20):
        if ahead._task.done() or len(ahead._digests) >= os.fstat(bench.descriptor).st_size // PIECE:
            return
        await asyncio.sleep(0.001)


writes = st.lists(st.tuples(st.integers(0, 6 * PIECE), st.integers(1, 3 * PIECE), st.booleans()), max_size=8)


@settings(max_examples=60, deadline=None)
@given(writes, st.one_of(st.none(), st.integers(0, 8 * PIECE)), st.integers(0, 2**32))
def test_the_object_is_the_file_whatever_was_written_in_whatever_order(
    steps: list[tuple[int, int, bool]], truncated: int | None, seed: int
) -> None:
    random = Random(seed)

    async def play(folder: Path) -> None:
        bench = Bench(folder)
        ahead = bench.ahead()
        for offset, size, append in steps:
            where = os.fstat(bench.descriptor).st_size if append else offset
            os.pwrite(bench.descriptor, random.randbytes(size), where)
            if append:
                await settled(ahead, bench)
        if truncated is not None:
            os.ftruncate(bench.descriptor, truncated)
        size = os.fstat(bench.descriptor).st_size
        info = await ahead.finish(size)
        expected = os.pread(bench.descriptor, size, 0) if size else b""
        if info is None:
            assert bench.left() == []
        else:
            assert info.size_bytes == size
            assert (bench.root / "k").read_bytes() == expected
        await bench.store.close()
        os.close(bench.descriptor)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, FILE_BYTES_MAX // PIECE_BYTES))
def test_pieces_are_whole_and_never_fewer_than_sent(size: int, allocated: int, before: int) -> None:
    ready = whole_pieces(Written(size, allocated), before)
    if ready is None:
        assert size < before * PIECE_BYTES or size > FILE_BYTES_MAX
    else:
        assert ready * PIECE_BYTES <= size
