"""Changes of one path happen one after the other, in the order they came, and each is finished once it is begun.

A client that dies leaves a change under way; its successor asks for the same change, or the next one. Without an order
the older could come last, and without the finishing a rename could stop half way.

Invariant: whoever waits for several paths waits for them in one order, so nobody waits for each other.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class PathOrder:
    """The changes under way on this node."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._users: dict[tuple[str, str], int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._locks)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; it goes on when the one who waits for it is cancelled."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever asked may be gone, and with him the interest in what went wrong.
            task.exception()

    @asynccontextmanager
    async def turn(self, uid: str, *paths: str) -> AsyncIterator[None]:
        """Hold the paths of one dataset; whoever came before is done with them."""
        async with AsyncExitStack() as stack:
            for path in sorted(set(paths)):
                await stack.enter_async_context(self._one((uid, path)))
            yield

    @asynccontextmanager
    async def turn_of(self, uid: str, path: Callable[[], str]) -> AsyncIterator[None]:
        """Hold a path that may change while it is waited for."""
        while True:
            wanted = path()
            async with self.turn(uid, wanted):
                if path() == wanted:
                    yield
                    return

    @asynccontextmanager
    async def _one(self, key: tuple[str, str]) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
