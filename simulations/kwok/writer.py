"""Carries out writes, many at once, in the order of their lists.

Owns the queue. What is to be written is decided by kwok/driver.py. A failure ends the run: half a world would say
nothing. Invariant: a list is begun when the one before it is done.
"""

import asyncio
from collections.abc import Callable, Sequence

from kube.client import KubeClient
from kube.errors import NotFound
from kube.identity import JsonObject
from simulations.kwok.objects import Verb, Write

IN_FLIGHT = 32


class Writer:
    """See the module's docstring; `run` is its task."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.on_idle: Callable[[], None] = lambda: None
        self._todo: asyncio.Queue[list[Write]] = asyncio.Queue()
        self._unfinished = 0
        self.written = 0

    @property
    def is_idle(self) -> bool:
        """Whether all that was put is written."""
        return self._unfinished == 0

    def put(self, lists: Sequence[list[Write]]) -> None:
        """Write these later, one list after the other."""
        for writes in lists:
            self._unfinished += 1
            self._todo.put_nowait(writes)

    async def run(self) -> None:
        """Write for ever. Raises kube's errors."""
        while True:
            await self.write(await self._todo.get())
            self._unfinished -= 1
            if self.is_idle:
                self.on_idle()

    async def write(self, writes: Sequence[Write]) -> list[JsonObject]:
        """Write these now; returns the objects as stored, in order."""
        answers: list[JsonObject] = [{}] * len(writes)
        waiting = iter(enumerate(writes))

        async def work() -> None:
            for index, write in waiting:
                answers[index] = await self._write(write)
                self.written += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(IN_FLIGHT, len(writes))):
                tasks.create_task(work())
        return answers

    async def _write(self, write: Write) -> JsonObject:
        client, resource, namespace = self._client, write.resource, write.namespace
        try:
            if write.verb is Verb.CREATE:
                return await client.create(resource, write.body, namespace)
            if write.verb is Verb.DELETE:
                await client.delete(resource, write.name, namespace, grace_period_seconds=0)
                return {}
            subresource = "status" if write.verb is Verb.STATUS else None
            return await client.patch(resource, write.name, write.body, namespace, subresource=subresource)
        except NotFound:
            if write.verb is Verb.CREATE:
                raise
            # A scheduler may undo a gang's binds by deleting its pods: then there is nothing left to end.
            return {}
