"""Group commit and what happens to writers when a commit fails. The store is a fake: no disk."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, cast

import pytest

from metadata.errors import MetadataError, NotFound, Unavailable
from metadata.shell.database import Database
from metadata.stores.base import Reader, StoreBroken, Transaction


class FakeStore:
    """Runs works on nothing; `failures` are raised by the next commits."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.groups: list[int] = []

    def read(self, work: Callable[[Reader], Any]) -> Any:
        return work(cast(Reader, None))

    def snapshot(self) -> AbstractContextManager[Reader]:
        raise NotImplementedError

    def write(self, works: Sequence[Callable[[Transaction], Any]]) -> list[Any | MetadataError]:
        if self.failures:
            raise self.failures.pop(0)
        results: list[Any] = []
        for work in works:
            try:
                results.append(work(cast(Transaction, None)))
            except MetadataError as error:
                results.append(error)
        self.groups.append(len(works))
        return results

    def close(self) -> None:
        return None


@asynccontextmanager
async def running(store: FakeStore) -> AsyncIterator[Database]:
    database = Database(store)
    task = asyncio.create_task(database.run())
    yield database
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.close()


def refuse(_: Transaction) -> None:
    raise NotFound("no.")


async def test_writes_that_wait_share_a_commit_and_get_their_own_results() -> None:
    store = FakeStore()
    async with running(store) as database:
        results = await asyncio.gather(
            *(database.write(lambda _, n=n: n) for n in range(20)),  # type: ignore[misc]
            database.write(refuse),
            return_exceptions=True,
        )
    assert results[:20] == list(range(20))
    assert isinstance(results[20], NotFound)
    assert sum(store.groups) == 21
    assert len(store.groups) < 5


async def test_a_bug_in_one_work_does_not_harm_the_others() -> None:
    store = FakeStore()
    async with running(store) as database:
        results = await asyncio.gather(
            database.write(lambda _: 1),
            database.write(lambda _: 1 // 0),
            database.write(lambda _: 2),
            return_exceptions=True,
        )
    assert (results[0], results[2]) == (1, 2)
    assert isinstance(results[1], ZeroDivisionError)


async def test_a_full_disk_refuses_and_goes_on() -> None:
    async with running(FakeStore(Unavailable("full."))) as database:
        with pytest.raises(Unavailable, match="full"):
            await database.write(lambda _: 1)
        assert await database.write(lambda _: 2) == 2


async def test_a_failed_disk_stops_writing_for_good() -> None:
    async with running(FakeStore(StoreBroken("fsync failed"))) as database:
        with pytest.raises(Unavailable, match="fsync failed"):
            await database.write(lambda _: 1)
        assert database.broken.is_set()
        with pytest.raises(Unavailable, match="restarting"):
            await database.write(lambda _: 2)
