"""A job controller's surroundings: a namespace of a real API server, and the hands of a user and of a kubelet.

The controller runs with the rights of manifests/base/jobcontroller/rbac.yaml and no more."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from api import names
from kube.client import KubeClient, PatchKind
from kube.errors import Conflict, NotFound
from kube.resources import DATASETS, EVENTS, PODS, TRAINING_JOBS, Resource

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60.0
T = TypeVar("T")
Body = dict[str, Any]


class Cluster:
    """The API server with a namespace of its own; the hands of a user and of a kubelet."""

    def __init__(self, client: KubeClient, namespace: str, kubeconfig: Path) -> None:
        self.client = client
        self.namespace = namespace
        self.kubeconfig = kubeconfig

    async def until(self, what: str, probe: Callable[[], Awaitable[T | None]], seconds: float = PATIENCE_SECONDS) -> T:
        deadline = time.monotonic() + seconds
        while True:
            found = await probe()
            if found:
                return found
            if time.monotonic() > deadline:
                jobs = await self.client.list(TRAINING_JOBS, self.namespace)
                pytest.fail(f"{what} did not come to pass; jobs: {yaml.safe_dump(jobs.items)}")
            await asyncio.sleep(0.1)

    async def submit(self, body: Body) -> Body:
        return await self.client.create(TRAINING_JOBS, body, self.namespace)

    async def job(self, name: str) -> Body:
        return await self.client.get(TRAINING_JOBS, name, self.namespace)

    async def pods(self, job: str, attempt: int) -> list[Body]:
        selector = f"{names.JOB_NAME_LABEL}={job},{names.JOB_ATTEMPT_LABEL}={attempt}"
        return (await self.client.list(PODS, self.namespace, label_selector=selector)).items

    async def wait_for_pods(self, job: str, attempt: int, count: int) -> list[Body]:
        async def probe() -> list[Body] | None:
            found = await self.pods(job, attempt)
            return found if len(found) == count else None

        return await self.until(f"{count} pods of {job} attempt {attempt}", probe)

    async def wait_for_state(
        self, job: str, state: str, reason: str | None = None, seconds: float = PATIENCE_SECONDS
    ) -> Body:
        async def probe() -> Body | None:
            body = await self.job(job)
            conditions = body.get("status", {}).get("conditions") or [{}]
            last = conditions[-1]
            is_it = last.get("type") == state and last.get("status") == "True"
            return body if is_it and (reason is None or last["reason"] == reason) else None

        return await self.until(f"{job} {state} {reason or ''}", probe, seconds)

    async def place_pod(self, pod: Body, node: str = "node-1") -> None:
        """As the scheduler does."""
        name = pod["metadata"]["name"]
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
        path = PODS.path(self.namespace, name, "binding")
        body = {"apiVersion": "v1", "kind": "Binding", **binding}
        await self.client.request("POST", path, body=json.dumps(body).encode())
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp()}
        await self._patch_status(name, {"conditions": [placed]})

    async def run_pod(self, pod: Body, node: str = "node-1") -> None:
        """As scheduler and kubelet do."""
        name = pod["metadata"]["name"]
        if not (await self.client.get(PODS, name, self.namespace))["spec"].get("nodeName"):
            await self.place_pod(pod, node)
        now = stamp()
        await self._patch_status(
            name,
            {
                "phase": "Running",
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
                    {"type": "Ready", "status": "True", "lastTransitionTime": now},
                ],
                "containerStatuses": [container({"running": {"startedAt": now}})],
            },
        )

    async def end_pod(self, pod: Body, exit_code: int, reason: str = "") -> None:
        ended = {"exitCode": exit_code, "reason": reason or ("Completed" if exit_code == 0 else "Error")}
        state = {"terminated": ended | {"startedAt": stamp(), "finishedAt": stamp()}}
        phase = "Succeeded" if exit_code == 0 else "Failed"
        status = {"phase": phase, "containerStatuses": [container(state)]}
        await self._patch_status(pod["metadata"]["name"], status)

    async def _patch_status(self, name: str, status: Body) -> None:
        body = {"status": status}
        await self.client.patch(PODS, name, body, self.namespace, kind=PatchKind.STRATEGIC, subresource="status")

    async def reap(self) -> None:
        """As a kubelet: end for good what is being deleted."""
        for pod in (await self.client.list(PODS, self.namespace)).items:
            if pod["metadata"].get("deletionTimestamp"):
                try:
                    await self.client.delete(
                        PODS,
                        pod["metadata"]["name"],
                        self.namespace,
                        uid=pod["metadata"]["uid"],
                        grace_period_seconds=0,
                    )
                except (NotFound, Conflict):
                    continue

    @asynccontextmanager
    async def kubelet(self) -> AsyncIterator[None]:
        async def reap_for_ever() -> None:
            while True:
                await self.reap()
                await asyncio.sleep(0.2)

        task = asyncio.create_task(reap_for_ever())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def gone(self, resource: Resource, name: str) -> bool | None:
        try:
            await self.client.get(resource, name, self.namespace)
        except NotFound:
            return True
        return None

    async def events(self, job: str) -> dict[str, str]:
        found = (await self.client.list(EVENTS, self.namespace)).items
        return {item["reason"]: item["note"] for item in found if item["regarding"]["name"] == job}

    async def wait_for_event(self, job: str, reason: str) -> str:
        """Its note; events are written behind what they tell of."""

        async def probe() -> str | None:
            return (await self.events(job)).get(reason)

        return await self.until(f"event {reason} of {job}", probe)

    async def bound_dataset(self, name: str, *, cached: str = "0%", policy: str = "Once") -> None:
        mount = {"name": name, "mountPoint": f"file:///srv/{name}", "path": "/"}
        spec = {"mounts": [mount], "accessModes": ["ReadWriteMany"], "metadataSync": {"policy": policy}}
        body = {"apiVersion": DATASETS.api_version, "kind": "Dataset", "metadata": {"name": name}, "spec": spec}
        await self.client.create(DATASETS, body, self.namespace)
        await self.set_dataset(name, {"phase": "Bound", "cacheStates": {"cachedPercentage": cached}})

    async def wait_for_request(self, name: str) -> str:
        """Wait until somebody asks for a listing of the Dataset; return since when."""

        async def probe() -> str | None:
            body = await self.client.get(DATASETS, name, self.namespace)
            return (body["metadata"].get("annotations") or {}).get(names.DATASET_SYNC_ANNOTATION)

        return await self.until(f"a request for a listing of {name}", probe)

    async def set_dataset(self, name: str, status: Body) -> None:
        await self.client.patch(DATASETS, name, {"status": status}, self.namespace, subresource="status")


def container(state: Body) -> Body:
    return {"name": "main", "image": "x", "imageID": "", "ready": "running" in state, "restartCount": 0, "state": state}


def stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@asynccontextmanager
async def controller(cluster: Cluster, log: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The controller as a process; its log is shown when it died by itself."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "jobcontroller", "--kubeconfig", str(cluster.kubeconfig), *arguments),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, "HEADRACE_JOBCONTROLLER_CHECKPOINT_SECONDS": "1"},
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                await process.wait()
        text = log.read_text()
        print(text[-8000:])
        assert "Traceback" not in text
        assert process.returncode in (0, -signal.SIGKILL)
