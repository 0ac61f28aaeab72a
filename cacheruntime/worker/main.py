"""`python -m cacheruntime worker`: start and stop of one worker."""

import asyncio
import os
import resource
import signal
from collections.abc import Sequence

import structlog
import uvloop

from cacheruntime.errors import CacheError
from cacheruntime.worker.keeper import keep
from cacheruntime.worker.leaver import Leaver
from cacheruntime.worker.serving import serve_until_cancelled
from cacheruntime.worker.settings import WorkerSettings, parse

log = structlog.get_logger()

STOP_SECONDS = 5.0


def run(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; 0 after a graceful stop, 1 when it cannot serve. With --keeper, in a child."""
    settings = parse(argv)
    return keep(lambda: _run(settings)) if settings.keeper else _run(settings)


def _run(settings: WorkerSettings) -> int:
    log.info("worker_starts", pid=os.getpid(), **settings.loggable())
    _raise_descriptor_limit()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signal(settings))
    except CacheError as error:
        log.error("worker_cannot_serve", error=error.message)
        return 1
    return 0


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _until_signal(settings: WorkerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    leavers: list[Leaver] = []
    serving = asyncio.create_task(serve_until_cancelled(settings, leavers))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if serving.done():
        try:
            serving.result()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return
    if settings.tunables.leave_seconds:
        for leaver in leavers:
            await leaver.hand_over(settings.tunables.leave_seconds)
    serving.cancel()
    await asyncio.wait({serving}, timeout=STOP_SECONDS)
    log.info("worker_stopped")
