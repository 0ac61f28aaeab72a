"""The scheduler's real core, fed with simulated events: objects in, binds out.

Owns the translation between numbers of the simulation and objects of Kubernetes, and Permit's waiting. Decides
nothing. Uids are `job.attempt.pod`; nodes and datasets keep their names.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from api import names
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
    NodeSpec,
    NodeStatus,
    Pod,
    PodSpec,
    ResourceRequirements,
)
from scheduler.core import events
from scheduler.core.decisions import Bind, DeletePod, Preempt
from scheduler.core.engine import Engine
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.core.queue import Pool
from scheduler.settings import Settings, Speeds, engine_settings
from simulations.engine.cache import Cache
from simulations.engine.ledger import PODS_PER_NODE
from simulations.engine.model import JobSpec, World
from simulations.engine.policy import Gangs, Policy

NAMESPACE = "default"
PERMIT_SECONDS = 60.0
ZONE, REGION, RACK = "topology.kubernetes.io/zone", "topology.kubernetes.io/region", "topology.headrace.dev/rack"
TURN_BINDS = 4096


def label_of(dataset: str) -> str:
    """Fluid's node label of a dataset's workers."""
    return f"fluid.io/s-{NAMESPACE}-{dataset}"


@dataclass(slots=True)
class Attempt:
    """One start of a job: its pods, and where they are to go."""

    job: int
    number: int
    spec: JobSpec
    node_of: dict[str, int] = field(default_factory=dict)  # bound pods
    permits: dict[str, int] = field(default_factory=dict)  # placed, waiting for the others

    @property
    def uids(self) -> list[str]:
        """Its pods."""
        return [f"{self.job}.{self.number}.{pod}" for pod in range(self.spec.pods)]

    @property
    def group(self) -> str:
        """Its PodGroup's name."""
        return f"g{self.job}-{self.number}"


class CoreDriver:
    """See the module's docstring."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        cache: Cache,
        random: Random,
        *,
        workers: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """`workers`: nodes with a fixed worker of a dataset, by dataset: those carry its label, whatever they hold."""
        self._world, self._policy, self._cache = world, policy, cache
        speeds = world.speeds
        settings = Settings(
            speeds=Speeds(
                mem_bytes_per_second=speeds.mem,
                ssd_bytes_per_second=speeds.ssd,
                network_bytes_per_second=min(speeds.nic, speeds.peer_stream),
                # One pod's share when every fourth node reads at once.
                origin_bytes_per_second=min(speeds.origin_stream, speeds.origin * 4 / max(4, len(world.nodes))),
            ),
            # Nothing changes behind the core's back here, so a flush could only repeat a refusal.
            flush_seconds=6 * 3600.0,
        )
        self.engine = Engine(policy.plugins(settings), engine_settings(settings))
        if policy.prepare is not None:
            policy.prepare(self.engine, random)
        self._shapes = ShapeCache()
        self._inbox: list[events.Event] = []
        self._attempts: dict[str, Attempt] = {}
        self._number = {node.name: index for index, node in enumerate(world.nodes)}
        self._labels: list[set[int]] = [set() for _ in world.nodes]
        self._is_up = [True] * len(world.nodes)
        self._is_open = [True] * len(world.nodes)
        self._workers = workers
        for dataset, holders in enumerate(workers):
            for index in holders:
                self._labels[index].add(dataset)
        for index in range(len(world.nodes)):
            self._tell_node(index)
        if policy.names_data:
            self._inbox += [events.DatasetChanged(_dataset(item.name, item.size_bytes)) for item in world.datasets]

    # ---- events -----------------------------------------------------------------------------

    def submit(self, attempt: Attempt, now: float, checkpoint: dict[int, float]) -> None:
        """The pods of an attempt exist; `checkpoint`: bytes of it by node."""
        is_gang = self._policy.gangs is Gangs.WHOLE and attempt.spec.pods > 1
        if is_gang:
            meta = ObjectMeta(name=attempt.group, namespace=NAMESPACE, uid=f"u{attempt.group}")
            self._inbox.append(
                events.GroupChanged(PodGroup(metadata=meta, spec=PodGroupSpec(min_member=attempt.spec.pods)))
            )
        labels = {names.POD_GROUP_LABEL: attempt.group} if is_gang else {}
        annotations = self._annotations(attempt.spec, checkpoint)
        spec = self._pod_spec(attempt.spec)
        for uid in attempt.uids:
            self._attempts[uid] = attempt
            meta = ObjectMeta(name=f"p{uid}", namespace=NAMESPACE, uid=uid, labels=labels, annotations=annotations)
            self._inbox.append(events.PodPending(pod_request(Pod(metadata=meta, spec=spec), self._shapes, now)))

    def ended(self, attempt: Attempt) -> None:
        """All pods of an attempt are gone, bound or not."""
        if self._policy.gangs is Gangs.WHOLE and attempt.spec.pods > 1:
            self._inbox.append(events.GroupGone(NAMESPACE, attempt.group))
        for uid in attempt.uids:
            del self._attempts[uid]
            self._inbox.append(events.PodGone(uid))
        attempt.permits.clear()

    def node(self, index: int, *, is_up: bool, is_open: bool) -> None:
        """A node came, went, or was cordoned. Its pods are to be ended before it goes."""
        was_up, self._is_up[index], self._is_open[index] = self._is_up[index], is_up, is_open
        if is_up:
            self._tell_node(index)
        elif was_up:
            self._inbox.append(events.NodeGone(self._world.nodes[index].name))
            self._inbox.append(events.CacheGone(self._world.nodes[index].name))

    def report(self, nodes: Iterable[int]) -> None:
        """What these nodes' caches hold now."""
        for index in sorted(nodes):
            if self._policy.names_data:
                self._inbox.append(events.CacheChanged(self._node_cache(index)))
            if self._policy.labels_data and not self._workers:
                labels = set(self._cache.held(index))
                if labels != self._labels[index]:
                    self._labels[index] = labels
                    if self._is_up[index]:
                        self._tell_node(index)

    def permit_is_over(self, attempt: Attempt) -> None:
        """Those placed waited long enough for the others: all give their room back."""
        for uid, node in attempt.permits.items():
            cause = "the gang was not complete in time"
            self._inbox.append(events.BindFailed(uid, self._world.nodes[node].name, cause))
        attempt.permits.clear()

    # ---- decisions --------------------------------------------------------------------------

    def turn(self, now: float) -> list[tuple[str, int, Attempt]]:
        """Apply events and decide until nothing more can be placed; returns binds as (uid, node, attempt)."""
        bound: list[tuple[str, int, Attempt]] = []
        engine = self.engine
        while True:
            inbox, self._inbox = self._inbox, []
            made = engine.handle(inbox, now)
            made += engine.decide(now, TURN_BINDS)
            for decision in made:
                if isinstance(decision, Bind):
                    bound += self._take(decision)
                elif isinstance(decision, Preempt | DeletePod):
                    raise NotImplementedError(f"at {now:.1f} s the core wants {decision}; jobs here have one priority")
            if not self._inbox and not engine.has_work:
                return bound

    def _take(self, bind: Bind) -> list[tuple[str, int, Attempt]]:
        attempt, node = self._attempts[bind.uid], self._number[bind.node]
        if self._policy.gangs is not Gangs.PERMIT or attempt.spec.pods == 1:
            self._confirm(bind.uid, node, attempt)
            return [(bind.uid, node, attempt)]
        attempt.permits[bind.uid] = node
        if len(attempt.permits) < attempt.spec.pods:
            return []
        placed = list(attempt.permits.items())
        attempt.permits.clear()
        for uid, where in placed:
            self._confirm(uid, where, attempt)
        return [(uid, where, attempt) for uid, where in placed]

    def _confirm(self, uid: str, node: int, attempt: Attempt) -> None:
        held = self.engine.state.assigned.get(uid)
        assert held is not None, f"pod {uid} was decided but holds no room"
        attempt.node_of[uid] = node
        group = held.facts.group
        self._inbox.append(events.BindConfirmed(uid, self._world.nodes[node].name))
        self._inbox.append(events.PodAssigned(held, group=group, is_ours=True, is_running=True))

    def next_due(self) -> float:
        """When the core has something to do without an event."""
        return self.engine.next_due()

    @property
    def has_news(self) -> bool:
        """Whether events wait for the next turn."""
        return bool(self._inbox)

    def reason_of(self, attempt: Attempt) -> tuple[str, bool]:
        """What the first pending pod of an attempt was told, and whether it rests (is not about to be tried)."""
        for uid in attempt.uids:
            pending = self.engine.state.pods.get(uid)
            if pending is not None and not pending.node:
                gang = self.engine.state.gangs.of_member(uid)
                pool = self.engine.state.queue.pool_of(gang.unit if gang is not None else uid)
                return pending.told, pool is Pool.UNSCHEDULABLE
        return "", False

    # ---- objects ----------------------------------------------------------------------------

    def _tell_node(self, index: int) -> None:
        node = self._world.nodes[index]
        labels = {
            "kubernetes.io/hostname": node.name,
            ZONE: node.zone,
            REGION: "r",
            RACK: f"r{node.rack}",
        } | {label_of(self._world.datasets[dataset].name): "true" for dataset in sorted(self._labels[index])}
        room = {"cpu": f"{node.cpu_milli}m", "memory": str(node.memory_bytes), "pods": str(PODS_PER_NODE)}
        if node.gpus:
            room[names.GPU_RESOURCE] = str(node.gpus)
        self._inbox.append(
            events.NodeChanged(
                Node(
                    metadata=ObjectMeta(name=node.name, labels=labels),
                    spec=NodeSpec(unschedulable=not self._is_open[index]),
                    status=NodeStatus(allocatable=room),
                )
            )
        )

    def _node_cache(self, index: int) -> NodeCache:
        name = self._world.nodes[index].name
        held = [
            CachedDataset(
                namespace=NAMESPACE,
                name=self._world.datasets[dataset].name,
                uid=f"u{self._world.datasets[dataset].name}",
                snapshot=1,
                resident_bytes={"MEM": int(sizes[0]), "SSD": int(sizes[1])},
            )
            for dataset, sizes in sorted(self._cache.held(index).items())
        ]
        capacity, used = self._cache.capacity(index), self._cache.used(index)
        tiers = [
            CacheTier(medium=medium, capacity=int(capacity[tier]), used=int(used[tier]))
            for tier, medium in enumerate(("MEM", "SSD"))
        ]
        return NodeCache(
            metadata=ObjectMeta(name=name),
            status=NodeCacheStatus(worker=CacheWorker(endpoint=f"{name}:1", epoch=1), tiers=tiers, datasets=held),
        )

    def _annotations(self, spec: JobSpec, checkpoint: dict[int, float]) -> dict[str, str]:
        if not self._policy.names_data:
            return {}
        found = {}
        if spec.dataset is not None:
            asked: dict[str, object] = {"name": self._world.datasets[spec.dataset].name}
            if spec.max_wait_seconds:
                asked["maxWaitSeconds"] = spec.max_wait_seconds
            found[names.DATASETS_ANNOTATION] = json.dumps([asked])
        if checkpoint:
            where = {self._world.nodes[node].name: int(size) for node, size in sorted(checkpoint.items())}
            found[names.CHECKPOINT_NODES_ANNOTATION] = json.dumps(where)
        return found

    def _pod_spec(self, spec: JobSpec) -> PodSpec:
        asks = {"cpu": f"{spec.cpu_milli}m", "memory": str(spec.memory_bytes)}
        if spec.gpus:
            asks[names.GPU_RESOURCE] = str(spec.gpus)
        return PodSpec(
            containers=[Container(name="main", resources=ResourceRequirements(requests=asks))],
            scheduler_name=names.DEFAULT_SCHEDULER_NAME,
            priority=spec.priority,
            # Jobs here have one priority: nothing could be preempted, and asking each time costs most of a refusal.
            preemption_policy="Never",
            affinity=self._injected(spec) if self._policy.labels_data else None,
        )

    def _injected(self, spec: JobSpec) -> dict[str, object] | None:
        """What Fluid's webhook adds at admission: the node term by label, zones and region as they are now."""
        if spec.dataset is None:
            return None
        terms: list[dict[str, object]] = [_term(100, label_of(self._world.datasets[spec.dataset].name), ["true"])]
        workers = self._workers[spec.dataset] if self._workers else self._cache.holders[spec.dataset]
        zones = sorted({self._world.nodes[node].zone for node in workers})
        if zones:
            terms += [_term(50, ZONE, zones), _term(20, REGION, ["r"])]
        return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def _term(weight: int, key: str, values: list[str]) -> dict[str, object]:
    return {
        "weight": weight,
        "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": values}]},
    }


def _dataset(name: str, size_bytes: float) -> Dataset:
    return Dataset(
        metadata=ObjectMeta(name=name, namespace=NAMESPACE, uid=f"u{name}"),
        status=DatasetStatus(snapshot=DatasetSnapshot(version=1, files=0, bytes=int(size_bytes))),
    )
