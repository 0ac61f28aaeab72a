"""A CacheRuntime: who is in the pool, and what its status and its datasets are told."""

import pytest

from api.cacheruntime_v1alpha1 import CacheRuntime
from api.crdgen import crd
from api.gen import metadata_pb2
from cacheruntime.controller import runtime

NOW = 1_800_000_000.0
NODES = {"a": {"disk": "fast"}, "b": {"disk": "fast"}, "c": {}, "d": {"disk": "fast"}}


def a_worker(node: str, used: int = 0, *, alive: bool = True) -> metadata_pb2.Worker:
    tier = metadata_pb2.Tier(medium="SSD", capacity_bytes=100, used_bytes=used)
    return metadata_pb2.Worker(node=node, epoch=1, alive=alive, tiers=[tier])


def a_pool(before: tuple[str, ...] = (), **spec: object) -> CacheRuntime:
    body = {"metadata": {"name": "default", "namespace": "ns"}, "spec": spec, "status": {"nodes": list(before)}}
    return CacheRuntime.model_validate(body)


WORKERS = [a_worker("a", 10), a_worker("b", 40), a_worker("c", 30), a_worker("d", 20)]


@pytest.mark.parametrize(
    ("pool", "members"),
    [
        (a_pool(replicas=2), "bc"),  # the fullest: they have what would have to move
        (a_pool(("a", "d"), replicas=2), "ad"),
        (a_pool(("a", "d"), replicas=3), "abd"),
        (a_pool(("a", "b", "d"), replicas=2), "bd"),
        (a_pool(("a", "b", "d"), replicas=1), "b"),
        (a_pool(("a",), replicas=0), ""),
        (a_pool(replicas=9), "abcd"),
        (a_pool(nodeSelector={"disk": "fast"}), "abd"),
        (a_pool(("c",), replicas=2, nodeSelector={"disk": "fast"}), "bd"),
        (a_pool(("gone",), replicas=1), "b"),
    ],
)
def test_who_is_a_member_stays_one_and_the_fewest_bytes_move(pool: CacheRuntime, members: str) -> None:
    assert runtime.members(pool, WORKERS, NODES) == list(members)


def test_a_dead_worker_stays_a_member_while_its_node_is_there_and_is_the_first_to_go() -> None:
    workers = [a_worker("a", alive=False), a_worker("b"), a_worker("c")]
    assert runtime.members(a_pool(("a", "b"), replicas=2), workers, NODES) == ["a", "b"]
    assert runtime.members(a_pool(("a", "b"), replicas=2), workers, {"b": {}, "c": {}}) == ["b", "c"], "a new node"
    assert runtime.members(a_pool(("a", "b"), replicas=1), workers, NODES) == ["b"]
    assert runtime.members(a_pool(replicas=3), workers, NODES) == ["b", "c"], "nobody begins with a dead one"


def test_the_status_counts_the_pool_only_and_says_what_an_autoscaler_needs() -> None:
    status = runtime.status(a_pool(("b",), replicas=3, nodeSelector={"disk": "fast"}), WORKERS, NODES, NOW)
    assert status.nodes == ["a", "b", "d"] and status.current_worker_number_scheduled == 3
    assert (status.worker_phase, status.worker_number_ready, status.capacity_used_percent) == ("Ready", 3, 23)
    assert status.selector == "app.kubernetes.io/name=headrace-worker"
    short = runtime.status(a_pool(replicas=6), WORKERS, NODES, NOW)
    assert (short.worker_phase, short.current_worker_number_scheduled) == ("PartialReady", 4)
    (condition,) = short.conditions
    assert (condition.status, condition.reason) == ("False", "TooFewWorkers") and "4 of 6 nodes" in condition.message
    everyone = runtime.status(a_pool(), WORKERS, NODES, NOW)
    assert everyone.nodes == [] and everyone.worker_number_ready == 4
    assert runtime.status(a_pool(), [], NODES, NOW).worker_phase == "NotReady"


@pytest.mark.parametrize(
    ("allowed", "pool", "eligible"),
    [
        ([], None, []),
        (["a"], None, ["a"]),
        ([], ["a", "b"], ["a", "b"]),
        (["b", "c"], ["a", "b"], ["b"]),
        (["c"], ["a", "b"], None),
        ([], [], None),
    ],
)
def test_a_dataset_lives_where_both_its_affinity_and_its_pool_allow_it(
    allowed: list[str], pool: list[str] | None, eligible: list[str] | None
) -> None:
    assert runtime.eligible(allowed, pool) == eligible


def test_the_crd_has_a_scale_subresource_whose_paths_exist() -> None:
    version = crd(CacheRuntime)["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    for path in version["subresources"]["scale"].values():
        top, field = path.strip(".").split(".")
        assert field in properties[top]["properties"]
