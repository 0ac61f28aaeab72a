"""A scheduler under test: a command line, started anew for each run and stopped after it."""

import contextlib
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster import started


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
    words = shlex.split(command)
    async with started(scheduler.name, words, kubeconfig, folder, otherwise="did not bind all pods") as pid:
        yield pid
