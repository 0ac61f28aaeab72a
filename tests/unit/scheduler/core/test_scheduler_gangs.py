"""Gangs: all or nothing in one view, slowest member first, undone when the rest cannot be bound."""

import pytest

from scheduler.core.decisions import NOT_READY, Bind, DeletePod, Explain, GroupStatus
from scheduler.core.events import BindConfirmed, BindFailed, GroupGone, PodGone
from scheduler.core.queue import Pool
from tests.builders.scheduler_objects import MIB, PodBuilder, World, a_cache, a_dataset, a_group, a_node, a_pod


def _members(count: int, gpus: int = 1, group: str = "g", start: int = 0) -> list[PodBuilder]:
    return [a_pod(f"{group}-{index}").gpus(gpus).in_gang(group) for index in range(start, start + count)]


def _world(*gpus: int, min_member: int = 4) -> World:
    world = World()
    world.nodes(*(a_node(f"n{index}", cpu="64", gpus=count) for index, count in enumerate(gpus)))
    world.groups(a_group("g", min_member))
    return world


def _confirm(world: World, binds: dict[str, str], *names: str) -> None:
    for name in names or tuple(binds):
        world.feed(BindConfirmed(f"uid-{name}", binds[name]))
        world.pods(a_pod(name).gpus(1).in_gang("g").on(binds[name]))


def test_a_gang_waits_for_its_members_and_says_so_after_a_while() -> None:
    world = _world(8)
    world.pods(*_members(3))
    assert world.decide() == []
    told = world.tick(5.0)
    messages = {decision.message for decision in told if isinstance(decision, Explain)}
    assert messages == {
        "waiting for members of PodGroup default/g: 3 of minMember 4 exist, name this scheduler and are not gated"
    }
    assert all(decision.reason == NOT_READY for decision in told if isinstance(decision, Explain))
    world.pods(*_members(1, start=3))
    assert len(world.binds()) == 4


def test_a_member_that_comes_later_is_told_as_soon_as_the_first_was() -> None:
    world = _world(8)
    world.pods(*_members(2))
    world.tick(5.0)
    world.made.clear()
    world.tick(20.0)
    world.pods(*_members(1, start=2))
    assert world.engine.next_due() == 30.0
    told = [decision for decision in world.tick(5.0) if isinstance(decision, Explain)]
    # The others heard of the gang lately; they are not told of everybody who joins.
    assert {decision.name for decision in told} == {"g-2"}
    assert "3 of minMember 4 exist" in told[0].message


def test_a_gang_without_its_podgroup_waits() -> None:
    world = World()
    world.nodes(a_node("n", gpus=8))
    world.pods(*_members(1))
    assert world.decide() == []
    (told,) = world.tick(5.0)
    assert isinstance(told, Explain)
    assert "waiting for PodGroup default/g: there is no such object" in told.message
    world.groups(a_group("g", 1))
    assert world.binds() == {"g-0": "n"}


def test_all_or_nothing() -> None:
    world = _world(2, 1)
    world.pods(*_members(4))
    made = world.decide()
    assert not any(isinstance(decision, Bind) for decision in made)
    messages = [decision for decision in made if isinstance(decision, Explain)]
    assert len(messages) == 4
    assert sum(decision.with_event for decision in messages) == 1
    assert "2 Insufficient nvidia.com/gpu" in messages[0].message
    assert messages[0].message.endswith("PodGroup default/g needs 4 members placed together, 3 fit.")
    assert (world.engine.state.table.requested == 0).all()
    world.nodes(a_node("more", cpu="64", gpus=1))
    world.now = 10.0
    assert len(world.binds()) == 4


def test_a_refused_gang_sleeps_until_all_it_needs_could_fit() -> None:
    world = _world(2, 1)
    world.pods(*(a_pod(f"other-{node}").gpus(1).on(node) for node in ("n0", "n1")))
    world.pods(*_members(3))
    world.groups(a_group("g", 3))
    assert world.binds() == {}
    pool_of = world.engine.state.queue.pool_of
    gang = world.engine.state.gangs.of_member("uid-g-0")
    assert gang is not None and pool_of(gang.unit) is Pool.UNSCHEDULABLE
    world.now = 20.0
    world.feed(PodGone("uid-other-n1"))
    assert pool_of(gang.unit) is Pool.UNSCHEDULABLE, "two of three GPUs are free"
    world.feed(PodGone("uid-other-n0"))
    assert pool_of(gang.unit) is not Pool.UNSCHEDULABLE
    assert len(world.binds()) == 3


def test_a_gang_that_may_evict_is_woken_by_room_it_would_have_to_clear() -> None:
    world = _world(2, min_member=3)
    world.pods(*(pod.priority(10) for pod in _members(3)))
    assert world.binds() == {}
    gang = world.engine.state.gangs.of_member("uid-g-0")
    assert gang is not None and world.engine.state.queue.pool_of(gang.unit) is Pool.UNSCHEDULABLE
    world.now = 20.0
    world.nodes(a_node("more", cpu="64", gpus=1))
    assert world.engine.state.queue.pool_of(gang.unit) is not Pool.UNSCHEDULABLE


def test_a_gang_packs_gpus_on_the_fewest_nodes() -> None:
    world = _world(8, 4, 8)
    world.pods(*_members(4))
    assert set(world.binds().values()) == {"n1"}


def test_the_rest_goes_to_the_tightest_node() -> None:
    world = _world(8, 2, 8, min_member=10)
    world.pods(*_members(10))
    binds = list(world.binds().values())
    assert sorted((binds.count(node) for node in set(binds)), reverse=True) == [8, 2]
    assert binds.count("n1") == 2


def test_the_slowest_member_decides() -> None:
    world = _world(2, 2, 2)
    world.datasets(a_dataset("d", 1000 * MIB))
    world.caches(a_cache("n0", mem={"d": 1000 * MIB}), a_cache("n2", ssd={"d": 1000 * MIB}))
    world.pods(*(pod.reads('[{"name":"d"}]') for pod in _members(4)))
    assert sorted(world.binds().values()) == ["n0", "n0", "n2", "n2"]


def test_a_gang_without_gpus_spreads_over_equally_warm_nodes() -> None:
    world = World()
    world.nodes(*(a_node(f"n{index}") for index in range(3)))
    world.groups(a_group("g", 2))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("n0", mem={"d": 100 * MIB}), a_cache("n1", mem={"d": 100 * MIB}))
    world.pods(*(a_pod(f"g-{index}").in_gang("g").reads('[{"name":"d"}]') for index in range(2)))
    assert sorted(world.binds().values()) == ["n0", "n1"]


def test_members_of_different_shape_are_placed_together_or_not_at_all() -> None:
    world = _world(4, 1, min_member=2)
    world.pods(a_pod("big").gpus(4).in_gang("g"), a_pod("small").gpus(1).in_gang("g"))
    assert world.binds() == {"big": "n0", "small": "n1"}
    other = _world(4, min_member=2)
    other.pods(a_pod("big").gpus(4).in_gang("g"), a_pod("small").gpus(1).in_gang("g"))
    assert other.binds() == {}


def test_being_placed_comes_before_being_placed_well() -> None:
    world = _world(4, 4, min_member=2)
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("n0", mem={"d": 100 * MIB}))
    # The warm node is also the only one with memory for the second member.
    world.nodes(a_node("n1", cpu="64", gpus=4, memory="2Gi"))
    world.pods(
        a_pod("reader").gpus(4).in_gang("g").reads('[{"name":"d"}]'),
        a_pod("hungry").asks(cpu="1", memory="20Gi").in_gang("g").gpus(1),
    )
    binds = world.binds()
    assert binds in ({}, {"reader": "n1", "hungry": "n0"})


@pytest.mark.parametrize("shuns", [False, True])
def test_a_member_with_one_node_to_choose_is_not_kept_from_it_by_one_that_could_go_anywhere(shuns: bool) -> None:
    world = World()
    world.nodes(a_node("head", gpus=8, labels={"pool": "head"}), a_node("other", gpus=8))
    world.groups(a_group("g", 2))
    worker = a_pod("worker").gpus(8).in_gang("g").labelled(role="worker")
    if shuns:
        term = {"labelSelector": {"matchLabels": {"role": "worker"}}, "topologyKey": "kubernetes.io/hostname"}
        affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
        worker = worker.with_spec(affinity=affinity)
    # Bigger ones go first, and the head is as good to them as the other.
    world.pods(worker, a_pod("chief").gpus(1).in_gang("g").with_spec(node_selector={"pool": "head"}))
    assert world.binds() == {"worker": "other", "chief": "head"}


def test_members_beyond_min_member_follow_when_they_fit() -> None:
    world = _world(3, min_member=2)
    world.pods(*_members(4))
    binds = world.binds()
    assert len(binds) == 3
    _confirm(world, binds)
    world.nodes(a_node("more", cpu="64", gpus=1))
    world.now = 20.0
    assert list(world.binds().values()) == ["more"]


def test_two_gangs_that_fit_one_after_the_other_drain() -> None:
    """scheduler-plugins#117: 2 nodes x 8 GPUs and many gangs; nobody holds room while waiting."""
    world = World()
    world.nodes(a_node("n0", cpu="64", gpus=8), a_node("n1", cpu="64", gpus=8))
    left = {}
    for index in range(12):
        size = 1 + index * 5 % 8
        world.groups(a_group(f"j{index}", size))
        world.pods(*_members(size, group=f"j{index}", gpus=2))
        left[f"j{index}"] = size
    for _ in range(40):
        world.now += 15.0
        world.feed()
        binds = world.binds()
        placed = {name.rpartition("-")[0] for name in binds}
        for group in placed:
            assert sum(name.rpartition("-")[0] == group for name in binds) == left.pop(group)
        for name, node in binds.items():
            world.feed(BindConfirmed(f"uid-{name}", node))
            world.pods(a_pod(name).gpus(2).in_gang(name.rpartition("-")[0]).on(node))
        for name in binds:
            world.feed(PodGone(f"uid-{name}"))
        if not left:
            break
    assert not left


def test_a_refused_member_is_placed_again() -> None:
    world = _world(4, 1)
    world.pods(*_members(4))
    binds = world.binds()
    _confirm(world, binds, "g-0", "g-1", "g-2")
    world.feed(BindFailed("uid-g-3", binds["g-3"], "boom"))
    assert not any(isinstance(decision, DeletePod) for decision in world.made)
    world.tick(1.0)
    again = world.binds()
    assert list(again) == ["g-3"]
    _confirm(world, again)
    world.tick(60.0)
    assert not any(isinstance(decision, DeletePod) for decision in world.made)


def test_the_bound_part_is_deleted_when_the_rest_cannot_be_bound_in_time() -> None:
    world = _world(4)
    world.pods(*_members(4))
    binds = world.binds()
    _confirm(world, binds, "g-0", "g-1")
    world.feed(BindFailed("uid-g-2", "n0", "boom"), BindFailed("uid-g-3", "n0", "boom"))
    world.nodes(a_node("n0", cpu="64", gpus=2))
    world.tick(29.0)
    world.decide()
    made = world.tick(1.5)
    assert {decision.uid for decision in made if isinstance(decision, DeletePod)} == {"uid-g-0", "uid-g-1"}
    assert world.binds() == {}
    # Decided again until the watch shows it.
    assert any(isinstance(decision, DeletePod) for decision in world.tick(5.1))
    for name in ("g-0", "g-1"):
        world.feed(PodGone(f"uid-{name}"))
    assert not any(isinstance(decision, DeletePod) for decision in world.tick(10.0))
    assert world.engine.state.gang_binds.units() == []
    # The survivors wait for their controller to bring the members back.
    assert world.engine.state.queue.counts[Pool.GATED] == 1


def test_a_bind_that_lands_late_is_undone_too() -> None:
    world = _world(4)
    world.pods(*_members(4))
    binds = world.binds()
    _confirm(world, binds, "g-0")
    world.feed(BindFailed("uid-g-1", "n0", "boom"), BindFailed("uid-g-2", "n0", "boom"))
    world.nodes(a_node("n0", cpu="64", gpus=1))
    world.tick(31.0)
    _confirm(world, binds, "g-3")
    made = world.tick(6.0)
    assert "uid-g-3" in {decision.uid for decision in made if isinstance(decision, DeletePod)}


def test_after_a_restart_an_unfinished_gang_is_completed_or_undone() -> None:
    world = _world(2)
    world.groups(a_group("g", 4, phase="Scheduling"))
    world.pods(*(pod.on("n0") for pod in _members(2)))
    world.pods(*_members(2, start=2))
    world.nodes(a_node("more", cpu="64", gpus=1))
    assert world.binds() == {}
    made = world.tick(31.0)
    assert {decision.uid for decision in made if isinstance(decision, DeletePod)} == {"uid-g-0", "uid-g-1"}


def test_an_unfinished_gang_found_at_a_restart_is_completed_when_it_fits() -> None:
    world = _world(4)
    world.pods(*(pod.on("n0") for pod in _members(2)))
    world.pods(*_members(2, start=2))
    binds = world.binds()
    assert set(binds) == {"g-2", "g-3"}
    _confirm(world, binds)
    assert not any(isinstance(decision, DeletePod) for decision in world.tick(31.0))


def test_a_lost_member_of_a_whole_gang_is_replaced_and_nothing_is_undone() -> None:
    world = _world(4)
    world.groups(a_group("g", 4, phase="Running"))
    world.pods(*(pod.on("n0") for pod in _members(3)))
    world.pods(*_members(1, start=3))
    binds = world.binds()
    assert list(binds) == ["g-3"]
    world.feed(BindFailed("uid-g-3", "n0", "boom"))
    world.nodes(a_node("n0", cpu="64", gpus=3))
    assert not any(isinstance(decision, DeletePod) for decision in world.tick(60.0))


def test_a_member_that_is_leaving_does_not_count_and_one_that_succeeded_does() -> None:
    world = _world(8, min_member=2)
    world.pods(*(pod.on("n0").being_deleted() for pod in _members(1)))
    world.pods(*_members(1, start=1))
    assert world.binds() == {}
    world.pods(*(pod.on("n0").finished("Succeeded") for pod in _members(1, start=2)))
    assert list(world.binds()) == ["g-1"]


def test_the_podgroups_status_follows() -> None:
    world = _world(4)
    world.pods(*_members(4))
    world.feed()
    binds = world.binds()
    world.feed()
    _confirm(world, binds)
    world.feed()
    phases = [decision.phase for decision in world.made if isinstance(decision, GroupStatus)]
    assert phases == ["Pending", "Scheduling", "Scheduled", "Running"]
    last = [decision for decision in world.made if isinstance(decision, GroupStatus)][-1]
    assert (last.scheduled, last.running) == (4, 4)


def test_a_gang_is_forgotten_with_its_last_trace() -> None:
    world = _world(1, min_member=1)
    world.pods(*_members(1))
    world.binds()
    world.feed(PodGone("uid-g-0"), GroupGone("default", "g"))
    assert world.engine.state.gangs.find("gang:default/g") is None
    assert len(world.engine.state.queue) == 0


def test_volcanos_annotation_and_upstreams_field_name_a_gang_too() -> None:
    from kube.objects import SchedulingGroup
    from scheduler.core.gang_apis import group_of

    assert group_of(a_pod("p").annotated("scheduling.k8s.io/group-name", "v").build()) == "volcano:v"
    upstream = a_pod("p").with_spec(scheduling_group=SchedulingGroup(pod_group_name="u")).in_gang("x")
    assert group_of(upstream.build()) == "upstream:u"


def test_a_leader_that_lost_its_lease_amid_a_gang_deletes_nothing_when_it_leads_again() -> None:
    world = _world(8)
    members = _members(4)
    world.pods(*members)
    binds = world.binds()
    _confirm(world, binds, "g-0", "g-1")
    # Here it loses its Lease; two binds were never sent, and the next leader binds those members.
    standby = world.engine.handle
    standby(
        [BindFailed(f"uid-g-{index}", binds[f"g-{index}"], "not leading") for index in (2, 3)],
        world.now,
        is_leading=False,
    )
    for index in (2, 3):
        event = world.translator.event(members[index].on("n0").build())
        assert event is not None
        standby([event], world.now, is_leading=False)
    world.now += 300.0
    standby([PodGone("uid-g-3")], world.now, is_leading=False)
    # It leads again when a member of the gang, whole for minutes, is lost and not yet replaced.
    for _ in range(8):
        world.tick(10.0)
    assert not any(isinstance(decision, DeletePod) for decision in world.made)


def test_a_gang_that_another_leader_made_whole_at_once_is_not_undone() -> None:
    world = _world(8)
    members = _members(4)
    world.pods(*members)
    binds = world.binds()
    _confirm(world, binds, "g-0", "g-1", "g-2")
    # The first that is heard after the Lease is lost: the last member is bound.
    last = world.translator.event(members[3].on("n0").build())
    assert last is not None
    world.engine.handle([last], world.now, is_leading=False)
    world.engine.handle([PodGone("uid-g-0")], world.now, is_leading=False)
    world.now += 300.0
    for _ in range(8):
        world.tick(10.0)
    assert not any(isinstance(decision, DeletePod) for decision in world.made)


def test_a_gang_left_unfinished_by_another_leader_is_undone_by_one_that_leads_again() -> None:
    world = _world(4)
    world.pods(*_members(4))
    binds = world.binds()
    _confirm(world, binds, "g-0")
    failed = [BindFailed(f"uid-g-{index}", "n0", "not leading") for index in (1, 2, 3)]
    world.engine.handle(failed, world.now, is_leading=False)
    world.engine.handle([PodGone("uid-g-3")], world.now + 100.0, is_leading=False)
    world.now += 200.0
    world.tick(0.0)
    assert not any(isinstance(decision, DeletePod) for decision in world.made), "its time starts anew"
    made = world.tick(31.0)
    assert {decision.uid for decision in made if isinstance(decision, DeletePod)} == {"uid-g-0"}


def test_a_member_that_succeeds_amid_its_gangs_binds_is_not_waited_for() -> None:
    world = _world(4)
    world.pods(*_members(4))
    binds = world.binds()
    _confirm(world, binds, "g-0", "g-1")
    world.feed(BindFailed("uid-g-2", "n0", "boom"), BindFailed("uid-g-3", "n0", "boom"))
    world.nodes(a_node("n0", cpu="64", gpus=2))
    world.pods(_members(1)[0].on("n0").finished())
    made = world.tick(31.0)
    assert {decision.uid for decision in made if isinstance(decision, DeletePod)} == {"uid-g-1"}
    world.feed(PodGone("uid-g-1"))
    assert world.engine.state.gang_binds.units() == []
    # What is left of the gang, with who comes in place of the one taken back, is tried again.
    world.nodes(a_node("n0", cpu="64", gpus=4))
    world.pods(*_members(1, start=4))
    world.tick(20.0)
    assert set(world.binds()) == {"g-2", "g-3", "g-4"}


def test_a_gang_found_unfinished_is_still_known_after_its_leader_lost_the_lease_for_a_while() -> None:
    world = _world(2)
    world.pods(*(pod.on("n0") for pod in _members(2)), *_members(2, start=2))
    assert world.engine.state.gang_binds.units() != []
    world.engine.handle([], world.now, is_leading=False)
    world.tick(20.0)
    assert not any(isinstance(decision, DeletePod) for decision in world.tick(20.0)), "its time starts anew"
    made = world.tick(11.0)
    assert {decision.uid for decision in made if isinstance(decision, DeletePod)} == {"uid-g-0", "uid-g-1"}
