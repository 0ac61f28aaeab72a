"""Events in, decisions out: scheduler/core/engine.py for single pods."""

import json

import pytest

from api import names
from api.decision import Decision
from kube.identity import ObjectMeta
from kube.objects import PersistentVolumeClaimSource, PodResourceClaim, Taint, Toleration, Volume
from kube.storage_objects import PersistentVolumeClaim
from scheduler.core.assumed import AssignedPod
from scheduler.core.decisions import Bind, Explain
from scheduler.core.events import (
    BindConfirmed,
    BindFailed,
    CacheGone,
    NodeGone,
    PodAssigned,
    PodGone,
    StorageChanged,
)
from scheduler.core.queue import Pool
from scheduler.core.requests import pod_requests
from scheduler.settings import Settings
from tests.builders.scheduler_objects import MIB, PodBuilder, World, a_cache, a_dataset, a_group, a_node, a_pod

NOT_HELPFUL = (
    "no new claims to deallocate, preemption: 0/{0} nodes are available: {0} Preemption is not helpful for scheduling."
)


def _assigned(pod: PodBuilder, node: str) -> PodAssigned:
    built = pod.build()
    return PodAssigned(
        AssignedPod(built.metadata.uid, built.metadata.namespace, built.metadata.name, node, pod_requests(built))
    )


def test_pods_spread_and_never_overcommit() -> None:
    world = World()
    world.nodes(a_node("a", cpu="2"), a_node("b", cpu="2"))
    world.pods(*(a_pod(f"p{index}") for index in range(6)))
    binds = world.binds()
    assert sorted(binds.values()) == ["a", "a", "b", "b"]
    assert world.engine.state.queue.counts[Pool.UNSCHEDULABLE] == 2


def test_the_message_is_kube_schedulers() -> None:
    world = World()
    world.nodes(
        a_node("a", gpus=1),
        a_node("b", taints=[Taint(key="k", effect="NoSchedule")]),
        a_node("c", unschedulable=True),
    )
    world.pods(a_pod("p").gpus(2))
    assert world.message() == (
        "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s), "
        "1 node(s) were unschedulable. " + NOT_HELPFUL.format(3)
    )


def test_a_node_may_lack_several_resources() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1", memory="1Gi", pods="0"))
    world.pods(a_pod("p").asks(cpu="2", memory="2Gi"))
    assert world.message().startswith(
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods. "
    )


def test_a_full_node_has_no_victims_for_an_equal_pod() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"), a_node("b", cpu="500m"))
    world.pods(a_pod("first"))
    assert world.binds() == {"first": "a"}
    world.pods(a_pod("second"))
    assert world.message() == (
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are "
        "available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
    )


def test_where_kube_scheduler_would_evict_only_the_first_sentence_is_said() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("first"))
    world.binds()
    world.pods(a_pod("second").priority(10))
    assert world.message() == "0/1 nodes are available: 1 Insufficient cpu."


def test_a_pod_that_never_preempts_says_so() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("p").asks(cpu="2").with_spec(preemption_policy="Never"))
    assert world.message().endswith(
        "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
    )


def test_no_nodes() -> None:
    world = World()
    world.pods(a_pod("p"))
    assert world.message() == "no nodes available to schedule pods"
    world.nodes(a_node("a"))
    assert world.binds() == {"p": "a"}


def test_a_pod_that_names_one_node_leaves_the_others_out() -> None:
    fields = [{"key": "metadata.name", "operator": "In", "values": ["a"]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": fields}]}}
    world = World()
    world.nodes(a_node("a", cpu="500m"), a_node("b"))
    world.pods(a_pod("p").with_spec(affinity={"nodeAffinity": required}))
    assert world.message() == (
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. "
        + NOT_HELPFUL.format(2)
    )


def test_tolerations_and_selectors() -> None:
    world = World()
    world.nodes(
        a_node("a", taints=[Taint(key="gpu", value="yes", effect="NoSchedule")]), a_node("b", labels={"zone": "z"})
    )
    world.pods(
        a_pod("tolerant")
        .tolerating(Toleration(key="gpu", value="yes", effect="NoSchedule"))
        .with_spec(node_selector={"kubernetes.io/hostname": "a"}),
        a_pod("picky").with_spec(node_selector={"zone": "z"}),
        a_pod("lost").with_spec(node_selector={"zone": "y"}),
    )
    assert world.binds() == {"tolerant": "a", "picky": "b"}


def test_what_is_not_evaluated_is_refused_by_name() -> None:
    world = World()
    world.nodes(a_node("a"))
    world.pods(a_pod("p").with_spec(resource_claims=[PodResourceClaim(name="gpu")]))
    assert "spec.resourceClaims is not evaluated by this scheduler yet" in world.message()


def test_host_ports_conflict() -> None:
    world = World()
    world.nodes(a_node("a"))
    world.pods(a_pod("p").host_port(80), a_pod("q").host_port(80, "10.0.0.1"), a_pod("r").host_port(81))
    assert set(world.binds()) == {"p", "r"}


def test_bound_pods_anti_affinity_keeps_ours_away() -> None:
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    world = World()
    world.nodes(*(a_node(name, labels={"zone": zone}) for name, zone in (("a", "1"), ("b", "1"), ("c", "2"))))
    world.pods(a_pod("holder").with_spec(affinity=affinity).scheduled_by("default-scheduler").on("a"))
    world.pods(a_pod("web").labelled(app="web"), a_pod("other").labelled(app="db"))
    assert world.binds()["web"] == "c"
    world.feed(NodeGone("c"))
    world.pods(a_pod("web2").labelled(app="web"))
    assert "2 node(s) didn't satisfy existing pods anti-affinity rules" in world.message()


def test_gated_pods_are_not_tried() -> None:
    world = World()
    world.nodes(a_node("a"))
    world.pods(a_pod("p").gated("quota"))
    assert world.decide() == []
    world.pods(a_pod("p"))
    assert world.binds() == {"p": "a"}


def test_data_decides_over_balance() -> None:
    world = World()
    world.nodes(a_node("warm", cpu="4"), a_node("cold"))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("warm", mem={"d": 100 * MIB}))
    world.pods(a_pod("p").asks(cpu="3").reads('[{"name":"d"}]'))
    (bind,) = world.decide()
    assert isinstance(bind, Bind)
    assert bind.node == "warm"
    verdict = Decision.model_validate_json(bind.annotation)
    assert verdict.bytes_by_source.local == {"MEM": 100 * MIB}
    assert verdict.stage_in_seconds == pytest.approx(0.1)
    assert verdict.coldest is not None
    assert verdict.coldest.node == "cold"
    assert verdict.coldest.stage_in_seconds == pytest.approx(0.5)
    assert verdict.runner_up is not None
    assert verdict.runner_up.node == "cold"
    assert bind.note == (
        "Successfully assigned default/p to warm; data: 100.0 MiB local MEM, expected stage-in 0.10 s "
        "(cold node cold: 0.50 s)"
    )


def test_required_data_waits_for_a_whole_copy() -> None:
    world = World()
    world.nodes(a_node("a"), a_node("b"))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("a", mem={"d": 99 * MIB}))
    world.pods(a_pod("p").reads('[{"name":"d","required":true}]'))
    assert world.message().startswith(
        "0/2 nodes are available: 2 node(s) didn't have all required dataset(s) resident."
    )
    world.caches(a_cache("b", ssd={"d": 100 * MIB}))
    assert world.binds() == {"p": "b"}


def test_a_gone_cache_is_not_counted() -> None:
    world = World()
    world.nodes(a_node("a"), a_node("b"))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("b", mem={"d": 100 * MIB}))
    world.feed(CacheGone("b"))
    world.pods(a_pod("p").reads('[{"name":"d","required":true}]'))
    assert "2 node(s) didn't have all required" in world.message()


def test_the_checkpoint_draws_the_next_attempt() -> None:
    world = World()
    world.nodes(a_node("a"), a_node("b"))
    checkpoint = json.dumps({"b": 500 * MIB})
    world.pods(a_pod("p").annotated(names.CHECKPOINT_NODES_ANNOTATION, checkpoint))
    assert world.binds() == {"p": "b"}


def test_a_malformed_annotation_is_told_and_corrected_by_an_update() -> None:
    world = World()
    world.nodes(a_node("a"))
    world.pods(a_pod("p").reads("imagenet"))
    assert names.DATASETS_ANNOTATION in world.message()
    world.pods(a_pod("p").reads('[{"name":"imagenet"}]'))
    assert world.binds() == {"p": "a"}


def test_a_claim_that_is_not_there_refuses_until_it_is() -> None:
    volume = Volume(name="v", persistent_volume_claim=PersistentVolumeClaimSource(claim_name="c"))
    world = World()
    world.nodes(a_node("a"))
    world.pods(a_pod("p").with_volumes(volume))
    assert world.message() == '0/1 nodes are available: persistentvolumeclaim "c" not found. not found'
    world.feed(StorageChanged(PersistentVolumeClaim(metadata=ObjectMeta(name="c", namespace="default"))))
    assert "unbound immediate PersistentVolumeClaims" in world.message()


def test_a_warm_node_that_is_full_is_waited_for() -> None:
    world = World()
    world.nodes(a_node("warm", cpu="1"), a_node("cold"))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("warm", mem={"d": 100 * MIB}, network=1))
    world.caches(a_cache("cold", network=5 * MIB))
    world.pods(a_pod("holder").on("warm"))
    world.pods(a_pod("p").reads('[{"name":"d","maxWaitSeconds":15}]'))
    assert "waiting for node warm, where the data is, for at most 15 s" in world.message()
    world.feed(PodGone("uid-holder"))
    assert world.binds() == {"p": "warm"}


def test_waiting_ends_with_the_cold_node() -> None:
    world = World()
    world.nodes(a_node("warm", cpu="1"), a_node("cold"))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("warm", mem={"d": 100 * MIB}), a_cache("cold", network=5 * MIB))
    world.pods(a_pod("holder").on("warm"))
    world.pods(a_pod("p").reads('[{"name":"d","maxWaitSeconds":15}]'))
    assert world.binds() == {}
    assert world.engine.next_due() == 15.0
    world.tick(15.0)
    assert world.binds() == {"p": "cold"}


def test_nobody_waits_for_a_node_that_could_never_hold_the_pod() -> None:
    world = World()
    world.nodes(a_node("warm", cpu="1"), a_node("cold"))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("warm", mem={"d": 100 * MIB}), a_cache("cold", network=5 * MIB))
    world.pods(a_pod("p").asks(cpu="2").reads('[{"name":"d","maxWaitSeconds":15}]'))
    assert world.binds() == {"p": "cold"}


def test_gpu_pods_fill_nodes_and_cpu_pods_stay_off_them() -> None:
    world = World()
    world.nodes(a_node("gpu-a", gpus=8), a_node("gpu-b", gpus=8), a_node("plain"))
    world.pods(a_pod("g1").gpus(2))
    first = world.binds()["g1"]
    world.pods(a_pod("g2").gpus(2), a_pod("c"))
    binds = world.binds()
    assert binds["g2"] == first
    assert binds["c"] == "plain"


def test_a_score_with_weight_zero_is_left_out() -> None:
    settings = Settings(weights={"stage_in": 0, "cache_room": 0, "gpu_fit": 0, "preferences": 0})  # type: ignore[arg-type]
    world = World(settings)
    world.nodes(a_node("warm", cpu="4"), a_node("cold"))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("warm", mem={"d": 100 * MIB}))
    world.pods(a_pod("p").asks(cpu="3").reads('[{"name":"d"}]'))
    assert world.binds() == {"p": "cold"}


def test_a_bind_that_ends_in_an_error_is_told_and_one_that_others_outran_is_not() -> None:
    world = World()
    world.nodes(a_node("n"))
    world.pods(a_pod("p"))
    world.binds()
    (told,) = world.feed(BindFailed("uid-p", "n", "denied by\n the policy", is_error=True))
    assert isinstance(told, Explain)
    assert (told.reason, told.message) == ("SchedulerError", "binding to n failed: denied by the policy")
    assert told.with_event
    world.tick(20.0)
    assert world.binds() == {"p": "n"}
    # The same again is no news; what it was outrun by shows by itself.
    assert world.feed(BindFailed("uid-p", "n", "denied by the policy", is_error=True)) == []
    world.tick(20.0)
    world.binds()
    assert world.feed(BindFailed("uid-p", "n", "its node went")) == []


def test_a_gang_whose_binds_fail_has_one_event() -> None:
    world = World()
    world.nodes(a_node("n"))
    world.groups(a_group("g", 3))
    world.pods(*(a_pod(f"g-{index}").in_gang("g") for index in range(3)))
    binds = world.binds()
    made = world.feed(*(BindFailed(f"uid-{name}", "n", "denied", is_error=True) for name in binds))
    told = [decision for decision in made if isinstance(decision, Explain)]
    assert {decision.name for decision in told} == set(binds)
    assert sum(decision.with_event for decision in told) == 1


def test_a_failed_bind_gives_room_back_and_is_tried_again() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("p"))
    assert world.binds() == {"p": "a"}
    world.feed(BindFailed("uid-p", "a", "refused"))
    assert world.binds() == {}  # backs off
    assert world.engine.next_due() == 1.0
    world.tick(1.0)
    assert world.binds() == {"p": "a"}
    world.feed(BindConfirmed("uid-p", "a"))
    world.pods(a_pod("p").on("a"))
    assert len(world.engine.state.queue) == 0
    assert world.engine.state.pods == {}


def test_our_own_condition_does_not_wake_a_pod() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("p").asks(cpu="2"))
    world.message()
    world.pods(a_pod("p").asks(cpu="2"))
    assert world.engine.state.queue.pool_of("uid-p") is Pool.UNSCHEDULABLE
    assert world.decide() == []


def test_an_unchanged_message_is_told_once_until_it_is_old() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"))
    world.pods(a_pod("p").asks(cpu="2"))
    world.message()
    world.tick(299)
    assert not any(isinstance(decision, Explain) for decision in world.decide())
    world.tick(2)
    assert any(isinstance(decision, Explain) for decision in world.decide())


def test_a_foreign_bind_takes_the_room_before_ours_is_sent() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"), a_node("b", cpu="500m"))
    world.pods(a_pod("p"))
    assert world.binds() == {"p": "a"}
    assert world.engine.may_bind("uid-p")
    world.feed(_assigned(a_pod("foreign"), "a"))
    assert not world.engine.may_bind("uid-p")
    world.feed(BindFailed("uid-p", "a", "room taken"))
    world.tick(1.0)
    assert "Insufficient cpu" in world.message()


def test_a_foreign_bind_of_our_own_pod_ends_the_matter() -> None:
    world = World()
    world.nodes(a_node("a", cpu="1"), a_node("b", cpu="1"))
    world.pods(a_pod("p"))
    node = world.binds()["p"]
    other = "b" if node == "a" else "a"
    world.pods(a_pod("p").on(other))
    world.feed(BindFailed("uid-p", node, "bound elsewhere"))
    world.pods(a_pod("q"))
    assert world.binds() == {"q": node}


def test_ten_thousand_hopeless_pods_do_not_delay_the_next() -> None:
    world = World()
    world.nodes(a_node("a", cpu="4"))
    world.pods(*(a_pod(f"hopeless{index}").asks(cpu="5").priority(5) for index in range(10_000)))
    world.pods(a_pod("fits"))
    tries = 0
    while "uid-fits" in world.engine.state.pods and world.engine.state.assigned.get("uid-fits") is None:
        world.decide(64)
        tries += 1
        assert tries < 50
    assert world.engine.state.table.is_overcommitted(0) is False
