"""gpu_fit on random nodes and workloads: what it promises of every cost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.plugins.base import ALL
from scheduler.plugins.gpu_fit import BEST_FIT_SHARE, GpuFit
from tests.builders.scheduler_objects import World, a_node, a_pod

node = st.tuples(st.integers(0, 32), st.integers(0, 8))
pod = st.tuples(st.integers(1, 16), st.integers(0, 8))


def _fragments(free: tuple[int, int], kinds: list[tuple[int, int]]) -> float:
    """FGD's measure as its paper writes it, one typical pod after another."""
    cpu, gpus = free
    return sum(gpus for asked, whole in kinds if cpu < asked or gpus < whole) / len(kinds)


@given(st.lists(node, min_size=1, max_size=6), st.lists(pod, min_size=1, max_size=12), pod)
def test_a_cost_is_the_fragments_a_placement_adds(
    nodes: list[tuple[int, int]], workload: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    world = World()
    world.nodes(*(a_node(f"n{index}", cpu=str(cpu), gpus=gpus) for index, (cpu, gpus) in enumerate(nodes)))
    workload = [*workload, asked]
    for index, (cpu, gpus) in enumerate(workload):
        built = a_pod(f"p{index}").asks(cpu=str(cpu), memory="1Ki")
        world.pods(built.gpus(gpus) if gpus else built)
    state = world.engine.state
    state.mix._take()
    request = state.resolved(state.pods[a_pod(f"p{len(workload) - 1}").uid].request)
    state.table.vector(request.shape.requests)
    view = state.view()
    cost = GpuFit().score(view, request, ALL)
    if cost is None:
        assert not any(gpus for _, gpus in nodes)
        return
    kinds = [kind for kind in workload if kind[1]]
    for row, (cpu, gpus) in enumerate(nodes):
        if cpu < asked[0] or gpus < asked[1]:
            continue  # refused by a filter
        left = gpus - asked[1]
        expected = BEST_FIT_SHARE * left
        if kinds:
            after = _fragments((cpu - asked[0], left), kinds)
            expected += after - _fragments((cpu, gpus), kinds) + asked[1]
        if not asked[1] and gpus:
            expected += GpuFit().full_scale(view, request)
        assert np.isclose(cost[row], expected)
        assert cost[row] >= -1e-9
