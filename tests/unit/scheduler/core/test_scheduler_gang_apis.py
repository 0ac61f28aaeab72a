"""Three gang APIs side by side: membership, minimums, what is waited for, and statuses in each one's words."""

from datetime import UTC, datetime

import pytest

from api import names
from kube.client import PatchKind
from kube.gang_objects import (
    GangPolicy,
    NetworkTopology,
    SchedulingConstraints,
    SchedulingPolicy,
    TopologyConstraint,
    UpstreamPodGroup,
    UpstreamPodGroupSpec,
    UpstreamPodGroupStatus,
    VolcanoPodGroup,
    VolcanoPodGroupSpec,
    VolcanoPodGroupStatus,
)
from kube.identity import ObjectMeta
from kube.objects import Condition, SchedulingGroup
from kube.resources import UPSTREAM_POD_GROUPS
from scheduler.core.decisions import Bind, DeletePod, Explain, GroupStatus, Preempt
from scheduler.core.events import BindConfirmed, GroupChanged, GroupGone, PodGone, PreemptionEnded
from scheduler.core.gang_apis import GangApi, gang_spec, group_of
from scheduler.core.victims import Minimum
from scheduler.shell.group_status import RESOURCES, patch
from tests.builders.scheduler_objects import PodBuilder, World, a_group, a_node, a_pod

RACK = "topology.headrace.dev/rack"


def _volcano(name: str, min_member: int, *, phase: str = "", **spec: object) -> VolcanoPodGroup:
    meta = ObjectMeta(name=name, namespace="default", uid=f"uid-volcano-{name}")
    whole = VolcanoPodGroupSpec(min_member=min_member, **spec)  # type: ignore[arg-type]
    return VolcanoPodGroup(meta, whole, VolcanoPodGroupStatus(phase=phase))


def _upstream(name: str, min_count: int | None, *, conditions: tuple[Condition, ...] = ()) -> UpstreamPodGroup:
    policy = SchedulingPolicy(gang=GangPolicy(min_count)) if min_count is not None else SchedulingPolicy(basic={})
    meta = ObjectMeta(name=name, namespace="default", uid=f"uid-upstream-{name}", generation=3)
    return UpstreamPodGroup(meta, UpstreamPodGroupSpec(policy), UpstreamPodGroupStatus(list(conditions)))


def _in_volcano(name: str, group: str, task: str = "") -> PodBuilder:
    pod = a_pod(name).gpus(1).annotated(names.VOLCANO_GROUP_ANNOTATION, group)
    return pod.annotated(names.VOLCANO_TASK_ANNOTATION, task) if task else pod


def _in_upstream(name: str, group: str) -> PodBuilder:
    return a_pod(name).gpus(1).with_spec(scheduling_group=SchedulingGroup(pod_group_name=group))


def _world(gpus: int = 8) -> World:
    world = World()
    world.nodes(a_node("n", cpu="64", gpus=gpus))
    return world


def _statuses(world: World) -> list[GroupStatus]:
    return [decision for decision in world.made if isinstance(decision, GroupStatus)]


def test_groups_of_one_name_and_different_apis_do_not_mix() -> None:
    world = _world()
    world.feed(GroupChanged(a_group("g", 2)), GroupChanged(_volcano("g", 2)), GroupChanged(_upstream("g", 2)))
    world.pods(a_pod("x-0").gpus(1).in_gang("g"), _in_volcano("v-0", "g"), _in_upstream("u-0", "g"))
    assert world.binds() == {}
    world.pods(_in_volcano("v-1", "g"))
    assert set(world.binds()) == {"v-0", "v-1"}
    world.feed(GroupGone("default", "g", GangApi.UPSTREAM))
    world.pods(a_pod("x-1").gpus(1).in_gang("g"))
    assert set(world.binds()) == {"x-0", "x-1"}


def test_either_volcano_annotation_names_the_group() -> None:
    own = a_pod("p").annotated(names.VOLCANO_OWN_GROUP_ANNOTATION, "g").build()
    assert group_of(own) == group_of(_in_volcano("q", "g").build()) == "volcano:g"


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (a_pod("p").in_gang("g"), "in scheduling.x-k8s.io; create it with spec.minMember"),
        (_in_volcano("p", "g"), "in scheduling.volcano.sh; create it with spec.minMember"),
        (_in_upstream("p", "g"), "in scheduling.k8s.io; create it with spec.schedulingPolicy.gang.minCount"),
    ],
)
def test_a_missing_podgroup_is_named_with_its_api(pod: PodBuilder, said: str) -> None:
    world = _world()
    world.pods(pod)
    (told,) = (decision for decision in world.tick(5.0) if isinstance(decision, Explain))
    assert told.message == f"waiting for PodGroup default/g: there is no such object {said}"


def test_tasks_of_a_volcano_job_have_minimums_of_their_own() -> None:
    world = _world(gpus=3)
    world.feed(GroupChanged(_volcano("g", 3, min_task_member={"ps": 1, "worker": 2})))
    world.pods(*(_in_volcano(f"a-worker-{index}", "g", "worker") for index in range(3)))
    assert world.binds() == {}
    (told,) = {decision.message for decision in world.tick(5.0) if isinstance(decision, Explain)}
    assert "1 more of task 'ps' must exist" in told
    world.pods(_in_volcano("ps-0", "g", "ps"))
    binds = world.binds()
    assert len(binds) == 3
    assert "ps-0" in binds


def test_a_gang_evicts_nobody_when_a_task_it_needs_could_not_be_placed() -> None:
    world = World()
    world.nodes(a_node("n", cpu="4"))
    world.feed(GroupChanged(_volcano("v", 2, min_task_member={"ps": 1, "worker": 1})))
    world.pods(*(a_pod(f"low-{index}").asks(cpu="2").on("n") for index in range(2)))
    tasks = (("p", "ps", "8"), ("w0", "worker", "2"), ("w1", "worker", "2"))
    high = [a_pod(name).asks(cpu=cpu).priority(100) for name, _, cpu in tasks]
    world.pods(
        *(
            pod.annotated(names.VOLCANO_GROUP_ANNOTATION, "v").annotated(names.VOLCANO_TASK_ANNOTATION, task)
            for pod, (_, task, _) in zip(high, tasks, strict=True)
        )
    )
    # Two workers would be as many as it needs, but none of them is a ps.
    assert not [decision for decision in world.decide() if isinstance(decision, Preempt)]


def test_a_gang_evicts_for_each_task_it_needs() -> None:
    world = World()
    world.nodes(a_node("n", cpu="4"))
    world.feed(GroupChanged(_volcano("v", 2, min_task_member={"ps": 1, "worker": 1})))
    world.pods(*(a_pod(f"low-{index}").asks(cpu="2").on("n") for index in range(2)))
    tasks = (("a0", "worker"), ("a1", "worker"), ("z", "ps"))
    for name, task in tasks:
        pod = a_pod(name).asks(cpu="2").priority(100).annotated(names.VOLCANO_GROUP_ANNOTATION, "v")
        world.pods(pod.annotated(names.VOLCANO_TASK_ANNOTATION, task))
    (preempt,) = (decision for decision in world.decide() if isinstance(decision, Preempt))
    assert len(preempt.victims) == 2
    world.feed(PreemptionEnded(preempt.unit, failed=False), *(PodGone(victim.uid) for victim in preempt.victims))
    world.tick(20.0)
    assert set(world.binds()) == {"a0", "z"}


def test_a_gang_keeps_the_tasks_it_needs() -> None:
    world = World()
    world.nodes(a_node("n", cpu="4"))
    world.feed(GroupChanged(_volcano("v", 2, min_task_member={"ps": 1, "worker": 1})))
    for name, task, start in (("w0", "worker", 1), ("w1", "worker", 2), ("p", "ps", 3)):
        pod = a_pod(name).asks(cpu="1").annotated(names.VOLCANO_GROUP_ANNOTATION, "v").started(start)
        world.pods(pod.annotated(names.VOLCANO_TASK_ANNOTATION, task).on("n"))
    world.pods(a_pod("high").asks(cpu="2").priority(100))
    (preempt,) = (decision for decision in world.decide() if isinstance(decision, Preempt))
    # The youngest is its only ps; of its workers it can spare one.
    assert [victim.name for victim in preempt.victims] == ["w1"]


def test_nominated_members_without_a_task_the_gang_needs_are_not_bound() -> None:
    world = World()
    world.nodes(a_node("n", cpu="4"))
    world.feed(GroupChanged(_volcano("v", 2, min_task_member={"ps": 1, "worker": 1})))
    for name, task, cpu in (("p", "ps", "8"), ("w0", "worker", "2"), ("w1", "worker", "2")):
        pod = a_pod(name).asks(cpu=cpu).annotated(names.VOLCANO_GROUP_ANNOTATION, "v")
        pod = pod.annotated(names.VOLCANO_TASK_ANNOTATION, task)
        world.pods(pod.nominated_to("n") if task == "worker" else pod)
    assert world.binds() == {}


def test_task_minimums_above_min_member_are_not_checked_as_in_volcano() -> None:
    assert gang_spec(_volcano("g", 2, min_task_member={"ps": 1, "worker": 2})).min_by_role == ()


def test_volcanos_tiers_are_the_levels_of_the_hierarchy() -> None:
    world = World(topology_keys=("zone", "rack"))
    world.nodes(*(a_node(f"{z}{r}", gpus=2, labels={"zone": z, "rack": r}) for z in "ab" for r in "12"))
    hard = NetworkTopology(mode="hard", highest_tier_allowed=2)
    world.feed(GroupChanged(_volcano("g", 4, network_topology=hard)))
    world.pods(*(_in_volcano(f"g-{index}", "g") for index in range(4)))
    assert {node[0] for node in world.binds().values()} in ({"a"}, {"b"})
    tight = NetworkTopology(mode="hard", highest_tier_allowed=1)
    world.feed(GroupChanged(_volcano("t", 3, network_topology=tight)))
    world.pods(*(_in_volcano(f"t-{index}", "t") for index in range(3)))
    assert "needs 3 members placed together in one rack, 2 fit" in world.message()


def test_volcanos_phases() -> None:
    world = _world()
    world.feed(GroupChanged(_volcano("g", 2, phase="Pending")))
    assert _statuses(world) == []
    world.pods(_in_volcano("g-0", "g"), _in_volcano("g-1", "g"))
    world.feed()
    binds = world.binds()
    for name, node in binds.items():
        world.feed(BindConfirmed(f"uid-{name}", node))
        world.pods(_in_volcano(name, "g").on(node, phase="Pending"))
    world.pods(*(_in_volcano(name, "g").on(node) for name, node in binds.items()))
    world.pods(*(_in_volcano(name, "g").on(node).finished() for name, node in binds.items()))
    told = _statuses(world)
    phases = [status.phase for status in told]
    assert list(dict.fromkeys(phases)) == ["Inqueue", "Running", "Completed"]
    assert {status.api for status in told} == {GangApi.VOLCANO}
    kind, body = patch(told[-1], RESOURCES[GangApi.VOLCANO], datetime(2026, 1, 2, tzinfo=UTC))
    assert kind is PatchKind.MERGE
    assert body["status"]["succeeded"] == 2
    assert body["status"]["conditions"][0]["type"] == "Scheduled"


def test_volcano_groups_without_pods_are_admitted_only_when_asked_to() -> None:
    world = World(admits_volcano_groups=True)
    world.feed(GroupChanged(_volcano("g", 2, phase="Pending")))
    assert [status.phase for status in _statuses(world)] == ["Inqueue"]


def test_an_upstream_gang_is_told_once_that_it_was_scheduled_and_never_back() -> None:
    world = _world(gpus=1)
    world.feed(GroupChanged(_upstream("g", 2)))
    world.pods(_in_upstream("g-0", "g"), _in_upstream("g-1", "g"))
    world.decide()
    world.feed()
    (refused,) = _statuses(world)
    assert refused.message.endswith("PodGroup default/g needs 2 members placed together, 1 fit.")
    world.nodes(a_node("n", cpu="64", gpus=2))
    world.now = 20.0
    binds = world.binds()
    for name, node in binds.items():
        world.feed(BindConfirmed(f"uid-{name}", node))
        world.pods(_in_upstream(name, "g").on(node))
    world.feed(PodGone("uid-g-0"))
    world.pods(_in_upstream("g-2", "g"))
    world.tick(60.0)
    assert [(status.phase, bool(status.message)) for status in _statuses(world)] == [("", True), ("Scheduled", False)]
    for resource, name in zip(
        (UPSTREAM_POD_GROUPS[-1], UPSTREAM_POD_GROUPS[0]),
        ("PodGroupScheduled", "PodGroupInitiallyScheduled"),
        strict=True,
    ):
        kind, body = patch(refused, resource, datetime(2026, 1, 2, tzinfo=UTC))
        (condition,) = body["status"]["conditions"]
        assert kind is PatchKind.STRATEGIC
        assert (condition["type"], condition["status"], condition["reason"]) == (name, "False", "Unschedulable")
        assert condition["observedGeneration"] == 3


def test_a_lost_member_of_an_upstream_gang_that_was_scheduled_is_replaced() -> None:
    world = _world(gpus=1)
    was = Condition(type="PodGroupInitiallyScheduled", status="True")
    world.feed(GroupChanged(_upstream("g", 2, conditions=(was,))))
    world.pods(_in_upstream("g-0", "g").on("n"), _in_upstream("g-1", "g"))
    world.decide()
    assert not any(isinstance(decision, DeletePod) for decision in (*world.made, *world.tick(60.0)))


def test_the_basic_policy_places_what_fits_and_min_count_may_change() -> None:
    world = _world(gpus=1)
    world.feed(GroupChanged(_upstream("b", None)))
    world.pods(_in_upstream("b-0", "b"), _in_upstream("b-1", "b"))
    assert len(world.binds()) == 1
    other = _world(gpus=1)
    other.feed(GroupChanged(_upstream("g", 2)))
    other.pods(_in_upstream("g-0", "g"), _in_upstream("g-1", "g"))
    assert other.binds() == {}
    other.feed(GroupChanged(_upstream("g", 1)))
    other.now = 20.0
    assert len(other.binds()) == 1


def test_what_is_not_evaluated_is_refused_by_name() -> None:
    world = _world()
    named = NetworkTopology(mode="hard", highest_tier_name="spine")
    world.feed(GroupChanged(_volcano("g", 1, network_topology=named)))
    world.pods(_in_volcano("g-0", "g"))
    assert not any(isinstance(decision, Bind) for decision in world.decide())
    (told,) = (decision for decision in world.tick(5.0) if isinstance(decision, Explain))
    assert "spec.networkTopology.highestTierName 'spine' is not evaluated by this scheduler" in told.message


def test_an_upstream_topology_is_a_value_of_one_label() -> None:
    group = _upstream("g", 2)
    spec = UpstreamPodGroupSpec(
        SchedulingPolicy(gang=GangPolicy(4)), SchedulingConstraints([TopologyConstraint(RACK)]), "PodGroup"
    )
    world = World(topology_keys=("zone", RACK))
    # One value in two zones: one domain here, though not in the annotations of scheduling.x-k8s.io.
    world.nodes(*(a_node(f"n{zone}", gpus=2, labels={"zone": zone, RACK: "r1"}) for zone in "ab"))
    world.feed(GroupChanged(UpstreamPodGroup(group.metadata, spec)))
    world.pods(*(_in_upstream(f"g-{index}", "g") for index in range(4)))
    assert set(world.binds().values()) == {"na", "nb"}
    assert world.engine.state.gang_minimum("default", "upstream:g") == Minimum(4)
