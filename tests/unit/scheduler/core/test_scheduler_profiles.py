"""Several schedulerNames in one engine: one cluster, one queue, weights of their own."""

import pytest
from pydantic import ValidationError

from scheduler.core.decisions import Bind, Preempt
from scheduler.settings import Profile, Settings, Weights
from tests.builders.scheduler_objects import World, a_group, a_node, a_pod

# Balance alone spreads; GPU fit alone packs.
SPREADING = Weights(stage_in=0, gpu_fit=0, preferences=0, pod_affinity=0, spread=0, balance=1)
PACKING = Weights(stage_in=0, gpu_fit=1, preferences=0, pod_affinity=0, spread=0, balance=0)
SETTINGS = Settings(
    scheduler_name="spreading", weights=SPREADING, profiles=(Profile(scheduler_name="packing", weights=PACKING),)
)


def _world() -> World:
    world = World(SETTINGS)
    world.nodes(a_node("used", gpus=8), a_node("empty", gpus=8))
    world.pods(a_pod("there").asks(cpu="4").gpus(4).scheduled_by("somebody").on("used"))
    return world


def test_each_pod_is_scored_by_the_weights_of_its_name() -> None:
    world = _world()
    world.pods(a_pod("p").gpus(4).scheduled_by("packing"), a_pod("s").gpus(1).scheduled_by("spreading"))
    assert world.binds() == {"p": "used", "s": "empty"}


def test_profiles_share_the_room() -> None:
    world = World(SETTINGS)
    world.nodes(a_node("a", cpu="2"))
    world.pods(a_pod("p").asks(cpu="2").scheduled_by("packing"), a_pod("s").asks(cpu="2").scheduled_by("spreading"))
    assert len(world.binds()) == 1


def test_decisions_say_whose_they_are_and_other_names_are_left_alone() -> None:
    world = _world()
    world.groups(a_group("g", 2))
    world.pods(
        a_pod("p").scheduled_by("packing"),
        *(a_pod(f"g-{index}").in_gang("g").scheduled_by("packing") for index in range(2)),
        a_pod("theirs").scheduled_by("default-scheduler"),
    )
    made = {decision.name: decision.profile for decision in world.decide() if isinstance(decision, Bind)}
    assert made == {"p": "packing", "g-0": "packing", "g-1": "packing"}


def test_who_evicts_says_by_which_name() -> None:
    world = World(SETTINGS)
    world.nodes(a_node("a", cpu="2"), a_node("b", cpu="2"))
    world.groups(a_group("g", 1))
    world.pods(*(a_pod(f"low-{node}").asks(cpu="2").on(node) for node in "ab"))
    world.pods(
        a_pod("high").asks(cpu="2").priority(2).scheduled_by("packing"),
        a_pod("g-0").asks(cpu="2").priority(1).in_gang("g").scheduled_by("packing"),
    )
    assert [decision.profile for decision in world.decide() if isinstance(decision, Preempt)] == ["packing"] * 2


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValidationError, match="scheduler_name packing is given twice; every profile needs its own"):
        Settings(scheduler_name="packing", profiles=(Profile(scheduler_name="packing"),))
