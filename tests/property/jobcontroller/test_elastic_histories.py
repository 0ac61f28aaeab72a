"""Random histories of elastic jobs: members are lost, rooms come and go, the controller dies anywhere.

Beside what holds for every job (test_job_histories.py): members stay within their bounds, no number is given twice,
and once all is well the job has all the workers it may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, invariant, rule

from api import names
from api.training_v1alpha1 import is_finished
from jobcontroller.core import elastic, indexes
from jobcontroller.core.actions import Action, AnnotatePod
from jobcontroller.core.observed import PodPhase, PodView
from tests.builders.training_jobs import job, workers
from tests.property.jobcontroller.test_job_histories import JobHistory

LOW, REPLICAS, HIGH = 2, 3, 5
COOL_DOWN_SECONDS = 10


class ElasticHistory(JobHistory):
    """A job of 2 to 5 workers; a pod that is placed and held does not run."""

    @initialize(
        framework=st.sampled_from(["PyTorch", "JAX"]),
        infrastructure=st.integers(0, 3),
        policy=st.sampled_from(["All", "Running", "None"]),
        has_master=st.booleans(),
    )
    def submit(self, framework: str, infrastructure: int, policy: str, has_master: bool) -> None:
        options: dict[str, Any] = {
            framework.lower(): {"elastic": {"min": LOW, "max": HIGH, "coolDownSeconds": COOL_DOWN_SECONDS}}
        }
        roles = workers(REPLICAS)
        container = roles["Worker"]["template"]["spec"]["containers"][0]
        container["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
        if framework == "PyTorch" and has_master:
            roles["Master"] = roles["Worker"] | {"replicas": 1}
        self.job = job(
            framework=framework,
            replicaSpecs=roles,
            checkpoint={"volume": "v"},
            runPolicy={"cleanPodPolicy": policy, "restarts": {"infrastructure": infrastructure, "preemption": 2}},
            **options,
        )

    def _alive(self, index: int) -> list[PodView]:
        alive = [pod for pod in self.pods.values() if not pod.is_finished and pod.deletion_at is None]
        return [alive[index % len(alive)]] if alive else []

    def _perform(self, action: Action) -> None:
        super()._perform(action)
        if isinstance(action, AnnotatePod) and names.START_ANNOTATION in action.annotations:
            held = self.pods.get(action.name)
            if held is not None and held.uid == action.uid:
                self.pods[action.name] = replace(held, is_held=False)

    def _create(self, name: str, body: dict[str, Any]) -> None:
        super()._create(name, body)
        if names.START_ANNOTATION in body["metadata"]["annotations"]:
            self.pods[name] = self.cache[name] = replace(self.pods[name], is_held=True)
        status = self.job.status
        assert status is not None
        assert status.elastic is not None
        if self.pods[name].role == "Worker":
            assert self.pods[name].index < status.elastic.next_index, "the status names a pod before it is made"

    @rule(index=st.integers(0, HIGH))
    def run_pod(self, index: int) -> None:
        for pod in self._alive(index):
            self._run(pod)

    @rule(index=st.integers(0, HIGH))
    def announce(self, index: int) -> None:
        """The node of a pod will be taken away."""
        for pod in self._alive(index):
            if pod.node:
                self.notices[pod.node] = "karpenter.sh/disrupted"

    @rule(looks=st.integers(1, 6), seconds=st.sampled_from([1, 12]))
    def all_is_well_for_a_while(self, looks: int, seconds: int) -> None:
        """Most histories would not come far without it."""
        for _ in range(looks):
            if not self.job_is_gone:
                self._settle()
            self.now += seconds

    def _run(self, pod: PodView) -> None:
        self.started_names.add(pod.name)
        placed = replace(pod, node=pod.node or f"node-of-{pod.uid}", scheduled_at=pod.scheduled_at or self.now)
        if not pod.is_held:
            started = pod.started_at or self.now
            placed = replace(placed, phase=PodPhase.RUNNING, is_running=True, started_at=started)
        self.pods[pod.name] = placed

    @invariant()
    def members_are_within_their_bounds(self) -> None:
        status = self.job.status
        if status is None or status.elastic is None or status.started_attempt != status.attempt:
            return
        chosen, reserves = elastic.workers(status), elastic.reserves(status)
        assert LOW <= len(chosen) <= HIGH
        assert status.started_replicas["Worker"] == len(chosen)
        assert len(chosen) + len(reserves) <= HIGH
        assert not set(chosen) & set(reserves)
        assert max([*chosen, *reserves]) < status.elastic.next_index
        assert indexes.text(chosen) == status.elastic.members

    def teardown(self) -> None:
        """Nothing goes wrong any more: the job takes all the room there is, and comes to its end."""
        self.set_suspend(False)
        self.notices.clear()
        for _ in range(120):
            self._settle()
            if self._is_at_its_largest() or is_finished(self.job.status):
                break
            self.now += 30
        assert self._is_at_its_largest() or is_finished(self.job.status), self.job.status
        for _ in range(60):
            is_ending = any(pod.deletion_at is not None for pod in self.pods.values())
            if is_finished(self.job.status) and not self.groups and not is_ending:
                break
            self._settle()
            status = self.job.status
            assert status is not None
            there = {
                pod.key
                for pod in self.pods.values()
                if pod.attempt == status.attempt and (pod.is_running or pod.phase is PodPhase.SUCCEEDED)
            }
            if set(elastic.members(status)) <= there:
                for pod in list(self.pods.values()):
                    if pod.is_running:
                        self._finish(pod)
            self.now += 30
        assert self.finished_as in ("Succeeded", "Failed")
        assert self.job.spec.run_policy.clean_pod_policy != "All" or not self.pods
        assert not any(pod.is_held for pod in self.pods.values()), "nobody waits for a word that never comes"
        assert not self.groups

    def _settle(self) -> None:
        self.kubelet_ends_pods()
        self.deliver_watch()
        self.look(crash_after=None, stale_job=False)
        self.deliver_watch()
        for pod in list(self.pods.values()):
            if not pod.is_finished and pod.deletion_at is None:
                self._run(pod)

    def _is_at_its_largest(self) -> bool:
        status = self.job.status
        if status is None or status.elastic is None or status.started_attempt != status.attempt:
            return False
        # One whose work is coming to its end grows no more.
        is_ending = any(pod.phase is PodPhase.SUCCEEDED for pod in self.pods.values())
        return len(elastic.workers(status)) == HIGH or is_ending


TestElasticHistory = ElasticHistory.TestCase
TestElasticHistory.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
del JobHistory
