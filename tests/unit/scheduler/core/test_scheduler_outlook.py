"""What keeps a pod off every node, and what would make it fit, in words."""

from kube.objects import Taint
from scheduler.core.outlook import Outlook, outlook, some
from scheduler.core.pod_request import ShapeCache, pod_request
from tests.builders.scheduler_objects import PodBuilder, World, a_node, a_pod


def _look(world: World, pod: PodBuilder) -> Outlook:
    return outlook(world.engine.state, pod_request(pod.build(), ShapeCache()))


def _taint(key: str, value: str = "") -> Taint:
    return Taint(key=key, value=value, effect="NoSchedule")


def test_a_pod_that_fits_has_nodes_and_no_remedies() -> None:
    world = World()
    world.nodes(a_node("a"), a_node("b", taints=[_taint("x", "y")]))
    found = _look(world, a_pod("p"))
    assert (found.message, found.feasible, found.remedies) == ("", ("a",), ())
    assert found.groups == ((("node(s) had untolerated taint(s)",), ("b",)),)


def test_what_one_change_would_do_comes_by_how_many_nodes_it_opens() -> None:
    world = World()
    world.nodes(
        *(a_node(f"t{index}", taints=[_taint("dedicated", "ml")]) for index in range(4)),
        a_node("small", cpu="3"),
        a_node("tiny", cpu="1"),
        a_node("off", unschedulable=True),
    )
    found = _look(world, a_pod("p").asks(cpu="4"))
    assert found.remedies == (
        "tolerate dedicated=ml:NoSchedule (t0, t1, t2 and 1 more)",
        "room: 1 cpu more (the node has 3 cpu in all) on small (2 nodes are short of room only)",
        "uncordon off",
    )
    assert [len(nodes) for _, nodes in found.groups] == [4, 2, 1]


def test_where_no_single_change_would_do_the_closest_node_is_told() -> None:
    world = World()
    world.nodes(
        a_node("a", cpu="2", taints=[_taint("x")]),
        a_node("b", cpu="1", taints=[_taint("x")], unschedulable=True),
    )
    (remedy,) = _look(world, a_pod("p").asks(cpu="4")).remedies
    assert remedy.startswith("no single change would do; a is closest: node(s) had untolerated taint(s); 2 cpu more")


def test_a_pod_that_is_refused_before_nodes_are_looked_at_has_its_message_only() -> None:
    found = _look(World(), a_pod("p"))
    assert found.message == "no nodes available to schedule pods"
    assert (found.groups, found.remedies) == ((), ())


def test_some_names() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
