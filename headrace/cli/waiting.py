"""`headrace wait` and `headrace stop`: until a job is where one wants it, and the end of one for good.

Owns the command lines, and the bar a terminal shows while a job is waited for. Looks by follow.py's loop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from api import names
from api.conditions import timestamp
from api.training_v1alpha1 import FAILED, RUNNING, SUCCEEDED, SUSPENDED
from headrace.cli.connection import Kubeconfig, Namespace, run
from headrace.cli.follow import Follower
from headrace.cli.tables import state_of
from headrace.errors import HeadraceError, UsageError
from kube.client import KubeClient
from kube.resources import TRAINING_JOBS

Body = dict[str, Any]
Job = Annotated[str, typer.Argument(help="name of the job")]
What = Annotated[str, typer.Argument(help="job")]
STATES = (RUNNING, SUSPENDED, SUCCEEDED, FAILED)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command()(wait)
    app.command()(stop)


def wait(
    what: What,
    name: Job,
    *,
    until: Annotated[
        str | None, typer.Option("--for", help=f"a state, of {', '.join(STATES)}; default: the job's end")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="seconds; default: for ever")] = None,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait for the end of a job, or for a state. Exit code 1 when it fails, is deleted, or the time is over."""
    if what != "job":
        raise UsageError(f"{what!r} cannot be waited for; write job")
    if until is not None and until not in STATES:
        raise UsageError(f"--for {until!r} is no state of a job; choose {', '.join(STATES)}")

    async def work(client: KubeClient) -> bool:
        # What is not there is a mistake at the beginning, and an end of the job later.
        await client.get(TRAINING_JOBS, name, namespace)
        with bar() as (say, show):
            follower = Follower(client, namespace, name, say, show)
            try:
                async with asyncio.timeout(timeout):
                    return await follower.until_finished(with_logs=False, until=until)
            except TimeoutError:
                raise HeadraceError(f"TrainingJob {name} is not there after {timeout:g} s") from None

    if not run(work, kubeconfig):
        raise typer.Exit(1)


def stop(what: What, name: Job, *, namespace: Namespace = "default", kubeconfig: Kubeconfig = None) -> None:
    """End a job for good: its pods get their grace, it becomes Failed (StoppedByUser), and its history stays."""
    if what != "job":
        raise UsageError(f"{what!r} cannot be stopped; write job")

    async def work(client: KubeClient) -> str:
        job = await client.get(TRAINING_JOBS, name, namespace)
        state = state_of(job)[0]
        if state not in (SUCCEEDED, FAILED):
            annotations = {names.STOP_ANNOTATION: timestamp(time.time())}
            # The uid: a job of the same name that was made since is another one.
            body = {"metadata": {"uid": job["metadata"]["uid"], "annotations": annotations}}
            await client.patch(TRAINING_JOBS, name, body, namespace)
        return state

    state = run(work, kubeconfig)
    if state in (SUCCEEDED, FAILED):
        typer.echo(f"TrainingJob {name} had ended before: {state}")
    else:
        typer.echo(f"TrainingJob {name} is being stopped")


@contextmanager
def bar() -> Iterator[tuple[Callable[[str], None], Callable[[Body], None]]]:
    """Yield how to say a line and how to show a job: a bar below the lines on a terminal, nothing elsewhere."""
    if not sys.stdout.isatty():
        yield typer.echo, lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(highlight=False), transient=True) as progress:
        task = progress.add_task("", total=None, note="")

        def show(job: Body) -> None:
            ready, wanted, note = progress_of(job)
            text = f"{job['metadata']['name']} {state_of(job)[0]}"
            progress.update(task, description=text, completed=ready, total=wanted or None, note=note)

        yield lambda line: progress.console.print(line, markup=False), show


def progress_of(job: Body) -> tuple[int, int, str]:
    """Return how many of a job's pods run or have finished, of how many, and a note on where its work is."""
    status: Body = job.get("status") or {}
    roles = (status.get("replicaStatuses") or {}).values()
    there = sum(one.get("ready", 0) + one.get("succeeded", 0) for one in roles)
    started = status.get("startedReplicas") or {}
    specs = job["spec"].get("replicaSpecs") or {}
    wanted = sum(started.values()) if started else sum(one.get("replicas", 1) for one in specs.values())
    steps = [one["step"] for one in status.get("checkpoints") or [] if one.get("complete")]
    newest = f", checkpoint of step {max(steps)}" if steps else ""
    return min(there, wanted), wanted, f"{there} of {wanted} pods{newest}, attempt {status.get('attempt', 0)}"
