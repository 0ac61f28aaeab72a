"""Gangs in a topology: one domain of the required level, few of the preferred ones, warm before near."""

import msgspec

from api import names
from kube.gang_objects import PodGroup
from scheduler.core.events import NodeGone
from tests.builders.scheduler_objects import MIB, World, a_cache, a_dataset, a_group, a_node, a_pod

ZONE, RACK = "topology.kubernetes.io/zone", "topology.headrace.dev/rack"


def _world(**gpus: int) -> World:
    """Nodes `zone_rack_index` with GPUs."""
    world = World(topology_keys=(ZONE, RACK))
    for name, count in gpus.items():
        zone, rack, _ = name.split("_")
        world.nodes(a_node(name, cpu="64", gpus=count, labels={ZONE: zone, RACK: rack}))
    return world


def _group(name: str, min_member: int, required: str = "", preferred: str = "") -> PodGroup:
    group = a_group(name, min_member)
    wanted = {names.REQUIRED_TOPOLOGY_ANNOTATION: required, names.PREFERRED_TOPOLOGY_ANNOTATION: preferred}
    annotations = {key: value for key, value in wanted.items() if value}
    return PodGroup(msgspec.structs.replace(group.metadata, annotations=annotations), group.spec, group.status)


def _ask(world: World, count: int, group: str = "g", gpus: int = 1, start: int = 0) -> None:
    world.pods(*(a_pod(f"{group}-{index}").gpus(gpus).in_gang(group) for index in range(start, start + count)))


def _racks(binds: dict[str, str]) -> set[str]:
    return {node.rpartition("_")[0] for node in binds.values()}


def test_all_members_share_the_required_domain_and_the_tightest_that_holds_them() -> None:
    world = _world(a_r1_0=2, a_r1_1=2, a_r2_0=3, a_r2_1=3, b_r1_0=8)
    world.groups(_group("g", 5, required=RACK))
    _ask(world, 5)
    assert _racks(world.binds()) == {"a_r2"}


def test_racks_of_two_zones_with_one_name_are_two_domains() -> None:
    world = _world(a_r1_0=2, b_r1_0=2)
    world.groups(_group("g", 4, required=RACK))
    _ask(world, 4)
    message = world.message()
    assert message == (
        "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were outside the topology domain looked at "
        "for the gang. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found "
        "for incoming pod, 1 Preemption is not helpful for scheduling. "
        f"PodGroup default/g needs 4 members placed together in one {RACK}, 2 fit (at best, in a/r1; "
        f"2 in one {ZONE}, a; 4 on all nodes)."
    )
    assert (world.engine.state.table.requested == 0).all()


def test_a_key_no_node_has_is_said() -> None:
    world = _world(a_r1_0=8)
    world.groups(_group("g", 2, required="example.com/row"))
    _ask(world, 2)
    assert "no usable node has the label example.com/row; 2 on all nodes" in world.message()


def test_preferred_levels_are_crossed_as_little_as_possible() -> None:
    world = _world(a_r1_0=4, a_r2_0=4, a_r3_0=2, b_r1_0=6)
    world.groups(_group("g", 6, preferred=f"{ZONE},{RACK}"))
    _ask(world, 6)
    assert _racks(world.binds()) == {"b_r1"}


def test_a_gang_too_big_for_a_preferred_domain_takes_the_fewest() -> None:
    world = _world(a_r1_0=4, a_r2_0=2, a_r3_0=4, b_r1_0=3)
    world.groups(_group("g", 8, required=ZONE, preferred=RACK))
    _ask(world, 8)
    assert _racks(world.binds()) == {"a_r1", "a_r3"}


def test_warm_comes_before_near_and_near_before_tight() -> None:
    world = _world(a_r1_0=4, b_r1_0=2, b_r2_0=2)
    world.groups(_group("g", 4, required=ZONE, preferred=RACK))
    world.datasets(a_dataset("d", 1000 * MIB))
    world.caches(a_cache("b_r1_0", mem={"d": 1000 * MIB}), a_cache("b_r2_0", mem={"d": 1000 * MIB}))
    world.pods(*(a_pod(f"g-{i}").gpus(1).in_gang("g").reads('[{"name":"d"}]') for i in range(4)))
    assert _racks(world.binds()) == {"b_r1", "b_r2"}


def test_members_that_come_later_stay_in_the_domain_or_wait() -> None:
    world = _world(a_r1_0=3, a_r2_0=2)
    world.groups(_group("g", 2, required=RACK))
    _ask(world, 2)
    first = world.binds()
    assert _racks(first) == {"a_r2"}
    for name, node in first.items():
        world.pods(a_pod(name).gpus(1).in_gang("g").on(node))
    _ask(world, 1, start=2)
    assert world.binds() == {}
    world.nodes(a_node("a_r2_1", gpus=1, labels={ZONE: "a", RACK: "r2"}))
    world.now = 20.0
    assert world.binds() == {"g-2": "a_r2_1"}


def test_an_elastic_gang_goes_where_all_of_it_fits() -> None:
    world = _world(a_r1_0=3, a_r2_0=4)
    world.groups(_group("g", 2, required=RACK))
    _ask(world, 4)
    binds = world.binds()
    assert (len(binds), _racks(binds)) == (4, {"a_r2"})


def test_roles_of_different_shape_share_the_domain() -> None:
    world = _world(a_r1_0=4, a_r2_0=4, a_r2_1=1)
    world.groups(_group("g", 3, required=RACK))
    world.pods(a_pod("big").gpus(4).in_gang("g"), *(a_pod(f"s{i}").asks(cpu="64").in_gang("g") for i in range(2)))
    # Beside the big one no node is free enough for a small one, and each rack has too few others.
    assert _racks(world.binds()) == set()
    world.nodes(a_node("a_r2_2", cpu="64", gpus=0, labels={ZONE: "a", RACK: "r2"}))
    world.now = 20.0
    assert _racks(world.binds()) == {"a_r2"}


def test_the_tree_forgets_domains_with_their_last_node_and_follows_labels() -> None:
    world = _world(a_r1_0=1, b_r1_0=1)
    tree = world.engine.state.topology
    assert set(tree.tree.nodes) == {(), ("a",), ("a", "r1"), ("b",), ("b", "r1")}
    world.nodes(a_node("a_r1_0", cpu="64", gpus=1, labels={ZONE: "a", RACK: "r2"}))
    world.feed(NodeGone("b_r1_0"))
    assert set(tree.tree.nodes) == {(), ("a",), ("a", "r2")}
    level = tree.level(RACK, world.engine.state.table)
    assert [level.names[number] for number in level.ids.tolist() if number >= 0] == ["a/r2"]
