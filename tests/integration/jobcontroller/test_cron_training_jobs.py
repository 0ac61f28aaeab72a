"""CronTrainingJobs on a real API server; the test plays the user and the kubelet, and sets back what is settled.

A schedule is due when `status.decidedTime` lies before its last time: so nothing here waits for a clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from api import names
from api.cron import parse
from kube.errors import Invalid
from kube.resources import CRON_TRAINING_JOBS, TRAINING_JOBS
from tests.builders.cron_schedules import YEARLY, Schedules
from tests.builders.job_cluster import Cluster, controller
from tests.builders.training_jobs import job_body

pytestmark = pytest.mark.cluster


async def test_a_job_is_made_when_it_is_due_runs_and_is_told_of(cluster: Cluster, tmp_path: Path) -> None:
    crons = Schedules(cluster)
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await crons.create("tidy", successfulJobsHistoryLimit=1)
        await crons.wait_for_reason("tidy", "Suspended")
        assert await crons.jobs("tidy") == []
        await crons.make_due("tidy", YEARLY[0])
        first = await crons.wait_for_job("tidy")
        (made,) = await crons.jobs("tidy")
        assert made["metadata"]["annotations"][names.SCHEDULED_AT_ANNOTATION].endswith("-01-01T00:00:00Z")
        assert made["metadata"]["ownerReferences"][0]["uid"] == (await crons.get("tidy"))["metadata"]["uid"]
        await crons.end(first, 0)
        await crons.wait_for_reason("tidy", "Scheduled")

        async def is_counted() -> bool:
            status = (await crons.get("tidy"))["status"]
            return [one["state"] for one in status["history"]] == ["Succeeded"] and status["active"] == []

        await cluster.until("the job is in the history", is_counted)
        created = await cluster.wait_for_event("tidy", "JobCreated")
        assert created.startswith(f"TrainingJob {first} was made for ")
        assert await cluster.wait_for_event("tidy", "JobEnded") == f"TrainingJob {first}: Succeeded"

        await crons.make_due("tidy", YEARLY[5])
        second = await crons.wait_for_job("tidy", first)
        await crons.end(second, 0)

        async def is_trimmed() -> bool:
            return [job["metadata"]["name"] for job in await crons.jobs("tidy")] == [second]

        await cluster.until("the older job is deleted", is_trimmed)


async def test_forbid_waits_and_replace_deletes_before_the_next_job_is_made(cluster: Cluster, tmp_path: Path) -> None:
    crons = Schedules(cluster)
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await crons.create("careful", concurrencyPolicy="Forbid")
        await crons.make_due("careful", YEARLY[1])
        first = await crons.wait_for_job("careful")
        await crons.make_due("careful", YEARLY[6])
        assert f"waits until {first} has ended" in await crons.wait_for_reason("careful", "WaitingForJob")
        assert len(await crons.jobs("careful")) == 1
        await crons.end(first, 0)
        await crons.wait_for_job("careful", first)

        await crons.create("hasty", concurrencyPolicy="Replace")
        await crons.make_due("hasty", YEARLY[1])
        first = await crons.wait_for_job("hasty")
        await cluster.wait_for_pods(first, 0, 1)
        # Nobody collects what a deleted job owns here: it stays until its finalizer is taken off.
        await crons.make_due("hasty", YEARLY[6])
        await crons.wait_for_reason("hasty", "Replacing")

        async def is_going() -> bool:
            return "deletionTimestamp" in (await cluster.job(first))["metadata"]

        await cluster.until("the first job is being deleted", is_going)
        assert len(await crons.jobs("hasty")) == 1
        free = {"metadata": {"finalizers": None}}
        await cluster.client.patch(TRAINING_JOBS, first, free, cluster.namespace)
        await crons.wait_for_job("hasty", first)


async def test_a_name_that_is_taken_and_what_cannot_be_read_are_said(cluster: Cluster, tmp_path: Path) -> None:
    crons = Schedules(cluster)
    async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await crons.create("wrong", schedule="0 25 * * *")
        text = await crons.wait_for_reason("wrong", "InvalidSpec")
        assert text.startswith("spec.schedule '0 25 * * *' cannot be read: bad hour")
        assert await cluster.wait_for_event("wrong", "InvalidSpec") == text

        due = parse(YEARLY[3]).last_until(time.time())
        assert due is not None
        taken = f"unlucky-{int(due) // 60}"
        body = job_body(taken)
        body["spec"]["runPolicy"] = {"suspend": True}
        await cluster.submit(body)
        await crons.create("unlucky")
        await crons.make_due("unlucky", YEARLY[3])
        assert await crons.wait_for_reason("unlucky", "JobRefused") == (
            f"TrainingJob {taken} exists and is not this CronTrainingJob's; delete or rename it"
        )
        await cluster.client.delete(TRAINING_JOBS, taken, cluster.namespace)
        assert await crons.wait_for_job("unlucky") == taken

        # What may not be changed in a job may be in what the next ones are made from.
        custom = {"spec": {"jobTemplate": {"spec": {"framework": "JAX"}}}}
        await cluster.client.patch(CRON_TRAINING_JOBS, "unlucky", custom, cluster.namespace)
        with pytest.raises(Invalid, match="framework cannot be changed"):
            await cluster.client.patch(TRAINING_JOBS, taken, {"spec": {"framework": "JAX"}}, cluster.namespace)
