"""Pods that look at each other, through the engine: requeueing, signatures, default spreading, gangs."""

from typing import Any

import pytest

from kube.objects import OwnerReference, Pod, TopologySpreadConstraint
from scheduler.core.decisions import Explain
from scheduler.core.events import ControllerChanged, NamespaceChanged, NodeGone, PodGone, ServiceChanged
from tests.builders.scheduler_objects import PodBuilder, World, a_group, a_node, a_pod

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def term(key: str, **more: Any) -> dict[str, Any]:
    labels = {name: value for name, value in more.items() if isinstance(value, str)}
    extra = {name: value for name, value in more.items() if not isinstance(value, str)}
    return {"topologyKey": key, "labelSelector": {"matchLabels": labels}, **extra}


def near(key: str, **labels: Any) -> dict[str, Any]:
    return {"podAffinity": {REQUIRED: [term(key, **labels)]}}


def apart(key: str, **labels: Any) -> dict[str, Any]:
    return {"podAntiAffinity": {REQUIRED: [term(key, **labels)]}}


def evenly(key: str, skew: int = 1, unsatisfiable: str = "DoNotSchedule", **labels: str) -> dict[str, Any]:
    constraint = TopologySpreadConstraint(
        max_skew=skew, topology_key=key, when_unsatisfiable=unsatisfiable, label_selector={"matchLabels": labels}
    )
    return {"topology_spread_constraints": [constraint]}


def zoned(**cpus: str) -> list[Any]:
    """Nodes by name: the first letter is the zone."""
    return [a_node(name, cpu=cpu, labels={ZONE: name[0]}) for name, cpu in cpus.items()]


def test_a_pod_waits_for_the_one_it_wants_to_be_near_and_is_tried_when_that_is_bound() -> None:
    world = World()
    world.nodes(*zoned(a1="8", b1="8"))
    world.pods(a_pod("web").with_spec(affinity=near(ZONE, app="db")))
    assert "2 node(s) didn't match pod affinity rules" in world.message()
    world.tick(20)
    assert world.binds() == {}
    world.pods(a_pod("db").labelled(app="db").scheduled_by("default-scheduler").on("b1"))
    assert world.binds() == {"web": "b1"}


def test_a_pod_that_no_selector_counts_wakes_nobody() -> None:
    world = World()
    world.nodes(*zoned(a1="8"))
    world.pods(a_pod("web").with_spec(affinity=near(ZONE, app="db")))
    world.decide()
    world.tick(20)
    world.pods(a_pod("other").labelled(app="mail").scheduled_by("default-scheduler").on("a1"))
    assert not world.engine.has_work


def test_the_first_of_a_group_that_wants_itself_goes_anywhere_and_draws_the_others() -> None:
    world = World()
    world.nodes(*zoned(a1="8", a2="8", b1="8", b2="8"))
    world.pods(*(a_pod(f"p{index}").labelled(app="x").with_spec(affinity=near(ZONE, app="x")) for index in range(6)))
    zones = {node[0] for node in world.binds().values()}
    assert len(zones) == 1


def test_labels_make_a_difference_once_some_pods_term_is_about_them() -> None:
    world = World()
    world.nodes(*zoned(a1="8", b1="8", c1="8"))
    world.pods(a_pod("first").with_spec(affinity=apart(ZONE, app="x")).scheduled_by("other").on("c1"))
    odd, even = a_pod("odd").labelled(app="x", side="odd"), a_pod("even").labelled(app="x", side="even")
    world.pods(odd, even)
    state = world.engine.state
    requests = [state.resolved(state.pods[pod.uid].request) for pod in (odd, even)]
    assert requests[0].signature == requests[1].signature
    assert state.placer.pass_for(requests[0]) is state.placer.pass_for(requests[1])
    world.pods(a_pod("second").with_spec(affinity=apart(ZONE, side="odd")).scheduled_by("other").on("a1"))
    requests = [state.resolved(state.pods[pod.uid].request) for pod in (odd, even)]
    assert requests[0].signature != requests[1].signature
    # The pass they shared was made for `odd`; it is only `even`'s now and must not see odd's labels.
    assert state.placer.pass_for(requests[1]).feasible() == 2
    assert state.placer.pass_for(requests[0]).feasible() == 1
    assert world.binds()["odd"] == "b1"


def test_a_namespaces_new_labels_open_it_to_a_namespace_selector() -> None:
    world = World()
    world.nodes(*zoned(a1="8", b1="8"))
    world.feed(NamespaceChanged("other", {}))
    selector = {"matchLabels": {"team": "blue"}}
    world.pods(a_pod("db", namespace="other").labelled(app="db").scheduled_by("default-scheduler").on("b1"))
    world.pods(a_pod("web").with_spec(affinity=near(ZONE, app="db", namespaceSelector=selector)))
    assert "didn't match pod affinity rules" in world.message()
    world.tick(20)
    world.feed(NamespaceChanged("other", {"team": "blue"}))
    assert world.binds() == {"web": "b1"}


def test_pods_being_deleted_count_for_affinity_but_not_for_spread() -> None:
    world = World()
    world.nodes(*zoned(a1="8", b1="8"))
    world.pods(a_pod("old").labelled(app="x").scheduled_by("default-scheduler").on("a1").being_deleted())
    world.pods(
        a_pod("near").with_spec(affinity=near(HOST, app="x")),
        a_pod("even").labelled(app="y").with_spec(**evenly(ZONE, app="x"), node_selector={ZONE: "a"}),
    )
    assert world.binds() == {"near": "a1", "even": "a1"}


def test_hard_spread_is_kept_pod_by_pod_and_told_when_it_cannot_be() -> None:
    world = World()
    world.nodes(*zoned(a1="8", b1="1"))
    world.pods(*(a_pod(f"p{index}").labelled(app="x").with_spec(**evenly(ZONE, app="x")) for index in range(4)))
    assert len(world.binds()) == 3
    told = {decision.message for decision in world.made if isinstance(decision, Explain)}
    assert len(told) == 1
    assert "1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints" in told.pop()
    world.feed(NodeGone("b1"))
    world.tick(20)
    assert world.binds() == {"p3": "a1"}


def test_a_service_spreads_its_pods_over_zones_before_nodes_are_filled_evenly() -> None:
    world = World()
    world.nodes(*zoned(a1="64", b1="8"))
    world.feed(ServiceChanged("default", "web", {"app": "web"}))
    world.pods(*(a_pod(f"p{index}").labelled(app="web") for index in range(6)))
    assert sorted(world.binds().values()) == ["a1"] * 3 + ["b1"] * 3


def test_a_controller_spreads_its_pods_until_it_is_gone() -> None:
    world = World()
    owner = OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="rs", controller=True)
    world.nodes(*zoned(a1="8", b1="8"))
    world.feed(ControllerChanged("ReplicaSet", "default", "rs", {"matchLabels": {"app": "x"}}))
    state = world.engine.state
    pod = _owned(a_pod("p").labelled(app="x"), owner)
    event = world.translator.event(pod)
    assert event is not None
    world.feed(event)
    spread = state.resolved(state.pods["uid-p"].request).default_spread
    assert spread is not None
    assert not spread.counts_leaving
    world.feed(ControllerChanged("ReplicaSet", "default", "rs", None))
    assert state.resolved(state.pods["uid-p"].request).default_spread is None


def _owned(pod: PodBuilder, owner: OwnerReference) -> Pod:
    import msgspec

    built = pod.build()
    return msgspec.structs.replace(built, metadata=msgspec.structs.replace(built.metadata, owner_references=[owner]))


# ---- gangs ---------------------------------------------------------------------------------------


def gang(count: int, affinity: dict[str, Any] | None = None, **spec: Any) -> list[PodBuilder]:
    if affinity is not None:
        spec["affinity"] = affinity
    return [a_pod(f"g-{index}").in_gang("g").labelled(job="g").with_spec(**spec) for index in range(count)]


def test_members_that_keep_apart_get_a_node_each_or_none_does() -> None:
    world = World()
    world.nodes(*zoned(a1="8", a2="8", b1="8"))
    world.groups(a_group("g", 3))
    world.pods(*gang(3, apart(HOST, job="g")))
    assert sorted(world.binds().values()) == ["a1", "a2", "b1"]

    crowded = World()
    crowded.nodes(*zoned(a1="8", a2="8", b1="8"))
    crowded.groups(a_group("g", 4))
    crowded.pods(*gang(4, apart(HOST, job="g")))
    assert crowded.binds() == {}
    told = next(decision.message for decision in crowded.made if isinstance(decision, Explain))
    assert told.startswith("0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.")
    assert told.endswith("PodGroup default/g needs 4 members placed together, 3 fit.")


def test_members_that_want_one_zone_get_one_that_holds_them_all() -> None:
    world = World()
    # The emptiest node, the first choice of a single pod, is in a zone too small for the gang.
    world.nodes(*zoned(a1="3", b1="2", b2="2", b3="2"))
    world.groups(a_group("g", 5))
    world.pods(*gang(5, near(ZONE, job="g")))
    assert {node[0] for node in world.binds().values()} == {"b"}
    assert len(world.engine.state.assigned) == 5


def test_workers_beside_a_launcher_wait_for_it_within_the_gang() -> None:
    world = World()
    world.nodes(*zoned(a1="8", b1="8"))
    world.groups(a_group("g", 3))
    workers = [
        a_pod(f"w{index}").asks(cpu="2").in_gang("g").with_spec(affinity=near(ZONE, role="launcher"))
        for index in range(2)
    ]
    world.pods(*workers, a_pod("launcher").labelled(role="launcher").asks(cpu="1").in_gang("g"))
    binds = world.binds()
    assert len(binds) == 3
    assert len({node[0] for node in binds.values()}) == 1


@pytest.mark.parametrize("members", [2, 5, 6])
def test_members_are_spread_evenly(members: int) -> None:
    world = World()
    world.nodes(*zoned(a1="8", a2="8", b1="8", c1="8"))
    world.groups(a_group("g", members))
    world.pods(*gang(members, **evenly(ZONE, job="g")))
    zones = [node[0] for node in world.binds().values()]
    assert len(zones) == members
    counts = [zones.count(zone) for zone in "abc"]
    assert max(counts) - min(counts) <= 1


def test_a_gang_with_terms_about_others_only_is_still_one_array() -> None:
    from scheduler.core.gang_one_by_one import are_entangled

    world = World()
    world.nodes(*zoned(a1="8", b1="8"))
    world.pods(a_pod("noisy").labelled(app="noisy").scheduled_by("default-scheduler").on("a1"))
    world.groups(a_group("g", 4))
    world.pods(*gang(4, apart(ZONE, app="noisy")))
    state = world.engine.state
    assert not are_entangled(state.view(), [state.pods[f"uid-g-{index}"].request for index in range(4)])
    assert set(world.binds().values()) == {"b1"}


def test_what_kept_a_pod_away_is_gone_and_it_is_tried_again() -> None:
    world = World()
    world.nodes(*zoned(a1="8"))
    world.pods(a_pod("loner").with_spec(affinity=apart(HOST, app="x")).scheduled_by("default-scheduler").on("a1"))
    world.pods(a_pod("p").labelled(app="x"))
    assert "didn't satisfy existing pods anti-affinity rules" in world.message()
    world.tick(20)
    world.feed(PodGone("uid-loner"))
    assert world.binds() == {"p": "a1"}
