"""A live cluster as a world, and what changing it does."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kube.objects import Dataset, Node, NodeCache, Pod
from simulations.errors import ScenarioError
from simulations.whatif import AS_IT_IS, Assumed, Live, Questions, ask, cordoned, with_cache_nodes, with_ssd, world_of

GB = 10**9


def a_node(name: str, rack: str, **spec: Any) -> Node:
    labels = {"topology.kubernetes.io/zone": "z", "topology.headrace.dev/rack": rack}
    room = {"cpu": "96", "memory": "768Gi", "pods": "110", "nvidia.com/gpu": "8"}
    return msgspec.convert(
        {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": room}}, Node
    )


def a_cache(node: str, held: int = 0, *, is_served: bool = True) -> NodeCache:
    datasets = [{"namespace": "a", "name": "big", "uid": "u", "snapshot": 1, "residentBytes": {"SSD": held}}]
    status = {
        "worker": {"endpoint": "x:1", "epoch": 1} if is_served else None,
        "tiers": [
            {"medium": "MEM", "capacity": 10 * GB, "used": 0},
            {"medium": "SSD", "capacity": 400 * GB, "used": held},
        ],
        "datasets": datasets if held else [],
    }
    return msgspec.convert({"metadata": {"name": node}, "status": status}, NodeCache)


def a_pod(name: str, node: str = "", *, gpus: int = 8, group: str = "", phase: str = "Pending", **more: Any) -> Pod:
    container = {"name": "main", "resources": {"requests": {"cpu": "8", "nvidia.com/gpu": str(gpus)}}}
    meta = {"name": name, "namespace": "a", "uid": name, "annotations": more.get("annotations", {})}
    if group:
        meta["labels"] = {"scheduling.x-k8s.io/pod-group": group}
    spec = {"nodeName": node, "containers": [container], "volumes": more.get("volumes", [])}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": {"phase": phase}}, Pod)


def a_cluster() -> Live:
    big = {"metadata": {"name": "big", "namespace": "a"}, "status": {"snapshot": {"version": 1, "bytes": 200 * GB}}}
    listed = {"metadata": {"name": "unlisted", "namespace": "a"}}
    return Live(
        nodes=[a_node("n0", "r0"), a_node("n1", "r0"), a_node("n2", "r1"), a_node("n3", "r1")],
        caches=[a_cache("n0", 200 * GB), a_cache("n1"), a_cache("n2"), a_cache("n3", 50 * GB, is_served=False)],
        datasets=[msgspec.convert(body, Dataset) for body in (big, listed)],
        pods=[
            a_pod("runs", "n1", gpus=6, phase="Running"),
            a_pod("is-done", "n0", phase="Succeeded"),
            a_pod("g-0", group="g", annotations={"data.headrace.dev/datasets": '[{"name":"big"}]'}),
            a_pod("g-1", group="g", annotations={"data.headrace.dev/datasets": '[{"name":"big"}]'}),
            a_pod("one", gpus=1, volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "big"}}]),
            a_pod("odd", gpus=1, annotations={"data.headrace.dev/datasets": "not JSON"}),
        ],
    )


def test_nodes_have_the_room_that_is_left_and_caches_what_their_workers_serve() -> None:
    world, notes = world_of(a_cluster(), Assumed())
    assert [node.gpus for node in world.nodes] == [8, 2, 8, 8]
    assert [node.cpu_milli for node in world.nodes] == [96_000, 88_000, 96_000, 96_000]
    assert [node.rack for node in world.nodes] == [0, 0, 1, 1]
    assert [node.ssd_bytes for node in world.nodes] == [400 * GB, 400 * GB, 400 * GB, 0]
    (dataset,) = world.datasets
    assert dataset.size_bytes == 200 * GB and dataset.resident == {0: 200 * GB}
    assert notes[0] == "4 nodes, 1 datasets, 3 waiting jobs of 4 pods."


def test_waiting_pods_are_jobs_by_their_group_and_read_what_they_name() -> None:
    world, _ = world_of(a_cluster(), Assumed(compute_seconds=1000.0, read_speed_per_gpu=0.1 * GB))
    jobs = {job.name: job for job in world.jobs}
    assert {name: (job.pods, job.gpus, job.dataset) for name, job in jobs.items()} == {
        "a/g": (2, 8, 0),
        "a/one": (1, 1, 0),
        "a/odd": (1, 1, None),
    }
    assert jobs["a/g"].epochs == pytest.approx(16 * 0.1 * 1000 / 200)


def test_changes_are_what_they_say() -> None:
    world, _ = world_of(a_cluster(), Assumed())
    more = with_cache_nodes(world, 3)
    assert [(node.gpus, node.ssd_bytes, node.rack) for node in more.nodes[4:]] == [
        (0, 400 * GB, 0),
        (0, 400 * GB, 1),
        (0, 400 * GB, 0),
    ]
    assert [node.ssd_bytes for node in with_ssd(world, 2.0).nodes] == [800 * GB, 800 * GB, 800 * GB, 0]
    less, _ = world_of(cordoned(a_cluster(), "topology.headrace.dev/rack=r0"), Assumed())
    assert [node.gpus for node in less.nodes] == [0, 0, 8, 8]
    assert less.datasets == world.datasets  # what is cached there still serves
    with pytest.raises(ScenarioError, match="no node has this label"):
        cordoned(a_cluster(), "topology.headrace.dev/rack=r9")
    with pytest.raises(ScenarioError, match="no waiting pods"):
        world_of(replace(a_cluster(), pods=[]), Assumed())


def test_a_cordoned_rack_costs_what_it_must() -> None:
    found = ask(a_cluster(), Assumed(), Questions(cordons=("topology.headrace.dev/rack=r0",), ssd_factors=(2.0,)))
    assert list(found.runs) == [AS_IT_IS, "SSD × 2", "without topology.headrace.dev/rack=r0"]
    assert all(seconds > 0 for seconds in found.wall_seconds.values())
    here, _, without = (runs[0].figures for runs in found.runs.values())
    assert here["jobs_finished"] == without["jobs_finished"] == 3
    # Three nodes are homes and only one has anything: the other two fetch their shares from the origin, once, whatever
    # the first one has copies of. Its own share crosses racks for whoever reads in the other one.
    for figures in (here, without):
        assert figures["origin_bytes"] == pytest.approx(200 * GB * 2 / 3, rel=0.001)
    assert (without["far_peer_bytes"] or 0) >= 200 * GB / 3
    # Both other nodes are the gang's, and the single pods have to wait until it is done.
    assert here["makespan_seconds"] == pytest.approx(3600, rel=0.01)
    assert without["makespan_seconds"] == pytest.approx(2 * 3600, rel=0.01)


def test_pods_that_fit_nowhere_are_counted_and_do_not_keep_it_from_an_answer() -> None:
    live = a_cluster()
    live = replace(live, pods=[*live.pods, a_pod("large", gpus=9)])
    found = ask(live, Assumed(), Questions((1,)))
    figures = found.runs[AS_IT_IS][0].figures
    assert (figures["jobs"] or 0) - (figures["jobs_finished"] or 0) == 1
