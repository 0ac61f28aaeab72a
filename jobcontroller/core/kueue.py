"""Kueue's plain pod groups: how pods of an attempt ask to be admitted together, where a user names a queue of Kueue's.

Owns the labels and annotations (reference: Kueue's integration "plain pods"). Kueue's webhook puts its scheduling gate
on such pods and takes it off when all of the group fit its quota; what it preempts it deletes, which is a preemption
like any other (core/exit_class.py). Invariants: an attempt is one group, as its PodGroup is; the count is that of the
started attempt, so a job whose size changes while it runs cannot be in one (core/validation.py)."""

from __future__ import annotations

from api import names
from api.training_v1alpha1 import TrainingJob, TrainingJobStatus
from jobcontroller.core import attempts


def queue_of(job: TrainingJob) -> str:
    """Return the LocalQueue the job names, on itself or in a template; "" for none."""
    found = job.metadata.labels.get(names.KUEUE_QUEUE_LABEL, "")
    for replica in job.spec.replica_specs.values():
        metadata = replica.template.get("metadata") or {}
        labels = (metadata.get("labels") or {}) if isinstance(metadata, dict) else {}
        found = found or (str(labels.get(names.KUEUE_QUEUE_LABEL) or "") if isinstance(labels, dict) else "")
    return found


def pod_labels(job: TrainingJob, status: TrainingJobStatus) -> dict[str, str]:
    """Return the labels of each pod of the started attempt; {} where no queue is named."""
    queue = queue_of(job)
    if not queue:
        return {}
    group = attempts.group_name(job.metadata.name, status.attempt)
    return {names.KUEUE_QUEUE_LABEL: queue, names.KUEUE_GROUP_LABEL: group}


def pod_annotations(job: TrainingJob, status: TrainingJobStatus) -> dict[str, str]:
    """Return the annotations that belong to these labels."""
    if not queue_of(job):
        return {}
    total = str(sum(status.started_replicas.values()))
    return {names.KUEUE_COUNT_ANNOTATION: total, names.KUEUE_RETRIABLE_ANNOTATION: "false"}
