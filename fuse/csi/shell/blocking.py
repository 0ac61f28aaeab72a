"""System calls that may hang, with a deadline.

A path inside a FUSE mount waits for its daemon; a stopped daemon answers never. Such calls run in a thread of their
own, which is a daemon thread: a pool would run out of threads, and the interpreter would wait for them at its end.
What is asked again and again, by the watchdog and by kubelet, is asked once at a time: a daemon that stays stopped for
a day has one thread waiting for each question, not thousands.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from fuse.csi.errors import TooSlow

T = TypeVar("T")

_unanswered: dict[str, "asyncio.Future[Any]"] = {}
"""Shared calls in work."""


async def in_thread(
    call: Callable[[], T],
    *,
    what: str,
    seconds: float,
    late: Callable[[T], None] | None = None,
    shared: str = "",
) -> T:
    """Return what `call` returns, or raise what it raises; TooSlow after `seconds`. `late` gets, in the event loop,
    a result that nobody waits for any more (to close a descriptor). Calls with the same `shared` that are not yet
    answered are one call, which all of them wait for; its result needs no `late`."""
    loop = asyncio.get_running_loop()
    asked = _unanswered.get(shared)
    done: asyncio.Future[T] = asked if asked is not None and asked.get_loop() is loop else _begin(call, loop, late)
    if shared:
        _unanswered[shared] = done
        done.add_done_callback(lambda answered: _forget(shared, answered))
    try:
        async with asyncio.timeout(seconds):
            return await (asyncio.shield(done) if shared else done)
    except TimeoutError:
        raise TooSlow(f"{what} did not end in {seconds:g} s; trying again is safe") from None


def _forget(shared: str, answered: "asyncio.Future[Any]") -> None:
    if _unanswered.get(shared) is answered:
        del _unanswered[shared]
    if not answered.cancelled():
        answered.exception()  # nobody may be waiting for it any more


def _begin(
    call: Callable[[], T], loop: asyncio.AbstractEventLoop, late: Callable[[T], None] | None
) -> "asyncio.Future[T]":
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
    return done
