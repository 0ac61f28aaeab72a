"""The steps of a job's life, one decision at a time."""

from __future__ import annotations

from typing import Any

import pytest

from api import names
from api.conditions import Condition, timestamp
from api.training_v1alpha1 import RestartCounts, TrainingJob
from jobcontroller.core.actions import (
    AnnotatePod,
    ApplyPodGroup,
    ApplyService,
    CreatePod,
    DeleteJob,
    DeletePod,
    DeletePodGroup,
    EmitEvent,
    Plan,
)
from jobcontroller.core.gang import pod_group
from jobcontroller.core.observed import Admission, Checkpoints, CheckpointView, DatasetView, PodPhase, Problem
from jobcontroller.core.queueing import Hold
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import (
    CREATED_AT,
    conditions,
    ended,
    job,
    observed,
    pod,
    running,
    state,
    with_status,
    workers,
)

NOW = CREATED_AT + 110


def kinds(plan: Plan) -> list[str]:
    return [type(action).__name__ for action in plan.actions if not isinstance(action, EmitEvent)]


def events(plan: Plan) -> dict[str, str]:
    return {action.reason: action.note for action in plan.actions if isinstance(action, EmitEvent)}


def after(one: TrainingJob, plan: Plan) -> TrainingJob:
    """The job with the plan's status stored."""
    return one.model_copy(update={"status": plan.status or one.status})


def a_running_job(**spec: Any) -> TrainingJob:
    one = with_status(job(**spec))
    plan = reconcile(observed(one, running(0), running(1)), CREATED_AT + 10)
    return after(one, plan)


def test_a_new_job_gets_its_service_gang_and_all_pods_at_once() -> None:
    plan = reconcile(observed(job()), NOW)
    assert kinds(plan) == ["ApplyService", "ApplyPodGroup", "CreatePod", "CreatePod"]
    assert plan.status is not None
    assert plan.status.started_attempt == 0
    assert plan.status.started_replicas == {"Worker": 2}
    assert state(plan) == ("Queued", "CreatingPods")
    assert events(plan)["AttemptStarted"] == "attempt 0 starts from the beginning"


def test_only_missing_pods_are_created() -> None:
    one = with_status(job(), created_attempt=None)
    plan = reconcile(observed(one, pod(1), groups=frozenset({"tj-a0"}), has_service=True), NOW)
    assert [action.name for action in plan.actions if isinstance(action, CreatePod)] == ["tj-worker-0-a0"]
    assert not any(isinstance(action, ApplyService | ApplyPodGroup) for action in plan.actions)


def test_a_decided_status_is_not_written_again() -> None:
    one = a_running_job()
    plan = reconcile(observed(one, running(0), running(1)), CREATED_AT + 12)
    assert plan.status is None
    assert plan.actions == ()


def test_running_is_true_only_when_every_pod_runs() -> None:
    one = with_status(job())
    plan = reconcile(observed(one, running(0), pod(1)), NOW)
    assert state(plan) == ("Queued", "WaitingForPlacement")
    assert "Running" not in conditions(plan)
    plan = reconcile(observed(one, running(0), running(1)), NOW)
    assert state(plan) == ("Running", "AllPodsRunning")
    assert conditions(plan)["PodsScheduled"] == ("True", "AllScheduled")


def test_pods_that_are_ended_are_not_said_to_have_nodes() -> None:
    """Of the next attempt no pod is there yet, and of a suspended job none will be."""
    one = after(with_status(job()), reconcile(observed(with_status(job()), running(0), running(1)), NOW))
    restarts = reconcile(observed(one, ended(137, 0), running(1)), NOW + 1)
    assert conditions(restarts)["PodsScheduled"] == ("False", "WaitingForPlacement")
    one.spec.run_policy.suspend = True
    suspends = reconcile(observed(one, running(0), running(1)), NOW + 1)
    assert conditions(suspends)["PodsScheduled"] == ("False", "SuspendedByUser")
    waits = reconcile(observed(with_status(job(runPolicy={"suspend": True}))), NOW)
    assert "PodsScheduled" not in conditions(waits)


def test_what_the_scheduler_says_is_grouped_in_the_condition() -> None:
    text = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    one = with_status(job())
    plan = reconcile(observed(one, pod(0, unschedulable=text), pod(1, unschedulable=text)), NOW)
    assert conditions(plan)["PodsScheduled"] == ("False", "Unschedulable")
    assert plan.status is not None
    assert plan.status.message == f"2 of 2 pods have no node: {text} (2 pods)"


def test_a_killed_pod_ends_the_whole_attempt_after_the_status_counts_it() -> None:
    one = a_running_job()
    dead = ended(137, 0)
    plan = reconcile(observed(one, dead, running(1), groups=frozenset({"tj-a0"})), NOW)
    assert plan.status is not None
    assert plan.status.attempt == 1
    assert plan.status.restarts == RestartCounts(infrastructure=1)
    assert plan.status.handled_failures == [dead.uid]
    assert state(plan) == ("Restarting", "InfrastructureFailure")
    deletions = [action for action in plan.actions if isinstance(action, DeletePod)]
    assert {action.uid for action in deletions} == {dead.uid, "uid-tj-worker-1-a0"}
    assert DeletePodGroup("tj-a0") in plan.actions
    assert not any(isinstance(action, CreatePod) for action in plan.actions), "old pods must be gone first"
    assert "exit code 137" in events(plan)["Restarting"]


def test_the_next_attempt_starts_when_no_old_pod_is_left() -> None:
    one = a_running_job()
    one = after(one, reconcile(observed(one, ended(137, 0), running(1)), NOW))
    waiting = reconcile(observed(one, running(1, deletion_at=NOW + 30)), NOW + 1)
    assert conditions(waiting)["Queued"] == ("True", "WaitingForOldPods")
    assert state(waiting)[0] == "Restarting"
    assert waiting.wake_after_seconds == pytest.approx(59)
    plan = reconcile(observed(after(one, waiting)), NOW + 2)
    created = [action.name for action in plan.actions if isinstance(action, CreatePod)]
    assert created == ["tj-worker-0-a1", "tj-worker-1-a1"]


def test_a_pod_that_does_not_end_in_its_grace_is_deleted_by_force() -> None:
    one = with_status(job(), attempt=1)
    plan = reconcile(observed(one, running(0, deletion_at=NOW - 31)), NOW)
    assert DeletePod("tj-worker-0-a0", "uid-tj-worker-0-a0", grace_seconds=0) in plan.actions


def test_an_error_of_the_program_waits_for_its_cause_and_then_fails_the_job() -> None:
    one = a_running_job()
    seen = observed(one, ended(1, 0, at=NOW), running(1))
    early = reconcile(seen, NOW + 1)
    assert state(early) == ("Running", "AllPodsRunning")
    assert early.actions == ()
    assert early.wake_after_seconds == pytest.approx(2)
    plan = reconcile(seen, NOW + 3)
    assert state(plan) == ("Failed", "UserError")
    assert plan.status is not None
    assert plan.status.completion_time is not None


def test_peers_of_a_killed_pod_are_not_blamed() -> None:
    one = a_running_job()
    plan = reconcile(observed(one, ended(1, 0, at=NOW - 1), ended(137, 1, at=NOW)), NOW)
    assert state(plan) == ("Restarting", "InfrastructureFailure")


def test_a_vanished_pod_restarts_the_attempt_as_preempted() -> None:
    plan = reconcile(observed(a_running_job(), running(0)), NOW)
    assert state(plan) == ("Restarting", "Preempted")
    assert plan.status is not None
    assert plan.status.handled_failures == ["gone:tj-worker-1-a0"]


def test_a_pod_not_seen_yet_is_created_and_not_lost() -> None:
    one = with_status(job(), created_attempt=None)
    plan = reconcile(observed(one, pod(0)), NOW)
    assert plan.status is not None
    assert plan.status.attempt == 0


def test_used_up_budgets_fail_the_job_and_say_which() -> None:
    one = with_status(job(runPolicy={"restarts": {"infrastructure": 1}}), restarts=RestartCounts(infrastructure=1))
    plan = reconcile(observed(one, ended(137, 0), running(1)), NOW)
    assert state(plan) == ("Failed", "RestartsExhausted")
    assert plan.status is not None
    assert "runPolicy.restarts.infrastructure 1" in (plan.status.message or "")


def test_the_job_succeeds_with_its_pods() -> None:
    plan = reconcile(observed(a_running_job(), ended(0, 0), ended(0, 1)), NOW)
    assert state(plan) == ("Succeeded", "Succeeded")
    assert plan.status is not None
    assert plan.status.goodput[0].training == pytest.approx(95)


def test_a_finished_job_is_never_touched_but_for_its_cleaning() -> None:
    one = after(a_running_job(), reconcile(observed(a_running_job(), ended(1, 0), running(1)), NOW + 10))
    plan = reconcile(observed(one, ended(1, 0), running(1), groups=frozenset({"tj-a0"})), NOW + 20)
    assert plan.status is None
    assert kinds(plan) == ["DeletePod", "DeletePodGroup"], "cleanPodPolicy Running keeps the failed pod"
    assert reconcile(observed(one), NOW + 9999).actions == ()


@pytest.mark.parametrize(("policy", "deleted"), [("All", 2), ("Running", 1), ("None", 0)])
def test_clean_pod_policy(policy: str, deleted: int) -> None:
    one = a_running_job(runPolicy={"cleanPodPolicy": policy})
    one = after(one, reconcile(observed(one, ended(1, 0), running(1)), NOW + 10))
    plan = reconcile(observed(one, ended(1, 0), running(1)), NOW + 20)
    assert kinds(plan).count("DeletePod") == deleted


def test_the_time_to_live_deletes_the_job_by_uid() -> None:
    one = a_running_job(runPolicy={"ttlSecondsAfterFinished": 60})
    one = after(one, reconcile(observed(one, ended(0, 0), ended(0, 1)), NOW))
    early = reconcile(observed(one), NOW + 20)
    assert early.actions == ()
    assert early.wake_after_seconds == pytest.approx(40)
    assert reconcile(observed(one), NOW + 60).actions == (DeleteJob("job-uid"),)


def test_a_suspended_job_has_no_pods_and_resuming_begins_the_next_attempt() -> None:
    one = a_running_job().model_copy(update={"spec": job(runPolicy={"suspend": True}).spec})
    plan = reconcile(observed(one, running(0), running(1), groups=frozenset({"tj-a0"})), NOW)
    assert state(plan) == ("Suspended", "SuspendedByUser")
    assert kinds(plan) == ["DeletePod", "DeletePod", "DeletePodGroup"]
    assert plan.status is not None
    assert plan.status.attempt == 0
    held = after(one, plan)
    resumed = held.model_copy(update={"spec": job().spec})
    plan = reconcile(observed(resumed), NOW + 5)
    assert plan.status is not None
    assert plan.status.attempt == 1
    assert plan.status.restarts == RestartCounts()
    assert [action.name for action in plan.actions if isinstance(action, CreatePod)] == [
        "tj-worker-0-a1",
        "tj-worker-1-a1",
    ]


def test_a_job_suspended_from_the_start_keeps_attempt_zero() -> None:
    one = job(runPolicy={"suspend": True})
    held = after(one, reconcile(observed(one), NOW))
    plan = reconcile(observed(held.model_copy(update={"spec": job().spec})), NOW + 5)
    assert plan.status is not None
    assert plan.status.attempt == 0
    assert kinds(plan).count("CreatePod") == 2


def test_the_deadline_fails_the_job_and_is_waited_for() -> None:
    one = a_running_job(runPolicy={"activeDeadlineSeconds": 200})
    seen = observed(one, running(0), running(1))
    assert reconcile(seen, NOW).wake_after_seconds == pytest.approx(90)
    assert state(reconcile(seen, CREATED_AT + 200)) == ("Failed", "DeadlineExceeded")


def test_pods_wait_until_every_dataset_is_bound_and_cached_enough() -> None:
    one = job(datasets=[{"name": "corpus", "mountPath": "/data", "minCachedPercent": 50}])
    assert conditions(reconcile(observed(one), NOW))["DataReady"] == ("False", "DatasetNotFound")
    seen = {"corpus": DatasetView("corpus", "Bound", 49.9)}
    plan = reconcile(observed(one, datasets=seen), NOW)
    assert conditions(plan)["DataReady"] == ("False", "DatasetNotCached")
    assert kinds(plan) == []
    seen = {"corpus": DatasetView("corpus", "Bound", 50)}
    plan = reconcile(observed(one, datasets=seen), NOW)
    assert conditions(plan)["DataReady"] == ("True", "DatasetsReady")
    assert kinds(plan).count("CreatePod") == 2


def checkpointed(**status: Any) -> TrainingJob:
    spec: dict[str, Any] = {
        "datasets": [{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        "checkpoint": {"dataset": "ckpt", "path": "run"},
    }
    return with_status(job(**spec), **status)


BOUND = {"ckpt": DatasetView("ckpt", "Bound", 0)}


def test_a_new_attempt_resumes_from_the_newest_complete_checkpoint() -> None:
    found = (
        CheckpointView(30, "run/30", False),
        CheckpointView(20, "run/20", True, 5, {"n1": 5}, CREATED_AT + 50),
        CheckpointView(10, "run/10", True, 5, {}, CREATED_AT + 20),
    )
    plan = reconcile(observed(checkpointed(attempt=1), checkpoints=Checkpoints(found), datasets=BOUND), NOW)
    assert plan.status is not None
    assert (plan.status.resume_step, plan.status.resume_path) == (20, "run/20")
    assert [one.step for one in plan.status.checkpoints] == [30, 20, 10]
    first = next(action for action in plan.actions if isinstance(action, CreatePod))
    environment = {entry["name"]: entry["value"] for entry in first.body["spec"]["containers"][0]["env"]}
    assert environment["HEADRACE_RESUME_FROM"] == "/ckpt/run/20"


def test_a_checkpoint_of_an_earlier_job_is_not_resumed_from() -> None:
    found = (CheckpointView(90, "run/90", True, completed_at=CREATED_AT - 60),)
    plan = reconcile(observed(checkpointed(attempt=1), checkpoints=Checkpoints(found), datasets=BOUND), NOW)
    assert plan.status is not None
    assert plan.status.resume_step is None


def test_an_attempt_waits_for_the_metadata_service_rather_than_lose_the_step() -> None:
    silent = Checkpoints(error="it answered UNAVAILABLE")
    plan = reconcile(observed(checkpointed(attempt=1), checkpoints=silent, datasets=BOUND), NOW)
    assert state(plan) == ("Queued", "WaitingForMetadata")
    assert kinds(plan) == []
    assert plan.wake_after_seconds is not None


def test_the_choice_of_a_started_attempt_does_not_change() -> None:
    newer = Checkpoints((CheckpointView(40, "run/40", True),))
    one = checkpointed(attempt=1, started_attempt=1, created_attempt=None, resume_step=20, resume_path="run/20")
    plan = reconcile(observed(one, checkpoints=newer, datasets=BOUND), NOW)
    first = next(action for action in plan.actions if isinstance(action, CreatePod))
    environment = {entry["name"]: entry["value"] for entry in first.body["spec"]["containers"][0]["env"]}
    assert environment["HEADRACE_RESUME_STEP"] == "20"


def test_a_permanent_refusal_fails_the_job_with_the_servers_words() -> None:
    one = with_status(job(), created_attempt=None)
    problem = Problem("InvalidSpec", "Pod x was refused: spec.containers[0].image is required", True)
    assert state(reconcile(observed(one, problem=problem), NOW)) == ("Failed", "InvalidSpec")


def test_a_temporary_refusal_is_waited_out() -> None:
    one = with_status(job(), created_attempt=None)
    problem = Problem("PodsRefused", "exceeded quota: gpus", False, retry_at=NOW + 10)
    plan = reconcile(observed(one, problem=problem), NOW)
    assert state(plan) == ("Queued", "PodsRefused")
    assert kinds(plan) == []
    assert plan.wake_after_seconds == pytest.approx(10)
    assert "CreatePod" in kinds(reconcile(observed(after(one, plan), problem=problem), NOW + 10))


def test_changed_replicas_count_from_the_next_attempt() -> None:
    one = a_running_job()
    grown = one.model_copy(update={"spec": job(replicaSpecs=workers(3)).spec})
    plan = reconcile(observed(grown, running(0), running(1)), NOW)
    assert plan.actions == ()


def test_jobs_of_another_manager_and_jobs_being_deleted_are_left_alone() -> None:
    assert reconcile(observed(job(runPolicy={"managedBy": "kueue.x-k8s.io/multikueue"})), NOW) == Plan(None)
    dying = job()
    dying.metadata.deletion_timestamp = "2023-11-14T22:13:20Z"
    assert reconcile(observed(dying), NOW) == Plan(None)


def test_an_unknown_framework_is_refused_with_those_that_are_known() -> None:
    plan = reconcile(observed(job(framework="MPI"), framework=None, supported_frameworks=("Custom", "JAX")), NOW)
    assert state(plan) == ("Failed", "FrameworkNotSupported")
    assert plan.status is not None
    assert plan.status.message == "spec.framework MPI is not supported yet; supported are Custom, JAX"


def test_attempts_that_end_at_once_are_held_back() -> None:
    one = a_running_job()
    pauses = []
    now = NOW
    for attempt in range(4):
        one = after(one, reconcile(observed(one, ended(137, 0, attempt, at=now), running(1, attempt)), now))
        plan = reconcile(observed(one), now)
        pauses.append(plan.wake_after_seconds if "CreatePod" not in kinds(plan) else 0)
        now += 10
        one = after(one, reconcile(observed(after(one, plan)), now))
        seen = observed(one, pod(0, attempt + 1), pod(1, attempt + 1))
        one = after(one, reconcile(seen, now))
    assert pauses == [0, 0, 1, 2], "attempt 0 trained for long, the others did not"


def test_conditions_keep_their_time_and_the_state_is_last() -> None:
    one = a_running_job()
    plan = reconcile(observed(one, ended(137, 0), running(1)), NOW)
    assert plan.status is not None
    by_type: dict[str, Condition] = {condition.type: condition for condition in plan.status.conditions}
    assert by_type["Created"].last_transition_time == "2023-11-14T22:13:30Z"
    assert by_type["Running"].status == "False"
    assert plan.status.conditions[-1].type == "Restarting"


def test_a_job_its_queue_holds_makes_nothing_and_an_admitted_one_keeps_its_gpus_until_no_pod_is_left() -> None:
    one = job(runPolicy={"schedulingPolicy": {"queue": "team-a"}})
    hold = Hold("WaitingForQuota", "Queue team-a uses 12 of 8 GPUs nominal; this job needs 4")
    plan = reconcile(observed(one, admission=Admission("team-a", 4, hold)), NOW)
    assert kinds(plan) == []
    assert state(plan) == ("Queued", "WaitingForQuota")
    plan = reconcile(observed(after(one, plan), admission=Admission("team-a", 4)), NOW)
    assert kinds(plan) == ["ApplyService", "ApplyPodGroup", "CreatePod", "CreatePod"]
    assert plan.status is not None
    assert (plan.status.admitted_queue, plan.status.admitted_gpus) == ("team-a", 4)
    one = after(one, plan)
    one.spec.run_policy.suspend = True
    plan = reconcile(observed(one, running(0)), NOW)
    assert plan.status is not None
    assert plan.status.admitted_queue == "team-a", "its pod still holds GPUs"
    plan = reconcile(observed(after(one, plan)), NOW)
    assert plan.status is not None
    assert plan.status.admitted_queue is None


def test_fields_without_effect_are_said_once() -> None:
    roles = workers(1)
    roles["Worker"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
    one = job(replicaSpecs=roles, checkpoint={"volume": "v", "keep": 3})
    plan = reconcile(observed(one), NOW)
    assert "spec.checkpoint.keep" in events(plan)["FieldsWithoutEffect"]
    assert "FieldsWithoutEffect" not in events(reconcile(observed(after(one, plan)), NOW))


def test_a_pending_pod_that_someone_deletes_restarts_the_attempt() -> None:
    one = with_status(job())
    plan = reconcile(observed(one, pod(0, deletion_at=NOW), pod(1)), NOW)
    assert state(plan) == ("Restarting", "Preempted")
    assert pod(0).phase is PodPhase.PENDING


def test_running_pods_tell_when_their_work_was_last_saved() -> None:
    one = a_running_job()
    saved = [
        CheckpointView(step=2, path="b", is_complete=True, completed_at=CREATED_AT + 60),
        CheckpointView(step=3, path="c", is_complete=False),
    ]
    seen = Checkpoints(found=tuple(saved))
    plan = reconcile(observed(one, running(0), pod(1), checkpoints=seen), NOW)
    at = timestamp(CREATED_AT + 60)
    told = [action for action in plan.actions if isinstance(action, AnnotatePod)]
    assert told == [AnnotatePod("tj-worker-0-a0", running(0).uid, {names.CHECKPOINTED_AT_ANNOTATION: at})]
    again = reconcile(observed(one, running(0, checkpointed_at=at), pod(1), checkpoints=seen), NOW)
    assert not any(isinstance(action, AnnotatePod) for action in again.actions)


def test_the_topology_a_job_asks_for_is_its_podgroups() -> None:
    policy = {"schedulingPolicy": {"topology": {"required": "zone", "preferred": "rack"}}}
    annotations = pod_group(job(runPolicy=policy), 1, {"Worker": 2})["metadata"]["annotations"]
    assert annotations == {names.REQUIRED_TOPOLOGY_ANNOTATION: "zone", names.PREFERRED_TOPOLOGY_ANNOTATION: "rack"}
    assert "annotations" not in pod_group(job(), 1, {"Worker": 2})["metadata"]
