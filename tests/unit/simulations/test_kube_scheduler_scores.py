"""kube-scheduler's scores as its release 1.36 has them, resource by resource, on nodes of every kind."""

from random import Random

import pytest

from scheduler.core.cluster_view import ALL, view_of
from scheduler.core.node_table import NodeTable
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.core.residency_table import ResidencyTable
from simulations.policies.kube import BalancedAllocation, LeastAllocated
from tests.builders.scheduler_objects import SPEEDS, a_node, a_pod

GIB = 1 << 30
Amounts = tuple[int, int]  # millicores, bytes


def costs(
    plugin: LeastAllocated | BalancedAllocation, nodes: list[tuple[Amounts, Amounts]], asks: Amounts
) -> list[int]:
    """Of a pod on nodes, each with what is allocatable and what is taken of it."""
    table = NodeTable()
    for number, (there, taken) in enumerate(nodes):
        table.put(a_node(f"n{number}", cpu=f"{there[0]}m", memory=str(there[1])))
        table.take(number, (("cpu", taken[0]), ("memory", taken[1])))
    view = view_of(table, ResidencyTable(table, SPEEDS))
    request = pod_request(a_pod("p").asks(cpu=f"{asks[0]}m", memory=str(asks[1])).build(), ShapeCache())
    view.table.vector(request.shape.requests)
    found = plugin.score(view, request, ALL)
    assert found is not None
    return [int(cost) for cost in found]


def balanced(asked: Amounts, there: Amounts) -> int:
    """balancedResourceScore of two resources."""
    cpu, memory = (min(1.0, amount / whole) for amount, whole in zip(asked, there, strict=True))
    return int((1 - abs((cpu - memory) / 2)) * 100)


@pytest.mark.parametrize(
    ("taken", "asks", "score"),
    [
        # As it was: a pod that leaves a node as even as it found it is worth 75.
        ((0, 0), (2000, 2 * GIB), 75),
        ((8000, 2 * GIB), (2000, 2 * GIB), 75),
        # Made even: 100 with the pod, 70 without it, so half of 30 more.
        ((8000, 2 * GIB), (0, 6 * GIB), 90),
        ((0, 0), (10000, 0), 50),
    ],
)
def test_balance_is_what_a_pod_makes_better_or_worse(taken: Amounts, asks: Amounts, score: int) -> None:
    assert costs(BalancedAllocation(), [((10_000, 10 * GIB), taken)], asks) == [100 - score]


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_whole_points_as_kube_scheduler_counts_them(seed: int) -> None:
    random = Random(seed)
    nodes: list[tuple[Amounts, Amounts]] = []
    for _ in range(50):
        there = random.choice((4000, 64_000, 96_000)), random.choice((8, 256, 768)) * GIB
        nodes.append((there, (random.randrange(there[0]), random.randrange(there[1]))))
    asks = random.randrange(1, 4000), random.randrange(1, 8 * GIB)
    balance, least = [], []
    for there, taken in nodes:
        with_pod = taken[0] + asks[0], taken[1] + asks[1]
        balance.append(100 - (50 + (50 + balanced(with_pod, there) - balanced(taken, there)) // 2))
        least.append(
            100 - sum(max(0, whole - got) * 100 // whole for got, whole in zip(with_pod, there, strict=True)) // 2
        )
    assert costs(BalancedAllocation(), nodes, asks) == balance
    assert costs(LeastAllocated(), nodes, asks) == least
