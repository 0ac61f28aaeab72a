"""What is simulated as objects of Kubernetes: typed structs, for the core in this process and for a real API server.

Owns names, labels and fields. Decides nothing and keeps nothing. Nodes and datasets keep the world's names.
"""

import json
from collections.abc import Collection, Mapping

from api import names
from kube.gang_objects import PodGroup, PodGroupSpec
from kube.identity import JsonObject, ObjectMeta
from kube.objects import (
    CachedDataset,
    CacheTier,
    CacheWorker,
    Container,
    Dataset,
    DatasetSnapshot,
    DatasetStatus,
    Node,
    NodeCache,
    NodeCacheStatus,
    NodeSpec,
    NodeStatus,
    PodSpec,
    ResourceRequirements,
)
from scheduler.settings import Speeds
from simulations.engine.cache import Cache
from simulations.engine.ledger import PODS_PER_NODE
from simulations.engine.model import DatasetSpec, JobSpec, World

NAMESPACE = "default"
ZONE, REGION, RACK = "topology.kubernetes.io/zone", "topology.kubernetes.io/region", "topology.headrace.dev/rack"


def label_of(dataset: str) -> str:
    """Fluid's node label of a dataset's workers."""
    return f"fluid.io/s-{NAMESPACE}-{dataset}"


def scheduler_speeds(world: World) -> Speeds:
    """What the scheduler is told of the world's speeds, in bytes a second."""
    speeds = world.speeds
    return Speeds(
        mem_bytes_per_second=speeds.mem,
        ssd_bytes_per_second=speeds.ssd,
        network_bytes_per_second=min(speeds.nic, speeds.peer_stream),
        # One pod's share when every fourth node reads at once.
        origin_bytes_per_second=min(speeds.origin_stream, speeds.origin * 4 / max(4, len(world.nodes))),
    )


def node_object(world: World, index: int, *, is_open: bool, labelled: Collection[int] = ()) -> Node:
    """A node; `labelled`: datasets whose label of Fluid it carries."""
    node = world.nodes[index]
    labels = {
        "kubernetes.io/hostname": node.name,
        ZONE: node.zone,
        REGION: "r",
        RACK: f"r{node.rack}",
    } | {label_of(world.datasets[dataset].name): "true" for dataset in sorted(labelled)}
    room = {"cpu": f"{node.cpu_milli}m", "memory": str(node.memory_bytes), "pods": str(PODS_PER_NODE)}
    if node.gpus:
        room[names.GPU_RESOURCE] = str(node.gpus)
    return Node(
        metadata=ObjectMeta(name=node.name, labels=labels),
        spec=NodeSpec(unschedulable=not is_open),
        status=NodeStatus(allocatable=room),
    )


def dataset_uid(name: str) -> str:
    """A dataset's uid where no API server gives one."""
    return f"u{name}"


def dataset_object(spec: DatasetSpec) -> Dataset:
    """A dataset whose snapshot is listed."""
    return Dataset(
        metadata=ObjectMeta(name=spec.name, namespace=NAMESPACE, uid=dataset_uid(spec.name)),
        status=DatasetStatus(snapshot=DatasetSnapshot(version=1, files=0, bytes=int(spec.size_bytes))),
    )


class CacheTeller:
    """What nodes' caches hold, as NodeCaches. Of hundreds of datasets on a node few change between two reports: only
    those are looked at, the others' objects are those of the last report. A cache is told of by one teller."""

    def __init__(self, world: World, cache: Cache, uids: Mapping[str, str]) -> None:
        """`uids`: of datasets by name, where an API server gave them."""
        self._world, self._cache, self._uids = world, cache, uids
        self._told: list[dict[int, CachedDataset]] = [{} for _ in world.nodes]

    def node_cache(self, index: int) -> NodeCache:
        """What a node's cache holds now."""
        name, cache, told = self._world.nodes[index].name, self._cache, self._told[index]
        for dataset in cache.take_changed(index):
            sizes = cache.told(index, dataset)
            if sizes is None:
                told.pop(dataset, None)
                continue
            resident = {"MEM": int(sizes[0]), "SSD": int(sizes[1])}
            before = told.get(dataset)
            if before is None or before.resident_bytes != resident:
                told[dataset] = self._entry(dataset, resident)
        capacity, used = cache.capacity(index), cache.used(index)
        tiers = [
            CacheTier(medium=medium, capacity=int(capacity[tier]), used=int(used[tier]))
            for tier, medium in enumerate(("MEM", "SSD"))
        ]
        held = [told[dataset] for dataset in sorted(told)]
        status = NodeCacheStatus(worker=CacheWorker(endpoint=f"{name}:1", epoch=1), tiers=tiers, datasets=held)
        return NodeCache(metadata=ObjectMeta(name=name), status=status)

    def _entry(self, dataset: int, resident: dict[str, int]) -> CachedDataset:
        of = self._world.datasets[dataset].name
        uid = self._uids.get(of) or dataset_uid(of)
        return CachedDataset(namespace=NAMESPACE, name=of, uid=uid, snapshot=1, resident_bytes=resident)


def group_object(name: str, pods: int) -> PodGroup:
    """A gang of `pods` pods."""
    meta = ObjectMeta(name=name, namespace=NAMESPACE, uid=f"u{name}")
    return PodGroup(metadata=meta, spec=PodGroupSpec(min_member=pods))


def data_annotations(world: World, spec: JobSpec, checkpoint: Mapping[int, float]) -> dict[str, str]:
    """What a job's pods read; `checkpoint`: bytes of its newest one by node."""
    found = {}
    if spec.dataset is not None:
        asked: JsonObject = {"name": world.datasets[spec.dataset].name}
        if spec.max_wait_seconds:
            asked["maxWaitSeconds"] = spec.max_wait_seconds
        found[names.DATASETS_ANNOTATION] = json.dumps([asked])
    if checkpoint:
        where = {world.nodes[node].name: int(size) for node, size in sorted(checkpoint.items())}
        found[names.CHECKPOINT_NODES_ANNOTATION] = json.dumps(where)
    return found


def pod_spec(spec: JobSpec, scheduler: str, affinity: JsonObject | None = None) -> PodSpec:
    """One of a job's pods."""
    asks = {"cpu": f"{spec.cpu_milli}m", "memory": str(spec.memory_bytes)}
    if spec.gpus:
        asks[names.GPU_RESOURCE] = str(spec.gpus)
    return PodSpec(
        containers=[Container(name="main", resources=ResourceRequirements(requests=asks))],
        scheduler_name=scheduler,
        priority=spec.priority,
        # Jobs here have one priority: nothing could be preempted, and asking each time costs most of a refusal.
        preemption_policy="Never",
        affinity=affinity,
    )
