"""A job's side of its queue: what it claims, and whether it holds it.

Owns the arithmetic of a job's GPUs and the life of `status.admittedQueue`. Who is admitted is decided over all jobs in
core/queueing.py. Invariants: a job holds its GPUs from the status that admits it (stored before any pod is made) until
it ends or, suspended, has no pod left; restarts keep them; a job that is changed to another queue, or whose queue is
deleted, keeps what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api import names
from api.conditions import parse_timestamp
from api.quantities import to_int
from api.training_v1alpha1 import TrainingJob, TrainingJobSpec, TrainingJobStatus, is_finished
from jobcontroller.core import elastic
from jobcontroller.core.ownership import is_ours
from jobcontroller.core.queueing import Claim
from jobcontroller.core.suspend import is_suspended, wants_suspension


def gpus_of(spec: TrainingJobSpec) -> int:
    """Return the GPUs all pods of the job ask for together; an amount that is no quantity counts as 0.

    As kube-scheduler counts a pod: its containers together, or its largest init container if that is more."""
    return sum(_most_pods(spec, role) * _gpus_of_pod(one.template) for role, one in spec.replica_specs.items())


def is_admitted(status: TrainingJobStatus | None) -> bool:
    """Whether the job holds GPUs of its queue; one whose attempt was started before it had a queue does."""
    if status is None or is_finished(status):
        return False
    return status.admitted_queue is not None or (status.started_attempt == status.attempt and not is_suspended(status))


def claim_of(job: TrainingJob) -> Claim | None:
    """Return what the job asks of its queue; None for one that asks nothing: without queue, ended, or held back."""
    status = job.status
    admitted = is_admitted(status)
    queue = job.spec.run_policy.scheduling_policy.queue
    if admitted and status is not None and status.admitted_queue is not None:
        queue = status.admitted_queue
    if queue is None or is_finished(status) or job.metadata.deletion_timestamp is not None or not is_ours(job):
        return None
    if not admitted and wants_suspension(job):
        return None
    gpus = gpus_of(job.spec)
    if admitted and status is not None and status.admitted_gpus is not None:
        # A spec changed since counts from the next attempt, and its pods may be there any moment.
        gpus = max(gpus, status.admitted_gpus)
    return Claim(
        key=(job.metadata.namespace, job.metadata.name),
        queue=queue,
        gpus=gpus,
        submitted_at=parse_timestamp(job.metadata.creation_timestamp or "1970-01-01T00:00:00Z"),
        is_admitted=admitted,
        is_leaving=admitted and status is not None and status.reclaimed_by is not None,
        unsaved_since=_unsaved_since(status),
    )


def _unsaved_since(status: TrainingJobStatus | None) -> float:
    if status is None:
        return 0.0
    times = [one.completed_at for one in status.checkpoints if one.complete]
    return max((parse_timestamp(at) for at in (*times, status.attempt_began_at) if at), default=0.0)


def _most_pods(spec: TrainingJobSpec, role: str) -> int:
    limits = elastic.bounds(spec) if role == elastic.ROLE else None
    replicas = spec.replica_specs[role].replicas
    # An elastic job may grow any moment; what it was not given it must not take.
    return max(replicas, limits.maximum) if limits is not None else replicas


def _gpus_of_pod(template: Mapping[str, Any]) -> int:
    pod = template.get("spec")
    if not isinstance(pod, dict):
        return 0
    together = sum(_gpus_of_container(one) for one in pod.get("containers") or [])
    return max([together, *(_gpus_of_container(one) for one in pod.get("initContainers") or [])])


def _gpus_of_container(container: object) -> int:
    resources = container.get("resources") if isinstance(container, dict) else None
    found = 0
    for kind in ("requests", "limits"):
        amounts = resources.get(kind) if isinstance(resources, dict) else None
        if isinstance(amounts, dict):
            try:
                found = max(found, to_int(amounts.get(names.GPU_RESOURCE, 0)))
            except (ValueError, TypeError):
                continue
    return found
