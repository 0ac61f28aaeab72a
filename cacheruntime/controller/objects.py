"""The controller's view of the API server: last seen objects, and idempotent writes.

Owns the copies kopf's events feed and the patch calls. Decides nothing. Invariant: a status is written only when it
differs from the object's last seen one, with the uid as precondition where the API has one.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from api.data_v1alpha1 import Dataset, DatasetGrant, DatasetSpec
from api.dataload_v1alpha1 import DataLoad
from api.model import KubeObject, Model, ObjectMeta
from api.nodecache_v1alpha1 import NodeCacheStatus
from cacheruntime.controller import sharing
from kube.client import KubeClient
from kube.errors import AlreadyExists, NotFound
from kube.objects import ObjectRef
from kube.resources import (
    CACHE_RUNTIMES,
    DATA_LOADS,
    DATASET_GRANTS,
    DATASETS,
    NODE_CACHES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    Resource,
)

Key = tuple[str, str]
Kind = TypeVar("Kind", bound=KubeObject)
FIELD_MANAGER = "headrace-cache-controller"
VOLUMES_SECONDS = 60.0
"""A volume somebody deleted is made again at the first change of its Dataset after that."""
RESOURCES: dict[type[KubeObject], Resource] = {
    Dataset: DATASETS,
    DataLoad: DATA_LOADS,
    CacheRuntime: CACHE_RUNTIMES,
    DatasetGrant: DATASET_GRANTS,
}


def load_dataset(load: DataLoad) -> Key:
    """Return the key of the Dataset a load brings in."""
    return (load.spec.dataset.namespace or load.metadata.namespace, load.spec.dataset.name)


def event_object(item: Dataset) -> ObjectRef:
    """Return what events of a Dataset are about."""
    meta = item.metadata
    return ObjectRef(
        api_version=DATASETS.api_version, kind=DATASETS.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid
    )


class Objects:
    """What was seen last of every kind, raw; parsed when asked for (a bad object harms only its own key)."""

    def __init__(self, client: KubeClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._raw: dict[type[KubeObject], dict[Key, dict[str, Any]]] = {kind: {} for kind in RESOURCES}
        self._loads_of: dict[Key, set[Key]] = {}
        self.nodes: dict[str, dict[str, str]] = {}
        """Labels by node name."""
        self.node_uids: dict[str, str] = {}
        self.drained: set[str] = set()
        """Nodes whose caches are to be handed over."""
        self.with_affinity: set[Key] = set()
        """Datasets whose blocks may be kept on some nodes only."""
        self._that_show: dict[Key, set[Key]] = {}
        """By Dataset: those that show it."""
        self._shown_by: dict[Key, frozenset[Key]] = {}
        """By Dataset that shows others: what it shows."""
        self._has_volumes: dict[str, float] = {}

    def see(self, kind: type[KubeObject], body: dict[str, Any], *, is_deleted: bool) -> Key | None:
        """Take in one event; return the object's key, or None for the echo of a write of ours."""
        meta = body["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        if is_deleted:
            self._raw[kind].pop(key, None)
        else:
            before = self._raw[kind].get(key)
            if before is not None and before["metadata"]["resourceVersion"] == meta["resourceVersion"]:
                return None
            self._keep(kind, key, body)
        if kind is DataLoad:
            self._see_load(key, body, is_deleted=is_deleted)
        if kind is Dataset:
            has_affinity = not is_deleted and bool(body["spec"].get("nodeAffinity"))
            (self.with_affinity.add if has_affinity else self.with_affinity.discard)(key)
            self._see_shown(key, frozenset() if is_deleted else sharing.named_by(body["spec"].get("mounts")))
        return key

    def _keep(self, kind: type[KubeObject], key: Key, body: dict[str, Any]) -> None:
        """Keep what is read of it: who wrote which field is most of an object, and nobody's concern here."""
        body["metadata"].pop("managedFields", None)
        self._raw[kind][key] = body

    def _see_shown(self, key: Key, shown: frozenset[Key]) -> None:
        before = self._shown_by.pop(key, frozenset())
        if shown:
            self._shown_by[key] = shown
        for of in before - shown:
            self._that_show[of].discard(key)
            if not self._that_show[of]:
                del self._that_show[of]
        for of in shown - before:
            self._that_show.setdefault(of, set()).add(key)

    def that_show(self, dataset: Key) -> list[Key]:
        """Return the keys of the Datasets that show one."""
        return list(self._that_show.get(dataset, ()))

    def that_show_of(self, namespace: str) -> list[Key]:
        """Return the keys of the Datasets that show one of a namespace."""
        return [key for of, keys in self._that_show.items() if of[0] == namespace for key in keys]

    def _see_load(self, key: Key, body: dict[str, Any], *, is_deleted: bool) -> None:
        """Which Dataset a load is of can never change."""
        named = body["spec"]["dataset"]
        of = (named.get("namespace") or key[0], named["name"])
        loads = self._loads_of.setdefault(of, set())
        loads.discard(key) if is_deleted else loads.add(key)
        if not loads:
            del self._loads_of[of]

    def loads_of(self, dataset: Key) -> list[Key]:
        """Return the keys of the DataLoads of a Dataset."""
        return list(self._loads_of.get(dataset, ()))

    def loads_from_elsewhere(self, namespace: str) -> list[Key]:
        """Return the keys of other namespaces' DataLoads of a namespace's Datasets."""
        return [
            load for of, loads in self._loads_of.items() if of[0] == namespace for load in loads if load[0] != of[0]
        ]

    def datasets_of(self, runtime: Key) -> list[Key]:
        """Return the keys of the Datasets that a CacheRuntime holds."""
        return [
            key
            for key, body in self._raw[Dataset].items()
            if (key[0], body["spec"].get("runtime") or "default") == runtime
        ]

    def grants(self, namespace: str) -> list[DatasetGrant]:
        """Return the DatasetGrants of a namespace that can be read."""
        found = []
        for key in self._raw[DatasetGrant]:
            if key[0] != namespace:
                continue
            grant = self.find(DatasetGrant, key)  # what is malformed grants nothing
            if grant is not None and grant.metadata.deletion_timestamp is None:
                found.append(grant)
        return found

    def is_granted(self, of: Key, to: str) -> bool:
        """Whether a namespace may have a Dataset."""
        return sharing.is_granted(of, to, self.grants(of[0]))

    def keys(self, kind: type[KubeObject]) -> list[Key]:
        """Return the keys of every object of that kind."""
        return list(self._raw[kind])

    def get(self, kind: type[Kind], key: Key) -> Kind | None:
        """Return the object, or None when it is gone. Raises pydantic.ValidationError for one that is malformed."""
        body = self._raw[kind].get(key)
        return None if body is None else kind.model_validate(body)

    def find(self, kind: type[Kind], key: Key) -> Kind | None:
        """Return the object, or None when it is gone or malformed, which its own reconcile says."""
        try:
            return self.get(kind, key)
        except ValidationError:
            return None

    def leaving(self, key: Key) -> Dataset | None:
        """Return what can be read of a malformed Dataset that was deleted: who it is. None when it was not deleted."""
        meta = self._raw[Dataset][key]["metadata"]
        if not meta.get("deletionTimestamp"):
            return None
        spec = DatasetSpec.model_construct(mounts=[])
        return Dataset.model_construct(metadata=ObjectMeta.model_validate(meta), spec=spec, status=None)

    async def write_status(self, item: KubeObject, status: Model) -> None:
        """Write the status if it differs from what the object had."""
        wire = status.to_wire()
        old = getattr(item, "status", None)
        if old is not None and old.to_wire() == wire:
            return
        key = (item.metadata.namespace, item.metadata.name)
        body = {
            "metadata": {"uid": item.metadata.uid},
            "status": _with_removals({} if old is None else old.to_wire(), wire),
        }
        try:
            written = await self._client.patch(RESOURCES[type(item)], key[1], body, key[0], subresource="status")
        except NotFound:
            return
        self._keep(type(item), key, written)

    async def write_node_cache(self, node: str, status: NodeCacheStatus) -> None:
        """Create the node's NodeCache if need be and replace its status."""
        try:
            body = await self._client.get(NODE_CACHES, node)
        except NotFound:
            api_version = f"{names.DATA_GROUP}/{names.API_VERSION}"
            meta: dict[str, Any] = {"name": node}
            uid = self.node_uids.get(node)
            if uid is not None:  # with its node it goes too; a worker of no node of the cluster has none
                meta["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]
            fresh = {"apiVersion": api_version, "kind": "NodeCache", "metadata": meta}
            body = await self._client.create(NODE_CACHES, fresh)
        body["status"] = status.to_wire()
        await self._client.replace(NODE_CACHES, node, body, subresource="status")

    async def node_cache_names(self) -> list[str]:
        """Return the nodes that have a NodeCache."""
        return [body["metadata"]["name"] for body in (await self._client.list(NODE_CACHES)).items]

    async def set_finalizers(self, dataset: Dataset, finalizers: list[str]) -> None:
        """Replace the object's finalizers; Conflict when it changed meanwhile."""
        body = {"metadata": {"finalizers": finalizers, "resourceVersion": dataset.metadata.resource_version}}
        key = (dataset.metadata.namespace, dataset.metadata.name)
        try:
            self._keep(Dataset, key, await self._client.patch(DATASETS, key[1], body, key[0]))
        except NotFound:
            self._raw[Dataset].pop(key, None)

    async def drop_annotation(self, dataset: Dataset, name: str) -> None:
        """Take one annotation away; Conflict when the object changed meanwhile."""
        meta = {"annotations": {name: None}, "resourceVersion": dataset.metadata.resource_version}
        key = (dataset.metadata.namespace, dataset.metadata.name)
        try:
            self._keep(Dataset, key, await self._client.patch(DATASETS, key[1], {"metadata": meta}, key[0]))
        except NotFound:
            self._raw[Dataset].pop(key, None)

    async def ensure_volumes(self, uid: str, pv: dict[str, Any], pvc: dict[str, Any]) -> str | None:
        """Create the PVC and PV of a dataset if they are not there; seen to be there they are not looked at for
        `VOLUMES_SECONDS`. Returns what is in the place of one, None when nothing is. The PVC goes first: a PV is not
        kept for a claim of somebody else."""
        now = self._clock()
        if now - self._has_volumes.get(uid, float("-inf")) < VOLUMES_SECONDS:
            return None
        for resource, body in ((PERSISTENT_VOLUME_CLAIMS, pvc), (PERSISTENT_VOLUMES, pv)):
            meta = body["metadata"]
            try:
                await self._client.create(resource, body, meta.get("namespace"), field_manager=FIELD_MANAGER)
            except AlreadyExists:
                there = await self._volume(resource, meta)
                if there is None or there["metadata"].get("deletionTimestamp") or not _is_of(there, uid):
                    return f"{resource.kind} {meta['name']} of somebody else, or of a Dataset that was deleted"
        self._has_volumes[uid] = now
        return None

    async def delete_volumes(self, uid: str, pv: dict[str, Any], pvc: dict[str, Any]) -> None:
        """Delete the PVC, then the PV, unless they are somebody else's; pods that still mount it keep it until they
        end."""
        self._has_volumes.pop(uid, None)
        for resource, body in ((PERSISTENT_VOLUME_CLAIMS, pvc), (PERSISTENT_VOLUMES, pv)):
            meta = body["metadata"]
            there = await self._volume(resource, meta)
            if there is None or not _is_of(there, uid):
                continue
            try:
                await self._client.delete(resource, meta["name"], meta.get("namespace"), uid=there["metadata"]["uid"])
            except NotFound:
                continue

    async def _volume(self, resource: Resource, meta: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return await self._client.get(resource, meta["name"], meta.get("namespace"))
        except NotFound:
            return None

    async def delete_load(self, load: DataLoad) -> None:
        """Delete a DataLoad whose time is over."""
        try:
            await self._client.delete(DATA_LOADS, load.metadata.name, load.metadata.namespace, uid=load.metadata.uid)
        except NotFound:
            return


def _is_of(volume: dict[str, Any], uid: str) -> bool:
    """Whether a PV or PVC was made for the Dataset with that uid (`dataset.volumes`)."""
    owners = volume["metadata"].get("ownerReferences") or ()
    handle = volume["spec"].get("csi", {}).get("volumeHandle")
    return handle == uid or any(owner["uid"] == uid for owner in owners)


def _with_removals(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch keeps what it does not name: what went away, at any depth, is named as null."""
    gone: dict[str, Any] = {key: None for key in old if key not in new}
    kept = {
        key: _with_removals(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
        for key, value in new.items()
    }
    return gone | kept
