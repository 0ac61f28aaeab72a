"""One lock a name, for as long as somebody wants it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fuse.csi.errors import Busy


class NamedLocks:
    """Locks by name; those nobody holds or awaits take no room."""

    def __init__(self, what: str) -> None:
        #: For errors: what the names are names of.
        self._what = what
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, name: str, seconds: float) -> AsyncIterator[None]:
        """Hold the lock of a name; Busy when it does not become free in time."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            try:
                async with asyncio.timeout(seconds):
                    await lock.acquire()
            except TimeoutError:
                raise Busy(f"another call for {self._what} {name} is in work for {seconds:g} s; try again") from None
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)
