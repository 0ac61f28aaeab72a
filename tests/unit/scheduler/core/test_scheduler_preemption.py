"""Evicting pods of lower priority: who, where, in what order, and when not."""

from collections.abc import Sequence
from typing import Any

import pytest

from api import names
from api.conditions import timestamp
from kube.objects import DisruptionBudgetSpec, DisruptionBudgetStatus, PodDisruptionBudget
from scheduler.core import explain
from scheduler.core.cluster_view import ClusterView
from scheduler.core.decisions import Bind, Explain, Nominate, Preempt
from scheduler.core.events import PodGone, PreemptionEnded
from scheduler.core.placement import Diagnosis, Pass, Plugins
from scheduler.core.pod_request import PodRequest
from tests.builders.scheduler_objects import PodBuilder, World, a_budget, a_node, a_pod

HIGH = 100


def _preempted(world: World) -> tuple[set[str], str]:
    """Decide; names of the victims and the node the preemptor is nominated to."""
    made = world.decide()
    preempts = [item for item in made if isinstance(item, Preempt)]
    nominated = [item.node for item in made if isinstance(item, Nominate) and item.node]
    assert len(preempts) <= 1
    assert len(nominated) == len(preempts)
    victims = {victim.name for preempt in preempts for victim in preempt.victims}
    return victims, nominated[0] if nominated else ""


def _on(node: str, *pods: PodBuilder) -> list[PodBuilder]:
    return [pod.on(node) for pod in pods]


def _high(cpu: str = "1") -> PodBuilder:
    return a_pod("high").asks(cpu=cpu).priority(HIGH)


def _two_nodes(first: Sequence[PodBuilder], second: Sequence[PodBuilder], *budgets: PodDisruptionBudget) -> World:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="4"), a_node("b", cpu="4"))
    world.budgets(*budgets)
    world.pods(*_on("a", *first), *_on("b", *second), _high("4"))
    return world


def test_a_victim_makes_room_and_the_pod_binds_when_it_is_gone() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("low").on("a"), _high())
    made = world.decide()
    assert [item.message for item in made if isinstance(item, Explain)] == [
        "0/1 nodes are available: 1 Insufficient cpu."
    ]
    assert Nominate("uid-high", "default", "high", "a") in made
    (preempt,) = (item for item in made if isinstance(item, Preempt))
    assert (preempt.unit, preempt.name, preempt.count) == ("uid-high", "high", 1)
    assert [victim.name for victim in preempt.victims] == ["low"]

    world.feed(PreemptionEnded("uid-high", failed=False))
    world.pods(a_pod("low").on("a").being_preempted())
    world.tick(400.0)
    assert world.message() == (
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
        "preemption: not eligible due to a terminating pod on the nominated node."
    )
    world.feed(PodGone("uid-low"))
    assert world.binds() == {"high": "a"}
    assert len(world.engine.state.nominations) == 0


def test_an_eviction_under_way_is_not_started_again_before_the_watch_shows_it() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"), a_node("b", cpu="1"))
    world.pods(a_pod("low-a").on("a"), a_pod("low-b").on("b"), _high())
    victims, _ = _preempted(world)
    assert len(victims) == 1
    world.tick(400.0)
    assert _preempted(world) == (set(), "")


def test_a_failed_eviction_is_tried_again_at_once() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("low").on("a"), _high())
    assert _preempted(world)[0] == {"low"}
    world.feed(PreemptionEnded("uid-high", failed=True))
    made = world.decide()
    assert [victim.name for item in made if isinstance(item, Preempt) for victim in item.victims] == ["low"]


def test_equal_priority_is_never_evicted() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("equal").priority(HIGH).on("a"), _high())
    assert world.message() == (
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are "
        "available: 1 No preemption victims found for incoming pod."
    )


def test_preemption_policy_never() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("low").on("a"), _high().with_spec(preemption_policy="Never"))
    assert world.message().endswith("preemption: not eligible due to preemptionPolicy=Never.")


def test_too_little_even_without_lower_pods_says_what_lacks() -> None:
    world = World()
    world.nodes(a_node("a", cpu="4"), a_node("b", cpu="1"))
    world.pods(a_pod("low").on("a"), a_pod("equal").asks(cpu="3").priority(HIGH).on("a"), _high("2"))
    assert world.message() == (
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are "
        "available: 1 Insufficient cpu, 1 Preemption is not helpful for scheduling."
    )


def test_the_most_important_are_spared_first() -> None:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="4"))
    world.pods(
        *_on(
            "a",
            a_pod("cheap").priority(1).started(10),
            a_pod("young").priority(5).started(900),
            a_pod("old").priority(5).started(100),
            a_pod("dear").priority(9).started(999),
        ),
        _high("2"),
    )
    assert _preempted(world) == ({"cheap", "young"}, "a")


def test_pods_whose_budget_is_used_up_are_spared_before_more_important_ones() -> None:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="2"))
    world.budgets(a_budget("guard", 0, app="db"))
    world.pods(
        *_on("a", a_pod("guarded").labelled(app="db").priority(1).started(5), a_pod("free").priority(9).started(5)),
        _high("1"),
    )
    assert _preempted(world) == ({"free"}, "a")


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        # fewer violations
        (
            [a_pod("x").asks(cpu="4").labelled(app="db").started(1)],
            [a_pod("y").asks(cpu="4").priority(50).started(1)],
            "b",
        ),
        # the lower top victim
        ([a_pod("x").asks(cpu="4").priority(7).started(1)], [a_pod("y").asks(cpu="4").priority(6).started(1)], "b"),
        # the lower sum of priorities: fewer pods of the same priority
        (
            [a_pod("x").asks(cpu="2").started(1), a_pod("x2").asks(cpu="2").started(1)],
            [a_pod("y").asks(cpu="4").started(1)],
            "b",
        ),
        # the later start
        ([a_pod("x").asks(cpu="4").started(100)], [a_pod("y").asks(cpu="4").started(200)], "b"),
    ],
)
def test_the_node_is_chosen_as_kube_scheduler_does(
    first: list[PodBuilder], second: list[PodBuilder], chosen: str
) -> None:
    world = _two_nodes(first, second, a_budget("guard", 0, app="db"))
    assert _preempted(world)[1] == chosen


def test_among_equals_the_least_work_is_lost() -> None:
    def trained(name: str, checkpoint: float) -> PodBuilder:
        pod = a_pod(name).asks(cpu="4").started(100)
        return pod.annotated(names.CHECKPOINTED_AT_ANNOTATION, timestamp(checkpoint))

    assert _preempted(_two_nodes([trained("x", 500)], [trained("y", 900)]))[1] == "b"
    assert _preempted(_two_nodes([trained("x", 901)], [trained("y", 900)]))[1] == "a"
    # Without a checkpoint everything since the start is lost.
    assert _preempted(_two_nodes([a_pod("x").asks(cpu="4").started(100)], [trained("y", 200)]))[1] == "b"


def test_a_time_nobody_can_read_counts_as_none() -> None:
    unreadable = a_pod("x").asks(cpu="4").started(100).annotated(names.CHECKPOINTED_AT_ANNOTATION, "yesterday")
    known = a_pod("y").asks(cpu="4").started(100).annotated(names.CHECKPOINTED_AT_ANNOTATION, timestamp(150))
    assert _preempted(_two_nodes([unreadable], [known]))[1] == "b"


def test_disrupted_pods_use_up_no_budget() -> None:
    budget = PodDisruptionBudget(
        metadata=a_budget("guard", 0).metadata,
        spec=DisruptionBudgetSpec(selector={"matchLabels": {"app": "db"}}),
        status=DisruptionBudgetStatus(disruptions_allowed=0, disrupted_pods={"x": "2026-01-01T00:00:00Z"}),
    )
    first = [a_pod("x").asks(cpu="4").labelled(app="db").started(200)]
    second = [a_pod("y").asks(cpu="4").started(100)]
    assert _preempted(_two_nodes(first, second, budget))[1] == "a"


def test_a_budget_with_an_empty_selector_guards_nothing() -> None:
    budget = a_budget("all", 0)
    first = [a_pod("x").asks(cpu="4").labelled(app="db").started(200)]
    second = [a_pod("y").asks(cpu="4").started(100)]
    assert _preempted(_two_nodes(first, second, budget))[1] == "a"


def test_a_host_port_is_freed_by_evicting_its_holder_only() -> None:
    world = World()
    world.nodes(a_node("a"))
    world.pods(
        *_on("a", a_pod("holder").host_port(80).started(1), a_pod("other").started(900)),
        a_pod("high").host_port(80).priority(HIGH),
    )
    assert _preempted(world) == ({"holder"}, "a")


def test_anti_affinity_is_resolved_by_evicting_who_is_unwanted() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "noisy"}}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    world = World()
    world.nodes(a_node("a"))
    world.pods(
        *_on("a", a_pod("quiet").started(900), a_pod("noise").labelled(app="noisy").started(1)),
        a_pod("high").priority(HIGH).with_spec(affinity=affinity),
    )
    assert _preempted(world) == ({"noise"}, "a")


def test_room_for_a_nominee_is_kept_from_lower_and_equal_pods() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(_high().nominated_to("a").gated("wait"))
    world.pods(a_pod("low"), a_pod("equal").priority(HIGH))
    assert world.binds() == {}
    world.pods(a_pod("higher").priority(HIGH + 1))
    assert world.binds() == {"higher": "a"}


def test_a_node_that_would_do_only_with_its_nominee_says_why() -> None:
    world = World()
    world.nodes(a_node("a"), a_node("b", cpu="500m"))
    term = {"labelSelector": {"matchLabels": {"app": "v"}}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    wanted = a_pod("wanted").priority(HIGH).labelled(app="v")
    world.pods(wanted.nominated_to("a").gated("example.com/later"), a_pod("p").with_spec(affinity=affinity))
    message = world.message()
    assert message.startswith(
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod affinity rules. no new claims"
    )
    world.tick(20.0)
    world.pods(wanted.on("a"))
    assert world.binds() == {"p": "a"}


def test_the_nominated_node_is_tried_first_and_others_when_it_does_not_fit() -> None:
    world = World()
    world.nodes(a_node("roomy", cpu="64"), a_node("small", cpu="1"))
    world.pods(_high().nominated_to("small"))
    assert world.binds() == {"high": "small"}
    world.pods(a_pod("next").priority(HIGH).nominated_to("small"))
    assert world.binds() == {"next": "roomy"}


def test_nominees_of_lower_priority_lose_their_node() -> None:
    world = World()
    world.nodes(a_node("a", cpu="2"))
    world.pods(a_pod("v1").started(1).on("a"), a_pod("v2").started(2).on("a"), a_pod("middle").priority(50))
    assert _preempted(world) == ({"v2"}, "a")
    world.pods(a_pod("v2").on("a").being_preempted(), a_pod("middle").priority(50).nominated_to("a"), _high("2"))
    made = world.decide()
    # What is leaving already is not evicted again.
    assert [victim.name for item in made if isinstance(item, Preempt) for victim in item.victims] == ["v1"]
    assert Nominate("uid-middle", "default", "middle", "") in made
    assert Nominate("uid-high", "default", "high", "a") in made


def test_a_nomination_ends_when_nothing_helps_any_more() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("full").priority(HIGH).on("a"), _high().nominated_to("a"))
    made = world.decide()
    assert Nominate("uid-high", "default", "high", "") in made
    assert len(world.engine.state.nominations) == 0


def test_a_nominee_that_is_gone_makes_room_for_who_waits() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(_high().nominated_to("a").gated("wait"), a_pod("low"))
    assert world.binds() == {}
    world.tick(20.0)
    world.feed(PodGone("uid-high"))
    assert world.binds() == {"low": "a"}


def test_ten_thousand_equal_hopeless_pods_cost_one_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = explain.look

    def counted(view: ClusterView, plugins: Plugins, found: Pass, **options: Any) -> Diagnosis:
        looks.append(1)
        return look(view, plugins, found, **options)

    monkeypatch.setattr(explain, "look", counted)
    world = World()
    world.nodes(*(a_node(f"n{index}", cpu="1") for index in range(20)))
    world.pods(*(a_pod(f"p{index}").asks(cpu="2") for index in range(10_000)))
    while world.engine.has_work:
        world.decide()
    assert len(looks) == 1
    assert not [item for item in world.made if isinstance(item, Bind)]


def test_an_admissible_pod_behind_ten_thousand_hopeless_ones_takes_one_try_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.nodes(*(a_node(f"n{index}", cpu="1") for index in range(20)))
    world.pods(*(a_pod(f"p{index}").asks(cpu="2").priority(9) for index in range(10_000)), a_pod("small"))
    passes: list[str] = []
    pass_for = world.engine.state.placer.pass_for

    def counted(pod: PodRequest) -> Pass:
        passes.append(pod.name)
        return pass_for(pod)

    monkeypatch.setattr(world.engine.state.placer, "pass_for", counted)
    assert set(world.binds()) == {"small"}
    assert passes == ["p0", "small"]
    while world.engine.has_work:
        world.decide()
    assert len({item.name for item in world.made if isinstance(item, Explain)}) == 10_000
    assert passes == ["p0", "small"]


def test_hopeless_pods_are_tried_again_when_a_node_for_them_comes() -> None:
    world = World()
    world.nodes(a_node("small", cpu="1"))
    world.pods(*(a_pod(f"p{index}").asks(cpu="2") for index in range(5)))
    assert world.binds() == {}
    world.tick(20.0)
    world.nodes(a_node("other", cpu="1"))
    assert not world.engine.has_work  # it is too small for them
    world.nodes(a_node("big", cpu="64"))
    assert len(world.binds()) == 5


def test_room_that_is_too_small_wakes_nobody() -> None:
    world = World()
    world.nodes(a_node("a", cpu="4"))
    world.pods(*(a_pod(f"held-{index}").priority(HIGH).on("a") for index in range(4)))
    world.pods(a_pod("big").asks(cpu="2").priority(HIGH))
    assert world.binds() == {}
    world.tick(20.0)
    world.feed(PodGone("uid-held-0"))
    assert not world.engine.has_work
    world.feed(PodGone("uid-held-1"))
    assert world.binds() == {"big": "a"}


def test_a_pod_of_lower_priority_that_could_be_evicted_is_room() -> None:
    world = World()
    world.nodes(a_node("a", cpu="3"))
    world.pods(a_pod("low").on("a"), *(a_pod(f"held-{index}").priority(HIGH).on("a") for index in range(2)))
    world.pods(a_pod("big").asks(cpu="2").priority(HIGH))
    assert world.binds() == {}
    world.tick(20.0)
    world.feed(PodGone("uid-held-0"))
    assert _preempted(world) == ({"low"}, "a")


def test_what_an_earlier_search_found_on_a_node_is_not_used_once_the_node_changed() -> None:
    world = World()
    world.now = 1000.0
    world.nodes(a_node("a", cpu="1"), a_node("b", cpu="1"))
    world.pods(a_pod("low-a").started(900).on("a"), a_pod("old-b").started(100).on("b"), _high())
    assert _preempted(world) == ({"low-a"}, "a")
    world.feed(PodGone("uid-old-b"))
    world.pods(a_pod("new-b").started(950).on("b"), a_pod("next").asks(cpu="1").priority(HIGH))
    assert _preempted(world) == ({"new-b"}, "b")


def test_a_start_that_is_told_later_counts() -> None:
    world = World()
    world.now = 1000.0
    world.nodes(*(a_node(name, cpu="1") for name in "abc"))
    world.pods(
        a_pod("low-a").started(900).on("a"), a_pod("low-b").started(100).on("b"), a_pod("low-c").on("c"), _high()
    )
    assert _preempted(world) == ({"low-c"}, "c")
    world.pods(a_pod("low-b").started(950).on("b"), a_pod("next").asks(cpu="1").priority(HIGH))
    assert _preempted(world) == ({"low-b"}, "b")
