"""Random histories of a job: whatever happens, and wherever the controller dies, it ends where it should.

The model has the API server's truth, and the controller's caches, which lag behind it as a watch does and are
listed anew when the controller starts again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from api import names
from api.training_v1alpha1 import TrainingJob, is_finished
from jobcontroller.core.actions import (
    Action,
    ApplyPodGroup,
    ApplyService,
    CreatePod,
    DeleteJob,
    DeletePod,
    DeletePodGroup,
)
from jobcontroller.core.observed import ContainerEnd, PodPhase, PodView
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, job, observed, workers

REPLICAS = 3
FAILURES = ("user", "killed", "evicted", "oom", "preempted")


class JobHistory(RuleBasedStateMachine):
    """Truth: `job`, `pods`, `groups`. What the controller believes of pods: `cache`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = CREATED_AT
        self.job: TrainingJob = job()
        self.version = 1
        self.pods: dict[str, PodView] = {}
        self.groups: set[str] = set()
        self.has_service = False
        self.cache: dict[str, PodView] = {}
        self.next_uid = 0
        self.gone: set[str] = set()
        self.notices: dict[str, str] = {}
        self.started_names: set[str] = set()
        self.attempts: list[int] = [0]
        self.restarts: list[int] = [0]
        self.resumes = 0
        self.finished_as: str | None = None
        self.job_is_gone = False

    @initialize(
        infrastructure=st.integers(0, 3),
        policy=st.sampled_from(["All", "Running", "None"]),
        restart_policy=st.sampled_from([None, "OnFailure", "ExitCode", "Never"]),
        ttl=st.sampled_from([None, 5]),
    )
    def submit(self, infrastructure: int, policy: str, restart_policy: str | None, ttl: int | None) -> None:
        run_policy: dict[str, Any] = {
            "cleanPodPolicy": policy,
            "restarts": {"infrastructure": infrastructure, "preemption": 2},
        }
        if ttl is not None:
            run_policy["ttlSecondsAfterFinished"] = ttl
        self.job = job(
            replicaSpecs=workers(REPLICAS, **({"restartPolicy": restart_policy} if restart_policy else {})),
            runPolicy=run_policy,
        )

    # ---- the controller --------------------------------------------------------------------------

    @precondition(lambda self: not self.job_is_gone)
    @rule(crash_after=st.none() | st.integers(0, 5), stale_job=st.booleans())
    def look(self, crash_after: int | None, stale_job: bool) -> None:
        """One turn; the controller may die after the status write and some of its actions."""
        seen_version = self.version - 1 if stale_job else self.version
        believed = dict(self.cache)
        status = self.job.status
        if status and status.created_attempt == status.attempt:
            # shell/observe.py asks the API server itself before it calls a pod missing.
            believed = {**{name: pod for name, pod in self.pods.items() if name not in believed}, **believed}
        seen = observed(
            self.job,
            *believed.values(),
            gone_pods=frozenset(self.gone),
            groups=frozenset(self.groups),
            has_service=self.has_service,
            notices=dict(self.notices),
        )
        plan = reconcile(seen, self.now)
        again = reconcile(seen, self.now)
        assert plan == again, "the same observation gives the same plan"
        if plan.status is not None:
            if seen_version != self.version:
                return
            self.job = self.job.model_copy(update={"status": plan.status})
            self.version += 1
            self._check_status()
        for number, action in enumerate(plan.actions):
            if crash_after is not None and number >= crash_after:
                self.restart_controller()
                return
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case CreatePod(name=name, body=body):
                self._create(name, dict(body))
            case DeletePod(name=name, uid=uid, grace_seconds=grace):
                held = self.pods.get(name)
                if held is not None and held.uid == uid:
                    if grace == 0 or not held.node:
                        del self.pods[name]
                    elif held.deletion_at is None:
                        self.pods[name] = replace(held, deletion_at=self.now + 5)
                cached = self.cache.get(name)
                if cached is not None and cached.uid == uid and cached.deletion_at is None:
                    self.cache[name] = replace(cached, deletion_at=self.now + 5)
            case ApplyPodGroup(name=name):
                self.groups.add(name)
            case DeletePodGroup(name=name):
                self.groups.discard(name)
            case ApplyService():
                self.has_service = True
            case DeleteJob(uid=uid):
                assert uid == self.job.metadata.uid
                assert is_finished(self.job.status)
                self.job_is_gone = True
            case _:
                pass

    def _create(self, name: str, body: dict[str, Any]) -> None:
        labels = body["metadata"]["labels"]
        attempt, index = int(labels[names.JOB_ATTEMPT_LABEL]), int(labels[names.JOB_INDEX_LABEL])
        status = self.job.status
        assert status is not None
        assert not is_finished(status), "a finished job gets no pods"
        assert attempt == status.attempt, "only the committed attempt gets pods"
        older = [pod.name for pod in self.pods.values() if pod.attempt < attempt]
        assert not older, f"{name} is created while {older} exist"
        if name in self.pods:
            return
        assert name not in self.started_names, f"{name} ran before: two pods for one index and attempt"
        self.next_uid += 1
        view = PodView(
            name=name,
            uid=f"uid-{self.next_uid}",
            role=labels[names.JOB_ROLE_LABEL],
            index=index,
            attempt=attempt,
            created_at=self.now,
        )
        self.pods[name] = view
        self.cache[name] = view

    def _check_status(self) -> None:
        status = self.job.status
        assert status is not None
        total = status.restarts.user_error + status.restarts.infrastructure + status.restarts.preemption
        assert status.attempt in (self.attempts[-1], self.attempts[-1] + 1), "attempts go up by one"
        assert total - self.restarts[-1] in (0, 1), "one event is counted once"
        if total > self.restarts[-1]:
            assert status.attempt == self.attempts[-1] + 1
        self.attempts.append(status.attempt)
        self.restarts.append(total)
        true = [condition.type for condition in status.conditions if condition.status == "True"]
        assert status.conditions[-1].type in true, "the state is last and true"
        if self.finished_as is not None:
            assert status.conditions[-1].type == self.finished_as, "a finished job stays what it is"
        if is_finished(status):
            self.finished_as = status.conditions[-1].type

    @rule()
    def restart_controller(self) -> None:
        """Caches are lost and listed anew.

        A pod that somebody deletes while its attempt is being created and the controller is down is made
        again: that it ever was is written nowhere."""
        status = self.job.status
        if status is None or status.created_attempt != status.attempt:
            self.started_names &= set(self.pods)
        self.gone.clear()
        self.cache = dict(self.pods)

    @rule()
    def deliver_watch(self) -> None:
        """Caches catch up."""
        self.gone |= set(self.cache) - set(self.pods)
        self.cache = dict(self.pods)

    # ---- the world -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 4, 40]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(suspend=st.booleans())
    def set_suspend(self, suspend: bool) -> None:
        spec = self.job.spec.model_copy(deep=True)
        spec.run_policy.suspend = suspend
        self.job = self.job.model_copy(update={"spec": spec})
        self.version += 1

    @rule(chance=st.integers(0, 7))
    def stop(self, chance: int) -> None:
        if chance == 0:
            metadata = self.job.metadata.model_copy(update={"annotations": {names.STOP_ANNOTATION: "now"}})
            self.job = self.job.model_copy(update={"metadata": metadata})
            self.version += 1

    @rule(index=st.integers(0, REPLICAS - 1))
    def run_pod(self, index: int) -> None:
        for pod in self._alive(index):
            self.started_names.add(pod.name)
            self.pods[pod.name] = replace(
                pod, phase=PodPhase.RUNNING, node="n", is_running=True, scheduled_at=self.now, started_at=self.now
            )

    @rule(index=st.integers(0, REPLICAS - 1))
    def finish_pod(self, index: int) -> None:
        for pod in self._alive(index):
            if pod.phase is PodPhase.RUNNING:
                self._finish(pod)

    def _finish(self, pod: PodView) -> None:
        end = ContainerEnd("main", 0, finished_at=self.now)
        self.pods[pod.name] = replace(
            pod, phase=PodPhase.SUCCEEDED, is_running=False, finished_at=self.now, ends=(end,)
        )

    @rule(index=st.integers(0, REPLICAS - 1), how=st.sampled_from(FAILURES))
    def fail_pod(self, index: int, how: str) -> None:
        codes = {"user": 1, "killed": 137, "oom": 137}
        for pod in self._alive(index):
            if pod.phase is not PodPhase.RUNNING:
                continue
            reason = "OOMKilled" if how == "oom" else "Error"
            end = ContainerEnd("main", codes[how], reason=reason, finished_at=self.now) if how in codes else None
            self.pods[pod.name] = replace(
                pod,
                phase=PodPhase.FAILED,
                is_running=False,
                finished_at=self.now,
                ends=(end,) if end else (),
                reason="Evicted" if how == "evicted" else "",
                disruption="PreemptionByScheduler" if how == "preempted" else "",
            )

    @rule(index=st.integers(0, REPLICAS - 1), at_once=st.booleans())
    def someone_deletes(self, index: int, at_once: bool) -> None:
        for pod in self._alive(index):
            if at_once:
                del self.pods[pod.name]
            else:
                self.pods[pod.name] = replace(pod, deletion_at=self.now + 5)

    @rule()
    def kubelet_ends_pods(self) -> None:
        for name in [name for name, pod in self.pods.items() if pod.deletion_at is not None]:
            del self.pods[name]

    def _alive(self, index: int) -> list[PodView]:
        return [
            pod for pod in self.pods.values() if pod.index == index and not pod.is_finished and pod.deletion_at is None
        ]

    # ---- what always holds -----------------------------------------------------------------------

    @invariant()
    def at_most_one_group_is_being_made(self) -> None:
        assert len(self.groups) <= 2

    def teardown(self) -> None:
        """From here on nothing goes wrong any more: the job must come to its end."""
        if not self.job_is_gone:
            self.set_suspend(False)
        for _ in range(60):
            if self.job_is_gone:
                break
            self.kubelet_ends_pods()
            self.deliver_watch()
            self.look(crash_after=None, stale_job=False)
            self.deliver_watch()
            for index in range(REPLICAS):
                self.run_pod(index)
            status = self.job.status
            if status is not None and len(self.pods) == REPLICAS:
                for index in range(REPLICAS):
                    self.finish_pod(index)
            self.now += 30
        assert self.finished_as in ("Succeeded", "Failed")
        if not self.job_is_gone:
            policy = self.job.spec.run_policy.clean_pod_policy
            left = {pod.is_finished for pod in self.pods.values()}
            assert policy != "All" or not self.pods
            assert policy != "Running" or left <= {True}
            assert self.job.status is not None
            if self.job.status.conditions[-1].reason == "StoppedByUser":
                assert left <= {True}, "what was stopped runs no more, whatever the policy"
            assert not self.groups


TestJobHistory = JobHistory.TestCase
TestJobHistory.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
