"""Gangs as victims and as preemptors: whole or not at all."""

import pytest

from kube.gang_objects import GangPolicy, SchedulingPolicy, UpstreamPodGroup, UpstreamPodGroupSpec
from kube.identity import ObjectMeta
from kube.objects import SchedulingGroup
from scheduler.core.decisions import Explain, Nominate, Preempt
from scheduler.core.events import GroupChanged, PodGone, PreemptionEnded
from tests.builders.scheduler_objects import PodBuilder, World, a_budget, a_group, a_node, a_pod

HIGH = 100


def _world(*nodes: str, cpu: str = "2") -> World:
    world = World()
    world.now = 1000.0
    world.nodes(*(a_node(name, cpu=cpu) for name in nodes))
    return world


def _victims(world: World) -> set[str]:
    return {victim.name for item in world.decide() if isinstance(item, Preempt) for victim in item.victims}


def _member(gang: str, index: int, node: str, *, start: int = 10, cpu: str = "1") -> PodBuilder:
    return a_pod(f"{gang}-{index}").asks(cpu=cpu).in_gang(gang).started(start).on(node)


def test_a_gang_at_its_minimum_leaves_as_a_whole_wherever_its_members_are() -> None:
    world = _world("a", "b", "c")
    world.groups(a_group("g", 3))
    world.pods(*(_member("g", index, node) for index, node in enumerate("abc")))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert _victims(world) == {"g-0", "g-1", "g-2"}


def test_what_a_gang_can_spare_leaves_alone() -> None:
    world = _world("a", "b", "c")
    world.groups(a_group("g", 2))
    world.pods(*(_member("g", index, node) for index, node in enumerate("abc")))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert len(_victims(world)) == 1


def test_a_single_pod_is_evicted_rather_than_a_gang_of_three() -> None:
    world = _world("a", "b", "c")
    world.groups(a_group("g", 3))
    world.pods(*(_member("g", index, "b", cpu="500m") for index in range(2)), _member("g", 2, "a"))
    world.pods(*(a_pod(f"single-{node}").asks(cpu="2").started(1).on(node) for node in "c"))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    # The gang's are started later, but three pods cost more than one.
    assert _victims(world) == {"single-c"}


def test_a_gang_with_a_member_that_may_not_be_evicted_stays() -> None:
    world = _world("a", "b")
    world.groups(a_group("g", 2))
    world.pods(_member("g", 0, "a", cpu="2"), _member("g", 1, "b", cpu="2").priority(HIGH))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert world.message() == (
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are "
        "available: 2 No preemption victims found for incoming pod."
    )


def test_a_member_elsewhere_whose_budget_is_used_up_counts_as_a_violation() -> None:
    world = _world("a", "b", "c")
    world.groups(a_group("g", 2))
    world.budgets(a_budget("guard", 0, app="db"))
    world.pods(_member("g", 0, "a", cpu="2"), _member("g", 1, "b", cpu="1").labelled(app="db"))
    world.pods(*(a_pod(f"single-{index}").asks(cpu="1").priority(50).started(1).on("c") for index in range(2)))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert _victims(world) == {"single-0", "single-1"}


def test_a_gang_of_another_scheduler_is_a_gang() -> None:
    world = _world("a", "b")
    world.groups(a_group("g", 2))
    world.pods(*(_member("g", index, node, cpu="2").scheduled_by("other") for index, node in enumerate("ab")))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert _victims(world) == {"g-0", "g-1"}


@pytest.mark.parametrize("scheduler", ["headrace-scheduler", "default-scheduler"])
def test_a_gang_that_is_only_evicted_whole_is_whoever_placed_it(scheduler: str) -> None:
    world = _world("a", "b")
    meta = ObjectMeta(name="g", namespace="default", uid="uid-g")
    policy = SchedulingPolicy(gang=GangPolicy(1))
    world.feed(GroupChanged(UpstreamPodGroup(meta, UpstreamPodGroupSpec(policy, disruption_mode={"all": {}}))))
    group = SchedulingGroup(pod_group_name="g")
    for index, node in enumerate("ab"):
        pod = a_pod(f"g-{index}").asks(cpu="2").with_spec(scheduling_group=group).scheduled_by(scheduler)
        world.pods(pod.started(10).on(node))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert _victims(world) == {"g-0", "g-1"}


def test_members_that_succeeded_count() -> None:
    world = _world("a", "b")
    world.groups(a_group("g", 2))
    world.pods(_member("g", 0, "a", cpu="2"), _member("g", 1, "b", cpu="2"), _member("g", 2, "b").finished())
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert len(_victims(world)) == 1


def _gang(count: int, cpu: str = "2", priority: int = HIGH) -> list[PodBuilder]:
    return [a_pod(f"new-{index}").asks(cpu=cpu).priority(priority).in_gang("new") for index in range(count)]


def test_a_gang_evicts_for_all_members_it_needs_and_waits_for_all() -> None:
    world = _world("a", "b", "c")
    world.groups(a_group("new", 2))
    world.pods(*(a_pod(f"low-{node}").asks(cpu="2").started(10).on(node) for node in "abc"), *_gang(2))
    made = world.decide()
    (preempt,) = (item for item in made if isinstance(item, Preempt))
    assert preempt.is_group
    assert (preempt.unit, preempt.uid, preempt.name) == ("gang:default/new", "uid-group-new", "new")
    assert len(preempt.victims) == 2
    nominated = {item.name: item.node for item in made if isinstance(item, Nominate)}
    assert set(nominated) == {"new-0", "new-1"}
    assert {victim.node for victim in preempt.victims} == set(nominated.values())

    first, second = preempt.victims
    world.feed(PreemptionEnded(preempt.unit, failed=False), PodGone(first.uid))
    world.tick(400.0)
    # One victim is still leaving: nobody is bound and nobody else evicted.
    made = world.decide()
    assert not [item for item in made if not isinstance(item, Explain)]
    world.feed(PodGone(second.uid))
    assert world.binds() == nominated


def test_a_gang_that_cannot_be_placed_as_a_whole_evicts_nobody() -> None:
    world = _world("a", "b", "c")
    world.groups(a_group("new", 3))
    world.pods(
        *(a_pod(f"low-{node}").asks(cpu="2").on(node) for node in "ab"),
        a_pod("equal").asks(cpu="2").priority(HIGH).on("c"),
        *_gang(3),
    )
    made = world.decide()
    assert not [item for item in made if isinstance(item, Preempt | Nominate)]


def test_a_small_member_that_would_take_the_large_ones_only_node_goes_elsewhere() -> None:
    world = _world()
    world.nodes(a_node("small", gpus=1), a_node("large", gpus=2))
    world.groups(a_group("new", 2))
    world.pods(
        a_pod("low-small").gpus(1).started(10).on("small"),
        a_pod("low-large").gpus(1).started(10).on("large"),
        a_pod("new-0").gpus(1).priority(HIGH).in_gang("new"),
        a_pod("new-1").gpus(2).priority(HIGH).in_gang("new"),
    )
    made = world.decide()
    nominated = {item.name: item.node for item in made if isinstance(item, Nominate)}
    assert nominated == {"new-0": "small", "new-1": "large"}
    (preempt,) = (item for item in made if isinstance(item, Preempt))
    assert {victim.name for victim in preempt.victims} == {"low-small", "low-large"}


def test_a_gang_takes_free_nodes_before_it_evicts() -> None:
    world = _world("a", "b", "free")
    world.groups(a_group("new", 2))
    world.pods(*(a_pod(f"low-{node}").asks(cpu="2").on(node) for node in "ab"), *_gang(2))
    assert len(_victims(world)) == 1


def test_a_gangs_victims_that_turn_out_not_to_be_needed_stay() -> None:
    # Member 0 evicts the cheap single on a; member 1 then evicts the whole gang g, whose other half is on a.
    world = _world("a", "b", cpu="4")
    world.groups(a_group("new", 2), a_group("g", 2))
    world.pods(
        a_pod("single").asks(cpu="2").priority(1).started(900).on("a"),
        _member("g", 0, "a", cpu="2").priority(5),
        _member("g", 1, "b", cpu="4").priority(5),
        a_pod("new-0").asks(cpu="2").priority(HIGH).in_gang("new"),
        a_pod("new-1").asks(cpu="4").priority(HIGH).in_gang("new"),
    )
    assert _victims(world) == {"g-0", "g-1"}


def test_room_of_a_nominated_gang_is_kept_from_others() -> None:
    world = _world("a", "b")
    world.groups(a_group("new", 2))
    world.pods(*(a_pod(f"low-{node}").asks(cpu="2").on(node) for node in "ab"), *_gang(2))
    assert len(_victims(world)) == 2
    world.feed(PodGone("uid-low-a"))
    world.pods(a_pod("intruder").asks(cpu="2").priority(HIGH - 1))
    assert world.binds() == {}
    world.feed(PodGone("uid-low-b"))
    world.tick(20.0)
    assert set(world.binds()) == {"new-0", "new-1"}
