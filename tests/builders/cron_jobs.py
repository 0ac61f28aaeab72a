"""CronTrainingJobs for tests: one that is due every hour, to be changed where a case needs it."""

from __future__ import annotations

from typing import Any

from api.cron_v1alpha1 import CronTrainingJob, CronTrainingJobStatus
from tests.builders.training_jobs import job_body, workers


def cron_body(name: str = "hourly", **spec: Any) -> dict[str, Any]:
    """The wire form; `spec` keys replace the spec's."""
    template = {"spec": job_body(replicaSpecs=workers(1), framework="Custom")["spec"]}
    return {
        "apiVersion": "training.headrace.dev/v1alpha1",
        "kind": "CronTrainingJob",
        "metadata": {"name": name},
        "spec": {"schedule": "0 * * * *", "jobTemplate": template, **spec},
    }


def cron_job(name: str = "hourly", status: CronTrainingJobStatus | None = None, **spec: Any) -> CronTrainingJob:
    """The same as a model, with what the API server would have added: made at 2023-11-14 22:13:20 UTC."""
    body = cron_body(name, **spec)
    body["metadata"] |= {
        "namespace": "ns",
        "uid": "cron-uid",
        "generation": 1,
        "creationTimestamp": "2023-11-14T22:13:20Z",
    }
    return CronTrainingJob.model_validate(body).model_copy(update={"status": status})
