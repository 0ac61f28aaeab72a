"""What benchmarks on a real API server share: many creations at a time. Owns no measurement."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from kube.client import KubeClient
from kube.errors import AlreadyExists
from kube.resources import Resource

CREATE_IN_FLIGHT = 32


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
