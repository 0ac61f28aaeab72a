"""The driver behind an API server: what is written, what binds are handed on, when time may be skipped."""

from typing import Any

import msgspec
import pytest

from api.training_v1alpha1 import TrainingJob
from kube.objects import Pod
from kube.resources import NODE_CACHES, NODES, POD_GROUPS, PODS, TRAINING_JOBS
from simulations.engine.driver import Attempt
from simulations.engine.model import World
from simulations.engine.policy import Gangs, Policy
from simulations.engine.simulation import Simulation
from simulations.kwok.driver import Busy, KwokDriver
from simulations.kwok.objects import NODE_STATE, POD_ENDS, Shape, Verb, Write
from simulations.policies.kube import default_plugins
from tests.builders.simulated import a_job, a_world

FULL = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


class Cluster:
    """A simulation and its driver, and this test's hands as the API server and the scheduler."""

    def __init__(self, world: World, gangs: Gangs = Gangs.WHOLE, shape: Shape = Shape.PODS) -> None:
        def drive(world: World, cache: Any) -> KwokDriver:
            uids = {"d0": "uid-of-d0"}
            return KwokDriver(world, cache, scheduler="s", gangs=gangs, dataset_uids=uids, shape=shape)

        self.sim = Simulation(world, Policy("s", "", default_plugins, gangs, names_data=True), drive=drive)
        assert isinstance(self.sim.driver, KwokDriver)
        self.driver = self.sim.driver

    def until(self, at: float) -> list[Write]:
        """Let everything due by `at` happen; what is written."""
        while self.sim.unfinished and self.sim.next_at() <= at:
            self.sim.step(self.sim.next_at())
        if self.driver.has_news:
            self.sim.step(at)
        return [write for writes in self.driver.take_writes() for write in writes]

    def see(self, name: str, node: str = "", *, told: str = "", phase: str = "Pending", is_gone: bool = False) -> None:
        conditions = [{"type": "PodScheduled", "status": "False", "message": told}] if told else []
        body = {"metadata": {"name": name}, "spec": {"nodeName": node}}
        self.driver.seen(
            msgspec.convert({**body, "status": {"phase": phase, "conditions": conditions}}, Pod), is_gone=is_gone
        )

    def busy(self) -> Busy | None:
        return self.driver.busy(self.sim.waiting, self.sim.ledger)


def test_a_gang_is_written_as_group_and_pods_and_starts_when_all_are_bound() -> None:
    cluster = Cluster(a_world(2, jobs=(a_job(pods=2, gpus=8, dataset=0),)))
    writes = cluster.until(0.0)
    assert [write.resource for write in writes] == [POD_GROUPS, PODS, PODS]
    group, pod = writes[0].body, writes[1].body
    assert group["spec"] == {"minMember": 2}
    assert pod["metadata"]["labels"] == {"scheduling.x-k8s.io/pod-group": group["metadata"]["name"]}
    assert pod["metadata"]["annotations"] == {"data.headrace.dev/datasets": '[{"name": "d0"}]'}
    assert pod["spec"]["schedulerName"] == "s"
    asked = pod["spec"]["containers"][0]["resources"]
    assert asked["limits"] == {"nvidia.com/gpu": "8"} and asked["requests"]["nvidia.com/gpu"] == "8"
    assert cluster.busy() is Busy.UNSEEN
    cluster.see("p0.1.0", "n0")
    cluster.see("p0.1.1")
    assert cluster.busy() is Busy.PARTIAL
    assert not cluster.driver.has_news
    cluster.see("p0.1.1", "n1")
    cluster.until(3.0)
    assert list(cluster.sim.running) == [0]
    assert cluster.sim.account.jobs[0].first_started == 3.0
    assert cluster.busy() is None


def test_a_finished_job_ends_its_pods_by_annotation_and_caches_are_told() -> None:
    cluster = Cluster(a_world(1, jobs=(a_job(dataset=0, compute_seconds=200.0),)))
    cluster.until(0.0)
    cluster.see("p0.1.0", "n0")
    cluster.until(0.0)
    writes = cluster.until(1000.0)
    ends = [write for write in writes if write.resource is PODS]
    assert [(write.verb, write.name, write.body) for write in ends] == [
        (Verb.PATCH, "p0.1.0", {"metadata": {"annotations": {POD_ENDS: "succeeded"}}})
    ]
    told = [write for write in writes if write.resource is NODE_CACHES][-1].body["status"]
    assert told["datasets"][0]["uid"] == "uid-of-d0"
    assert told["datasets"][0]["residentBytes"]["SSD"] > 0
    assert cluster.busy() is Busy.UNSEEN
    cluster.see("p0.1.0", "n0", phase="Succeeded")
    assert cluster.busy() is None


def test_time_goes_as_it_goes_while_a_pod_is_untold_or_would_fit() -> None:
    cluster = Cluster(a_world(1, jobs=(a_job("a", gpus=8), a_job("b", gpus=8, compute_seconds=50.0))))
    cluster.until(0.0)
    cluster.see("p0.1.0", "n0")
    cluster.see("p1.1.0")
    cluster.until(0.0)
    assert cluster.busy() is Busy.UNTOLD
    cluster.see("p1.1.0", told=FULL)
    assert cluster.busy() is None
    cluster.until(100.0)
    cluster.see("p0.1.0", "n0", phase="Succeeded")
    assert cluster.busy() is Busy.FITS
    cluster.see("p1.1.0", "n0", told=FULL)
    cluster.until(100.5)
    assert cluster.busy() is None


def test_a_bind_to_a_node_that_went_meanwhile_breaks_the_attempt() -> None:
    cluster = Cluster(a_world(2, jobs=(a_job(pods=2, gpus=8),)))
    cluster.until(0.0)
    cluster.driver.node(1, is_up=False, is_open=True)
    cluster.sim.ledger.is_up[1] = False
    state = next(write for write in cluster.until(0.0) if write.resource is NODES)
    assert state.body["metadata"]["annotations"] == {NODE_STATE: "lost"}
    assert state.body["spec"]["taints"][0]["effect"] == "NoSchedule"
    cluster.see("p0.1.0", "n0")
    cluster.see("p0.1.1", "n1")
    cluster.until(1.0)
    assert not cluster.sim.running
    assert "n1, which went meanwhile" in cluster.driver.broken[0]
    cluster.sim.stop(0, saves=False)
    writes = cluster.until(1.0)
    assert [write.name for write in writes if write.verb is Verb.PATCH] == ["p0.1.0", "p0.1.1"]
    assert [write.name for write in writes if write.resource is PODS and write.verb is Verb.CREATE] == [
        "p0.2.0",
        "p0.2.1",
    ]


def test_pods_a_scheduler_deleted_break_the_attempt_and_are_not_ended_again() -> None:
    cluster = Cluster(a_world(2, jobs=(a_job(pods=2, gpus=8),)))
    cluster.until(0.0)
    cluster.see("p0.1.0", "n0")
    cluster.see("p0.1.1")
    cluster.see("p0.1.0", "n0", is_gone=True)
    assert "p0.1.0 was deleted" in cluster.driver.broken[0]
    cluster.sim.stop(0, saves=False)
    writes = cluster.until(1.0)
    # The other member was never bound, so it is not kwok's to end.
    assert [(write.verb, write.name) for write in writes if write.verb is not Verb.CREATE] == [(Verb.DELETE, "p0.1.1")]
    for name in ("p0.2.0", "p0.2.1"):
        cluster.see(name, told=FULL)
    cluster.see("p0.1.1", is_gone=True)
    assert cluster.busy() is Busy.FITS


def test_an_attempt_stopped_before_it_was_written_is_never_written() -> None:
    cluster = Cluster(a_world(2, jobs=(a_job(),)))
    cluster.sim.step(0.0)
    cluster.sim.stop(0, saves=False)
    assert [write.name for write in cluster.until(0.0)] == ["p0.2.0"]


def test_without_gangs_each_bind_counts_at_once() -> None:
    cluster = Cluster(a_world(2, jobs=(a_job(pods=2, gpus=8),)), Gangs.NONE)
    assert [write.resource for write in cluster.until(0.0)] == [PODS, PODS]
    cluster.see("p0.1.0", "n0")
    cluster.see("p0.1.1", told=FULL)
    cluster.until(1.0)
    attempt: Attempt = cluster.sim.waiting[0]
    assert attempt.node_of == {"0.1.0": 0}
    assert not cluster.sim.running


def test_a_training_job_is_written_once_and_its_attempts_pods_are_known_by_name() -> None:
    cluster = Cluster(a_world(2, jobs=(a_job("train", pods=2, gpus=8, dataset=0),)), shape=Shape.TRAINING_JOBS)
    (write,) = cluster.until(0.0)
    assert write.resource is TRAINING_JOBS
    job = TrainingJob.model_validate(write.body)  # the API's own model takes it
    assert job.spec.replica_specs["Worker"].replicas == 2
    cluster.see("train-worker-0-a0", "n0")
    cluster.see("train-worker-1-a0", "n1")
    cluster.until(1.0)
    assert list(cluster.sim.running) == [0]
    cluster.sim.stop(0, saves=False)
    ends = cluster.until(2.0)
    assert [(write.verb, write.name) for write in ends] == [
        (Verb.PATCH, "train-worker-0-a0"),
        (Verb.PATCH, "train-worker-1-a0"),
    ]
    for index in range(2):
        cluster.see(f"train-worker-{index}-a0", f"n{index}", phase="Failed")
    assert cluster.busy() is Busy.UNSEEN  # the job controller's next attempt is waited for
    for index in range(2):
        cluster.see(f"train-worker-{index}-a1", f"n{index}")
    cluster.until(3.0)
    assert cluster.sim.account.jobs[0].starts == 2


@pytest.mark.parametrize(("saves", "ends"), [(False, "failed"), (True, "preempted")])
def test_a_stopped_job_ends_its_pods_as_what_stopped_it(saves: bool, ends: str) -> None:
    cluster = Cluster(a_world(1, jobs=(a_job(),)))
    cluster.until(0.0)
    cluster.see("p0.1.0", "n0")
    cluster.until(1.0)
    cluster.sim.stop(0, saves=saves)
    write = next(write for write in cluster.until(2.0) if write.verb is Verb.PATCH)
    assert write.body == {"metadata": {"annotations": {POD_ENDS: ends}}}
