"""plugins/cache_room.py: cold data settles where the cache has room and GPUs are free."""

from collections.abc import Mapping

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster_view import ALL, ClusterView, view_of
from scheduler.core.node_table import NodeTable
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.core.residency_table import ResidencyTable
from scheduler.plugins.base import FloatArray
from scheduler.plugins.cache_room import READ_AGAIN_SHARE, CacheRoom
from scheduler.settings import Settings, Weights
from tests.builders.scheduler_objects import MIB, SPEEDS, PodBuilder, World, a_cache, a_dataset, a_node, a_pod

SIZE = 1000 * MIB
COLD_SECONDS = SIZE / SPEEDS.origin
READS = '[{"name": "d"}]'


def _view(
    room: Mapping[str, int], held: Mapping[str, int] | None = None, taken: Mapping[str, int] | None = None
) -> ClusterView:
    """Nodes with 8 GPUs: free cache by name, bytes of `d` held, GPUs taken. A node that is in `taken` only has no
    cache."""
    table = NodeTable()
    residency = ResidencyTable(table, SPEEDS)
    for name in dict.fromkeys([*room, *(taken or {})]):
        table.put(a_node(name, gpus=8))
    residency.put_dataset(a_dataset("d", SIZE))
    for name, free in room.items():
        residency.put_cache(a_cache(name, ssd={"d": (held or {}).get(name, 0)}, room=free))
    for name, gpus in (taken or {}).items():
        table.take(table.row_of[name], (("nvidia.com/gpu", gpus),))
    return view_of(table, residency)


def _score(view: ClusterView, pod: PodBuilder) -> FloatArray | None:
    request = pod_request(pod.build(), ShapeCache())
    view.table.vector(request.shape.requests)
    return CacheRoom(1.0).score(view, request, ALL)


def _reader(gpus: int = 1) -> PodBuilder:
    return a_pod("p").reads(READS).gpus(gpus)


def test_what_pushes_others_out_costs_and_a_node_without_a_cache_has_no_room() -> None:
    view = _view({"all": SIZE, "half": SIZE // 2, "none": 0}, taken={"no-cache": 0})
    cost = _score(view, _reader())
    assert cost is not None
    busy = COLD_SECONDS / 8
    pushed = np.array([0.0, 0.5, 1.0, 1.0]) * COLD_SECONDS * READ_AGAIN_SHARE
    assert np.allclose(cost, pushed + busy)


def test_the_fewer_gpus_stay_free_the_more_later_readers_pay() -> None:
    view = _view({"idle": SIZE, "busy": SIZE}, taken={"busy": 6})
    cost = _score(view, _reader(2))
    assert cost is not None
    assert np.allclose(cost, [COLD_SECONDS * 2 / 8, COLD_SECONDS])


def test_data_that_is_there_costs_nobody_anything() -> None:
    view = _view({"has-it": 0, "cold": SIZE}, held={"has-it": SIZE}, taken={"has-it": 7})
    cost = _score(view, _reader())
    assert cost is not None
    assert cost[0] == 0.0 < cost[1]
    assert _score(view, a_pod("p").gpus(1)) is None, "a pod without data is not asked"


def test_a_dead_worker_has_no_room() -> None:
    view = _view({"a": SIZE})
    view.residency.put_cache(a_cache("a", room=SIZE, serving=False))
    cost = _score(view, _reader())
    assert cost is not None
    assert np.allclose(cost, COLD_SECONDS * (READ_AGAIN_SHARE + 1 / 8))


@given(
    room=st.lists(st.integers(0, 2 * SIZE), min_size=1, max_size=6),
    held=st.lists(st.integers(0, SIZE), min_size=6, max_size=6),
    taken=st.lists(st.integers(0, 7), min_size=6, max_size=6),
    at=st.integers(0, 5),
    more=st.integers(1, SIZE),
)
def test_more_room_or_more_of_the_data_never_costs_more(
    room: list[int], held: list[int], taken: list[int], at: int, more: int
) -> None:
    names = [f"n{number}" for number in range(len(room))]
    at %= len(names)

    def cost(room: list[int], held: list[int]) -> float:
        view = _view(
            dict(zip(names, room, strict=True)),
            dict(zip(names, held, strict=False)),
            dict(zip(names, taken, strict=False)),
        )
        found = _score(view, _reader())
        assert found is not None and (found >= 0).all()
        return float(found[at])

    now = cost(room, held)
    assert cost([*room[:at], room[at] + more, *room[at + 1 :]], held) <= now + 1e-6
    fuller = [*held[:at], min(SIZE, held[at] + more), *held[at + 1 :]]
    assert cost(room, fuller) <= now + 1e-6


def _two_readers(weights: Weights) -> dict[str, str]:
    """Two pods, each with a dataset of its own that is nowhere, and two nodes whose caches hold one of them."""
    world = World(Settings(weights=weights))
    world.nodes(a_node("n0", gpus=8), a_node("n1", gpus=8))
    world.datasets(a_dataset("d0", SIZE), a_dataset("d1", SIZE))
    world.caches(a_cache("n0", room=SIZE), a_cache("n1", room=SIZE))
    world.pods(a_pod("p0").reads('[{"name": "d0"}]').gpus(1))
    first = world.binds()
    world.caches(a_cache(first["p0"], ssd={"d0": SIZE}, room=0))
    world.pods(a_pod("p1").reads('[{"name": "d1"}]').gpus(1))
    return first | world.binds()


def test_the_second_cold_dataset_goes_to_the_cache_with_room_and_not_beside_the_first() -> None:
    chosen = _two_readers(Weights())
    assert chosen["p0"] != chosen["p1"]
    packed = _two_readers(Weights(cache_room=0))
    assert packed["p0"] == packed["p1"], "without the score GPUs are packed: it is what parted them"
