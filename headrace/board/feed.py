"""Watches of what the picture is made of.

Owns the copies of objects and who is told of changes. Does not read the objects (picture.py does). Invariant: a kind
that the API server does not show (no such CRD, no right to list) is shown as empty and named in `missing`, and is asked
for again. Copies stay when the API server is lost; since when they are old is told in `trouble`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any, Final

from api import names
from headrace.board.picture import EVERYTHING, Objects, Picture, Wanted, picture
from kube.client import KubeClient
from kube.errors import KubeError
from kube.resources import DATA_LOADS, DATASETS, NODE_CACHES, POD_GROUPS, PODS, TRAINING_JOBS, Resource
from kube.store import Store
from kube.watch import list_watch

KINDS: Final[dict[str, Resource]] = {
    "node_caches": NODE_CACHES,
    "datasets": DATASETS,
    "loads": DATA_LOADS,
    "jobs": TRAINING_JOBS,
    "pod_groups": POD_GROUPS,
    "pods": PODS,
}
#: of pods only those our scheduler places
SELECTORS: Final = {"pods": f"spec.schedulerName={names.DEFAULT_SCHEDULER_NAME}"}
FIRST_SECONDS: Final = 10.0
ASK_SECONDS: Final = 5.0
"""Between two questions whether the API server is there: a watch in which nothing happens looks like a lost one."""


class Feed:
    """Objects as last seen. `namespace` None: of all namespaces."""

    def __init__(self, client: KubeClient, namespace: str | None) -> None:
        self._client = client
        self._namespace = namespace
        self._stores: dict[str, Store[dict[str, Any]]] = {kind: Store() for kind in KINDS}
        self._changed = asyncio.Event()
        #: Grows with each change.
        self.version = 0
        #: What the picture suffers from, in one sentence; "" = nothing.
        self.trouble = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch while the context lasts; entered once every kind was listed, or after ten seconds."""
        tasks = [asyncio.create_task(self._watch(kind)) for kind in KINDS]
        tasks.append(asyncio.create_task(self._ask()))
        try:
            deadline = time.monotonic() + FIRST_SECONDS
            while self.missing and (left := deadline - time.monotonic()) > 0:
                await self.changed(left, self.version)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def missing(self) -> list[str]:
        """Kinds the API server did not show yet, as their resources are named."""
        return [KINDS[kind].plural for kind, store in self._stores.items() if not store.is_synced]

    def picture(self, wanted: Wanted = EVERYTHING) -> Picture:
        """The picture now."""
        return picture(Objects(**self._stores), time.time(), wanted)

    async def changed(self, at_most_seconds: float, since: int) -> bool:
        """Wait for a change after version `since`; False when there was none in time."""
        try:
            async with asyncio.timeout(at_most_seconds):
                while self.version == since:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self) -> None:
        self.version += 1
        # All who wait now are woken; whoever comes later has the version.
        self._changed.set()
        self._changed = asyncio.Event()

    async def _ask(self) -> None:
        while True:
            try:
                await self._client.request("GET", "/version", timeout_seconds=ASK_SECONDS)
                trouble = ""
            except KubeError:
                since = time.strftime("%H:%M:%S", time.gmtime())
                trouble = self.trouble or f"the API server does not answer; what is shown is as of {since} UTC"
            if trouble != self.trouble:
                self.trouble = trouble
                self._tell()
            await asyncio.sleep(ASK_SECONDS)

    async def _watch(self, kind: str) -> None:
        resource, store = KINDS[kind], self._stores[kind]
        batches = list_watch(
            self._client,
            resource,
            dict,
            namespace=self._namespace if resource.namespaced else None,
            field_selector=SELECTORS.get(kind),
            jitter=Random(),
        )
        # Else its connection would be closed after the client.
        async with aclosing(batches):  # type: ignore[type-var]
            async for batch in batches:
                store.apply(batch)
                self._tell()
