"""Preferences between pods and soft spread: our costs against the scores of kube-scheduler's own plugins."""

import json
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from headrace.cluster.binaries import ORACLE, require
from headrace.errors import HeadraceError
from kube.objects import Pod
from scheduler.core.events import ControllerChanged, ServiceChanged
from scheduler.core.plugin import RelativeScorePlugin
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.plugins.pod_affinity import PodAffinityScore
from scheduler.plugins.topology_spread import SpreadScore
from tests.builders.pods_together import APPS, NAMESPACES, REQUIRED, Case, Json, random_case, random_pod
from tests.oracle.cases import verdicts
from tests.property.scheduler.test_scheduler_pods_together import world_of

CLUSTERS, PODS_A_CLUSTER = 100, 12
# kube-scheduler's scores are whole numbers from 0 to 100, cut off more than once, times a weight of 2.
WEIGHT, ROUNDING = 2, 2.1
PLUGINS: dict[str, RelativeScorePlugin] = {
    "InterPodAffinity": PodAffinityScore(),
    "PodTopologySpread": SpreadScore(),
}


def _softened(rng: Random, index: int) -> Json:
    """A pod whose wishes leave every node in the running, some owned by a ReplicaSet and left to the defaults."""
    kind = rng.random()
    pod = random_pod(rng, f"in-{index}", affinity=kind < 0.5, spread=0.4 < kind < 0.7)
    for wishes in pod["spec"].get("affinity", {}).values():
        wishes.pop(REQUIRED, None)
    for constraint in pod["spec"].get("topologySpreadConstraints", ()):
        constraint["whenUnsatisfiable"] = "ScheduleAnyway"
        constraint.pop("minDomains", None)
    if rng.random() < 0.4:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"r{rng.randint(0, 2)}", "uid": "x"}
        pod["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    if rng.random() < 0.3:
        pod["spec"]["nodeSelector"] = {"rack": rng.choice(("r1", "r2"))}
    return pod


def _selecting(rng: Random) -> tuple[list[Json], list[Json]]:
    """Services and ReplicaSets."""

    def body(kind: str, version: str, name: str, namespace: str, selector: Json) -> Json:
        meta = {"name": name, "namespace": namespace}
        return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": {"selector": selector}}

    services = [
        body("Service", "v1", f"s{index}", rng.choice(NAMESPACES[:2]), {"app": rng.choice(APPS)})
        for index in range(rng.randint(0, 3))
    ]
    tier = {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}
    sets = [
        body("ReplicaSet", "apps/v1", f"r{index}", namespace, rng.choice((tier, {"matchLabels": {"app": APPS[0]}})))
        for index in range(2)
        for namespace in NAMESPACES[:2]
    ]
    return services, sets


def _line(case: Case, others: list[Json], pods: list[Json]) -> Json:
    def kinded(items: list[Json], kind: str) -> list[Json]:
        return [{"apiVersion": "v1", "kind": kind, **item} for item in items]

    objects = kinded(case.nodes, "Node") + kinded(case.namespaces, "Namespace") + kinded(case.bound, "Pod") + others
    return {"objects": objects, "pods": kinded(pods, "Pod"), "scores": True}


@pytest.mark.timeout(180)
def test_costs_are_what_kube_schedulers_plugins_take_off() -> None:
    try:
        oracle: Path = require((ORACLE.name,))[ORACLE.name]
    except HeadraceError as error:
        pytest.fail(str(error), pytrace=False)
    made = []
    for seed in range(CLUSTERS):
        rng = Random(seed)
        case, (services, sets) = random_case(rng), _selecting(rng)
        made.append((case, services, sets, [_softened(rng, index) for index in range(PODS_A_CLUSTER)]))
    answers = verdicts(oracle, [_line(case, [*one, *two], pods) for case, one, two, pods in made])
    told_apart = dict.fromkeys(PLUGINS, 0)
    for (case, services, sets, pods), answer in zip(made, answers, strict=True):
        world, _ = world_of(case)
        world.feed(
            *(
                ServiceChanged(item["metadata"]["namespace"], item["metadata"]["name"], item["spec"]["selector"])
                for item in services
            ),
            *(
                ControllerChanged(
                    item["kind"], item["metadata"]["namespace"], item["metadata"]["name"], item["spec"]["selector"]
                )
                for item in sets
            ),
        )
        shapes = ShapeCache()
        for pod, theirs in zip(pods, answer, strict=True):
            ours = _costs(world.engine.state, pod, shapes)
            for name, cost in ours.items():
                scores = (theirs.get("scores") or {}).get(name) or {}
                told_apart[name] += _agree(scores, cost, json.dumps(pod))
    # Most pods care about nothing, or the same everywhere: enough must tell nodes apart.
    assert min(told_apart.values()) > 100, told_apart


def _costs(state: Any, pod: Json, shapes: ShapeCache) -> dict[str, dict[str, float]]:
    request = pod_request(msgspec.convert(pod, Pod), shapes)
    state.table.vector(request.shape.requests)
    request = state.resolved(request)
    left = state.placer.pass_for(request).total != np.inf
    made = {}
    for name, plugin in PLUGINS.items():
        cost = plugin.cost(state.view(), request, left)
        cost = np.zeros(len(left)) if cost is None else cost
        made[name] = {state.table.names[row]: float(cost[row]) for row in np.flatnonzero(left).tolist()}
    return made


def _agree(scores: dict[str, int], cost: dict[str, float], pod: str) -> bool:
    """Whether nodes are told apart; asserts that both do it alike."""
    if len(set(scores.values())) < 2:
        assert not cost or max(cost.values()) - min(cost.values()) < 1e-9, pod
        return False
    assert set(scores) == set(cost), pod
    for node, score in scores.items():
        assert abs(100 - score / WEIGHT - 100 * cost[node]) <= ROUNDING, f"{node}: {scores} {cost} {pod}"
    return True
