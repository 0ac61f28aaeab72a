"""A scheduler under test: a command line, started anew for each run and stopped after it."""

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 20.0
LOG_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Scheduler:
    """`command` may hold {kubeconfig} and {name}, the schedulerName of its pods."""

    name: str
    command: str
    pod_scheduler_name: str
    gang_api: str = "scheduling.x-k8s.io"


@contextlib.asynccontextmanager
async def running(scheduler: Scheduler, kubeconfig: Path, folder: Path) -> AsyncIterator[int]:
    """Run it, its output in `folder`; yields its pid. A TimeoutError inside ends the program with its log's end."""
    command = scheduler.command.replace("{kubeconfig}", str(kubeconfig)).replace("{name}", scheduler.pod_scheduler_name)
    log = folder / f"{scheduler.name.split()[0]}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdout=output,
            stderr=output,
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            start_new_session=True,
        )
    try:
        yield process.pid
    except TimeoutError:
        tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
        raise SystemExit(f"{scheduler.name} did not bind all pods; the end of its log:\n{tail}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
