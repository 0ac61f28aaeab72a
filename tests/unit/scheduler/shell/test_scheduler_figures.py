"""The core's counts as metrics, each counted once."""

from prometheus_client import REGISTRY

from scheduler.settings import Settings
from scheduler.shell.figures import Figures
from tests.builders.scheduler_objects import World, a_group, a_node, a_pod


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_tries_queues_rejections_and_preemptions() -> None:
    profile = "figures-test"
    world = World(Settings(scheduler_name=profile))
    figures = Figures(world.engine.state, profile)
    before = _value("scheduler_preemption_attempts_total")
    incoming = _value("scheduler_queue_incoming_pods_total", queue="active", event="UnschedulablePodAdd")
    world.nodes(a_node("a", cpu="2"))
    world.groups(a_group("g", 2))
    world.pods(
        *(
            pod.scheduled_by(profile)
            for pod in (a_pod("fits"), a_pod("big").asks(cpu="4"), *(a_pod(f"g-{i}").in_gang("g") for i in range(2)))
        )
    )
    world.decide()
    for _ in range(2):
        figures.tries()
        figures.measure()
    count = "scheduler_scheduling_attempt_duration_seconds_count"
    assert _value(count, result="scheduled", profile=profile) == 1
    assert _value(count, result="unschedulable", profile=profile) == 1
    assert _value("scheduler_podgroup_schedule_attempts_total", result="unschedulable", profile=profile) == 1
    assert _value("scheduler_unschedulable_pods", plugin="NodeResourcesFit", profile=profile) == 2
    assert _value("scheduler_preemption_attempts_total") - before == 2
    name = "scheduler_queue_incoming_pods_total"
    assert _value(name, queue="active", event="UnschedulablePodAdd") - incoming == 2
    assert _value("scheduler_pending_pods", queue="unschedulable") == 2


def test_every_refusal_counts_also_one_that_is_no_news_and_nobody_who_was_not_tried() -> None:
    profile = "figures-refusals"
    world = World(Settings(scheduler_name=profile))
    figures = Figures(world.engine.state, profile)
    world.nodes(a_node("a", cpu="2"))
    world.groups(a_group("g", 3))
    world.pods(a_pod("big").asks(cpu="4").scheduled_by(profile))
    # A gang whose members are not all there is told so, and was never tried.
    world.pods(*(a_pod(f"g-{index}").in_gang("g").scheduled_by(profile) for index in range(2)))
    for _ in range(3):
        world.decide()
        figures.tries()
        world.tick(400.0)
    assert _value("scheduler_schedule_attempts_total", result="unschedulable", profile=profile) == 3
    world.pods(a_pod("g-2").in_gang("g").scheduled_by(profile))
    world.decide()
    figures.tries()
    assert _value("scheduler_schedule_attempts_total", result="unschedulable", profile=profile) == 3 + 1 + 3


def test_assumed_pods_and_refusing_plugins_by_kube_schedulers_names() -> None:
    profile = "figures-names"
    world = World(Settings(scheduler_name=profile))
    world.nodes(a_node("a", cpu="2"))
    world.pods(a_pod("p").scheduled_by(profile))
    world.decide()
    world.engine.state.queue.rejected.update({"VolumeBinding": 1, "VolumeBinding/unbound": 2})
    Figures(world.engine.state, profile).measure()
    assert _value("scheduler_cache_size", type="assumed_pods") == 1
    assert _value("scheduler_unschedulable_pods", plugin="VolumeBinding", profile=profile) == 3
