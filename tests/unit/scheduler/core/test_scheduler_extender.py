"""The data score on kube-scheduler's extender scale."""

import pytest

from scheduler.core.data_request import BadDataRequest
from scheduler.core.extender import MAX_SCORE, DataExtender, Filtered
from scheduler.plugins.stage_in import StageIn
from tests.builders.scheduler_objects import MIB, World, a_cache, a_dataset, a_node, a_pod

NODES = ["hot", "warm", "cold"]


@pytest.fixture
def extender() -> DataExtender:
    world = World()
    world.nodes(*(a_node(name) for name in NODES))
    world.datasets(a_dataset("d", 1000 * MIB))
    world.caches(a_cache("hot", ssd={"d": 1000 * MIB}), a_cache("warm", ssd={"d": 500 * MIB}), a_cache("cold"))
    return DataExtender(world.engine.state, StageIn(1.0))


def test_nearer_nodes_score_higher_and_the_nearest_highest(extender: DataExtender) -> None:
    scores = extender.prioritize(a_pod("p").reads('[{"name":"d"}]').build(), ["cold", "hot", "warm"])
    cold, hot, warm = scores
    assert (hot, cold) == (MAX_SCORE, 0)
    assert cold < warm < hot


def test_a_pod_without_data_is_not_swayed(extender: DataExtender) -> None:
    assert extender.prioritize(a_pod("p").build(), NODES) == [0, 0, 0]
    assert extender.filter(a_pod("p").build(), NODES) == Filtered(tuple(NODES), {})


def test_a_node_never_seen_scores_as_the_coldest(extender: DataExtender) -> None:
    pod = a_pod("p").reads('[{"name":"d"}]').build()
    assert extender.prioritize(pod, ["stranger", "hot"]) == [0, MAX_SCORE]


def test_differences_below_the_floor_do_not_fill_the_scale() -> None:
    world = World()
    world.nodes(*(a_node(name) for name in NODES))
    world.datasets(a_dataset("small", 20 * MIB))
    world.caches(a_cache("hot", ssd={"small": 20 * MIB}), a_cache("cold"))
    extender = DataExtender(world.engine.state, StageIn(1.0))
    scores = extender.prioritize(a_pod("p").reads('[{"name":"small"}]').build(), ["hot", "cold"])
    assert 0 <= scores[1] <= scores[0] <= MAX_SCORE // 2


def test_a_required_dataset_keeps_only_nodes_that_hold_it_whole(extender: DataExtender) -> None:
    found = extender.filter(a_pod("p").reads('[{"name":"d","required":true}]').build(), ["warm", "hot", "stranger"])
    assert found.kept == ("hot",)
    assert set(found.failed) == {"warm", "stranger"}
    assert all("required dataset" in reason for reason in found.failed.values())


def test_a_bad_annotation_is_said(extender: DataExtender) -> None:
    with pytest.raises(BadDataRequest, match="not valid JSON"):
        extender.filter(a_pod("p").reads("{").build(), NODES)
