"""What benchmarks on a real API server share: its flags, many creations, and a program under test.

Owns no measurement. A program is started anew for each run and stopped after it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from kube.client import KubeClient
from kube.errors import AlreadyExists
from kube.resources import Resource

APISERVER_ARGS = (
    # The control plane's own throttles would be what is measured.
    "--enable-priority-and-fairness=false",
    "--max-requests-inflight=0",
    "--max-mutating-requests-inflight=0",
    # No controller lifts the not-ready taint or makes service accounts here.
    "--disable-admission-plugins=TaintNodesByCondition,ServiceAccount,DefaultTolerationSeconds",
)
CREATE_IN_FLIGHT = 32
STOP_SECONDS = 20.0
LOG_TAIL = 2000


async def create_all(
    client: KubeClient, resource: Resource, bodies: Sequence[dict[str, Any]], namespace: str | None
) -> None:
    """Create objects, 32 at a time; one that is there already is fine."""
    waiting = iter(bodies)

    async def create() -> None:
        for body in waiting:
            with contextlib.suppress(AlreadyExists):
                await client.create(resource, body, namespace)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CREATE_IN_FLIGHT):
            tasks.create_task(create())


@contextlib.asynccontextmanager
async def started(
    name: str, command: Sequence[str], kubeconfig: Path, folder: Path, *, otherwise: str
) -> AsyncIterator[int]:
    """Run a program, its output in `folder`; yields its pid.

    A TimeoutError inside ends ours with `otherwise` (what it did not do) and the end of the program's log."""
    log = folder / f"{name.split(maxsplit=1)[0]}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=output,
            stderr=output,
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            start_new_session=True,
        )
    try:
        yield process.pid
    except TimeoutError:
        tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
        raise SystemExit(f"{name} {otherwise}; the end of its log:\n{tail}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
