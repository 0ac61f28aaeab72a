"""Random clusters in which pods look at each other: terms, spread constraints, namespaces, in the API's own JSON.

One generator for the property tests and for the differential oracle. Small vocabularies, so that selectors meet
labels and topology values are shared or missing; every case is a function of the generator's seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Json = dict[str, Any]
APPS, TIERS, NAMESPACES = ("web", "db", "job"), ("a", "b"), ("default", "team", "lost")
KEYS = ("kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack", "absent")
REQUIRED, PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


@dataclass(frozen=True)
class Case:
    """A cluster and one pod to place. Namespace `lost` has pods but no object."""

    nodes: list[Json]
    namespaces: list[Json]
    bound: list[Json]
    pod: Json


def random_case(rng: Random, *, affinity: bool = True, spread: bool = True) -> Case:
    """A case whose pods hold the kinds of terms asked for."""
    nodes = [random_node(rng, index) for index in range(rng.randint(1, 7))]
    namespaces = [
        {"metadata": {"name": name, "labels": labels}}
        for name, labels in (("default", {"team": "x"}), ("team", {"team": "y", "env": "prod"}))
    ]
    bound = []
    for index in range(rng.randint(0, 14)):
        pod = random_pod(rng, f"bound-{index}", affinity=affinity and rng.random() < 0.5, spread=False)
        pod["spec"]["nodeName"] = rng.choice(nodes)["metadata"]["name"]
        pod["status"] = {"phase": "Running"}
        if rng.random() < 0.15:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            pod["metadata"]["deletionGracePeriodSeconds"] = 30
        bound.append(pod)
    pod = random_pod(rng, "incoming", affinity=affinity, spread=spread)
    if rng.random() < 0.4:
        pod["spec"]["nodeSelector"] = {"rack": rng.choice(("r1", "r2"))}
    if rng.random() < 0.3:
        pod["spec"]["tolerations"] = [{"key": "dedicated", "operator": "Exists"}]
    return Case(nodes, namespaces, bound, pod)


def random_node(rng: Random, index: int) -> Json:
    """A node that may lack a zone or rack and may have a taint."""
    name = f"node-{index}"
    labels = {"kubernetes.io/hostname": name}
    if rng.random() < 0.9:
        labels["topology.kubernetes.io/zone"] = rng.choice(("z1", "z2", "z3"))
    if rng.random() < 0.9:
        labels["rack"] = rng.choice(("r1", "r2", ""))
    spec: Json = {}
    if rng.random() < 0.3:
        effect = rng.choice(("NoSchedule", "NoExecute", "PreferNoSchedule"))
        spec["taints"] = [{"key": "dedicated", "value": "x", "effect": effect}]
    room = {"cpu": "64", "memory": "64Gi", "pods": "110"}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": room}}


def random_pod(rng: Random, name: str, *, affinity: bool, spread: bool) -> Json:
    """A pod of one CPU with few labels, and the kinds of terms asked for."""
    labels = {}
    if rng.random() < 0.85:
        labels["app"] = rng.choices(APPS, (3, 1, 1))[0]
    if rng.random() < 0.4:
        labels["tier"] = rng.choice(TIERS)
    spec: Json = {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1"}}}]}
    if affinity:
        wishes = {kind: _wishes(rng) for kind in ("podAffinity", "podAntiAffinity") if rng.random() < 0.6}
        if wishes:
            spec["affinity"] = wishes
    if spread:
        spec["topologySpreadConstraints"] = random_constraints(rng)
    namespace = rng.choices(NAMESPACES, (6, 3, 1))[0]
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": labels}, "spec": spec}


def _wishes(rng: Random) -> Json:
    made: Json = {}
    if rng.random() < 0.7:
        made[REQUIRED] = [_term(rng) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.5:
        made[PREFERRED] = [
            {"weight": rng.randint(1, 100), "podAffinityTerm": _term(rng)} for _ in range(rng.randint(1, 2))
        ]
    return made


def _term(rng: Random) -> Json:
    term: Json = {"topologyKey": rng.choices(KEYS, (4, 5, 4, 1))[0]}
    selector = random_selector(rng)
    if selector is not None:
        term["labelSelector"] = selector
    if rng.random() < 0.25:
        term["namespaces"] = sorted(rng.sample(NAMESPACES, rng.randint(1, 2)))
    if rng.random() < 0.25:
        term["namespaceSelector"] = rng.choice(
            (
                {},
                {"matchLabels": {"team": "y"}},
                {"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]},
                {"matchExpressions": [{"key": "team", "operator": "In", "values": ["x", "y"]}]},
            )
        )
    return term


def random_selector(rng: Random) -> Json | None:
    """A LabelSelector: often one label, sometimes expressions, seldom empty or missing."""
    kind = rng.random()
    if kind < 0.05:
        return None
    if kind < 0.12:
        return {}
    if kind < 0.7:
        return {"matchLabels": {"app": rng.choice(APPS)}}
    values: Sequence[str] = sorted(rng.sample(APPS, rng.randint(1, 2)))
    return {
        "matchExpressions": [
            rng.choice(
                (
                    {"key": "app", "operator": "In", "values": values},
                    {"key": "app", "operator": "NotIn", "values": values},
                    {"key": "tier", "operator": "Exists"},
                    {"key": "tier", "operator": "DoesNotExist"},
                )
            )
        ]
    }


def random_constraints(rng: Random) -> list[Json]:
    """One to three constraints of different keys."""
    made = []
    keys = KEYS if rng.random() < 0.1 else KEYS[:3]
    for key in rng.sample(keys, rng.choices((1, 2, 3), (6, 3, 1))[0]):
        unsatisfiable = rng.choice(("DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"))
        max_skew = rng.choices((1, 2, 3), (4, 1, 1))[0]
        constraint: Json = {"maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": unsatisfiable}
        selector = random_selector(rng) if rng.random() < 0.4 else {"matchLabels": {"app": rng.choice(APPS[:2])}}
        if selector is not None:
            constraint["labelSelector"] = selector
            if rng.random() < 0.3:
                constraint["matchLabelKeys"] = ["tier"]
        if unsatisfiable == "DoNotSchedule" and rng.random() < 0.3:
            constraint["minDomains"] = rng.randint(1, 4)
        if rng.random() < 0.4:
            constraint["nodeAffinityPolicy"] = rng.choice(("Honor", "Ignore"))
        if rng.random() < 0.4:
            constraint["nodeTaintsPolicy"] = rng.choice(("Honor", "Ignore"))
        made.append(constraint)
    return made
