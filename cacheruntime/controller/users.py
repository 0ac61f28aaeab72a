"""Follows pods, TrainingJobs and PersistentVolumes for `references.py`.

Owns the watches, and the look at what is there right now. Decides nothing about use. Invariant: of an object only what
it uses is kept: most pods of a cluster use no Dataset.
"""

import asyncio
import time
from collections.abc import Callable
from random import Random

from api.data_v1alpha1 import Reference
from cacheruntime.controller.references import Item, Job, Key, Pod, References
from kube.client import KubeClient
from kube.errors import NotFound
from kube.identity import identity_of
from kube.resources import PERSISTENT_VOLUMES, PODS, TRAINING_JOBS, Resource
from kube.storage_objects import PersistentVolume
from kube.watch import ChangeKind, Listed, WatchBatch, list_watch

RESOURCES: dict[type[Item], Resource] = {Pod: PODS, Job: TRAINING_JOBS, PersistentVolume: PERSISTENT_VOLUMES}

CONFIRM_SECONDS = 60.0


class Users:
    """Who uses which Dataset."""

    def __init__(
        self, client: KubeClient, changed: Callable[[Key], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`changed` is told of each Dataset whose users may have changed."""
        self._client = client
        self._changed = changed
        self._clock = clock
        self._asked: dict[Key, float] = {}
        self._references = References()
        self._synced: set[type[Item]] = set()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in RESOURCES:
                tasks.create_task(self._follow(kind))

    def seen(self, dataset: Key) -> list[Reference] | None:
        """Return who uses a Dataset as far as was seen; None before pods and volumes were. (A cluster may have no
        TrainingJobs, and then they are never seen.)"""
        return self._references.users(dataset) if {Pod, PersistentVolume} <= self._synced else None

    async def holding(self, dataset: Key) -> list[Reference]:
        """Return whom a deleted Dataset waits for: as seen, but read anew before it is let go, and every
        `CONFIRM_SECONDS`, so that a watch that fails keeps it from going for no longer. KubeError."""
        asked_at, seen = self._clock(), self.seen(dataset)
        if seen and asked_at - self._asked.get(dataset, float("-inf")) < CONFIRM_SECONDS:
            return seen
        found = await self.now(dataset)
        if found:
            self._asked[dataset] = asked_at
        else:
            self._asked.pop(dataset, None)
        return found

    async def now(self, dataset: Key) -> list[Reference]:
        """Return who uses a Dataset, read anew: what was seen of pods may be older than the Dataset. KubeError."""
        fresh = References()
        if PersistentVolume in self._synced:
            # A cluster has a volume for each Dataset, and claims are bound long before a pod starts.
            fresh.take_claims(dataset, self._references.claims_of(dataset))
        else:
            for volume in (await self._client.list(PERSISTENT_VOLUMES, decode=PersistentVolume)).items:
                fresh.see(volume)
        try:
            for job in (await self._client.list(TRAINING_JOBS, dataset[0], decode=Job)).items:
                fresh.see(job)
        except NotFound:
            pass  # a cluster without TrainingJobs has none
        for namespace in {dataset[0], *(claim[0] for claim in fresh.claims_of(dataset))}:
            for pod in (await self._client.list(PODS, namespace, decode=Pod)).items:
                fresh.see(pod)
        return fresh.users(dataset)

    async def _follow(self, kind: type[Item]) -> None:
        async for batch in list_watch(self._client, RESOURCES[kind], kind, jitter=Random()):
            for dataset in self._take_in(kind, batch):
                self._changed(dataset)

    def _take_in(self, kind: type[Item], batch: WatchBatch[Item]) -> set[Key]:
        changed: set[Key] = set()
        if isinstance(batch, Listed):
            there = {_key(one) for one in batch.objects}
            for key in self._references.keys(kind):
                if key not in there:
                    changed |= self._references.forget(kind, key)
            for one in batch.objects:
                changed |= self._references.see(one)
            self._synced.add(kind)
            return changed
        for event in batch.events:
            if event.kind is ChangeKind.DELETED:
                changed |= self._references.forget(kind, _key(event.object))
            else:
                changed |= self._references.see(event.object)
        return changed


def _key(item: Item) -> Key:
    found = identity_of(item)
    return (found.namespace, found.name)
