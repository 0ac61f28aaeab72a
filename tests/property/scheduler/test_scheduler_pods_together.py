"""Pod affinity and topology spread: the arrays against the rules read plainly, one node and one pod at a time."""

import math
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import names
from kube.objects import Node, Pod
from scheduler.core.cluster_view import ALL
from scheduler.core.events import NamespaceChanged, NodeChanged, PodAssigned
from scheduler.core.pod_request import PodRequest, ShapeCache, pod_request
from scheduler.plugins.pod_affinity import (
    AFFINITY,
    ANTI_AFFINITY,
    EXISTING_ANTI_AFFINITY,
    InterPodAffinity,
    PodAffinityScore,
)
from scheduler.plugins.topology_spread import NO_LABEL, NOT_MATCHED, PodTopologySpread, SpreadScore
from scheduler.shell.translate import PodTranslator
from tests.builders.pods_together import PREFERRED, REQUIRED, Case, Json, random_case
from tests.builders.scheduler_objects import World

CASES = 400


# ---- the rules, plainly --------------------------------------------------------------------------


def labels_of(item: Json) -> dict[str, str]:
    return dict(item["metadata"].get("labels") or {})


def selects(selector: Json | None, labels: dict[str, str]) -> bool:
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for item in selector.get("matchExpressions") or ():
        value = labels.get(item["key"])
        held = {
            "In": value in (item.get("values") or ()),
            "NotIn": value not in (item.get("values") or ()),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[item["operator"]]
        if not held:
            return False
    return True


class Plain:
    """Verdicts of one case, straight from the rules."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.namespaces = {item["metadata"]["name"]: labels_of(item) for item in case.namespaces}
        self.node = {item["metadata"]["name"]: item for item in case.nodes}

    def terms(self, pod: Json, kind: str, strength: str) -> list[Json]:
        return list(((pod["spec"].get("affinity") or {}).get(kind) or {}).get(strength) or ())

    def is_about(self, owner: Json, term: Json, other: Json, *, held: bool) -> bool:
        namespace = other["metadata"]["namespace"]
        listed, selector = term.get("namespaces") or [], term.get("namespaceSelector")
        if not listed and selector is None:
            is_there = namespace == owner["metadata"]["namespace"]
        else:
            is_there = namespace in listed
            if not is_there and selector is not None:
                # Of own terms, a selector that holds for no labels at all is about every namespace.
                is_open = not held and selects(selector, {})
                is_known = held or namespace in self.namespaces
                is_there = is_open or (is_known and selects(selector, self.namespaces.get(namespace, {})))
        return is_there and selects(term.get("labelSelector"), labels_of(other))

    def same_value(self, node: Json, other: Json, key: str) -> bool:
        mine, theirs = labels_of(node), labels_of(other)
        return key in mine and key in theirs and mine[key] == theirs[key]

    def affinity(self, node: Json) -> str | None:
        pod, bound = self.case.pod, self.case.bound
        wanted = self.terms(pod, "podAffinity", REQUIRED)
        if wanted:
            about = [other for other in bound if all(self.is_about(pod, term, other, held=False) for term in wanted)]
            fits = all(
                any(self.same_value(node, self.node[other["spec"]["nodeName"]], term["topologyKey"]) for other in about)
                for term in wanted
            )
            if not fits:
                is_first = not any(
                    term["topologyKey"] in labels_of(self.node[other["spec"]["nodeName"]])
                    for term in wanted
                    for other in about
                ) and all(self.is_about(pod, term, pod, held=False) for term in wanted)
                if not is_first or not all(term["topologyKey"] in labels_of(node) for term in wanted):
                    return AFFINITY
        for term in self.terms(pod, "podAntiAffinity", REQUIRED):
            for other in bound:
                there = self.node[other["spec"]["nodeName"]]
                is_near = self.same_value(node, there, term["topologyKey"])
                if is_near and self.is_about(pod, term, other, held=False):
                    return ANTI_AFFINITY
        for other in bound:
            for term in self.terms(other, "podAntiAffinity", REQUIRED):
                there = self.node[other["spec"]["nodeName"]]
                is_near = self.same_value(node, there, term["topologyKey"])
                if is_near and self.is_about(other, term, pod, held=True):
                    return EXISTING_ANTI_AFFINITY
        return None

    def constraints(self, unsatisfiable: str) -> list[Json]:
        every = self.case.pod["spec"].get("topologySpreadConstraints") or []
        return [item for item in every if item["whenUnsatisfiable"] == unsatisfiable]

    def is_included(self, node: Json, constraint: Json, every: list[Json]) -> bool:
        spec, labels = self.case.pod["spec"], labels_of(node)
        if not all(item["topologyKey"] in labels for item in every):
            return False
        is_asked_for = all(labels.get(key) == value for key, value in (spec.get("nodeSelector") or {}).items())
        taints = node["spec"].get("taints") or ()
        is_open = spec.get("tolerations") or all(taint["effect"] == "PreferNoSchedule" for taint in taints)
        honors_affinity = (constraint.get("nodeAffinityPolicy") or "Honor") == "Honor"
        honors_taints = (constraint.get("nodeTaintsPolicy") or "Ignore") == "Honor"
        return bool((is_asked_for or not honors_affinity) and (is_open or not honors_taints))

    def counts(self, pod: Json, constraint: Json) -> bool:
        selector = constraint.get("labelSelector")
        own = labels_of(self.case.pod)
        for key in constraint.get("matchLabelKeys") or ():
            if selector is not None and key in own:
                selector = {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), key: own[key]}}
        return selects(selector, labels_of(pod))

    def has_requirements(self, constraint: Json) -> bool:
        selector = constraint.get("labelSelector") or {}
        own = [key for key in constraint.get("matchLabelKeys") or () if key in labels_of(self.case.pod)]
        return bool(selector.get("matchLabels") or selector.get("matchExpressions") or own)

    def matching(self, node: Json, constraint: Json) -> int:
        if not self.has_requirements(constraint):
            return 0
        return sum(
            other["spec"]["nodeName"] == node["metadata"]["name"]
            and other["metadata"]["namespace"] == self.case.pod["metadata"]["namespace"]
            and "deletionTimestamp" not in other["metadata"]
            and self.counts(other, constraint)
            for other in self.case.bound
        )

    def by_value(self, constraint: Json, every: list[Json]) -> dict[str, int]:
        sums: dict[str, int] = {}
        for node in self.case.nodes:
            if self.is_included(node, constraint, every):
                value = labels_of(node)[constraint["topologyKey"]]
                sums[value] = sums.get(value, 0) + self.matching(node, constraint)
        return sums

    def spread(self, node: Json) -> str | None:
        every = self.constraints("DoNotSchedule")
        for constraint in every:
            value = labels_of(node).get(constraint["topologyKey"])
            if value is None:
                return NO_LABEL
            sums = self.by_value(constraint, every)
            least = min(sums.values(), default=0) if len(sums) >= (constraint.get("minDomains") or 1) else 0
            itself = int(self.counts(self.case.pod, constraint))
            if sums.get(value, 0) + itself - least > constraint["maxSkew"]:
                return NOT_MATCHED
        return None

    def preference(self, node: Json) -> int:
        pod, total = self.case.pod, 0
        for other in self.case.bound:
            there = self.node[other["spec"]["nodeName"]]
            for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
                for owner, about, held in ((pod, other, False), (other, pod, True)):
                    for item in self.terms(owner, kind, PREFERRED):
                        term = item["podAffinityTerm"]
                        if self.is_about(owner, term, about, held=held):
                            total += sign * item["weight"] * self.same_value(node, there, term["topologyKey"])
            for term in self.terms(other, "podAffinity", REQUIRED):
                if self.is_about(other, term, pod, held=True):
                    total += self.same_value(node, there, term["topologyKey"])
        return total


# ---- the comparison ------------------------------------------------------------------------------


def world_of(case: Case) -> tuple[World, PodRequest]:
    world = World()
    world.translator = PodTranslator([names.DEFAULT_SCHEDULER_NAME], 0.0)
    world.feed(*(NodeChanged(msgspec.convert(node, Node)) for node in case.nodes))
    world.feed(*(NamespaceChanged(item["metadata"]["name"], item["metadata"]["labels"]) for item in case.namespaces))
    for bound in case.bound:
        event = world.translator.event(msgspec.convert(bound, Pod))
        assert isinstance(event, PodAssigned)
        world.feed(event)
    request = pod_request(msgspec.convert(case.pod, Pod), ShapeCache())
    world.engine.state.table.vector(request.shape.requests)
    return world, world.engine.state.resolved(request)


def told(plugin: Any, view: Any, pod: PodRequest) -> dict[str, str | None]:
    """Node name -> the reason; checks that filter and refusals say the same."""
    passed = plugin.filter(view, pod, ALL)
    reasons: dict[str, str | None] = dict.fromkeys(view.names)
    for refusal in plugin.refusals(view, pod):
        for row in np.flatnonzero(refusal.mask).tolist():
            assert reasons[view.names[row]] is None
            reasons[view.names[row]] = refusal.reason
    for row, name in enumerate(view.names):
        assert (reasons[name] is None) == (passed is None or bool(passed[row]))
    return reasons


@settings(max_examples=CASES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_verdicts_are_those_of_the_rules(seed: int) -> None:
    case = random_case(Random(seed))
    plain = Plain(case)
    world, pod = world_of(case)
    view = world.engine.state.view()
    affinity, spread = told(InterPodAffinity(), view, pod), told(PodTopologySpread(), view, pod)
    never = InterPodAffinity().unresolvable(view, pod), PodTopologySpread().unresolvable(view, pod)
    assert never[0] is not None
    assert never[1] is not None
    for row, name in enumerate(view.names):
        node = plain.node[name]
        assert affinity[name] == plain.affinity(node), name
        assert spread[name] == plain.spread(node), name
        assert bool(never[0][row]) == (affinity[name] == AFFINITY)
        assert bool(never[1][row]) == (spread[name] == NO_LABEL)


@settings(max_examples=CASES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_preferences_rank_nodes_as_the_sums_of_weights_do(seed: int) -> None:
    case = random_case(Random(seed), spread=False)
    plain = Plain(case)
    world, pod = world_of(case)
    view = world.engine.state.view()
    cost = PodAffinityScore().cost(view, pod, np.ones(view.size, dtype=np.bool_))
    met = [plain.preference(plain.node[name]) for name in view.names]
    if max(met) == min(met):
        assert cost is None or not cost.any()
        return
    assert cost is not None
    wanted = [(max(met) - value) / (max(met) - min(met)) for value in met]
    assert cost.tolist() == pytest.approx(wanted)


@settings(max_examples=CASES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_soft_spread_costs_what_kube_scheduler_takes_off(seed: int) -> None:
    case = random_case(Random(seed), affinity=False)
    plain = Plain(case)
    world, pod = world_of(case)
    view = world.engine.state.view()
    cost = SpreadScore().cost(view, pod, np.ones(view.size, dtype=np.bool_))
    every = plain.constraints("ScheduleAnyway")
    if not every:
        assert cost is None
        return
    assert cost is not None
    known = {
        node["metadata"]["name"]: round_half_up(points(plain, node, every))
        for node in case.nodes
        if all(item["topologyKey"] in labels_of(node) for item in every)
    }
    for row, name in enumerate(view.names):
        if name not in known:
            assert cost[row] == 1.0
        elif not max(known.values()):
            assert cost[row] == 0.0
        else:
            assert cost[row] == pytest.approx((known[name] - min(known.values())) / max(known.values()))


def points(plain: Plain, node: Json, every: list[Json]) -> float:
    total = 0.0
    known = [node for node in plain.case.nodes if all(item["topologyKey"] in labels_of(node) for item in every)]
    for constraint in every:
        sums = plain.by_value(constraint, every)
        if constraint["topologyKey"] == "kubernetes.io/hostname":
            matching = plain.matching(node, constraint)
            values = {other["metadata"]["name"] for other in known}
        else:
            matching = sums.get(labels_of(node)[constraint["topologyKey"]], 0)
            values = {labels_of(other)[constraint["topologyKey"]] for other in known}
        total += matching * math.log(len(values) + 2) + constraint["maxSkew"] - 1
    return total


def round_half_up(value: float) -> int:
    return math.floor(value + 0.5)
