"""Changes of one path: their order, and that they are finished."""

import asyncio

import pytest

from cacheruntime.worker.path_order import PathOrder


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_changes_of_one_path_come_in_order_and_others_do_not_wait() -> None:
    order, seen, gate = PathOrder(), [], asyncio.Event()

    async def change(name: str, *paths: str, waits: bool = False) -> None:
        async with order.turn("u", *paths):
            if waits:
                await gate.wait()
            seen.append(name)

    tasks = [
        asyncio.ensure_future(change("first", "a", waits=True)),
        asyncio.ensure_future(change("second", "a", "b")),
        asyncio.ensure_future(change("other", "c")),
        asyncio.ensure_future(change("third", "b", "a")),
    ]
    await _settled()
    assert seen == ["other"]
    gate.set()
    await asyncio.gather(*tasks)
    assert seen == ["other", "first", "second", "third"]
    assert len(order) == 0


async def test_a_change_is_finished_when_its_asker_is_gone() -> None:
    order, gate, done = PathOrder(), asyncio.Event(), []

    async def change() -> None:
        async with order.turn("u", "a"):
            await gate.wait()
            done.append("changed")

    asker = asyncio.ensure_future(order.finish(change()))
    await _settled()
    asker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asker
    gate.set()
    async with order.turn("u", "a"):
        assert done == ["changed"]


async def test_a_path_that_changes_while_it_is_waited_for() -> None:
    order, gate, path = PathOrder(), asyncio.Event(), ["a"]

    async def rename() -> None:
        async with order.turn("u", "a", "b"):
            await gate.wait()
            path[0] = "b"

    async def commit() -> bool:
        async with order.turn_of("u", lambda: path[0]):
            later = asyncio.ensure_future(order.finish(_nothing(order)))
            await _settled()
            return not later.done()

    tasks = [asyncio.ensure_future(rename()), asyncio.ensure_future(commit())]
    await _settled()
    gate.set()
    _, held = await asyncio.gather(*tasks)
    assert held, "it holds the new path"


async def _nothing(order: PathOrder) -> None:
    async with order.turn("u", "b"):
        return
