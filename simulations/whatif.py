"""What if: a live cluster as a world, and the same cluster changed. Pure: objects in, worlds out.

Owns how objects become a world. What no object says is assumed and told: run times, reading speeds, links. Pods that
run keep their room for good, since nobody knows when they end; what is asked is where the waiting jobs go.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from api import names
from api.quantities import to_int, to_milli
from kube.objects import Dataset, Node, NodeCache, Pod
from scheduler.core.data_request import BadDataRequest, parse_datasets
from simulations.engine.model import DatasetSpec, JobSpec, NodeSpec, Speeds, World
from simulations.engine.objects import RACK
from simulations.engine.simulation import Simulation
from simulations.engine.webhook import ZONE
from simulations.errors import ScenarioError
from simulations.kwok.invariants import is_over, requests
from simulations.policies.registry import POLICIES
from simulations.run import Result, Step, teller
from simulations.scenarios.schema import Cluster, NodePool, Scenario

AS_IT_IS = "as it is"


@dataclass(frozen=True, slots=True)
class Live:
    """What was read of a cluster."""

    nodes: Sequence[Node] = ()
    caches: Sequence[NodeCache] = ()
    datasets: Sequence[Dataset] = ()
    pods: Sequence[Pod] = ()


@dataclass(frozen=True, slots=True)
class Assumed:
    """What no object says. Seconds, and bytes a second."""

    compute_seconds: float = 3600.0
    read_speed_per_gpu: float = 100e6
    speeds: Speeds = field(default_factory=Speeds)


def world_of(live: Live, assumed: Assumed) -> tuple[World, tuple[str, ...]]:
    """The cluster as a world, and sentences about what was assumed or left out. Raises ScenarioError when there is
    nothing to ask about."""
    sizes = {
        (item.metadata.namespace, item.metadata.name): item.status.snapshot.bytes
        for item in live.datasets
        if item.status.snapshot is not None and item.status.snapshot.bytes > 0
    }
    number = {key: index for index, key in enumerate(sorted(sizes))}
    nodes = _nodes(live)
    jobs = _jobs(live, assumed, number, sizes)
    if not nodes or not jobs:
        missing = "nodes" if not nodes else "waiting pods"
        raise ScenarioError(f"the cluster has no {missing}; there is nothing to ask about")
    row = {node.name: index for index, node in enumerate(nodes)}
    resident: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for cache in live.caches:
        if cache.metadata.name not in row or cache.status.worker is None:
            continue
        for held in cache.status.datasets:
            key = (held.namespace, held.name)
            size = float(sum(held.resident_bytes.values()))
            if key in number and size > 0:
                resident[number[key]][row[cache.metadata.name]] = min(size, float(sizes[key]))
    datasets = tuple(DatasetSpec("-".join(key), float(sizes[key]), resident[index]) for key, index in number.items())
    notes = (
        f"{len(nodes)} nodes, {len(datasets)} datasets, {len(jobs)} waiting jobs of {sum(job.pods for job in jobs)} "
        "pods.",
        f"Assumed: a job runs {assumed.compute_seconds:,.0f} s and reads {assumed.read_speed_per_gpu / 1e6:,.0f} MB/s "
        "a GPU when its data comes at once; pods that run now stay; a job reads the largest of its datasets.",
    )
    world = World("whatif", nodes, datasets, jobs, assumed.speeds, end_spread_seconds=0.5)
    return world, notes


def with_cache_nodes(world: World, count: int) -> World:
    """`count` more nodes that only cache: each as much as the largest cache there is, in the racks in turn."""
    largest = max(world.nodes, key=lambda node: node.mem_bytes + node.ssd_bytes)
    racks = sorted({node.rack: node.zone for node in world.nodes}.items())
    added = []
    for index in range(count):
        rack, zone = racks[index % len(racks)]
        name = f"added-{index}"
        added.append(replace(largest, name=name, gpus=0, cpu_milli=0, memory_bytes=0, rack=rack, zone=zone))
    return replace(world, nodes=(*world.nodes, *added))


def with_ssd(world: World, factor: float) -> World:
    """Every cache's SSD tier `factor` times as large."""
    return replace(world, nodes=tuple(replace(node, ssd_bytes=node.ssd_bytes * factor) for node in world.nodes))


def cordoned(live: Live, label: str) -> Live:
    """Nodes with this KEY=VALUE take no more pods; what they cache still serves. Raises ScenarioError."""
    key, _, value = label.partition("=")
    hit = [node for node in live.nodes if value and node.metadata.labels.get(key) == value]
    if not hit:
        raise ScenarioError(f"--cordon {label!r}: no node has this label; give KEY=VALUE, as {RACK}=r1")
    gone = {node.metadata.name for node in hit}
    closed = tuple(
        structs.replace(node, spec=structs.replace(node.spec, unschedulable=True))
        if node.metadata.name in gone
        else node
        for node in live.nodes
    )
    return replace(live, nodes=closed)


@dataclass(frozen=True, slots=True)
class Questions:
    """What is to be changed, each by itself: cache nodes added, SSD tiers multiplied, labels of nodes cordoned."""

    cache_nodes: tuple[int, ...] = ()
    ssd_factors: tuple[float, ...] = ()
    cordons: tuple[str, ...] = ()


def ask(
    live: Live, assumed: Assumed, questions: Questions, *, progress: Callable[[Step], None] | None = None
) -> Result:
    """The waiting jobs under Headrace's scheduler, in the cluster as it is and in each changed one."""
    world, notes = world_of(live, assumed)
    worlds = {AS_IT_IS: world}
    worlds |= {f"+{count} cache nodes": with_cache_nodes(world, count) for count in questions.cache_nodes}
    worlds |= {f"SSD × {factor:g}": with_ssd(world, factor) for factor in questions.ssd_factors}
    worlds |= {f"without {label}": world_of(cordoned(live, label), assumed)[0] for label in questions.cordons}
    policy = POLICIES["headrace"]
    started = time.monotonic()
    runs, walls = {}, {}
    for done, (name, changed) in enumerate(worlds.items()):
        began = time.monotonic()
        runs[name] = [Simulation(changed, policy).run(teller(name, done, len(worlds), started, progress))]
        walls[name] = time.monotonic() - began
    scenario = Scenario(
        name="whatif",
        question="Where would the pods that wait now go, and how soon would their jobs be done?",
        cluster=Cluster(pools=(NodePool(count=len(world.nodes)),)),
        seeds=1,
    )
    return Result(scenario, (), runs, walls, dict.fromkeys(runs, policy.about), notes)


def _nodes(live: Live) -> tuple[NodeSpec, ...]:
    taken: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for pod in live.pods:
        if pod.spec.node_name and not is_over(pod, is_gone=False):
            for resource, amount in requests(pod).items():
                taken[pod.spec.node_name][resource] += amount
    tiers: dict[str, dict[str, int]] = {
        cache.metadata.name: {tier.medium: tier.capacity for tier in cache.status.tiers}
        for cache in live.caches
        if cache.status.worker is not None
    }
    racks: dict[tuple[str, str], int] = {}
    found = []
    for node in sorted(live.nodes, key=lambda node: node.metadata.name):
        name, labels, room = node.metadata.name, node.metadata.labels, node.status.allocatable
        is_closed = node.spec.unschedulable or any(taint.effect != "PreferNoSchedule" for taint in node.spec.taints)
        zone = labels.get(ZONE, "")
        rack = racks.setdefault((zone, labels.get(RACK, "")), len(racks))

        def free(resource: str, amount: int, name: str = name, is_closed: bool = is_closed) -> int:
            return 0 if is_closed else max(0, amount - taken[name][resource])

        cached = tiers.get(name, {})
        found.append(
            NodeSpec(
                name,
                gpus=free(names.GPU_RESOURCE, to_int(room.get(names.GPU_RESOURCE, "0"))),
                cpu_milli=free("cpu", to_milli(room.get("cpu", "0"))),
                memory_bytes=free("memory", to_int(room.get("memory", "0"))),
                rack=rack,
                zone=zone or "a",
                mem_bytes=float(cached.get("MEM", 0)),
                ssd_bytes=float(cached.get("SSD", 0) + cached.get("HDD", 0)),
            )
        )
    return tuple(found)


def _jobs(
    live: Live, assumed: Assumed, number: dict[tuple[str, str], int], sizes: dict[tuple[str, str], int]
) -> tuple[JobSpec, ...]:
    waiting: defaultdict[str, list[Pod]] = defaultdict(list)
    for pod in live.pods:
        if pod.spec.node_name or is_over(pod, is_gone=False) or pod.metadata.deletion_timestamp:
            continue
        group = pod.metadata.labels.get(names.POD_GROUP_LABEL)
        waiting[f"{pod.metadata.namespace}/{group or pod.metadata.name}"].append(pod)
    found = []
    for name, pods in sorted(waiting.items()):
        asks = [requests(pod) for pod in pods]
        # Pods of a job are equal in this model: each takes what the largest does.
        most = {resource: max(item.get(resource, 0) for item in asks) for item in asks for resource in item}
        gpus = most.get(names.GPU_RESOURCE, 0)
        read = max((key for pod in pods for key in _reads(pod) if key in number), key=sizes.__getitem__, default=None)
        amount = max(1, gpus * len(pods)) * assumed.read_speed_per_gpu * assumed.compute_seconds
        found.append(
            JobSpec(
                name,
                0.0,
                len(pods),
                gpus,
                most.get("cpu", 0),
                most.get("memory", 0),
                assumed.compute_seconds,
                dataset=None if read is None else number[read],
                epochs=1.0 if read is None else amount / sizes[read],
                user=pods[0].metadata.namespace,
            )
        )
    return tuple(found)


def _reads(pod: Pod) -> list[tuple[str, str]]:
    """Datasets a pod names; an annotation that cannot be read names none, as the scheduler refuses such a pod."""
    namespace = pod.metadata.namespace
    claims = [item.persistent_volume_claim for item in pod.spec.volumes]
    found = [(namespace, claim.claim_name) for claim in claims if claim is not None]
    text = pod.metadata.annotations.get(names.DATASETS_ANNOTATION)
    if text:
        try:
            found += [request.key for request in parse_datasets(text, namespace)]
        except BadDataRequest:
            return found
    return found
