"""One block on its way into its sparse file, written by the thread that reads it from the under store.

Owns what that thread and the event loop say to each other. The room is charged before (block_store.py), and what
became of the block is booked when the thread is done with it. Piece by piece, so that what was just read is still in
the processor's cache when it is checked and written, and with no way through the event loop in between.

    begin --take, take, ... end--> leave      (again after a failed read)

Invariants: between `begin` and `leave` the file stays open and the room charged, whoever has stopped waiting; after the
end was booked no thread writes; nothing here raises in the thread, a medium's error is kept for the event loop.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final

from cacheruntime.core.checksums import crc32c
from cacheruntime.worker import tier_files
from cacheruntime.worker.rooms import FULL_ERRNOS
from cacheruntime.worker.tier_files import CachedFile

LOOK_SECONDS: Final = 0.1


class Storing:
    """See the module's docstring. Made on the event loop; implements `understores.base.Sink`."""

    def __init__(
        self,
        file: CachedFile,
        index: int,
        *,
        as_home: bool,
        late_seconds: float,
        threads: Executor,
        late: Callable[["Storing"], None],
        ended: Callable[["Storing"], None],
    ) -> None:
        """Both are called on the event loop: `late` when nobody waits for the medium any more, `ended` once, when no
        thread has anything to do with it."""
        self.file = file
        self.index = index
        self.as_home = as_home
        self.length = file.map.length(index)
        self.checksum = 0
        self.is_stored = False
        self.error: OSError | None = None
        self.medium_seconds = 0.0
        """How long the medium took for all of it."""
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it is stored."""
        self._offset = index * file.map.block_size_bytes
        self._late_seconds = late_seconds
        self._threads = threads
        self._late = late
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._is_used = False
        self._is_left = False
        self._asked_at = 0.0
        """When the medium was asked for what it does now; 0 = it does nothing."""
        self._timer: asyncio.TimerHandle | None = None
        self._limit: asyncio.Timeout | None = None

    # In the thread

    def begin(self) -> bool:
        """A thread begins to read; False = nobody wants the bytes any more."""
        with self._lock:
            if self._is_left:
                return False
            self._is_used = True
        self.error = None
        return True

    def take(self, at: int, data: memoryview) -> None:
        """Bytes of the block, in order from 0 on."""
        self.checksum = crc32c(data, self.checksum if at else 0)
        if self.error is None:
            asked = self._asked_at = time.monotonic()
            try:
                tier_files.write_at(self.file.descriptor, data, self._offset + at)
            except OSError as error:
                self.error = error
            self._answered(asked)

    def end(self) -> None:
        """All bytes came, and they are of the version that was asked for."""
        if self.error is None:
            asked = self._asked_at = time.monotonic()
            try:
                tier_files.keep_block(self.file, self.index, self.checksum, as_home=self.as_home)
                self.is_stored = True
            except OSError as error:
                self.error = error
            self._answered(asked)

    def leave(self) -> None:
        """The thread has nothing to do with it any more."""
        with self._lock:
            self._is_used = False
            is_left = self._is_left
        if is_left:
            with suppress(RuntimeError):  # the loop is closed: so is the worker
                self._loop.call_soon_threadsafe(self._end)

    def _answered(self, asked: float) -> None:
        self.medium_seconds += time.monotonic() - asked
        self._asked_at = 0.0

    # On the event loop

    @property
    def is_settled(self) -> bool:
        """Whether to store the block again is of no use now: it is stored, or its medium failed otherwise than by being
        full."""
        return self.is_stored or (self.error is not None and self.error.errno not in FULL_ERRNOS)

    @property
    def is_late(self) -> bool:
        """Whether the medium has taken longer for what it was asked than anybody waits."""
        return self._spare_seconds() <= 0

    def _spare_seconds(self) -> float:
        asked = self._asked_at
        now_seconds = time.monotonic() - asked if asked else 0.0
        return self._late_seconds - self.medium_seconds - now_seconds

    def watch(self, limit: asyncio.Timeout) -> None:
        """End the caller's `limit` when the medium is late; until `finish`."""
        self._limit = limit
        self._timer = self._loop.call_later(self._late_seconds, self._look)

    def _look(self) -> None:
        if self._limit is not None and self.is_late:
            self._limit.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(max(LOOK_SECONDS, self._spare_seconds()), self._look)

    async def store(self, data: memoryview) -> None:
        """Store the whole block, which is here."""

        def store() -> None:
            if self.begin():
                try:
                    self.take(0, data)
                    self.end()
                finally:
                    self.leave()

        await self._loop.run_in_executor(self._threads, store)

    def finish(self) -> None:
        """Nobody waits for it any more, because it is over or because it takes too long."""
        if self._timer is not None:
            self._timer.cancel()
        # They know the reader's task, and that the bytes, whose memory the next block waits for.
        self._timer = self._limit = None
        with self._lock:
            self._is_left = True
            is_used = self._is_used
        if not is_used:
            self._end()
        elif self.is_late:
            self._late(self)

    def _end(self) -> None:
        if not self.done.done():
            self._ended(self)
            self.done.set_result(self.is_stored)
