"""Nodes, pods, gangs and caches for the scheduler's tests: a case shows only what matters to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from api import names
from api.conditions import timestamp
from kube.gang_objects import PodGroup, PodGroupSpec
from kube.identity import ObjectMeta
from kube.objects import (
    CachedDataset,
    CacheRate,
    CacheTier,
    CacheWorker,
    Condition,
    Container,
    ContainerPort,
    Dataset,
    DatasetSnapshot,
    DatasetStatus,
    DisruptionBudgetSpec,
    DisruptionBudgetStatus,
    Node,
    NodeCache,
    NodeCacheStatus,
    NodeSpec,
    NodeStatus,
    Pod,
    PodDisruptionBudget,
    PodSpec,
    PodStatus,
    ResourceRequirements,
    SchedulingGate,
    Taint,
    Toleration,
    Volume,
)
from scheduler.core.decisions import Bind, Decision, Explain
from scheduler.core.engine import Engine
from scheduler.core.engine_state import EngineSettings
from scheduler.core.events import (
    BudgetChanged,
    CacheChanged,
    DatasetChanged,
    Event,
    GroupChanged,
    NodeChanged,
)
from scheduler.core.residency_table import ReadSpeeds
from scheduler.plugins.registry import build
from scheduler.settings import Settings
from scheduler.shell.translate import PodTranslator

MIB = 1 << 20
SPEEDS = ReadSpeeds(mem=1000 * MIB, ssd=500 * MIB, hdd=100 * MIB, network=200 * MIB, origin=10 * MIB)


def a_node(
    name: str,
    *,
    cpu: str = "8",
    memory: str = "32Gi",
    gpus: int = 0,
    pods: str = "110",
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Taint] = (),
    unschedulable: bool = False,
    **more: str,
) -> Node:
    allocatable = {"cpu": cpu, "memory": memory, "pods": pods, "ephemeral-storage": "100Gi"}
    if gpus:
        allocatable[names.GPU_RESOURCE] = str(gpus)
    allocatable |= {key.replace("__", "/"): value for key, value in more.items()}
    return Node(
        metadata=ObjectMeta(name=name, labels={"kubernetes.io/hostname": name, **(labels or {})}),
        spec=NodeSpec(taints=list(taints), unschedulable=unschedulable),
        status=NodeStatus(allocatable=allocatable),
    )


@dataclass(frozen=True)
class PodBuilder:
    """`a_pod("p").asks(cpu="1").gpus(2).build()`; every method returns a new builder."""

    name: str
    uid: str
    namespace: str = "default"
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "1", "memory": "1Gi"})
    spec: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[ContainerPort, ...] = ()
    phase: str = "Pending"
    deleted: bool = False
    conditions: tuple[Condition, ...] = ()
    scheduler: str = names.DEFAULT_SCHEDULER_NAME
    started_at: str | None = None
    nominated: str = ""

    def asks(self, **requests: str) -> "PodBuilder":
        return replace(self, requests=requests)

    def gpus(self, count: int) -> "PodBuilder":
        return replace(self, requests={**self.requests, names.GPU_RESOURCE: str(count)})

    def with_spec(self, **fields: Any) -> "PodBuilder":
        return replace(self, spec={**self.spec, **fields})

    def labelled(self, **labels: str) -> "PodBuilder":
        return replace(self, labels={**self.labels, **labels})

    def annotated(self, key: str, value: str) -> "PodBuilder":
        return replace(self, annotations={**self.annotations, key: value})

    def in_gang(self, group: str) -> "PodBuilder":
        return replace(self, labels={**self.labels, names.POD_GROUP_LABEL: group})

    def reads(self, datasets_json: str) -> "PodBuilder":
        return self.annotated(names.DATASETS_ANNOTATION, datasets_json)

    def priority(self, value: int) -> "PodBuilder":
        return self.with_spec(priority=value)

    def gated(self, *gates: str) -> "PodBuilder":
        return self.with_spec(scheduling_gates=[SchedulingGate(name=gate) for gate in gates])

    def tolerating(self, *tolerations: Toleration) -> "PodBuilder":
        return self.with_spec(tolerations=list(tolerations))

    def with_volumes(self, *volumes: Volume) -> "PodBuilder":
        return self.with_spec(volumes=list(volumes))

    def host_port(self, port: int, ip: str = "") -> "PodBuilder":
        return replace(self, ports=(*self.ports, ContainerPort(container_port=port, host_port=port, host_ip=ip)))

    def on(self, node: str, phase: str = "Running") -> "PodBuilder":
        return replace(self.with_spec(node_name=node), phase=phase)

    def started(self, seconds: int) -> "PodBuilder":
        return replace(self, started_at=timestamp(seconds))

    def nominated_to(self, node: str) -> "PodBuilder":
        return replace(self, nominated=node)

    def with_condition(self, kind: str, status: str, reason: str) -> "PodBuilder":
        return replace(self, conditions=(*self.conditions, Condition(type=kind, status=status, reason=reason)))

    def being_preempted(self) -> "PodBuilder":
        return self.being_deleted().with_condition("DisruptionTarget", "True", "PreemptionByScheduler")

    def scheduled_by(self, name: str) -> "PodBuilder":
        return replace(self, scheduler=name)

    def being_deleted(self) -> "PodBuilder":
        return replace(self, deleted=True)

    def finished(self, phase: str = "Succeeded") -> "PodBuilder":
        return replace(self, phase=phase)

    def build(self) -> Pod:
        container = Container(
            name="main", resources=ResourceRequirements(requests=dict(self.requests)), ports=list(self.ports)
        )
        return Pod(
            metadata=ObjectMeta(
                name=self.name,
                namespace=self.namespace,
                uid=self.uid,
                labels=dict(self.labels),
                annotations=dict(self.annotations),
                creation_timestamp="1970-01-01T00:00:00Z",
                deletion_timestamp="1970-01-01T00:00:00Z" if self.deleted else None,
            ),
            spec=PodSpec(**{"containers": [container], "scheduler_name": self.scheduler, **self.spec}),
            status=PodStatus(
                phase=self.phase,
                conditions=list(self.conditions),
                start_time=self.started_at,
                nominated_node_name=self.nominated,
            ),
        )


def a_pod(name: str, uid: str | None = None, namespace: str = "default") -> PodBuilder:
    return PodBuilder(name, uid or f"uid-{name}", namespace)


def a_group(name: str, min_member: int, *, phase: str = "", namespace: str = "default") -> PodGroup:
    from kube.gang_objects import PodGroupStatus

    return PodGroup(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=f"uid-group-{name}"),
        spec=PodGroupSpec(min_member=min_member),
        status=PodGroupStatus(phase=phase),
    )


def a_dataset(
    name: str,
    size_bytes: int,
    *,
    version: int = 1,
    namespace: str = "default",
    uid: str = "",
    files: int = 0,
    groups: Mapping[str, int] | None = None,
) -> Dataset:
    return Dataset(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=uid or f"uid-{name}"),
        status=DatasetStatus(
            snapshot=DatasetSnapshot(version=version, files=files, bytes=size_bytes, groups=dict(groups or {}))
        ),
    )


def a_cache(
    node: str,
    *,
    mem: Mapping[str, int] | None = None,
    ssd: Mapping[str, int] | None = None,
    speeds: Mapping[str, int] | None = None,
    network: int = 0,
    origin: int = 0,
    serving: bool = True,
    version: int = 1,
    groups: Mapping[str, int] | None = None,
    room: int = 0,
) -> NodeCache:
    """`mem` and `ssd` map dataset names (namespace default) to resident bytes; `groups` is of each of them; `room` is
    free in the SSD tier."""
    held: dict[str, dict[str, int]] = {}
    for medium, sizes in (("MEM", mem or {}), ("SSD", ssd or {})):
        for name, size in sizes.items():
            held.setdefault(name, {})[medium] = size
    return NodeCache(
        metadata=ObjectMeta(name=node),
        status=NodeCacheStatus(
            worker=CacheWorker(endpoint=f"{node}:1", epoch=1) if serving else None,
            tiers=[
                *(CacheTier(medium=medium, read_bytes_per_second=value) for medium, value in (speeds or {}).items()),
                CacheTier(medium="SSD", capacity=room + sum((ssd or {}).values()), used=sum((ssd or {}).values())),
            ],
            network=CacheRate(read_bytes_per_second=network),
            origin=CacheRate(read_bytes_per_second=origin),
            datasets=[
                CachedDataset(
                    namespace="default",
                    name=name,
                    uid=f"uid-{name}",
                    snapshot=version,
                    resident_bytes=sizes,
                    groups=dict(groups) if groups is not None else None,
                )
                for name, sizes in held.items()
            ],
        ),
    )


def a_budget(name: str, allowed: int, *, namespace: str = "default", **labels: str) -> PodDisruptionBudget:
    """A budget for pods with these labels; `disrupted` names pods the API server let go already."""
    return PodDisruptionBudget(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=f"uid-budget-{name}"),
        spec=DisruptionBudgetSpec(selector={"matchLabels": labels}),
        status=DisruptionBudgetStatus(disruptions_allowed=allowed),
    )


def _engine_settings(topology_keys: tuple[str, ...], more: Mapping[str, Any]) -> EngineSettings:
    return replace(EngineSettings(SPEEDS, topology_keys=topology_keys), **more)


class World:
    """An engine with a clock and short ways to feed it; decisions of both verbs are collected."""

    def __init__(
        self, settings: Settings | None = None, topology_keys: tuple[str, ...] = (), **engine_settings: Any
    ) -> None:
        self.now = 0.0
        self.engine = Engine(build(settings or Settings()), _engine_settings(topology_keys, engine_settings))
        self.translator = PodTranslator((settings or Settings()).scheduler_names, 0.0)
        self.made: list[Decision] = []

    def feed(self, *events: Event) -> list[Decision]:
        made = self.engine.handle(events, self.now)
        self.made += made
        return made

    def nodes(self, *nodes: Node) -> None:
        self.feed(*(NodeChanged(node) for node in nodes))

    def pods(self, *pods: PodBuilder) -> list[Decision]:
        events = (self.translator.event(pod.build()) for pod in pods)
        return self.feed(*(event for event in events if event is not None))

    def groups(self, *groups: PodGroup) -> None:
        self.feed(*(GroupChanged(group) for group in groups))

    def budgets(self, *budgets: PodDisruptionBudget) -> None:
        self.feed(*(BudgetChanged(budget) for budget in budgets))

    def datasets(self, *datasets: Dataset) -> None:
        self.feed(*(DatasetChanged(dataset) for dataset in datasets))

    def caches(self, *caches: NodeCache) -> None:
        self.feed(*(CacheChanged(cache) for cache in caches))

    def decide(self, limit: int = 1000) -> list[Decision]:
        made = self.engine.decide(self.now, limit)
        self.made += made
        return made

    def binds(self, limit: int = 1000) -> dict[str, str]:
        """Decide; pod name -> node."""
        return {decision.name: decision.node for decision in self.decide(limit) if isinstance(decision, Bind)}

    def message(self) -> str:
        """Decide; the one message it gave."""
        messages = {decision.message for decision in self.decide() if isinstance(decision, Explain)}
        assert len(messages) == 1, messages
        return messages.pop()

    def tick(self, seconds: float) -> list[Decision]:
        self.now += seconds
        return self.feed()
