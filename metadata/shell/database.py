"""The store behind an event loop: reads in a few threads, writes through one queue with group commit.

Owns the threads. Invariants: one thread writes; a write's future resolves after the commit that holds it; when
the disk fails in a commit, `broken` is set and nothing is written any more (the process must end and look again).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from metadata.errors import MetadataError, Unavailable
from metadata.shell import metrics
from metadata.stores.base import Reader, Store, StoreBroken, Transaction

T = TypeVar("T")

GROUP_MAX: Final = 512
QUEUE_MAX: Final = 10_000
READ_THREADS: Final = 4
SNAPSHOTS_MAX: Final = 8
"""Long reads at once; each keeps the write-ahead log from being cleaned up while it lasts."""


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[Transaction], Any]
    done: "asyncio.Future[Any]"


class Snapshot:
    """A consistent state that lasts; one call at a time."""

    def __init__(self, reader: Reader, thread: ThreadPoolExecutor) -> None:
        self._reader = reader
        self._thread = thread

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on the state."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._reader)


class Database:
    """Async access to a `Store`; `run` must be running for writes to happen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="metadata-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="metadata-write")
        self._queue: asyncio.Queue[_Write] = asyncio.Queue(QUEUE_MAX)
        self._snapshots = asyncio.Semaphore(SNAPSHOTS_MAX)
        self.broken = asyncio.Event()

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on the newest committed state, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._store.read, work)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in the next commit; returns when it is durable, raises what the work raised.

        Cancelling the caller does not undo a write that was queued.
        """
        if self.broken.is_set():
            raise Unavailable("the disk of the metadata database failed; the service is restarting.")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Write(work, done))
        except asyncio.QueueFull:
            raise Unavailable(f"{QUEUE_MAX} writes are waiting; try again.") from None
        return await done

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """A state for a long read, on a thread and connection of its own."""
        loop = asyncio.get_running_loop()
        async with self._snapshots:
            thread = ThreadPoolExecutor(1, thread_name_prefix="metadata-snapshot")
            context = self._store.snapshot()
            try:
                reader = await loop.run_in_executor(thread, context.__enter__)
                failure: Exception | None = None
                try:
                    yield Snapshot(reader, thread)
                except Exception as error:
                    failure = error
                    raise
                finally:
                    # The store says what its own errors mean.
                    told = (None, None, None) if failure is None else (type(failure), failure, failure.__traceback__)
                    await loop.run_in_executor(thread, context.__exit__, *told)
            finally:
                thread.shutdown(wait=False)

    async def run(self) -> None:
        """Commit what is queued, in groups, until cancelled or broken."""
        while not self.broken.is_set():
            group = [await self._queue.get()]
            while len(group) < GROUP_MAX and not self._queue.empty():
                group.append(self._queue.get_nowait())
            await self._commit(group)
        self._refuse_rest()

    async def close(self) -> None:
        """Wait for reads and the last commit, then close the store. `run` must have ended."""
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._store.close)

    async def _commit(self, group: list[_Write]) -> None:
        started = time.perf_counter()
        commit = asyncio.get_running_loop().run_in_executor(
            self._writer, self._store.write, [write.work for write in group]
        )
        try:
            # Shielded: a shutdown must not lose track of a commit that is under way.
            results = await asyncio.shield(commit)
        except asyncio.CancelledError:
            results = await commit
            _resolve(group, results)
            raise
        except StoreBroken as error:
            self.broken.set()
            _fail(group, Unavailable(str(error)))
            return
        except MetadataError as error:
            _fail(group, error)
            return
        except Exception as error:  # noqa: BLE001  # a bug in one work: the others must not suffer for it
            if len(group) > 1:
                for write in group:
                    await self._commit([write])
            else:
                _fail(group, error)
            return
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        metrics.COMMIT_WORKS.observe(len(group))
        _resolve(group, results)

    def _refuse_rest(self) -> None:
        while not self._queue.empty():
            _fail([self._queue.get_nowait()], Unavailable("the service is restarting."))


def _resolve(group: list[_Write], results: list[Any]) -> None:
    for write, result in zip(group, results, strict=True):
        if write.done.done():
            continue
        if isinstance(result, MetadataError):
            write.done.set_exception(result)
        else:
            write.done.set_result(result)


def _fail(group: list[_Write], error: Exception) -> None:
    for write in group:
        if not write.done.done():
            write.done.set_exception(error)
