"""What keeps a pod off every node, and what would make it fit, in words."""

import json

from kube.objects import Taint
from scheduler.core.events import NodeGone
from scheduler.core.outlook import Outlook, outlook
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.core.waits import some
from tests.builders.scheduler_objects import MIB, PodBuilder, World, a_cache, a_dataset, a_group, a_node, a_pod

GIB = 1024 * MIB


def _look(world: World, pod: PodBuilder) -> Outlook:
    return outlook(world.engine.state, pod_request(pod.build(), ShapeCache()), world.now)


def _required(*datasets: str, **more: object) -> str:
    return json.dumps([{"name": name, "required": True} | more for name in datasets])


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


def test_a_required_dataset_that_nobody_holds_is_to_be_loaded_and_one_that_is_not_there_created() -> None:
    world = World()
    world.nodes(a_node("a"), a_node("b"))
    world.datasets(a_dataset("held", GIB), a_dataset("cold", GIB))
    world.caches(a_cache("a", ssd={"held": GIB}), a_cache("b", ssd={"held": GIB}))
    cold = _look(world, a_pod("p").reads(_required("held", "cold")))
    assert cold.groups == ((("node(s) didn't have all required dataset(s) resident",), ("a", "b")),)
    assert cold.remedies == ("load default/cold onto one of a, b, or do not require it",)
    absent = _look(world, a_pod("p").reads(_required("held", "none")))
    assert absent.remedies == ("create default/none and load it, or do not require it: there is no such Dataset",)


def test_a_gated_pod_waits_for_its_gates_and_for_nothing_else() -> None:
    world = World()
    world.nodes(a_node("a"))
    pod = a_pod("p").gated("example.com/quota", "example.com/image").in_gang("none")
    world.pods(pod)
    found = _look(world, pod)
    assert found.feasible == ("a",)
    assert found.waits == (
        "It waits for its scheduling gates example.com/quota, example.com/image to be removed by whoever set it.",
    )


def test_a_gang_half_created_is_told_by_how_many_are_missing() -> None:
    world = World()
    world.nodes(a_node("a", gpus=8))
    pods = [a_pod(f"g-{index}").gpus(1).in_gang("g") for index in range(3)]
    world.pods(*pods)
    assert _look(world, pods[0]).waits == (
        "It is waiting for PodGroup default/g: there is no such object in scheduling.x-k8s.io; "
        "create it with spec.minMember.",
    )
    world.groups(a_group("g", 4))
    assert _look(world, pods[0]).waits == (
        "It is waiting for members of PodGroup default/g: 3 of minMember 4 exist, name this scheduler and are not "
        "gated.",
    )


def test_a_gang_that_does_not_fit_as_a_whole_is_told_so_though_each_member_does() -> None:
    world = World()
    world.nodes(a_node("a", gpus=2))
    world.groups(a_group("g", 4))
    pods = [a_pod(f"g-{index}").gpus(1).in_gang("g") for index in range(4)]
    world.pods(*pods)
    found = _look(world, pods[0])
    assert found.feasible == ("a",)
    assert found.waits == ("Its gang PodGroup default/g needs 4 members placed together, 2 fit now.",)
    world.nodes(a_node("b", gpus=2))
    assert _look(world, pods[0]).waits == ("Its gang PodGroup default/g would fit now as a whole.",)


def test_a_member_that_is_refused_keeps_its_gang_and_is_named() -> None:
    world = World()
    world.nodes(a_node("a", gpus=2))
    world.groups(a_group("g", 2))
    claims = ({"name": "c", "resourceClaimName": "c"},)
    pods = [a_pod("g-0").in_gang("g"), a_pod("g-1").in_gang("g").with_spec(resource_claims=claims)]
    world.pods(*pods)
    (wait,) = _look(world, pods[0]).waits
    assert wait.startswith("Its gang PodGroup default/g cannot be placed without g-1: spec.resourceClaims is not")


def test_a_nominated_pod_waits_for_its_victims_and_others_leave_it_the_room() -> None:
    world = World()
    world.nodes(a_node("a", cpu="4"), a_node("b", cpu="1"))
    first = a_pod("first").asks(cpu="3").priority(10).nominated_to("a")
    victim = a_pod("victim").asks(cpu="3").on("a")
    world.pods(victim, victim.being_deleted(), first)
    assert _look(world, first).waits == (
        "Pods were evicted for it: it is nominated to a, which default/victim must leave first.",
    )
    world.pods(victim.finished())
    assert _look(world, first).waits == ("It is nominated to a; no pod is leaving that node any more.",)
    later = a_pod("later").asks(cpu="3").priority(10)
    world.pods(later)
    found = _look(world, later)
    assert found.waits == ("The room it fits into is kept for pods of equal or higher priority: default/first (a).",)
    assert _look(world, a_pod("higher").asks(cpu="3").priority(11)).waits == ()
    world.feed(NodeGone("a"))
    assert _look(world, first).waits == ("It was nominated to node a, which is no longer there.",)


def test_a_pod_that_waits_for_a_warm_node_says_for_which() -> None:
    world = World()
    world.nodes(a_node("warm", cpu="4"), a_node("cold", cpu="4"))
    world.datasets(a_dataset("d", 100 * GIB))
    world.caches(a_cache("warm", ssd={"d": 100 * GIB}))
    pod = a_pod("p").asks(cpu="3").reads(json.dumps([{"name": "d", "maxWaitSeconds": 600}]))
    world.pods(a_pod("holder").asks(cpu="3").on("warm"), pod)
    (wait,) = _look(world, pod).waits
    assert wait.startswith("It is waiting for node warm, where the data is, for at most ")
