"""kopf registration: every event only lands in the objects' copies and enqueues a key."""

from typing import Any

import kopf

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from api.data_v1alpha1 import Dataset, DatasetGrant
from api.dataload_v1alpha1 import DataLoad
from cacheruntime.controller.objects import Objects
from cacheruntime.controller.queues import Queues


def register(registry: kopf.OperatorRegistry, objects: Objects, queues: Queues) -> None:
    """Register the handlers of the kinds this controller owns, and of nodes."""
    group, version = names.DATA_GROUP, names.API_VERSION

    @kopf.on.event(group, version, Dataset.PLURAL, registry=registry)
    async def on_dataset(type: str | None, body: kopf.Body, **_: Any) -> None:
        key = objects.see(Dataset, dict(body), is_deleted=type == "DELETED")
        if key is None:
            return
        queues.datasets.add(key)
        queues.tell_loads(key)
        queues.tell_who_shows(key)

    @kopf.on.event(group, version, DataLoad.PLURAL, registry=registry)
    async def on_load(type: str | None, body: kopf.Body, **_: Any) -> None:
        key = objects.see(DataLoad, dict(body), is_deleted=type == "DELETED")
        if key is not None:
            queues.loads.add(key)

    @kopf.on.event(group, version, CacheRuntime.PLURAL, registry=registry)
    async def on_runtime(type: str | None, body: kopf.Body, **_: Any) -> None:
        objects.see(CacheRuntime, dict(body), is_deleted=type == "DELETED")

    @kopf.on.event(group, version, DatasetGrant.PLURAL, registry=registry)
    async def on_grant(type: str | None, body: kopf.Body, **_: Any) -> None:
        key = objects.see(DatasetGrant, dict(body), is_deleted=type == "DELETED")
        if key is not None:
            queues.grants_changed(key[0])

    @kopf.on.event("", "v1", "nodes", registry=registry)
    async def on_node(type: str | None, body: kopf.Body, **_: Any) -> None:
        name, labels = body["metadata"]["name"], dict(body["metadata"].get("labels") or {})
        annotations = body["metadata"].get("annotations") or {}
        is_drained = type != "DELETED" and annotations.get(names.NODE_DRAIN_ANNOTATION) == "true"
        (objects.drained.add if is_drained else objects.drained.discard)(name)
        before = objects.nodes.get(name)
        if type == "DELETED":
            objects.nodes.pop(name, None)
            objects.node_uids.pop(name, None)
        else:
            objects.nodes[name] = labels
            objects.node_uids[name] = body["metadata"]["uid"]
        if objects.nodes.get(name) != before:
            for key in objects.with_affinity:
                queues.datasets.add(key)
