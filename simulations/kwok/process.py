"""A scheduler under test: a command line, started anew for each run and stopped after it.

Owns the processes and the command lines of Headrace's scheduler and of kube-scheduler.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from api import names

STOP_SECONDS = 20.0
LOG_TAIL = 2000
QPS, BURST = 5000, 10000


@dataclass(frozen=True, slots=True)
class Scheduler:
    """`command` may hold {kubeconfig} and {name}, the schedulerName of its pods."""

    name: str
    command: str
    pod_scheduler_name: str
    gang_api: str = "scheduling.x-k8s.io"


class SchedulerDied(Exception):
    """A scheduler under test ended by itself; the text has the end of its log."""


def headrace_scheduler(*more: str) -> Scheduler:
    """Headrace's scheduler of this installation, with `more` arguments."""
    command = (
        f"{shlex.quote(sys.executable)} -m scheduler --kubeconfig {{kubeconfig}} --no-leader-elect "
        f"--qps {QPS} --scheduler-name {{name}} --log-level warning {shlex.join(more)}"
    )
    return Scheduler("headrace", command, names.DEFAULT_SCHEDULER_NAME)


def job_controller() -> Scheduler:
    """Headrace's job controller of this installation: no scheduler, but started and stopped as one."""
    command = f"{shlex.quote(sys.executable)} -m jobcontroller --kubeconfig {{kubeconfig}} --no-leader-elect"
    return Scheduler("jobcontroller", command, "")


def kube_scheduler(
    binary: str,
    kubeconfig: Path,
    folder: Path,
    *,
    name: str = "kube-scheduler",
    settings: Mapping[str, int] = MappingProxyType({}),
) -> Scheduler:
    """kube-scheduler as it comes, but for the limits of its client and for `settings` of its configuration, which is
    written into `folder`."""
    config = folder / "kube-scheduler.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": str(kubeconfig), "qps": QPS, "burst": BURST},
                "leaderElection": {"leaderElect": False},
                **settings,
            }
        ),
        encoding="utf-8",
    )
    return Scheduler(name, f"{shlex.quote(binary)} --config {config} --secure-port=0", "default-scheduler")


@contextlib.asynccontextmanager
async def running(
    scheduler: Scheduler, kubeconfig: Path, folder: Path, *, otherwise: str = "did not bind all pods"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run it, its output in `folder`. A TimeoutError inside ends ours with `otherwise` and the end of the log."""
    command = scheduler.command.replace("{kubeconfig}", str(kubeconfig)).replace("{name}", scheduler.pod_scheduler_name)
    with log_of(scheduler, folder).open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdout=output,
            stderr=output,
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            start_new_session=True,
        )
    try:
        yield process
    except TimeoutError:
        raise SystemExit(f"{scheduler.name} {otherwise}; the end of its log:\n{log_tail(scheduler, folder)}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def log_of(scheduler: Scheduler, folder: Path) -> Path:
    """Where its output is."""
    return folder / f"{scheduler.name.split()[0]}.log"


def log_tail(scheduler: Scheduler, folder: Path) -> str:
    """The end of its output."""
    return log_of(scheduler, folder).read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
