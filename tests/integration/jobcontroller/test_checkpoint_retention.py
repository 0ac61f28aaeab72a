"""`checkpoint.keep` end to end: the job controller, a metadata service and cache workers as processes, real files.

The test plays the kubelet and the training program."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobcontroller.core.checkpoints import CLOCK_SKEW_SECONDS
from tests.builders.cache_cluster import CacheCluster
from tests.builders.job_cluster import Cluster, controller
from tests.builders.training_jobs import job_body, workers

pytestmark = pytest.mark.cluster


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[CacheCluster]:
    made = await asyncio.to_thread(CacheCluster, tmp_path / "cache")
    try:
        yield made
    finally:
        await asyncio.to_thread(made.stop)


def keeping(name: str, keep: int) -> dict[str, Any]:
    return job_body(
        name,
        replicaSpecs=workers(1),
        datasets=[{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        checkpoint={"dataset": "ckpt", "path": "run", "keep": keep},
    )


class Program:
    """Saves as a training program would, its clock ahead: what may be older than the job is not touched."""

    def __init__(self, cluster: Cluster, cache: CacheCluster) -> None:
        self.cluster = cluster
        self.cache = cache
        self.at = time.time() + CLOCK_SKEW_SECONDS

    async def save(self, *steps: int) -> None:
        for step in steps:
            files = {f"run/{step}/shards/{i}": b"x" * 100 for i in range(3)} | {f"run/{step}/COMPLETE": b""}
            self.cache.put_origin(files)
            self.at += 0.01
            for name in files:
                os.utime(self.cache.origin / name, (self.at, self.at))
        await asyncio.to_thread(self.cache.sync, namespace=self.cluster.namespace, name="ckpt", writable=True)

    def steps(self) -> list[str]:
        return sorted(path.name for path in (self.cache.origin / "run").iterdir())

    async def has_only(self, *steps: str) -> None:
        async def probe() -> bool:
            return self.steps() == sorted(steps)

        await self.cluster.until(f"the checkpoints left are {steps}", probe)

    async def wait_for_event(self, job: str, reason: str) -> str:
        async def probe() -> str | None:
            return (await self.cluster.events(job)).get(reason)

        return await self.cluster.until(f"event {reason}", probe)


async def retention_of(cluster: Cluster, job: str) -> tuple[str, str]:
    conditions = (await cluster.job(job))["status"]["conditions"]
    return next((one["status"], one["reason"]) for one in conditions if one["type"] == "CheckpointRetention")


async def test_older_checkpoints_go_but_never_the_one_resumed_from(
    cluster: Cluster, tmp_path: Path, cache: CacheCluster
) -> None:
    await asyncio.to_thread(cache.add_worker, "node-1")
    program = Program(cluster, cache)
    await program.save(5)
    os.utime(cache.origin / "run/5/COMPLETE", (1, 1))  # of a run before this one
    await program.save()
    await cluster.bound_dataset("ckpt")
    arguments = ("--no-leader-elect", "--metadata", cache.address)
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", *arguments):
        await cluster.submit(keeping("tidy", 2))
        program.at = time.time() + CLOCK_SKEW_SECONDS
        (pod,) = await cluster.wait_for_pods("tidy", 0, 1)
        await cluster.run_pod(pod)
        await program.save(10, 20, 30, 40)
        (cache.origin / "run/40/COMPLETE").unlink()  # torn
        await program.save()
        await program.has_only("20", "30", "40", "5")
        assert "run/10: removed" in await program.wait_for_event("tidy", "CheckpointRemoved")
        assert not any(path.startswith("run/10") for path in cache.entries())
        assert await retention_of(cluster, "tidy") == ("True", "Kept")

        await cluster.end_pod(pod, 137)
        (pod,) = await cluster.wait_for_pods("tidy", 1, 1)
        await cluster.run_pod(pod)
        assert (await cluster.job("tidy"))["status"]["resumePath"] == "run/30"
        await program.save(50, 60, 70)
        await program.has_only("30", "40", "5", "60", "70")

        await program.save(80)
        await cluster.end_pod(pod, 0)
        done = await cluster.wait_for_state("tidy", "Succeeded")
        assert done["status"]["resumePath"] == "run/30"
        await program.has_only("40", "5", "70", "80")


async def test_a_removal_nobody_can_do_is_said_and_done_when_somebody_can(
    cluster: Cluster, tmp_path: Path, cache: CacheCluster
) -> None:
    program = Program(cluster, cache)
    program.at += 60
    await program.save(10, 20)
    await cluster.bound_dataset("ckpt")
    arguments = ("--no-leader-elect", "--metadata", cache.address)
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", *arguments):
        await cluster.submit(keeping("stuck", 1))
        (pod,) = await cluster.wait_for_pods("stuck", 0, 1)
        await cluster.run_pod(pod)
        said = await program.wait_for_event("stuck", "CheckpointNotRemoved")
        assert said.startswith("checkpoint run/10 in Dataset ckpt is not removed: no live cache worker may remove it")
        assert await retention_of(cluster, "stuck") == ("False", "CheckpointNotRemoved")
        assert program.steps() == ["10", "20"]
        await asyncio.to_thread(cache.add_worker, "node-1")
        await program.has_only("20")
        await program.wait_for_event("stuck", "CheckpointRemoved")
