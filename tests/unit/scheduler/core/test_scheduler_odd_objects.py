"""Objects the API server accepts though nobody expects them: each pod is bound or told why not, in one sentence, and
none of them stops the scheduler for all others. Random ones: tests/property/scheduler/test_scheduler_odd_pods.py."""

import pytest

from api import names
from kube.gang_objects import NetworkTopology, VolcanoPodGroup, VolcanoPodGroupSpec
from kube.identity import ObjectMeta
from kube.objects import ContainerStatus, Pod, PodStatus, ResourceRequirements
from scheduler.core.decisions import Bind, DeletePod, Explain
from scheduler.core.events import BindConfirmed, BindFailed, GroupChanged, GroupGone
from scheduler.shell.translate import PodTranslator
from tests.builders.scheduler_objects import MIB, World, a_cache, a_dataset, a_group, a_node, a_pod

# The largest amount the API server knows.
MOST = str(2**63 - 1)


def _world() -> World:
    world = World()
    world.nodes(a_node("n", gpus=4))
    return world


@pytest.mark.parametrize("resource", ["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "hugepages-2Mi"])
@pytest.mark.parametrize("amount", [MOST, "9E", "1E", "7Ei"])
def test_a_pod_that_asks_for_more_than_there_is_anywhere_is_told(resource: str, amount: str) -> None:
    world = _world()
    world.pods(a_pod("p").asks(**{resource: amount}))
    assert world.message().startswith(f"0/1 nodes are available: 1 Insufficient {resource}.")


def test_a_pod_of_many_large_containers_is_told() -> None:
    world = _world()
    pod = a_pod("p").asks(cpu=MOST)
    pod = pod.with_spec(containers=[pod.build().spec.containers[0]] * 20)
    world.pods(pod)
    assert world.message().startswith("0/1 nodes are available: 1 Insufficient cpu.")


def test_pods_that_hold_more_than_a_node_has_leave_no_room_there() -> None:
    world = _world()
    # Bound by whoever writes spec.nodeName: nobody checked that they fit. In 64 bits their sum would be -4.
    world.pods(*(a_pod(f"b{index}").asks(memory=MOST).on("n") for index in range(4)))
    world.pods(a_pod("p"))
    assert world.message().startswith("0/1 nodes are available: 1 Insufficient memory.")


def test_a_node_that_offers_more_than_can_be_counted_is_used() -> None:
    world = World()
    world.nodes(a_node("n", cpu=MOST, memory=MOST, pods=MOST, example__com__x=MOST))
    world.pods(a_pod("p"), a_pod("q").asks(cpu=MOST))
    assert world.binds() == {"p": "n"}


def test_a_resize_to_more_than_there_is_leaves_no_room() -> None:
    world = _world()
    pod = a_pod("b").asks(cpu="1").on("n").build()
    status = ContainerStatus(name="main", resources=ResourceRequirements(requests={"cpu": MOST}))
    event = world.translator.event(Pod(pod.metadata, pod.spec, PodStatus(container_statuses=[status])))
    assert event is not None
    world.feed(event)
    world.pods(a_pod("p"))
    assert world.message().startswith("0/1 nodes are available: 1 Insufficient cpu.")


@pytest.mark.parametrize(
    ("annotation", "text", "says"),
    [
        (names.DATASETS_ANNOTATION, "[" * 50_000, "is not valid JSON"),
        (names.DATASETS_ANNOTATION, f'[{{"name":"d","maxWaitSeconds":{"9" * 400}}}]', "must be a number of seconds"),
        (names.DATASETS_ANNOTATION, f'[{{"name":"d","maxWaitSeconds":{"9" * 5000}}}]', "is not valid JSON"),
        (names.CHECKPOINT_NODES_ANNOTATION, '{"n":' + "9" * 400 + "}", "must map node names to bytes"),
        (names.CHECKPOINT_NODES_ANNOTATION, '{"n":' * 50_000, "is not valid JSON"),
    ],
)
def test_an_annotation_that_is_too_much_is_told(annotation: str, text: str, says: str) -> None:
    world = _world()
    world.datasets(a_dataset("d", 10 * MIB))
    world.pods(a_pod("p").annotated(annotation, text))
    message = world.message()
    assert message.startswith(f"0/1 nodes are available: annotation {annotation}")
    assert says in message
    assert len(message) < 1000
    # A user corrects it by an update.
    world.pods(a_pod("p"))
    assert world.binds() == {"p": "n"}


def test_a_pod_created_in_the_future_waits_as_long_as_others() -> None:
    """The API server's clock is ahead of ours, or ours was set back."""
    world = World()
    world.translator = PodTranslator((names.DEFAULT_SCHEDULER_NAME,), 3600.0)
    world.nodes(a_node("cold"), a_node("warm"))
    world.datasets(a_dataset("d", 10_000 * MIB))
    world.caches(a_cache("warm", ssd={"d": 10_000 * MIB}))
    world.pods(a_pod("full").asks(cpu="8").on("warm"))
    world.pods(a_pod("p").reads('[{"name":"d","maxWaitSeconds":10}]'))
    assert "waiting for node warm" in world.message()
    world.tick(9)
    assert world.binds() == {}
    world.tick(2)
    assert world.binds() == {"p": "cold"}


def test_a_gang_that_names_too_many_topologies_is_told() -> None:
    world = _world()
    group = a_group("g", 1)
    keys = ",".join(f"example.com/k{index}" for index in range(3000))
    annotated = ObjectMeta(
        name="g", namespace="default", uid="u", annotations={names.PREFERRED_TOPOLOGY_ANNOTATION: keys}
    )
    world.pods(a_pod("p").in_gang("g"))
    world.feed(GroupChanged(type(group)(annotated, group.spec)))
    told = [decision.message for decision in world.tick(10) if isinstance(decision, Explain)]
    assert told == [
        f"PodGroup default/g: annotation {names.PREFERRED_TOPOLOGY_ANNOTATION} names 3000 label keys; at most 16 are "
        "allowed"
    ]


@pytest.mark.parametrize("tier", [-1, -10, 0])
def test_a_volcano_tier_below_the_first_is_told(tier: int) -> None:
    world = World(topology_keys=("zone", "rack"))
    world.nodes(a_node("n"))
    spec = VolcanoPodGroupSpec(min_member=1, network_topology=NetworkTopology(mode="hard", highest_tier_allowed=tier))
    world.feed(GroupChanged(VolcanoPodGroup(ObjectMeta(name="g", namespace="default", uid="u"), spec)))
    world.pods(a_pod("p").annotated(names.VOLCANO_GROUP_ANNOTATION, "g"))
    told = [decision.message for decision in (*world.decide(), *world.tick(10)) if isinstance(decision, Explain)]
    assert told == [
        f"PodGroup default/g: spec.networkTopology.highestTierAllowed {tier} must be 1 (the nearest tier) or more"
    ]


def test_a_gang_whose_podgroup_was_deleted_while_it_was_bound_is_still_whole_or_undone() -> None:
    world = World(gang_bind_seconds=30.0)
    world.nodes(a_node("n0", gpus=2), a_node("n1", gpus=2))
    members = [a_pod(f"g{index}").gpus(1).in_gang("g") for index in range(4)]
    world.groups(a_group("g", 4))
    world.pods(*members)
    placed = world.binds()
    assert len(placed) == 4
    bound, refused = members[0], members[1:]
    world.feed(BindConfirmed(bound.uid, placed["g0"]))
    world.pods(bound.on(placed["g0"], phase="Pending"))
    world.feed(GroupGone("default", "g"))
    world.feed(*(BindFailed(pod.uid, placed[pod.name], "refused") for pod in refused))
    world.tick(1)
    other = "n0" if placed["g0"] == "n1" else "n1"
    world.pods(a_pod("other").gpus(2).on(other))
    # Made again by whoever owns it: now the rest does not fit, and the bound member must not stay alone.
    world.groups(a_group("g", 4))
    world.decide()
    world.tick(15)
    world.decide()
    world.tick(16)
    undone = [decision.name for decision in world.made if isinstance(decision, DeletePod)]
    assert undone == ["g0"]


def test_a_topology_no_node_has_is_told_of_all_nodes() -> None:
    world = _world()
    world.nodes(a_node("m"))
    group = a_group("g", 1)
    annotated = ObjectMeta(
        name="g", namespace="default", uid="u", annotations={names.REQUIRED_TOPOLOGY_ANNOTATION: "example.com/none"}
    )
    world.feed(GroupChanged(type(group)(annotated, group.spec)))
    world.pods(a_pod("p").in_gang("g"))
    assert world.message() == (
        "0/2 nodes are available: 2 node(s) were outside the topology domain looked at for the gang. "
        "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling. "
        "PodGroup default/g needs 1 members placed together in one example.com/none, 0 fit (no usable node has the "
        "label example.com/none; 1 on all nodes)."
    )


def test_members_of_another_scheduler_do_not_count_and_the_message_says_so() -> None:
    world = _world()
    world.groups(a_group("g", 2))
    world.pods(a_pod("g0").in_gang("g"), a_pod("g1").in_gang("g").scheduled_by("default-scheduler"))
    told = [decision.message for decision in world.tick(10) if isinstance(decision, Explain)]
    assert told == [
        "waiting for members of PodGroup default/g: 1 of minMember 2 exist, name this scheduler and are not gated"
    ]


@pytest.mark.parametrize("minimum", [-3, 0])
def test_a_gang_without_a_minimum_is_placed(minimum: int) -> None:
    world = _world()
    world.groups(a_group("g", minimum))
    world.pods(a_pod("a").in_gang("g"), a_pod("b").in_gang("g"))
    assert set(world.binds()) == {"a", "b"}


def test_what_is_asked_of_nothing_is_bound() -> None:
    world = _world()
    world.pods(a_pod("p").asks(), a_pod("q").asks(cpu="0"), a_pod("with.dots.in-its-name").asks(memory="1n"))
    assert set(world.binds()) == {"p", "q", "with.dots.in-its-name"}


def test_names_with_dots_are_kept_apart() -> None:
    world = World()
    world.nodes(a_node("a.b"), a_node("a"))
    world.groups(a_group("g.h", 1), a_group("g", 3))
    world.pods(a_pod("p").in_gang("g.h").with_spec(node_selector={"kubernetes.io/hostname": "a.b"}))
    assert world.binds() == {"p": "a.b"}
    (bind,) = (decision for decision in world.made if isinstance(decision, Bind))
    assert bind.gang == "default/g.h"
