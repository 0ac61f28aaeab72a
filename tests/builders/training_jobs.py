"""TrainingJobs for tests: a small valid one, to be changed where a case needs it."""

from __future__ import annotations

import copy
from typing import Any

from api.training_v1alpha1 import TrainingJob, TrainingJobStatus
from jobcontroller.core import attempts
from jobcontroller.core.actions import Plan
from jobcontroller.core.observed import ContainerEnd, Observed, PodPhase, PodView
from jobcontroller.frameworks.registry import FRAMEWORKS

CREATED_AT = 1_700_000_000.0
_MINIMAL: dict[str, Any] = {
    "apiVersion": "training.headrace.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "tj"},
    "spec": {
        "framework": "JAX",
        "replicaSpecs": {
            "Worker": {
                "replicas": 2,
                "template": {
                    "spec": {"containers": [{"name": "main", "image": "python:3.12", "command": ["python", "x.py"]}]}
                },
            }
        },
    },
}


def job_body(name: str = "tj", **spec: Any) -> dict[str, Any]:
    """The wire form of a JAX job of two workers; `spec` keys replace the spec's."""
    body = copy.deepcopy(_MINIMAL)
    body["metadata"]["name"] = name
    body["spec"].update(copy.deepcopy(spec))
    return body


def job(name: str = "tj", **spec: Any) -> TrainingJob:
    """The same as a model, with what the API server would have added."""
    body = job_body(name, **spec)
    body["metadata"] |= {
        "namespace": "ns",
        "uid": "job-uid",
        "generation": 1,
        "resourceVersion": "1",
        "creationTimestamp": "2023-11-14T22:13:20Z",
    }
    return TrainingJob.model_validate(body)


def workers(replicas: int = 2, **replica: Any) -> dict[str, Any]:
    """`replicaSpecs` with one role Worker."""
    one = copy.deepcopy(_MINIMAL["spec"]["replicaSpecs"]["Worker"])
    return {"Worker": one | {"replicas": replicas} | replica}


def with_status(one: TrainingJob, **status: Any) -> TrainingJob:
    """The job with a status: fields by their Python names, over a started and complete attempt 0."""
    started = {
        "attempt": 0,
        "started_attempt": 0,
        "created_attempt": 0,
        "started_replicas": {role: spec.replicas for role, spec in one.spec.replica_specs.items()},
        "attempt_began_at": "2023-11-14T22:13:20Z",
        "start_time": "2023-11-14T22:13:20Z",
    }
    return one.model_copy(update={"status": TrainingJobStatus(**{**started, **status})})


def pod(index: int = 0, attempt: int = 0, role: str = "Worker", **fields: Any) -> PodView:
    """A pod of the job `tj`, pending and not placed unless told otherwise."""
    name = attempts.pod_name("tj", role, index, attempt)
    return PodView(name=name, uid=f"uid-{name}", role=role, index=index, attempt=attempt, **fields)


def running(index: int = 0, attempt: int = 0, **fields: Any) -> PodView:
    """A pod whose containers run."""
    usual = {"phase": PodPhase.RUNNING, "node": "n1", "is_running": True, "is_ready": True, "created_at": CREATED_AT}
    times = {"scheduled_at": CREATED_AT + 2, "started_at": CREATED_AT + 5}
    return pod(index, attempt, **{**usual, **times, **fields})


def ended(exit_code: int, index: int = 0, attempt: int = 0, at: float = CREATED_AT + 100, **fields: Any) -> PodView:
    """A pod whose container exited."""
    reason = fields.pop("end_reason", "Completed" if exit_code == 0 else "Error")
    signal = fields.pop("signal", 0)
    end = ContainerEnd("main", exit_code, signal=signal, reason=reason, finished_at=at)
    phase = PodPhase.SUCCEEDED if exit_code == 0 else PodPhase.FAILED
    usual = {"phase": phase, "ends": (end,), "finished_at": at, "is_running": False, "is_ready": False}
    return running(index, attempt, **{**usual, **fields})


def observed(one: TrainingJob, *pods: PodView, **fields: Any) -> Observed:
    """What the controller sees of that job."""
    usual = {"framework": FRAMEWORKS.get(one.spec.framework), "supported_frameworks": tuple(sorted(FRAMEWORKS))}
    return Observed(job=one, pods=pods, **{**usual, **fields})


def conditions(plan: Plan) -> dict[str, tuple[str, str]]:
    """Conditions of a plan's status by type: (status, reason)."""
    assert plan.status is not None, "the plan does not change the status"
    return {one.type: (one.status, one.reason) for one in plan.status.conditions}


def state(plan: Plan) -> tuple[str, str]:
    """The job's state after a plan, and its reason."""
    assert plan.status is not None, "the plan does not change the status"
    last = plan.status.conditions[-1]
    assert last.status == "True"
    return last.type, last.reason
