"""What benchmarks on a real API server share: many creations at a time, and the
least of an object that its watch needs. Owns no measurement.
"""

import asyncio
import contextlib
from collections.abc import Sequence
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
