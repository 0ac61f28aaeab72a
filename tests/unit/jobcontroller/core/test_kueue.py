"""What a controller has to do for Kueue: suspension, and plain pod groups (reference: Kueue, plain pods)."""

from __future__ import annotations

from typing import Any

from api import names
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import CreatePod, DeletePod, DeletePodGroup, Plan
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, conditions, job, observed, running, state, with_status, workers

NOW = CREATED_AT + 110


def queued(queue: str = "gpus", **spec: Any) -> TrainingJob:
    one = job(**spec)
    one.metadata.labels[names.KUEUE_QUEUE_LABEL] = queue
    return one


def created(plan: Plan) -> list[dict[str, Any]]:
    return [dict(action.body) for action in plan.actions if isinstance(action, CreatePod)]


def test_pods_of_an_attempt_are_one_group_of_its_size() -> None:
    pods = created(reconcile(observed(queued()), NOW))
    assert len(pods) == 2
    for pod in pods:
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
        assert labels["kueue.x-k8s.io/pod-group-name"] == "tj-a0"
        assert annotations["kueue.x-k8s.io/pod-group-total-count"] == "2"
        assert annotations["kueue.x-k8s.io/retriable-in-group"] == "false"
    assert "schedulingGates" not in pods[0]["spec"], "Kueue's webhook puts its gate on"


def test_the_next_attempt_is_a_group_of_its_own() -> None:
    one = with_status(queued(), attempt=3, started_attempt=None, created_attempt=None)
    (first, *_) = created(reconcile(observed(one), NOW))
    assert first["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] == "tj-a3"


def test_a_queue_named_in_a_template_counts_for_all_roles() -> None:
    specs = workers()
    specs["Worker"]["template"]["metadata"] = {"labels": {names.KUEUE_QUEUE_LABEL: "gpus"}}
    (first, *_) = created(reconcile(observed(job(replicaSpecs=specs)), NOW))
    assert first["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] == "tj-a0"


def test_without_a_queue_of_kueues_nothing_is_added() -> None:
    (first, *_) = created(reconcile(observed(job()), NOW))
    assert not [key for key in (first["metadata"]["labels"] | first["metadata"]["annotations"]) if "kueue" in key]


def test_a_group_of_fixed_size_and_an_elastic_job_exclude_each_other() -> None:
    plan = reconcile(observed(queued(jax={"elastic": {"min": 1}})), NOW)
    assert state(plan) == ("Failed", "InvalidSpec")


def test_a_job_created_suspended_has_no_pods_and_is_resumed_with_what_was_injected() -> None:
    one = job(runPolicy={"suspend": True})
    plan = reconcile(observed(one), NOW)
    assert state(plan)[0] == "Suspended" and not created(plan)
    assert plan.status is not None and all(role.active == 0 for role in plan.status.replica_statuses.values())
    specs = workers()
    specs["Worker"]["template"]["metadata"] = {"labels": {"injected": "yes"}, "annotations": {"injected": "yes"}}
    specs["Worker"]["template"]["spec"] |= {
        "nodeSelector": {"pool": "spot"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "schedulingGates": [{"name": "kueue.x-k8s.io/topology"}],
    }
    admitted = job(replicaSpecs=specs, runPolicy={"suspend": False}).model_copy(update={"status": plan.status})
    (first, *_) = created(reconcile(observed(admitted), NOW + 1))
    assert first["spec"]["nodeSelector"] == {"pool": "spot"}
    assert first["spec"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert first["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/topology"}]
    assert first["metadata"]["labels"]["injected"] == first["metadata"]["annotations"]["injected"] == "yes"


def test_a_suspended_job_gives_up_all_pods_and_groups_and_then_reports_none_active() -> None:
    one = with_status(job(runPolicy={"suspend": True}))
    plan = reconcile(observed(one, running(0), running(1), groups=frozenset({"tj-a0"})), NOW)
    assert {action.name for action in plan.actions if isinstance(action, DeletePod)} == {
        "tj-worker-0-a0",
        "tj-worker-1-a0",
    }
    assert DeletePodGroup("tj-a0") in plan.actions
    assert conditions(plan)["Suspended"][0] == "True"
    gone = reconcile(observed(one.model_copy(update={"status": plan.status})), NOW + 5)
    assert gone.status is not None and gone.status.replica_statuses["Worker"].active == 0
