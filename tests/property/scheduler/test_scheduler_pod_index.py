"""The pod index and the passes kept on it: whatever happens, they equal what is counted anew."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kube.objects import Node, Pod
from scheduler.core.assumed import Assigned, AssignedPod
from scheduler.core.cluster_view import ClusterView
from scheduler.core.events import (
    ControllerChanged,
    NamespaceChanged,
    NamespaceGone,
    NodeChanged,
    NodeGone,
    PodAssigned,
    PodGone,
    ServiceChanged,
)
from scheduler.core.node_table import NodeTable
from scheduler.core.pod_index import PodIndex
from scheduler.core.pod_request import PodRequest, ShapeCache, pod_request
from scheduler.core.what_if_index import WhatIfIndex
from tests.builders.pods_together import APPS, NAMESPACES, Json, random_node, random_pod
from tests.builders.scheduler_objects import World

NODES, PODS = 6, 8
SEEDS = st.integers(0, 2**20)


def counted_anew(table: NodeTable, pods: Iterable[AssignedPod], namespaces: dict[str, dict[str, str]]) -> PodIndex:
    index = PodIndex(table)
    for name, labels in namespaces.items():
        index.set_namespace(name, labels)
    for pod in pods:
        row = table.row_of.get(pod.node)
        if row is not None:
            index.add(row, pod.identity, pod.terms, is_leaving=pod.is_leaving)
    return index


class PodsMachine(RuleBasedStateMachine):
    """Nodes, namespaces, Services and assigned pods come, change and go; some pods keep asking."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.namespaces: dict[str, dict[str, str]] = {}
        self.shapes = ShapeCache()
        self.asking: list[PodRequest] = []
        for seed in range(2):
            self.put_node(0, seed)
            self.put_node(1, seed)
        for seed in range(3):
            self.ask(seed)

    @property
    def assigned(self) -> Assigned:
        return self.world.engine.state.assigned

    @rule(index=st.integers(0, NODES - 1), seed=SEEDS)
    def put_node(self, index: int, seed: int) -> None:
        self.world.feed(NodeChanged(msgspec.convert(random_node(Random(seed), index), Node)))

    @rule(index=st.integers(0, NODES - 1))
    def remove_node(self, index: int) -> None:
        self.world.feed(NodeGone(f"node-{index}"))

    @rule(name=st.sampled_from(NAMESPACES), team=st.sampled_from(("x", "y", "")))
    def put_namespace(self, name: str, team: str) -> None:
        self.namespaces[name] = {"team": team} if team else {"env": "prod"}
        self.world.feed(NamespaceChanged(name, self.namespaces[name]))

    @rule(name=st.sampled_from(NAMESPACES))
    def remove_namespace(self, name: str) -> None:
        if self.namespaces.pop(name, None) is not None:
            self.world.feed(NamespaceGone(name))

    @rule(namespace=st.sampled_from(NAMESPACES), app=st.sampled_from((*APPS, "")))
    def put_service(self, namespace: str, app: str) -> None:
        self.world.feed(ServiceChanged(namespace, "service", {"app": app} if app else None))

    @rule(namespace=st.sampled_from(NAMESPACES), app=st.sampled_from((*APPS, "")))
    def put_controller(self, namespace: str, app: str) -> None:
        selector = {"matchLabels": {"app": app}} if app else None
        self.world.feed(ControllerChanged("ReplicaSet", namespace, "set", selector))

    @rule(index=st.integers(0, PODS - 1), seed=SEEDS, node=st.integers(0, NODES - 1), leaving=st.booleans())
    def put_pod(self, index: int, seed: int, node: int, leaving: bool) -> None:
        rng = Random(seed)
        made = random_pod(rng, f"p{index}", affinity=rng.random() < 0.7, spread=False)
        made["spec"]["nodeName"] = f"node-{node}"
        if leaving:
            made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        event = self.world.translator.event(msgspec.convert(made, Pod))
        assert isinstance(event, PodAssigned)
        self.world.feed(event)

    @rule(index=st.integers(0, PODS - 1))
    def remove_pod(self, index: int) -> None:
        self.world.feed(PodGone(f"uid-p{index}"))

    @rule(seed=SEEDS)
    def ask(self, seed: int) -> None:
        rng = Random(seed)
        made: Json = random_pod(rng, "asking", affinity=rng.random() < 0.7, spread=rng.random() < 0.6)
        if rng.random() < 0.3:
            owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "controller": True}
            made["metadata"]["ownerReferences"] = [owner]
        pod = pod_request(msgspec.convert(made, Pod), self.shapes)
        self.world.engine.state.table.vector(pod.shape.requests)
        self.asking = [*self.asking[-5:], pod]

    @rule(seed=SEEDS)
    def imagine(self, seed: int) -> None:
        """Place and remove pods in a what-if view: it answers like an index counted anew, the cluster's stays."""
        rng = Random(seed)
        state = self.world.engine.state
        view = state.view().what_if()
        there = {f"p{index}": self.assigned.get(f"uid-p{index}") for index in range(PODS)}
        here = [pod for pod in there.values() if pod is not None and pod.node in state.table.row_of]
        for step in range(4):
            if step == 2:
                self._same(view, counted_anew(state.table, here, self.namespaces))
                view = view.what_if()
            if here and rng.random() < 0.5:
                victim = here.pop(rng.randrange(len(here)))
                view.release(state.table.row_of[victim.node], victim)
            elif state.table.row_of and self.asking:
                node = rng.choice(sorted(state.table.row_of))
                pod = rng.choice(self.asking)
                view.place(state.table.row_of[node], pod)
                here.append(
                    AssignedPod("", pod.namespace, "", node, pod.shape.requests, identity=pod.identity, terms=pod.terms)
                )
        self._same(view, counted_anew(state.table, here, self.namespaces))

    def _same(self, view: ClusterView, anew: PodIndex) -> None:
        placer = self.world.engine.state.placer
        assert isinstance(view.index, WhatIfIndex)
        for pod in self.asking:
            resolved = self.world.engine.state.resolved(pod)
            told = placer.compute(resolved, view)
            assert told.total.tolist() == placer.compute(resolved, replace(view, index=anew)).total.tolist()

    @invariant()
    def passes_kept_agree_with_everything_counted_anew(self) -> None:
        state = self.world.engine.state
        pods = [self.assigned.get(f"uid-p{index}") for index in range(PODS)]
        anew = counted_anew(state.table, (pod for pod in pods if pod is not None), self.namespaces)
        view = replace(state.view(), index=anew)
        for pod in self.asking:
            resolved = state.resolved(pod)
            assert resolved.reach == tuple(held.number for held, _ in anew.reaching(pod.identity))
            kept = state.placer.pass_for(resolved)
            assert kept.total.tolist() == state.placer.compute(resolved, view).total.tolist()


TestPods = PodsMachine.TestCase
TestPods.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
