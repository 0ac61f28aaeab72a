"""CronTrainingJobs on a real API server, made due without waiting for a clock."""

from __future__ import annotations

import time
from typing import Any

from api import names
from api.conditions import timestamp
from kube.resources import CRON_TRAINING_JOBS, TRAINING_JOBS
from tests.builders.cron_jobs import cron_body
from tests.builders.job_cluster import Cluster

DAY = 86400.0
#: schedules whose last times are different, and at most a year and a day ago
YEARLY = [f"0 0 1 {month} *" for month in range(1, 13)]


class Schedules:
    """CronTrainingJobs as a user sees and changes them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def create(self, name: str, **spec: Any) -> None:
        body = cron_body(name, **{"schedule": YEARLY[0], "suspend": True, **spec})
        await self.cluster.client.create(CRON_TRAINING_JOBS, body, self.cluster.namespace)

    async def get(self, name: str) -> dict[str, Any]:
        return await self.cluster.client.get(CRON_TRAINING_JOBS, name, self.cluster.namespace)

    async def make_due(self, name: str, schedule: str) -> None:
        """Forget what was settled, and go on with a schedule whose last time no job was made for."""
        old = {"status": {"decidedTime": timestamp(time.time() - 400 * DAY)}}
        namespace = self.cluster.namespace
        await self.cluster.client.patch(CRON_TRAINING_JOBS, name, old, namespace, subresource="status")
        spec = {"spec": {"schedule": schedule, "suspend": False}}
        await self.cluster.client.patch(CRON_TRAINING_JOBS, name, spec, namespace)

    async def jobs(self, name: str) -> list[dict[str, Any]]:
        selector = f"{names.CRON_NAME_LABEL}={name}"
        listed = await self.cluster.client.list(TRAINING_JOBS, self.cluster.namespace, label_selector=selector)
        return sorted(listed.items, key=lambda job: job["metadata"]["creationTimestamp"])

    async def wait_for_job(self, name: str, *besides: str) -> str:
        async def probe() -> str | None:
            found = [job["metadata"]["name"] for job in await self.jobs(name)]
            return next((job for job in found if job not in besides), None)

        return await self.cluster.until(f"a job of {name}", probe)

    async def wait_for_reason(self, name: str, reason: str) -> str:
        async def probe() -> str | None:
            conditions = (await self.get(name)).get("status", {}).get("conditions", [])
            return next((one["message"] or " " for one in conditions if one["reason"] == reason), None)

        return await self.cluster.until(f"{name} is {reason}", probe)

    async def end(self, job: str, exit_code: int) -> None:
        (pod,) = await self.cluster.wait_for_pods(job, 0, 1)
        await self.cluster.run_pod(pod)
        await self.cluster.end_pod(pod, exit_code)
        await self.cluster.wait_for_state(job, "Succeeded" if exit_code == 0 else "Failed")
