"""What benchmarks on a real API server share: many creations at a time, the least of an object that its watch needs,
and what a process has cost. Owns no measurement.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kube.client import KubeClient
from kube.errors import AlreadyExists
from kube.resources import Resource

CREATE_IN_FLIGHT = 32


class Meta(msgspec.Struct, gc=False):
    """Watching must not cost what is measured."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""

    @property
    def resource_version(self) -> str:
        """For kube's watch, which reads it to resume."""
        return self.resourceVersion


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


def peak_mib(pid: int) -> float:
    """Return the most memory a process had resident."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process has taken."""
    # After the command's name in brackets: state is field 3, utime and stime are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
