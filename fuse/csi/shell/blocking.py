"""System calls that may hang, with a deadline.

A path inside a FUSE mount waits for its daemon; a stopped daemon answers never. Such calls run in a thread of their
own, which is a daemon thread: a pool would run out of threads, and the interpreter would wait for them at its end.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from fuse.csi.errors import TooSlow

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, what: str, seconds: float, late: Callable[[T], None] | None = None) -> T:
    """Return what `call` returns, or raise what it raises; TooSlow after `seconds`. `late` gets, in the event loop,
    a result that nobody waits for any more (to close a descriptor)."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def succeed(result: T) -> None:
        if not done.done():
            done.set_result(result)
        elif late is not None:
            late(result)

    def fail(error: Exception) -> None:
        if not done.done():
            done.set_exception(error)

    def run() -> None:
        # A loop that is closed belongs to a process at its end, which closes descriptors by itself.
        with suppress(RuntimeError):
            try:
                result = call()
            except Exception as error:  # noqa: BLE001  # raised again where it is awaited
                loop.call_soon_threadsafe(fail, error)
            else:
                loop.call_soon_threadsafe(succeed, result)

    threading.Thread(target=run, name="csi-call", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await done
    except TimeoutError:
        raise TooSlow(f"{what} did not end in {seconds:g} s; trying again is safe") from None
