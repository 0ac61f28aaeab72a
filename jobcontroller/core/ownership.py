"""Which jobs are ours; labels and owner of everything a job makes."""

from __future__ import annotations

from typing import Any

from api import names
from api.training_v1alpha1 import TrainingJob

#: `runPolicy.managedBy` of jobs that are ours; jobs with another value are left alone (Kueue's MultiKueue)
MANAGED_BY = "training.headrace.dev/jobcontroller"


def is_ours(job: TrainingJob) -> bool:
    """Whether this controller looks after the job."""
    return job.spec.run_policy.managed_by in (None, MANAGED_BY)


def labels(job: TrainingJob) -> dict[str, str]:
    """Return the labels every object of the job carries."""
    return {names.JOB_NAME_LABEL: job.metadata.name, names.JOB_UID_LABEL: job.metadata.uid}


def owner_references(job: TrainingJob) -> list[dict[str, Any]]:
    """Return the job as controlling owner: what it made is deleted with it."""
    return [
        {
            "apiVersion": f"{names.TRAINING_GROUP}/{names.API_VERSION}",
            "kind": TrainingJob.KIND,
            "name": job.metadata.name,
            "uid": job.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
