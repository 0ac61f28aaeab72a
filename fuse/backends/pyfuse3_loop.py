"""The event loop as pyfuse3 wants it: the few names of trio it uses, over asyncio.

pyfuse3.asyncio does the same, but registers and unregisters /dev/fuse with the selector for every request, wakes
futures twice when the session ends, and lets a busy mount starve everything else in the loop. Here:

- A request that is waiting already is taken at once (one poll), and after BURST of them in a row the
  rest of the loop gets its turn: replies of the worker, timers, signals.
- The descriptor stays registered while somebody waits. A wake-up is only a hint; the descriptor is polled
  before it is read, because pyfuse3 would block the whole loop on an empty one.
"""

import asyncio
import select
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

import pyfuse3

BURST: Final = 32
SPIN_SECONDS: Final = 30e-6
"""How long the next request is awaited awake. Waking an idle core takes about that long in a virtual machine, and
a reader of small files sends its next request within it: measured, twice as many files a second."""

Lock = asyncio.Lock


class ClosedResourceError(Exception):
    """The session ends."""


class Nursery:
    """Tasks that are waited for at the end. A task that fails is a defect: it is raised there."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failures: list[BaseException] = []
        while self._tasks:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._tasks -= done
            failures += [each.exception() or asyncio.CancelledError() for each in done if _failed(each)]
        if failures and error is None:
            raise failures[0]

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any, name: str = "") -> None:
        """Run as a task."""
        self._tasks.add(asyncio.get_running_loop().create_task(function(*arguments), name=name or None))


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


class Readiness:
    """Waits for one descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._is_registered = False
        self._is_closing = False
        self._in_a_row = 0

    async def wait(self) -> None:
        """Return when a read would not block; ClosedResourceError when the session ends. One waiter at a time:
        pyfuse3 holds a lock around it."""
        self._in_a_row += 1
        if self._in_a_row > BURST:
            self._in_a_row = 0
            await asyncio.sleep(0)
        while not self._is_closing:
            if self._spin():
                return
            self._in_a_row = 0
            self._waiter = self._loop.create_future()
            if not self._is_registered:
                self._loop.add_reader(self._descriptor, self._readable)
                self._is_registered = True
            try:
                await self._waiter
            finally:
                self._waiter = None
        raise ClosedResourceError

    def _spin(self) -> bool:
        until = time.monotonic() + SPIN_SECONDS
        while not self._poll.poll(0):
            if time.monotonic() >= until:
                return False
        return True

    def _readable(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            # The selector saw the descriptor before the last request was taken: look again, a poll is cheaper
            # than a task woken for nothing.
            if self._poll.poll(0):
                waiter.set_result(None)
        elif waiter is None and self._is_registered:
            # Every task is busy with a request: nobody to wake until one is done and waits again.
            self._loop.remove_reader(self._descriptor)
            self._is_registered = False

    def close(self) -> None:
        """The session ends."""
        self._is_closing = True
        if self._is_registered:
            self._loop.remove_reader(self._descriptor)
            self._is_registered = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _LowLevel:
    """trio.lowlevel, as far as pyfuse3 uses it."""

    def __init__(self) -> None:
        self._readiness: Readiness | None = None

    def wait_readable(self, descriptor: int) -> Coroutine[Any, Any, None]:
        if self._readiness is None:
            self._readiness = Readiness(descriptor)
        return self._readiness.wait()

    def notify_closing(self, descriptor: int) -> None:
        if self._readiness is not None:
            self._readiness.close()

    @staticmethod
    def current_task() -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None
        # pyfuse3 reads the name for its debug log, as trio spells it.
        if not hasattr(task, "name"):
            task.name = task.get_name()  # type: ignore[attr-defined]
        return task

    @staticmethod
    def current_trio_token() -> str:
        return "asyncio"


class Asyncio:
    """What pyfuse3 calls `trio`."""

    Lock = asyncio.Lock
    ClosedResourceError = ClosedResourceError
    open_nursery = Nursery

    def __init__(self) -> None:
        self.lowlevel = _LowLevel()


def enable() -> None:
    """Make pyfuse3 run on asyncio; once for each session."""
    pyfuse3.trio = Asyncio()  # type: ignore[attr-defined]
