"""Work that nobody waits for longer than a while, and that goes on by itself then.

Owns such work until it ends. A thread that is in the kernel cannot be called back: what a late read or write holds (a
descriptor, room that is charged) is let go only when it is really over.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LateWork:
    """Work in flight, waited for or not."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long it is waited for."""
        self.seconds = seconds
        self._tasks: set[asyncio.Future[Any]] = set()

    async def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns, or raise what it raises; TimeoutError when that takes too long."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=self.seconds)
        if not done:
            raise TimeoutError
        return task.result()

    def _ended(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left to see it
