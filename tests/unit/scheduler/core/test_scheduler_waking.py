"""Refused units are tried again when something happened that can help them, not only at the five-minute flush."""

import pytest

from kube.objects import PersistentVolumeClaimSource, Taint, Toleration, Volume
from scheduler.core.decisions import Bind, Explain, Preempt
from scheduler.core.events import NodeGone, PodGone, PreemptionEnded
from tests.builders.scheduler_objects import MIB, World, a_cache, a_dataset, a_group, a_node, a_pod

HIGH = 100
MISSING = Volume(name="v", persistent_volume_claim=PersistentVolumeClaimSource(claim_name="missing"))


def _later(world: World) -> None:
    """Past every backoff, and far from the flush."""
    world.tick(20.0)


def _bound(world: World) -> dict[str, str]:
    return {decision.name: decision.node for decision in world.made if isinstance(decision, Bind)}


def _victims(world: World) -> set[str]:
    return {victim.name for item in world.decide() if isinstance(item, Preempt) for victim in item.victims}


# ---- gangs whose members differ -------------------------------------------------------------


def test_a_gang_of_several_shapes_is_tried_when_what_refuses_any_of_them_changes() -> None:
    world = World()
    world.nodes(a_node("n", gpus=4))
    world.groups(a_group("g", 1))
    world.pods(a_pod("big").gpus(8).in_gang("g"), a_pod("small").with_spec(node_selector={"zone": "b"}).in_gang("g"))
    assert world.binds() == {}
    _later(world)
    # No node will ever hold the big one; the small one is enough, and lacked its zone.
    world.nodes(a_node("n", gpus=4, labels={"zone": "b"}))
    assert world.binds() == {"small": "n"}


def test_a_gang_is_tried_when_a_member_that_was_placed_could_make_way_for_another() -> None:
    world = World()
    world.nodes(a_node("x", gpus=8), a_node("y", gpus=8, taints=[Taint(key="k", effect="NoSchedule")]))
    world.groups(a_group("g", 2))
    here = a_pod("here").gpus(7).with_spec(node_selector={"kubernetes.io/hostname": "x"})
    here = here.tolerating(Toleration(key="k", operator="Exists"))
    world.pods(a_pod("anywhere").gpus(8).in_gang("g"), here.in_gang("g"))
    assert world.binds() == {}
    _later(world)
    # What refused the second is room on x; that the first may leave it is news about y.
    world.nodes(a_node("y", gpus=8))
    assert world.binds() == {"anywhere": "y", "here": "x"}


def test_members_that_cannot_be_tried_do_not_keep_a_gang_that_has_enough_others() -> None:
    world = World()
    world.nodes(a_node("n", gpus=8))
    world.groups(a_group("g", 2))
    broken = a_pod("g-0").gpus(1).in_gang("g").with_volumes(MISSING)
    world.pods(broken, *(a_pod(f"g-{index}").gpus(1).in_gang("g") for index in (1, 2)))
    made = world.decide()
    assert set(_bound(world)) == {"g-1", "g-2"}
    told = {decision.name: decision.message for decision in made if isinstance(decision, Explain)}
    assert list(told) == ["g-0"]
    assert 'persistentvolumeclaim "missing" not found' in told["g-0"]
    assert told["g-0"].endswith("PodGroup default/g has enough members without this one.")
    # Tried once more alone, it has nothing new to say; its claim brings it in.
    world.made.clear()
    _later(world)
    world.decide()
    assert [decision for decision in world.made if isinstance(decision, Explain)] == []
    world.pods(a_pod("g-0").gpus(1).in_gang("g"))
    assert set(world.binds()) == {"g-0"}


def test_a_gang_that_needs_the_member_that_cannot_be_tried_waits_as_a_whole() -> None:
    world = World()
    world.nodes(a_node("n", gpus=8))
    world.groups(a_group("g", 3))
    broken = a_pod("g-0").gpus(1).in_gang("g").with_volumes(MISSING)
    world.pods(broken, *(a_pod(f"g-{index}").gpus(1).in_gang("g") for index in (1, 2)))
    message = world.message()
    assert message.endswith('persistentvolumeclaim "missing" not found. not found (member g-0 of PodGroup default/g)')
    assert _bound(world) == {}


# ---- preemptors -----------------------------------------------------------------------------


def test_a_preemptor_whose_nominated_node_goes_looks_elsewhere() -> None:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="2"), a_node("b", cpu="2"))
    world.pods(a_pod("low").asks(cpu="2").started(1).on("a"))
    world.pods(a_pod("middle").asks(cpu="2").priority(50).started(1).on("b"))
    world.pods(a_pod("high").asks(cpu="2").priority(HIGH))
    assert _victims(world) == {"low"}
    world.feed(PreemptionEnded("uid-high", failed=False))
    _later(world)
    world.feed(NodeGone("a"))
    world.feed(PodGone("uid-low"))
    assert _victims(world) == {"middle"}


def test_a_gang_whose_nominated_nodes_go_looks_elsewhere() -> None:
    world = World()
    world.now = 1000.0
    world.groups(a_group("new", 2))
    world.nodes(*(a_node(name, cpu="2") for name in "abc"))
    world.pods(*(a_pod(f"low-{name}").asks(cpu="2").started(1).on(name) for name in "ab"))
    world.pods(a_pod("middle").asks(cpu="2").priority(50).started(1).on("c"))
    world.pods(*(a_pod(f"new-{index}").asks(cpu="2").priority(HIGH).in_gang("new") for index in range(2)))
    assert _victims(world) == {"low-a", "low-b"}
    world.feed(PreemptionEnded("gang:default/new", failed=False))
    _later(world)
    world.feed(NodeGone("a"))
    world.feed(PodGone("uid-low-a"), PodGone("uid-low-b"))
    assert _victims(world) == {"middle"}


@pytest.mark.parametrize("in_gang", [False, True])
def test_a_preemptor_hears_of_what_else_stands_in_its_way(in_gang: bool) -> None:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="2"))
    world.groups(a_group("g", 1))
    world.pods(a_pod("low").asks(cpu="2").host_port(80).started(1).on("a"))
    high = a_pod("high").asks(cpu="4").priority(HIGH).host_port(80)
    # The port is refused first; that room would lack, too, is seen only without the other.
    world.pods(high.in_gang("g") if in_gang else high)
    assert _victims(world) == set()
    _later(world)
    world.nodes(a_node("a", cpu="4"))
    assert _victims(world) == {"low"}


def test_room_that_was_kept_is_free_when_its_nominee_gives_it_up() -> None:
    world = World()
    world.nodes(a_node("a", cpu="2"))
    world.pods(a_pod("there").asks(cpu="1").priority(HIGH).on("a"))
    nominee = a_pod("high").asks(cpu="2").priority(HIGH).nominated_to("a")
    world.pods(nominee.gated("example.com/later"), a_pod("low").asks(cpu="1"))
    assert world.binds() == {}
    _later(world)
    world.pods(nominee)
    # Nothing makes room for it any more: it gives its nomination up.
    assert world.binds() == {}
    _later(world)
    assert world.binds() == {"low": "a"}


def test_room_that_was_kept_is_free_when_its_nominee_turns_to_another_node() -> None:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="2"), a_node("b", cpu="2"))
    world.pods(a_pod("there").asks(cpu="1").priority(HIGH).on("a"))
    world.pods(a_pod("victim").asks(cpu="2").started(1).on("b"))
    nominee = a_pod("high").asks(cpu="2").priority(HIGH).nominated_to("a")
    waits = a_pod("low").asks(cpu="1").with_spec(node_selector={"kubernetes.io/hostname": "a"})
    world.pods(nominee.gated("example.com/later"), waits)
    assert world.binds() == {}
    _later(world)
    world.pods(nominee)
    assert _victims(world) == {"victim"}
    _later(world)
    assert world.binds() == {"low": "a"}


def _kept_gang(minimum: int) -> World:
    """A pod that would take a's room, and a gang there whose other member, elsewhere, may not be evicted."""
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="2", labels={"pool": "x"}), a_node("b", cpu="2"))
    world.groups(a_group("g", minimum))
    world.pods(a_pod("g-0").asks(cpu="2").in_gang("g").started(1).on("a"))
    world.pods(a_pod("g-1").asks(cpu="2").in_gang("g").priority(HIGH).started(1).on("b"))
    world.pods(a_pod("high").asks(cpu="2").priority(50).with_spec(node_selector={"pool": "x"}))
    assert _victims(world) == set()
    _later(world)
    return world


def test_a_gang_is_weighed_again_when_the_member_that_kept_it_is_gone() -> None:
    world = _kept_gang(2)
    world.feed(PodGone("uid-g-1"))
    assert _victims(world) == {"g-0"}


def test_a_gang_is_weighed_again_when_the_member_that_kept_it_is_leaving() -> None:
    world = _kept_gang(2)
    world.pods(a_pod("g-1").asks(cpu="2").in_gang("g").priority(HIGH).started(1).on("b").being_deleted())
    assert _victims(world) == {"g-0"}


def test_a_gang_is_weighed_again_when_it_can_spare_more() -> None:
    world = _kept_gang(2)
    world.groups(a_group("g", 1))
    assert _victims(world) == {"g-0"}


# ---- waiting for warm nodes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "takes"),
    [("cordoned", "cold"), ("tainted", "cold"), ("relabelled", "cold"), ("gone", "cold"), ("grown", "warm")],
)
def test_a_pod_that_waits_for_a_warm_node_hears_what_becomes_of_it(change: str, takes: str) -> None:
    world = World()
    world.nodes(a_node("warm", cpu="1", labels={"pool": "x"}), a_node("cold", labels={"pool": "x"}))
    world.datasets(a_dataset("d", 10_000 * MIB))
    world.caches(a_cache("warm", mem={"d": 10_000 * MIB}), a_cache("cold", network=5 * MIB))
    world.pods(a_pod("holder").on("warm"))
    pod = a_pod("p").with_spec(node_selector={"pool": "x"}).reads('[{"name":"d","maxWaitSeconds":600}]')
    world.pods(pod)
    assert "waiting for node warm" in world.message()
    _later(world)
    pool = {"pool": "x"}
    if change == "gone":
        world.feed(NodeGone("warm"))
    elif change == "cordoned":
        world.nodes(a_node("warm", cpu="1", labels=pool, unschedulable=True))
    elif change == "tainted":
        world.nodes(a_node("warm", cpu="1", labels=pool, taints=[Taint(key="k", effect="NoSchedule")]))
    elif change == "relabelled":
        world.nodes(a_node("warm", cpu="1"))
    else:
        world.nodes(a_node("warm", cpu="2", labels=pool))
    assert world.binds() == {"p": takes}


def test_a_pod_that_was_gated_waits_for_a_warm_node_from_when_it_may_be_placed() -> None:
    world = World()
    world.nodes(a_node("warm", cpu="1"), a_node("cold"))
    world.datasets(a_dataset("d", 10_000 * MIB))
    world.caches(a_cache("warm", mem={"d": 10_000 * MIB}), a_cache("cold", network=5 * MIB))
    world.pods(a_pod("holder").on("warm"))
    pod = a_pod("p").reads('[{"name":"d","maxWaitSeconds":60}]')
    world.pods(pod.gated("example.com/quota"))
    world.tick(1000.0)
    world.pods(pod)
    assert "waiting for node warm, where the data is, for at most 60 s" in world.message()
    world.tick(30.0)
    world.pods(pod)
    assert world.binds() == {}
    world.tick(31.0)
    assert world.binds() == {"p": "cold"}


# ---- what a gang's priority is --------------------------------------------------------------


def test_a_gang_has_the_priority_of_the_members_that_wait() -> None:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("n", cpu="2"))
    world.groups(a_group("g", 1))
    world.pods(a_pod("chief").asks(cpu="1").priority(1000).in_gang("g"), a_pod("rest").asks(cpu="1").in_gang("g"))
    # Room for one; the chief takes it, and the other has no claim to what a third was promised.
    world.pods(a_pod("low").asks(cpu="1").started(1).on("n"))
    assert world.binds() == {"chief": "n"}
    world.pods(a_pod("chief").asks(cpu="1").priority(1000).in_gang("g").on("n"))
    world.pods(a_pod("middle").asks(cpu="1").priority(500).nominated_to("n").gated("example.com/not-yet"))
    world.feed(PodGone("uid-low"))
    _later(world)
    assert "rest" not in world.binds()
