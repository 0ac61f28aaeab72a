"""The scheduler's core alone, in this process: decisions per second, every node scored.

Owns the synthetic clusters. No API server, no I/O: what is measured is handle + decide. A decision counts
with everything it does in production: the try, taking the room, the decision record and the event's note."""

import time

from api import names
from benchmarks import frame
from kube.gang_objects import PodGroup, PodGroupSpec
from kube.identity import ObjectMeta
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
    NodeStatus,
    Pod,
    PodSpec,
    ResourceRequirements,
)
from scheduler.core.decisions import Bind
from scheduler.core.engine import Engine
from scheduler.core.events import CacheChanged, DatasetChanged, Event, GroupChanged, NodeChanged, PodPending
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.plugins.registry import build
from scheduler.settings import Settings, engine_settings

GOALS = {5000: 8000.0, 15000: 3000.0}
BINDS_A_ROUND = 64
DATASETS, HOLDERS = 50, 4


def core_cases(*, quick: bool) -> list[frame.Case]:
    """Plain pods at two cluster sizes, and one gang of 500."""
    cases = []
    for nodes in (1000, 5000) if quick else (5000, 15000):
        pods = 2000 if quick else 10_000
        frame.progress(f"core: {pods} pods on {nodes} nodes")
        rate = _plain(nodes, pods)
        cases.append(
            frame.Case(f"core-{nodes}-nodes", "decisions/s", [(rate,)], goal=GOALS.get(nodes), note="one thread")
        )
    nodes, pods = (1000, 2000) if quick else (5000, 10_000)
    frame.progress(f"core: {pods} pods with data on {nodes} nodes")
    cases.append(
        frame.Case(
            f"core-data-{nodes}-nodes",
            "decisions/s",
            [(_plain(nodes, pods, with_data=True),)],
            note=f"one thread; each pod asks for a GPU and one of {DATASETS} datasets, each cached on {HOLDERS} nodes",
        )
    )
    nodes, members = (1000, 500) if quick else (5000, 500)
    frame.progress(f"core: a gang of {members} on {nodes} nodes")
    seconds = min(_gang(nodes, members) for _ in range(3))
    cases.append(
        frame.Case(
            f"core-gang-{members}-on-{nodes}",
            "ms",
            [(seconds * 1000,)],
            higher_is_better=False,
            goal=20.0,
            note="placement of the whole gang with its decision records; best of 3",
        )
    )
    return cases


def engine_with_nodes(nodes: int) -> Engine:
    """An engine that knows nodes `node-0` …, each with 96 cores and 8 GPUs."""
    settings = Settings()
    engine = Engine(build(settings), engine_settings(settings))
    room = {"cpu": "96", "memory": "768Gi", "pods": "110", "nvidia.com/gpu": "8"}
    events: list[Event] = [
        NodeChanged(Node(metadata=ObjectMeta(name=f"node-{index}"), status=NodeStatus(allocatable=room)))
        for index in range(nodes)
    ]
    engine.handle(events, 0.0)
    return engine


def plain_pod(index: int, group: str | None = None) -> Pod:
    """A pod of one core and 1 GiB; a gang's member asks for a GPU too."""
    labels = {"scheduling.x-k8s.io/pod-group": group} if group else {}
    requests = {"cpu": "1", "memory": "1Gi"} | ({"nvidia.com/gpu": "1"} if group else {})
    return Pod(
        metadata=ObjectMeta(name=f"pod-{index}", namespace="default", uid=f"uid-{index}", labels=labels),
        spec=PodSpec(containers=[Container(name="main", resources=ResourceRequirements(requests=requests))]),
    )


def data_events(nodes: int) -> list[Event]:
    """Datasets of 100 GB, each wholly on some nodes."""
    size = 100 * 10**9
    events: list[Event] = []
    held: dict[int, list[CachedDataset]] = {}
    for number in range(DATASETS):
        name = f"data-{number}"
        metadata = ObjectMeta(name=name, namespace="default", uid=f"uid-{name}")
        snapshot = DatasetSnapshot(version=1, files=1000, bytes=size)
        events.append(DatasetChanged(Dataset(metadata=metadata, status=DatasetStatus(snapshot=snapshot))))
        cached = CachedDataset(
            namespace="default", name=name, uid=metadata.uid, snapshot=1, resident_bytes={"SSD": size}
        )
        for copy in range(HOLDERS):
            held.setdefault((number * 7 + copy * nodes // HOLDERS) % nodes, []).append(cached)
    for row, datasets in held.items():
        status = NodeCacheStatus(
            worker=CacheWorker(endpoint=f"node-{row}:1", epoch=1),
            tiers=[CacheTier(medium="SSD", capacity=2 * 10**12, used=size * len(datasets))],
            datasets=datasets,
        )
        events.append(CacheChanged(NodeCache(metadata=ObjectMeta(name=f"node-{row}"), status=status)))
    return events


def _plain(nodes: int, pods: int, *, with_data: bool = False) -> float:
    engine, shapes = engine_with_nodes(nodes), ShapeCache()
    made = [plain_pod(index) for index in range(pods)]
    if with_data:
        engine.handle(data_events(nodes), 0.0)
        for index, pod in enumerate(made):
            pod.spec.containers[0].resources.requests[names.GPU_RESOURCE] = "1"
            pod.metadata.annotations[names.DATASETS_ANNOTATION] = f'[{{"name":"data-{index % DATASETS}"}}]'
    engine.handle([PodPending(pod_request(pod, shapes)) for pod in made], 0.0)
    started, decided = time.perf_counter(), 0
    while decided < pods:
        decided += len(engine.decide(0.0, BINDS_A_ROUND))
    return decided / (time.perf_counter() - started)


def _gang(nodes: int, members: int) -> float:
    engine, shapes = engine_with_nodes(nodes), ShapeCache()
    group = PodGroup(metadata=ObjectMeta(name="g", namespace="default"), spec=PodGroupSpec(min_member=members))
    events: list[Event] = [GroupChanged(group)]
    events += [PodPending(pod_request(plain_pod(index, "g"), shapes)) for index in range(members)]
    engine.handle(events, 0.0)
    started = time.perf_counter()
    binds = engine.decide(0.0, BINDS_A_ROUND)
    seconds = time.perf_counter() - started
    assert sum(isinstance(decision, Bind) for decision in binds) == members
    return seconds
