"""What the scheduler watches, and how each object becomes an event.

Owns the list of kinds and the memory of which names exist, which turns a relist into deletions (the objects
themselves are kept by the core, in columns). Does not interpret pods (shell/translate.py). Invariants: kinds
of CRDs that are not installed are asked for again quietly; a kind counts as synced once it was listed, or is
known not to exist.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import structlog

from kube.client import KubeClient
from kube.errors import Forbidden, KubeError, NotFound
from kube.fluid_objects import FluidDataset
from kube.gang_objects import PodGroup, UpstreamPodGroup, VolcanoPodGroup
from kube.objects import Dataset, Node, NodeCache, Pod, PodDisruptionBudget
from kube.resources import (
    CSI_DRIVERS,
    CSI_NODES,
    CSI_STORAGE_CAPACITIES,
    DATASETS,
    DEVICE_CLASSES,
    FLUID_DATASETS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS,
    POD_GROUPS,
    PODS,
    SERVICES,
    STORAGE_CLASSES,
    UPSTREAM_POD_GROUPS,
    VOLCANO_POD_GROUPS,
    VOLUME_ATTACHMENTS,
    Resource,
)
from kube.storage_objects import (
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    VolumeAttachment,
)
from kube.watch import ChangeKind, Listed, WatchBatch, list_watch
from scheduler.core import events
from scheduler.core.events import Event
from scheduler.core.gang_apis import GangApi
from scheduler.core.volume_table import StorageObject
from scheduler.shell import neighbours
from scheduler.shell.translate import PodTranslator

_log = structlog.get_logger(__name__)
ABSENT_RETRY_SECONDS = 10.0
Key = tuple[str, str]  # namespace, name
STORAGE: dict[Resource, type[StorageObject]] = {
    PERSISTENT_VOLUME_CLAIMS: PersistentVolumeClaim,
    PERSISTENT_VOLUMES: PersistentVolume,
    STORAGE_CLASSES: StorageClass,
    CSI_DRIVERS: CSIDriver,
    CSI_NODES: CSINode,
    CSI_STORAGE_CAPACITIES: CSIStorageCapacity,
    VOLUME_ATTACHMENTS: VolumeAttachment,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One watched kind: how its objects become events. `is_optional`: its CRD may not be installed, or its API not
    switched on."""

    resource: Resource
    decode: type[Any]
    changed: Callable[[Any], Event | None]
    gone: Callable[[Key, str], Event]
    is_optional: bool = False
    # Other versions of it, the best first after `resource`: the first that is served is followed.
    older: tuple[Resource, ...] = ()


def kinds(pods: PodTranslator, *, reads_fluid: bool = False) -> tuple[Kind, ...]:
    """Everything the scheduler follows; Fluid's Datasets only if asked for."""
    fluid = Kind(
        FLUID_DATASETS,
        FluidDataset,
        events.FluidDatasetChanged,
        lambda key, uid: events.FluidDatasetGone(*key),
        is_optional=True,
    )
    return (
        *((fluid,) if reads_fluid else ()),
        Kind(PODS, Pod, pods.event, lambda key, uid: events.PodGone(uid)),
        Kind(NODES, Node, events.NodeChanged, lambda key, uid: events.NodeGone(key[1])),
        *(_storage(resource, decode) for resource, decode in STORAGE.items()),
        Kind(
            POD_DISRUPTION_BUDGETS,
            PodDisruptionBudget,
            events.BudgetChanged,
            lambda key, uid: events.BudgetGone(*key),
        ),
        Kind(
            NAMESPACES,
            neighbours.Namespace,
            neighbours.namespace_changed,
            lambda key, uid: events.NamespaceGone(key[1]),
        ),
        Kind(
            SERVICES,
            neighbours.Selecting,
            neighbours.service_changed,
            lambda key, uid: events.ServiceChanged(*key, None),
        ),
        *(_controllers(resource) for resource in neighbours.CONTROLLERS),
        Kind(
            DEVICE_CLASSES,
            neighbours.DeviceClass,
            neighbours.device_class_changed,
            lambda key, uid: events.DeviceClassGone(key[1]),
            is_optional=True,
        ),
        Kind(
            NODE_CACHES,
            NodeCache,
            events.CacheChanged,
            lambda key, uid: events.CacheGone(key[1]),
            is_optional=True,
        ),
        Kind(DATASETS, Dataset, events.DatasetChanged, lambda key, uid: events.DatasetGone(*key), is_optional=True),
        _groups((POD_GROUPS,), PodGroup, GangApi.X_K8S),
        _groups((VOLCANO_POD_GROUPS,), VolcanoPodGroup, GangApi.VOLCANO),
        _groups(UPSTREAM_POD_GROUPS, UpstreamPodGroup, GangApi.UPSTREAM),
    )


def _storage(resource: Resource, decode: type[StorageObject]) -> Kind:
    return Kind(resource, decode, events.StorageChanged, lambda key, uid: events.StorageGone(decode, *key))


def _controllers(resource: Resource) -> Kind:
    return Kind(
        resource,
        neighbours.Selecting,
        partial(neighbours.controller_changed, resource.kind),
        lambda key, uid: events.ControllerChanged(resource.kind, *key, None),
    )


def _groups(versions: tuple[Resource, ...], decode: type[Any], api: GangApi) -> Kind:
    newest, *older = versions
    return Kind(
        newest,
        decode,
        events.GroupChanged,
        lambda key, uid: events.GroupGone(*key, api),
        is_optional=True,
        older=tuple(older),
    )


class Follower:
    """Turns the batches of one kind into events. Pure."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._uids: dict[Key, str] = {}

    def events(self, batch: WatchBatch[Any]) -> list[Event]:
        """Events of a batch, deletions that a relist reveals included."""
        made: list[Event] = []
        if isinstance(batch, Listed):
            listed = {(item.metadata.namespace, item.metadata.name) for item in batch.objects}
            for key in [key for key in self._uids if key not in listed]:
                made.append(self.kind.gone(key, self._uids.pop(key)))
            for item in batch.objects:
                self._changed(item, made)
            return made
        for change in batch.events:
            if change.kind is ChangeKind.DELETED:
                meta = change.object.metadata
                if self._uids.pop((meta.namespace, meta.name), None) is not None:
                    made.append(self.kind.gone((meta.namespace, meta.name), meta.uid))
            else:
                self._changed(change.object, made)
        return made

    def _changed(self, item: Any, made: list[Event]) -> None:
        meta = item.metadata
        key = (meta.namespace, meta.name)
        old = self._uids.get(key)
        if old is not None and old != meta.uid:
            # Deleted and created again under the same name between two looks.
            made.append(self.kind.gone(key, old))
        self._uids[key] = meta.uid
        event = self.kind.changed(item)
        if event is not None:
            made.append(event)


class Watches:
    """Follows all kinds into one inbox."""

    def __init__(
        self,
        client: KubeClient,
        followed: Sequence[Kind],
        deliver: Callable[[list[Event]], None],
        jitter: Random,
        found: Callable[[Resource], None] = lambda resource: None,
    ) -> None:
        """`deliver` takes the events of one batch, `found` the version of an optional kind that is served; they must
        not block."""
        self._client = client
        self._kinds = followed
        self._deliver = deliver
        self._jitter = jitter
        self._found = found
        self._waiting = {kind.resource for kind in followed}

    @property
    def is_synced(self) -> bool:
        """Whether every kind was listed once, or is known not to exist."""
        return not self._waiting

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in self._kinds:
                tasks.create_task(self._follow(kind), name=f"watch-{kind.resource.group}-{kind.resource.plural}")

    async def _follow(self, kind: Kind) -> None:
        resource = kind.resource
        if kind.is_optional:
            resource = await self._wait_for_api(kind)
            self._found(resource)
        follower = Follower(kind)
        async for batch in list_watch(self._client, resource, kind.decode, jitter=self._jitter):
            made = follower.events(batch)
            self._listed(kind)
            self._deliver(made)
            # One chunk of a busy watch after another must not starve the loop that decides.
            await asyncio.sleep(0)

    async def _wait_for_api(self, kind: Kind) -> Resource:
        """The version of a kind that is served, once one is."""
        is_told = False
        while True:
            for resource in (kind.resource, *kind.older):
                try:
                    await self._client.list(resource, limit=1)
                except (NotFound, Forbidden) as error:
                    cause = str(error)
                except KubeError as error:
                    _log.warning("kind_not_readable", kind=kind.resource.kind, error=str(error))
                    break
                else:
                    return resource
            else:
                self._listed(kind)
                self._deliver([])
                if not is_told:
                    _log.info("kind_not_available", kind=kind.resource.kind, group=kind.resource.group, cause=cause)
                    is_told = True
            await asyncio.sleep(ABSENT_RETRY_SECONDS)

    def _listed(self, kind: Kind) -> None:
        self._waiting.discard(kind.resource)
