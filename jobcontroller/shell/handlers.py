"""kopf: hears of TrainingJobs and CronTrainingJobs, and only puts their keys into the queues.

Owns the registration. `on.event` alone is used: kopf then writes nothing to our objects (no finalizer, no
annotation), and everything it knows can be read again. Objects deleted while nobody listened need no handler, as
what they own is collected by Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from api import names
from jobcontroller.shell.caches import Key
from kube.resources import CRON_TRAINING_JOBS, TRAINING_JOBS


def register(
    registry: kopf.OperatorRegistry, add_job: Callable[[Key, str], None], add_cron: Callable[[Key], None]
) -> None:
    """Make kopf call these with the key of every object that appears, changes or goes, and a job's resourceVersion.

    A job that a CronTrainingJob made is news for that one too."""

    @kopf.on.event(TRAINING_JOBS.group, TRAINING_JOBS.version, TRAINING_JOBS.plural, registry=registry)
    async def job_changed(
        namespace: str | None, name: str | None, labels: kopf.Labels, meta: kopf.Meta, type: str | None, **_: Any
    ) -> None:
        # A deletion is news whatever version it carries.
        add_job((namespace or "", name or ""), "" if type == "DELETED" else str(meta.get("resourceVersion", "")))
        cron = labels.get(names.CRON_NAME_LABEL)
        if cron:
            add_cron((namespace or "", cron))

    @kopf.on.event(CRON_TRAINING_JOBS.group, CRON_TRAINING_JOBS.version, CRON_TRAINING_JOBS.plural, registry=registry)
    async def cron_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        add_cron((namespace or "", name or ""))
