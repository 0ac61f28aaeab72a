"""Whoever is left asleep could not be placed: random histories, and an engine that starts with the same cluster agrees.

Unlike test_scheduler_room_hints.py with all that can happen: nodes, pods, gangs, claims, caches, foreign pods, refused
binds, evictions, and another leader for a while. No five-minute flush, which would wake everybody.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import msgspec
import pytest

from api import names
from kube.gang_objects import PodGroup, PodGroupSpec
from kube.identity import ObjectMeta
from kube.objects import (
    Node,
    NodeCache,
    PersistentVolumeClaimSource,
    Taint,
    Toleration,
    TopologySpreadConstraint,
    Volume,
)
from kube.storage_objects import (
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
)
from scheduler.core.decisions import Bind, DeletePod, Nominate, Preempt
from scheduler.core.events import (
    BindConfirmed,
    BindFailed,
    NamespaceChanged,
    NodeGone,
    PodGone,
    PreemptionEnded,
    StorageChanged,
)
from scheduler.core.queue import Pool
from scheduler.core.volume_table import BOUND_ANNOTATION
from tests.builders.scheduler_objects import MIB, PodBuilder, World, a_cache, a_dataset, a_group, a_node, a_pod

ZONE, RACK = "topology.kubernetes.io/zone", "topology.headrace.dev/rack"
HOST = "kubernetes.io/hostname"
GROUP = names.POD_GROUP_LABEL
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ROUNDS = 60


def _cpu(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else int(text) * 1000


class History:
    """One cluster and what happens to it. The API server is `pods` and the rest of the objects."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = self._new_world()
        self.world.now = 1000.0
        self.is_leading = True
        self.count = 0
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, PodBuilder] = {}
        self.groups: dict[str, PodGroup] = {}
        self.caches: dict[str, NodeCache] = {}
        self.storage: list[PersistentVolume | PersistentVolumeClaim] = []
        self.namespaces = {"default": {"team": "a"}, "other": {"team": "b"}}
        self.damaged: set[str] = set()  # gangs that lost a member, or whose minimum changed
        self._tell_rest(self.world)
        for _ in range(3):
            self.add_node()

    def _new_world(self) -> World:
        return World(topology_keys=(ZONE, RACK), flush_seconds=1e9)

    def _tell_rest(self, world: World) -> None:
        world.datasets(a_dataset("d", 100 * MIB))
        world.feed(*(NamespaceChanged(name, labels) for name, labels in self.namespaces.items()))
        world.feed(*(StorageChanged(item) for item in self.storage))
        world.caches(*self.caches.values())

    # ---- what there is ----------------------------------------------------------------------

    def _node(self, name: str) -> Node:
        random = self.random
        labels = {ZONE: random.choice("ab"), RACK: random.choice(["r1", "r2"])}
        labels |= {"pool": random.choice("xy")} if random.random() < 0.3 else {}
        taints = [Taint(key="k", effect="NoSchedule")] if random.random() < 0.15 else []
        return a_node(
            name,
            cpu=str(random.randint(1, 6)),
            gpus=random.choice([0, 0, 2, 4]),
            pods=random.choice(["3", "110"]),
            labels=labels,
            taints=taints,
            unschedulable=random.random() < 0.07,
        )

    def _pod(self, name: str, namespace: str = "default") -> PodBuilder:
        random = self.random
        gpus = {names.GPU_RESOURCE: random.choice("12")} if random.random() < 0.35 else {}
        pod = a_pod(name, namespace=namespace).asks(cpu=random.choice(["500m", "1", "1", "2", "4"]), **gpus)
        pod = pod.labelled(app=random.choice("uvw"))
        if random.random() < 0.15:
            pod = pod.with_spec(node_selector={"pool": random.choice("xy")})
        if random.random() < 0.15:
            pod = pod.tolerating(Toleration(key="k", operator="Exists"))
        if random.random() < 0.1:
            pod = pod.host_port(80)
        if random.random() < 0.12:
            near = {"matchLabels": {"app": random.choice("uvw")}}
            term = {"labelSelector": near, "topologyKey": random.choice([ZONE, RACK, HOST])}
            kind = random.choice(["podAffinity", "podAntiAffinity"])
            pod = pod.with_spec(affinity={kind: {REQUIRED: [term]}})
        elif random.random() < 0.1:
            selector = {"matchLabels": {"app": pod.labels["app"]}}
            spread = TopologySpreadConstraint(
                topology_key=ZONE, max_skew=1, when_unsatisfiable="DoNotSchedule", label_selector=selector
            )
            pod = pod.with_spec(topology_spread_constraints=[spread])
        if random.random() < 0.1:
            source = PersistentVolumeClaimSource(claim_name=random.choice(["c0", "c1"]))
            pod = pod.with_volumes(Volume(name="v", persistent_volume_claim=source))
        if random.random() < 0.1:
            pod = pod.reads('[{"name":"d","required":true}]')
        if random.random() < 0.1:
            pod = pod.gated("example.com/later")
        return pod.with_spec(preemption_policy="Never") if random.random() < 0.1 else pod

    def _is_bound(self, uid: str) -> bool:
        return "node_name" in self.pods[uid].spec

    def _bound(self) -> list[str]:
        return [uid for uid in sorted(self.pods) if self._is_bound(uid)]

    def _pending(self) -> list[str]:
        return [uid for uid in sorted(self.pods) if not self._is_bound(uid)]

    def _has_room(self, node: str, pod: PodBuilder) -> bool:
        allocatable = self.nodes[node].status.allocatable
        here = [other for other in self.pods.values() if other.spec.get("node_name") == node]
        used: Counter[str] = Counter()
        for other in (*here, pod):
            used.update({key: _cpu(value) for key, value in other.requests.items()})
        fits = all(amount <= _cpu(str(allocatable.get(key, "0"))) for key, amount in used.items())
        return fits and len(here) < int(allocatable["pods"])

    # ---- what happens -----------------------------------------------------------------------

    def _create(self, pod: PodBuilder) -> None:
        self.pods[pod.uid] = pod
        self.world.pods(pod)

    def _forget(self, uid: str) -> None:
        self.damaged.add(self.pods.pop(uid).labels.get(GROUP, ""))

    def add_node(self) -> None:
        name = f"n{self.random.randint(0, 6)}"
        if name not in self.nodes:
            self.nodes[name] = self._node(name)
            self.world.nodes(self.nodes[name])

    def change_node(self) -> None:
        name = self.random.choice(sorted(self.nodes))
        old, new = self.nodes[name], self._node(name)
        what = self.random.choice(["metadata", "spec", "status"])
        if what == "status":
            # Nodes only grow: shrinking under bound pods is overcommit nobody can prevent.
            more = dict(old.status.allocatable)
            more["cpu"] = str(int(more["cpu"]) + 2)
            new = msgspec.structs.replace(old, status=msgspec.structs.replace(old.status, allocatable=more))
        else:
            new = msgspec.structs.replace(old, **{what: getattr(new, what)})
        self.nodes[name] = new
        self.world.nodes(new)

    def remove_node(self) -> None:
        if len(self.nodes) > 1:
            name = self.random.choice(sorted(self.nodes))
            del self.nodes[name]
            self.world.feed(NodeGone(name))
            for uid in [uid for uid in self._bound() if self.pods[uid].spec["node_name"] == name]:
                self._forget(uid)
                self.world.feed(PodGone(uid))

    def add_pod(self) -> None:
        self.count += 1
        pod = self._pod(f"p{self.count}", self.random.choice(["default", "default", "other"]))
        self._create(pod.priority(self.random.choice([0, 0, 5, 10])))

    def add_gang(self) -> None:
        self.count += 1
        name, size = f"g{self.count}", self.random.randint(1, 4)
        group = a_group(name, self.random.randint(1, size))
        if self.random.random() < 0.3:
            wanted = {names.REQUIRED_TOPOLOGY_ANNOTATION: self.random.choice([ZONE, RACK])}
            group = msgspec.structs.replace(group, metadata=msgspec.structs.replace(group.metadata, annotations=wanted))
        self.groups[name] = group
        self.world.groups(group)
        priority = self.random.choice([0, 0, 5, 10])
        proto = self._pod("proto")
        for index in range(size):
            proto = self._pod("proto") if self.random.random() < 0.3 else proto
            member = replace(proto, name=f"{name}-{index}", uid=f"uid-{name}-{index}")
            self._create(member.priority(priority).in_gang(name))

    def add_foreign(self) -> None:
        if self.world.engine.state.assigned.assumed:
            return  # it would race our binds: overcommit that nobody can prevent
        self.count += 1
        pod = self._pod(f"f{self.count}").scheduled_by("other").with_spec(scheduling_gates=[])
        node = self.random.choice(sorted(self.nodes))
        if self._has_room(node, pod):
            self._create(pod.priority(self.random.choice([0, 5, 20])).on(node).started(self.random.randint(1, 900)))

    def delete_pod(self) -> None:
        if self.pods:
            uid = self.random.choice(sorted(self.pods))
            self._forget(uid)
            self.world.feed(PodGone(uid))

    def ungate(self) -> None:
        for uid in [uid for uid in self._pending() if self.pods[uid].spec.get("scheduling_gates")][:1]:
            self._create(self.pods[uid].with_spec(scheduling_gates=[]))

    def change_minimum(self) -> None:
        if self.groups:
            name = self.random.choice(sorted(self.groups))
            spec = PodGroupSpec(min_member=self.random.randint(1, 3))
            self.groups[name] = msgspec.structs.replace(self.groups[name], spec=spec)
            self.damaged.add(name)
            self.world.groups(self.groups[name])

    def fill_cache(self) -> None:
        name = self.random.choice(sorted(self.nodes))
        self.caches[name] = a_cache(name, ssd={"d": self.random.choice([0, 100]) * MIB})
        self.world.caches(self.caches[name])

    def add_claim(self) -> None:
        name = self.random.choice(["c0", "c1"])
        meta = ObjectMeta(name=name, namespace="default", annotations={BOUND_ANNOTATION: "yes"})
        claim = PersistentVolumeClaim(
            metadata=meta, spec=PersistentVolumeClaimSpec(volume_name=f"pv-{name}", storage_class_name="s")
        )
        labels = {ZONE: self.random.choice("ab")}
        volume = PersistentVolume(metadata=ObjectMeta(name=f"pv-{name}", labels=labels), spec=PersistentVolumeSpec())
        self.storage += [claim, volume]
        self.world.feed(StorageChanged(claim), StorageChanged(volume))

    def relabel(self) -> None:
        if self.pods:
            uid = self.random.choice(sorted(self.pods))
            self._create(self.pods[uid].labelled(app=self.random.choice("uvw")))

    def relabel_namespace(self) -> None:
        name = self.random.choice(sorted(self.namespaces))
        self.namespaces[name] = {"team": self.random.choice("abc")}
        self.world.feed(NamespaceChanged(name, self.namespaces[name]))

    def another_leads(self) -> None:
        """Some of our binds land, the others are not sent; another leader binds some pods; then we lead again."""
        self.perform()
        self.world.decide(self.random.choice([1, 2, 100]))
        self.perform(lands=0.5)
        self.world.engine.handle([], self.world.now, is_leading=False)
        for uid in self._pending():
            node = self.random.choice(sorted(self.nodes))
            may_bind = not self.pods[uid].spec.get("scheduling_gates") and self.random.random() < 0.3
            if may_bind and self._has_room(node, self.pods[uid]):
                self._bind(uid, node)
                event = self.world.translator.event(self.pods[uid].build())
                assert event is not None
                self.world.engine.handle([event], self.world.now, is_leading=False)
        self.world.tick(self.random.choice([0.0, 5.0, 40.0]))

    def _bind(self, uid: str, node: str) -> None:
        assert not self._is_bound(uid), "bound twice"
        self.pods[uid] = replace(self.pods[uid], nominated="").on(node).started(int(self.world.now))

    # ---- what the shell does ----------------------------------------------------------------

    def perform(self, *, lands: float = 0.92) -> bool:
        """Carry decisions out; returns whether there was anything to do."""
        made, self.world.made = self.world.made, []
        did = False
        for decision in made:
            if isinstance(decision, Bind):
                self._perform_bind(decision, lands)
            elif isinstance(decision, DeletePod):
                self._evict(decision.uid)
            elif isinstance(decision, Nominate) and decision.uid in self.pods and not self._is_bound(decision.uid):
                self._create(replace(self.pods[decision.uid], nominated=decision.node))
            elif isinstance(decision, Preempt):
                for victim in decision.victims:
                    self._evict(victim.uid)
                self.world.feed(PreemptionEnded(decision.unit, failed=False))
            did = did or isinstance(decision, Bind | DeletePod | Nominate | Preempt)
        return did

    def _perform_bind(self, bind: Bind, lands: float) -> None:
        if bind.uid not in self.pods or bind.node not in self.nodes or self.random.random() > lands:
            self.world.feed(BindFailed(bind.uid, bind.node, "refused", is_error=True))
            return
        self._bind(bind.uid, bind.node)
        self.world.feed(BindConfirmed(bind.uid, bind.node))
        self.world.pods(self.pods[bind.uid])

    def _evict(self, uid: str) -> None:
        if uid in self.pods:
            self._forget(uid)
        self.world.feed(PodGone(uid))

    # ---- what must hold ---------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything run out that runs by itself."""
        state = self.world.engine.state
        for index in range(ROUNDS):
            self.world.decide()
            did = self.perform()
            self.world.tick(11.0 if index % 2 else 1.0)
            did = self.perform() or did
            is_busy = state.queue.counts[Pool.ACTIVE] or state.queue.counts[Pool.BACKOFF] or state.gang_binds.units()
            if not did and not is_busy:
                return
        pytest.fail(f"it does not come to rest: {state.queue.counts}, {state.gang_binds.units()}")

    def check(self) -> None:
        state = self.world.engine.state
        assert not any(state.table.is_overcommitted(row) for row in state.table.row_of.values())
        bound = Counter(self.pods[uid].labels.get(GROUP, "") for uid in self._bound())
        for name, group in self.groups.items():
            if name not in self.damaged:
                assert bound[name] == 0 or bound[name] >= group.spec.min_member, name
        fresh = self._fresh()
        for _ in range(2):
            fresh.decide()
        for decision in fresh.made:
            if isinstance(decision, Bind | Preempt):
                told = state.pods[decision.uid].told if decision.uid in state.pods else ""
                pytest.fail(f"{decision.name} sleeps, and could be placed: {decision}; it was told: {told}")

    def _fresh(self) -> World:
        """An engine that starts now."""
        fresh = self._new_world()
        fresh.now = self.world.now
        fresh.nodes(*self.nodes.values())
        self._tell_rest(fresh)
        fresh.groups(*self.groups.values())
        fresh.pods(*self.pods.values())
        for name in self.groups:
            unit = f"gang:default/{name}"
            old, new = self.world.engine.state.gangs.find(unit), fresh.engine.state.gangs.find(unit)
            if old is not None and new is not None:
                new.was_whole = old.was_whole  # its PodGroup's status says so
        return fresh


def _run(seed: int, steps: int = 25) -> None:
    history = History(seed)
    often = [history.add_pod] * 6 + [history.add_gang] * 5 + [history.add_foreign] * 4 + [history.delete_pod] * 5
    often += [history.change_node] * 4 + [history.add_node] * 2 + [history.ungate] * 2 + [history.another_leads] * 2
    seldom = [history.remove_node, history.change_minimum, history.fill_cache, history.add_claim, history.relabel]
    seldom.append(history.relabel_namespace)
    for _ in range(steps):
        history.random.choice(often + seldom)()
        if history.random.random() < 0.4:
            history.world.tick(history.random.choice([0.0, 0.5, 2.0]))
            history.world.decide(history.random.choice([1, 3, 100]))
        if history.random.random() < 0.6:
            history.perform()
        if history.random.random() < 0.15:
            history.settle()
            history.check()
    history.settle()
    history.check()


def test_nobody_sleeps_who_could_be_placed() -> None:
    for seed in range(12):
        _run(seed)


@pytest.mark.nightly
def test_nobody_sleeps_in_many_more_histories() -> None:
    for seed in range(100, 1100):
        _run(seed, 40)
