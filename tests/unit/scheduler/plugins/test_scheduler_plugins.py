"""Scores and filters on small views: scheduler/plugins/."""

from typing import Any

import numpy as np
import pytest

from kube.objects import Node, Taint, Toleration
from scheduler.core.cluster_view import ALL, ClusterView, view_of
from scheduler.core.node_table import NodeTable
from scheduler.core.pod_request import PodRequest, ShapeCache, pod_request
from scheduler.core.residency_table import ResidencyTable
from scheduler.plugins.avoided_nodes import AvoidedNodes
from scheduler.plugins.balance import Balance
from scheduler.plugins.gpu_fit import GpuFit
from scheduler.plugins.node_affinity import NodeAffinity
from scheduler.plugins.ports import conflict
from scheduler.plugins.preferences import Preferences
from scheduler.plugins.registry import FILTERS, RELATIVE, SCORES, build
from scheduler.plugins.resource_fit import ResourceFit
from scheduler.plugins.taints import tolerates
from scheduler.settings import Settings, Weights
from tests.builders.scheduler_objects import SPEEDS, PodBuilder, a_node, a_pod


def _view(*nodes: Node, taken: dict[str, dict[str, int]] | None = None) -> ClusterView:
    table = NodeTable()
    for node in nodes:
        table.put(node)
    for name, amounts in (taken or {}).items():
        table.take(table.row_of[name], tuple(sorted(amounts.items())))
    return view_of(table, ResidencyTable(table, SPEEDS))


def _request(view: ClusterView, pod: PodBuilder) -> PodRequest:
    request = pod_request(pod.build(), ShapeCache())
    view.table.vector(request.shape.requests)
    return request


def test_tight_gpu_nodes_cost_less_than_empty_ones() -> None:
    view = _view(a_node("full", gpus=8), a_node("half", gpus=8), taken={"half": {"nvidia.com/gpu": 4}})
    cost = GpuFit().score(view, _request(view, a_pod("p").gpus(4)), ALL)
    assert cost is not None
    assert cost[1] < cost[0]


def test_gpus_without_their_cpu_are_stranded() -> None:
    view = _view(a_node("a", cpu="16", gpus=8), a_node("b", cpu="16", gpus=8))
    greedy = GpuFit().score(view, _request(view, a_pod("p").asks(cpu="15").gpus(1)), ALL)
    modest = GpuFit().score(view, _request(view, a_pod("p").asks(cpu="1").gpus(1)), ALL)
    assert greedy is not None
    assert modest is not None
    assert greedy[0] > modest[0]


def test_a_pod_without_gpus_pays_for_a_gpu_node() -> None:
    view = _view(a_node("a", gpus=8), a_node("b"))
    pod = _request(view, a_pod("p"))
    cost = GpuFit().score(view, pod, ALL)
    assert cost is not None
    assert cost[0] >= GpuFit().full_scale(view, pod) == 8.0
    assert cost[1] == 0.0


def test_balance_prefers_the_emptier_node() -> None:
    view = _view(a_node("a"), a_node("b"), taken={"a": {"cpu": 4000}})
    cost = Balance().score(view, _request(view, a_pod("p")), ALL)
    assert cost is not None
    assert cost[0] > cost[1]


def test_preferred_affinity_and_soft_taints() -> None:
    expression = {"key": "disk", "operator": "In", "values": ["ssd"]}
    preferred = [{"weight": 10, "preference": {"matchExpressions": [expression]}}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    view = _view(
        a_node("a", labels={"disk": "ssd"}),
        a_node("b"),
        a_node("c", taints=[Taint(key="k", effect="PreferNoSchedule")]),
    )
    cost = Preferences().score(view, _request(view, a_pod("p").with_spec(affinity=affinity)), ALL)
    assert cost is not None
    assert cost.tolist() == pytest.approx([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (Toleration(key="k", value="v", effect="NoSchedule"), True),
        (Toleration(key="k", value="v"), True),
        (Toleration(key="k", operator="Exists"), True),
        (Toleration(operator="Exists"), True),
        (Toleration(key="k", value="w"), False),
        (Toleration(key="k", value="v", effect="NoExecute"), False),
        (Toleration(key="k", operator="Gt", value="1"), False),
    ],
)
def test_tolerations(toleration: Toleration, expected: bool) -> None:
    assert tolerates([toleration], Taint(key="k", value="v", effect="NoSchedule")) is expected


@pytest.mark.parametrize(
    ("wanted", "held", "expected"),
    [
        (("0.0.0.0", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("0.0.0.0", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("10.0.0.2", "TCP", 80), False),
        (("0.0.0.0", "UDP", 80), ("0.0.0.0", "TCP", 80), False),
        (("0.0.0.0", "TCP", 81), ("0.0.0.0", "TCP", 80), False),
    ],
)
def test_port_conflicts(wanted: tuple[str, str, int], held: tuple[str, str, int], expected: bool) -> None:
    assert conflict(wanted, [held]) is expected


def test_affinity_terms_are_alternatives_of_conjunctions() -> None:
    def term(**wanted: str) -> dict[str, object]:
        return {
            "matchExpressions": [{"key": key, "operator": "In", "values": [value]} for key, value in wanted.items()]
        }

    required = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term(a="1", b="2"), term(c="3")]}
    }
    view = _view(
        a_node("both", labels={"a": "1", "b": "2"}),
        a_node("one", labels={"a": "1"}),
        a_node("other", labels={"c": "3"}),
    )
    passed = NodeAffinity().filter(view, _request(view, a_pod("p").with_spec(affinity={"nodeAffinity": required})), ALL)
    assert passed is not None
    assert passed.tolist() == [True, False, True]


def test_capacity_is_the_tightest_resource() -> None:
    view = _view(a_node("a", cpu="8", memory="3Gi", gpus=4), taken={"a": {"nvidia.com/gpu": 1}})
    capacity = ResourceFit().capacity(view, _request(view, a_pod("p").asks(cpu="1", memory="1Gi").gpus(1)))
    assert capacity is not None
    assert capacity.tolist() == [3]
    fits = ResourceFit().filter(view, _request(view, a_pod("q").asks(memory="4Gi")), ALL)
    assert np.asarray(fits).tolist() == [False]


def test_every_weight_has_a_score_and_every_filter_says_what_can_help_it() -> None:
    assert set(Weights.model_fields) == set(SCORES) | set(RELATIVE)
    assert all(factory().worth_retry for factory in FILTERS)
    built = build(Settings())
    assert len({plugin.name for plugin in built.filters}) == len(FILTERS)


def _prefers(preference: dict[str, Any]) -> dict[str, Any]:
    term = {"weight": 100, "preference": preference}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_nodes_a_pod_names_as_bad_cost_more_than_a_cold_start() -> None:
    view = _view(a_node("good"), a_node("bad"), a_node("worse"))
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("bad", "worse", "gone")]
    pod = _request(view, a_pod("p").with_spec(affinity=_prefers({"matchFields": fields})))
    cost = AvoidedNodes().score(view, pod, ALL)
    assert cost is not None
    assert cost.tolist() == [0.0, 1.0, 1.0]
    weights = Weights()
    assert weights.avoided_nodes > weights.stage_in + weights.cache_room + weights.gpu_fit
    other = {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}], "matchFields": fields[:1]}
    assert AvoidedNodes().score(view, _request(view, a_pod("q").with_spec(affinity=_prefers(other))), ALL) is None
    assert AvoidedNodes().score(view, _request(view, a_pod("r")), ALL) is None
