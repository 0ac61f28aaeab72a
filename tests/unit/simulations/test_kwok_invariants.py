"""The judge of watches: every violation planted once, and none found where there is none."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kube.gang_objects import PodGroup
from kube.objects import Node, Pod
from simulations.engine.ledger import InvariantViolation
from simulations.kwok.invariants import WatchedCluster, requests

GANG_SECONDS, SILENT_SECONDS = 60.0, 90.0


def a_judge(*, gangs: bool = True) -> WatchedCluster:
    judge = WatchedCluster(gangs_are_whole=gangs, gang_seconds=GANG_SECONDS, silent_seconds=SILENT_SECONDS)
    for name in ("n0", "n1"):
        room = {"cpu": "8", "memory": "64Gi", "pods": "3", "nvidia.com/gpu": "8"}
        judge.node(msgspec.convert({"metadata": {"name": name}, "status": {"allocatable": room}}, Node))
    judge.group(
        msgspec.convert({"metadata": {"name": "g", "namespace": "default"}, "spec": {"minMember": 2}}, PodGroup), 0.0
    )
    return judge


def a_pod(
    name: str, node: str = "", *, phase: str = "Pending", told: str = "", gang: str = "", asks: Any = None
) -> Pod:
    container = {"name": "main", "resources": {"requests": asks or {"cpu": "1", "nvidia.com/gpu": "4"}}}
    labels = {"scheduling.x-k8s.io/pod-group": gang} if gang else {}
    conditions = [{"type": "PodScheduled", "status": "False", "message": told}] if told else []
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "default", "uid": f"u{name}", "labels": labels},
            "spec": {"nodeName": node, "containers": [container]},
            "status": {"phase": phase, "conditions": conditions},
        },
        Pod,
    )


def too_many_gpus(judge: WatchedCluster) -> None:
    for index in range(3):
        judge.pod(a_pod(f"p{index}", "n0"), 1.0)


def too_many_millicores(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p0", "n0", asks={"cpu": "7500m"}), 1.0)
    judge.pod(a_pod("p1", "n0", asks={"cpu": "501m"}), 1.0)


def too_many_pods(judge: WatchedCluster) -> None:
    for index in range(4):
        judge.pod(a_pod(f"p{index}", "n0", asks={"cpu": "1m"}), 1.0)


def a_resource_the_node_has_not(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p", "n0", asks={"example.com/fpga": "1"}), 1.0)


def another_node_later(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p", "n0"), 1.0)
    judge.pod(a_pod("p", "n1"), 2.0)


def bound_after_its_end(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p", phase="Failed"), 1.0)
    judge.pod(a_pod("p", "n0"), 2.0)


def a_node_nobody_knows(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p", "n9"), 1.0)


def half_a_gang(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p0", "n0", gang="g"), 1.0)
    judge.pod(a_pod("p1", gang="g", told="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), 1.0)
    judge.look(1.0 + GANG_SECONDS)  # not yet
    judge.look(1.1 + GANG_SECONDS)


def half_a_gang_that_was_whole(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p0", "n0", gang="g"), 1.0)
    judge.pod(a_pod("p1", "n1", gang="g"), 1.0)
    judge.look(500.0)
    judge.pod(a_pod("p1", "n1", gang="g", phase="Failed"), 600.0)
    judge.look(601.0 + GANG_SECONDS)


def nobody_says_why(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p"), 1.0)
    judge.look(1.0 + SILENT_SECONDS)  # not yet
    judge.look(1.1 + SILENT_SECONDS)


def one_is_told_one_is_not(judge: WatchedCluster) -> None:
    judge.pod(a_pod("p0"), 1.0)
    judge.pod(a_pod("p1"), 1.0)
    judge.pod(a_pod("p0", told="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), 50.0)
    judge.look(51.0 + SILENT_SECONDS)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (too_many_gpus, "over-committed node .* lacks 4 of nvidia.com/gpu"),
        (too_many_millicores, "over-committed node .* lacks 1 of cpu"),
        (too_many_pods, "over-committed node .* lacks 1 of pods"),
        (a_resource_the_node_has_not, "over-committed node .* lacks 1 of example.com/fpga"),
        (another_node_later, "double bind .* was bound to n0 and is now on n1"),
        (bound_after_its_end, "had ended and was then bound to n0"),
        (a_node_nobody_knows, "n9, which is no node"),
        (half_a_gang, "partial gang .* default/g has 1 of 2 pods bound since 60 s"),
        (half_a_gang_that_was_whole, "partial gang"),
        (nobody_says_why, "no reason .* default/p and 0 more"),
        (one_is_told_one_is_not, "no reason .* default/p1"),
    ],
)
def test_a_planted_violation_is_found(plant: Callable[[WatchedCluster], None], said: str) -> None:
    with pytest.raises(InvariantViolation, match=said):
        plant(a_judge())


def test_room_comes_back_when_a_pod_ends_or_is_deleted() -> None:
    judge = a_judge()
    judge.pod(a_pod("p0", "n0"), 1.0)
    judge.pod(a_pod("p1", "n0"), 1.0)
    judge.pod(a_pod("p0", "n0", phase="Succeeded"), 2.0)
    judge.pod(a_pod("p2", "n0"), 2.0)
    judge.pod(a_pod("p1", "n0"), 3.0, is_gone=True)
    judge.pod(a_pod("p0", "n0", phase="Succeeded"), 3.0, is_gone=True)  # its room came back once
    judge.pod(a_pod("p3", "n0"), 3.0)
    with pytest.raises(InvariantViolation, match="over-committed"):
        judge.pod(a_pod("p4", "n0"), 3.0)
    assert judge.binds == 4


def test_a_scheduler_without_gangs_may_bind_a_part() -> None:
    judge = a_judge(gangs=False)
    judge.pod(a_pod("p0", "n0", gang="g"), 1.0)
    judge.look(1000.0)


def test_a_gang_known_after_its_pods_counts_from_then() -> None:
    judge = WatchedCluster(gangs_are_whole=True, gang_seconds=GANG_SECONDS, silent_seconds=SILENT_SECONDS)
    judge.node(
        msgspec.convert({"metadata": {"name": "n0"}, "status": {"allocatable": {"cpu": "8", "pods": "9"}}}, Node)
    )
    judge.pod(a_pod("p0", "n0", gang="g", asks={"cpu": "1"}), 1.0)
    group = {"metadata": {"name": "g", "namespace": "default"}, "spec": {"minMember": 2}}
    judge.group(msgspec.convert(group, PodGroup), 500.0)
    judge.look(501.0)
    with pytest.raises(InvariantViolation, match="partial gang"):
        judge.look(561.0)


def test_init_containers_count_by_the_largest() -> None:
    spec = {
        "containers": [{"name": n, "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}} for n in "ab"],
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}],
    }
    pod = msgspec.convert({"metadata": {"name": "p"}, "spec": spec}, Pod)
    assert requests(pod) == {"cpu": 3000, "memory": 2 << 30, "pods": 1}
