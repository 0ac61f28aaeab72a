"""Pods that look at nodes' labels or at each other, in the shapes of kube-scheduler's own benchmark.

Owns the shapes (test/integration/scheduler_perf of Kubernetes 1.36: templates and topology keys) and what the core
alone makes of them. Running schedulers on a cluster is scheduler.py's job: a shape is one more load there.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks import frame
from kube.objects import Node, Pod
from scheduler.core.decisions import Bind
from scheduler.core.engine import Engine
from scheduler.core.events import NodeChanged, PodPending
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.plugins.registry import build
from scheduler.settings import Settings, engine_settings

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
GOAL_RATIO = 2.0
BINDS_A_ROUND = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """What is added to a plain pod; `pods_a_node` bounds how many there can be at all."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any] = field(default_factory=dict)
    pods_a_node: float | None = None

    def count(self, nodes: int, pods: int) -> int:
        """How many of `pods` to make on so many nodes."""
        return pods if self.pods_a_node is None else min(pods, int(nodes * self.pods_a_node))


def _term(color: str, key: str) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key}


def _spread(unsatisfiable: str) -> dict[str, Any]:
    constraint = {
        "maxSkew": 5,
        "topologyKey": ZONE,
        "whenUnsatisfiable": unsatisfiable,
        "labelSelector": {"matchLabels": {"color": "blue"}},
    }
    return {"topologySpreadConstraints": [constraint]}


_TWO_ZONES = {"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone-0", "zone-1"]}]}
SHAPES = (
    Shape("node-affinity", {}, {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [_TWO_ZONES]}}}}),
    Shape("spread", {"color": "blue"}, _spread("DoNotSchedule")),
    Shape("preferred-spread", {"color": "blue"}, _spread("ScheduleAnyway")),
    Shape(
        "anti-affinity",
        {"color": "green"},
        {"affinity": {"podAntiAffinity": {REQUIRED: [_term("green", HOST)]}}},
        pods_a_node=0.8,
    ),
    Shape("affinity", {"color": "blue"}, {"affinity": {"podAffinity": {REQUIRED: [_term("blue", ZONE)]}}}),
    Shape(
        "preferred-affinity",
        {"color": "red"},
        {"affinity": {"podAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": _term("red", HOST)}]}}},
    ),
    Shape(
        "preferred-anti-affinity",
        {"color": "yellow"},
        {"affinity": {"podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": _term("yellow", HOST)}]}}},
    ),
)


def core_shape_cases(*, quick: bool) -> list[frame.Case]:
    """Decisions per second of the core alone, every node scored, one case a shape."""
    nodes, pods = (1000, 500) if quick else (5000, 4000)
    cases = []
    for shape in SHAPES:
        count = shape.count(nodes, pods)
        frame.progress(f"core: {count} pods of shape {shape.name} on {nodes} nodes")
        rates = [(decisions_per_second(shape, nodes, count),) for _ in range(1 if quick else 3)]
        cases.append(frame.Case(f"core-shaped-{shape.name}-{nodes}-nodes", "decisions/s", rates, note="one thread"))
    return cases


def decisions_per_second(shape: Shape, nodes: int, pods: int) -> float:
    """Decide `pods` pods of one shape on an empty cluster of `nodes` nodes in three zones."""
    settings = Settings()
    engine, shapes = Engine(build(settings), engine_settings(settings)), ShapeCache()
    engine.handle([NodeChanged(_node(index)) for index in range(nodes)], 0.0)
    engine.handle([PodPending(pod_request(_pod(shape, index), shapes)) for index in range(pods)], 0.0)
    started, decided = time.perf_counter(), 0
    while decided < pods:
        made = engine.decide(0.0, BINDS_A_ROUND)
        assert made
        assert all(isinstance(decision, Bind) for decision in made)
        decided += len(made)
    return decided / (time.perf_counter() - started)


def _node(index: int) -> Node:
    name = f"node-{index}"
    room = {"cpu": "96", "memory": "768Gi", "pods": "110", "nvidia.com/gpu": "8"}
    labels = {HOST: name, ZONE: f"zone-{index % 3}"}
    return msgspec.convert({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": room}}, Node)


def _pod(shape: Shape, index: int) -> Pod:
    container = {"name": "main", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    name = f"pod-{index}"
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": shape.labels}
    return msgspec.convert({"metadata": meta, "spec": {"containers": [container], **shape.spec}}, Pod)
