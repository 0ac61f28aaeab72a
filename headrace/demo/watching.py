"""Following a job while it runs: its pods, what they print, what was decided, where bytes come from.

Owns the reading. Decides nothing; `story.py` does. Every wait has a deadline."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from api import names
from api.conditions import parse_timestamp
from api.decision import Decision
from api.gen import metadata_pb2, metadata_pb2_grpc
from api.trust.channels import open_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER
from headrace.demo.objects import NAMESPACE
from headrace.demo.record import JobRecord, Span
from headrace.errors import HeadraceError
from kube.client import KubeClient
from kube.errors import KubeError
from kube.resources import PODS, TRAINING_JOBS

POLL_SECONDS = 0.4
JOB_SECONDS = 150.0


async def until(what: str, check: Callable[[], Awaitable[Any]], deadline_seconds: float) -> Any:
    """Return the first true answer of `check`; HeadraceError with `what` when it does not come in time."""
    deadline = time.monotonic() + deadline_seconds
    while not (answer := await check()):
        if time.monotonic() > deadline:
            raise HeadraceError(f"{what} did not happen within {deadline_seconds:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
    return answer


async def read_sources(metadata: str, trust: TrustFiles | None) -> dict[str, int]:
    """Return bytes handed to readers so far, over all workers, by where they came from."""
    async with open_channel(metadata, trust, METADATA_SERVER) as channel:
        stub = metadata_pb2_grpc.ResidencyStub(channel)
        answer = await stub.ListWorkers(metadata_pb2.ListWorkersRequest(), timeout=5)
    counters = [worker.counters for worker in answer.workers]
    return {
        "local": sum(one.local_bytes for one in counters),
        "peer": sum(one.peer_bytes for one in counters),
        "origin": sum(one.origin_bytes for one in counters),
    }


def kill_pod_process(job: str, attempt: int, index: int) -> int | None:
    """SIGKILL the training process of one pod, found by its environment; its pid, or None when there is none."""
    wanted = {
        f"{names.ENV_JOB_NAME}={job}".encode(),
        f"{names.ENV_JOB_ATTEMPT}={attempt}".encode(),
        f"{names.ENV_INDEX}={index}".encode(),
    }
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = set((entry / "environ").read_bytes().split(b"\0"))
            is_training = b"train.py" in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if is_training and wanted <= environment:
            os.kill(int(entry.name), signal.SIGKILL)
            return int(entry.name)
    return None


class JobWatch:
    """Follows one job by polling until it finished."""

    def __init__(self, client: KubeClient, name: str) -> None:
        self._client = client
        self.record = JobRecord(name)
        self.status: dict[str, Any] = {}

    async def run(self, on_look: Callable[[], Awaitable[None]]) -> str:
        """Poll until Succeeded or Failed (returned); `on_look` is called after every look."""
        deadline = time.monotonic() + JOB_SECONDS
        while True:
            await self._look()
            await on_look()
            for condition in self.status.get("conditions") or []:
                if condition["type"] in ("Succeeded", "Failed") and condition["status"] == "True":
                    await self._look()
                    return str(condition["type"])
            if time.monotonic() > deadline:
                raise HeadraceError(f"TrainingJob {self.record.name} did not finish within {JOB_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        job = await self._client.get(TRAINING_JOBS, self.record.name, NAMESPACE)
        self.status = job.get("status") or {}
        selector = f"{names.JOB_NAME_LABEL}={self.record.name}"
        pods = (await self._client.list(PODS, NAMESPACE, label_selector=selector)).items
        await asyncio.gather(*(self._look_at(pod) for pod in pods))

    async def _look_at(self, pod: dict[str, Any]) -> None:
        meta, status = pod["metadata"], pod.get("status", {})
        node = pod["spec"].get("nodeName")
        decision = (meta.get("annotations") or {}).get(names.DECISION_ANNOTATION)
        if decision:
            self.record.decisions[meta["name"]] = Decision.model_validate_json(decision)
        if node is None or status.get("phase") in (None, "Pending"):
            return
        began = parse_timestamp(status.get("startTime") or meta["creationTimestamp"])
        attempt = int(meta["labels"][names.JOB_ATTEMPT_LABEL])
        span = Span(self.record.name, attempt, meta["name"], node, began, _ended(status))
        self.record.spans[meta["name"]] = span
        await self._read_log(meta["name"])

    async def _read_log(self, pod: str) -> None:
        try:
            raw = await self._client.request("GET", PODS.path(NAMESPACE, pod, "log"))
        except KubeError:
            return  # the pod is going; what was read before stays
        events = []
        for line in raw.decode(errors="replace").splitlines():
            if line.startswith('{"event"'):
                try:
                    events.append(json.loads(line))
                except ValueError:
                    continue  # a line that is still being written
        if len(events) >= len(self.record.events.get(pod, [])):
            self.record.events[pod] = events


def _ended(status: dict[str, Any]) -> float:
    for container in status.get("containerStatuses") or []:
        terminated = (container.get("state") or {}).get("terminated")
        if terminated and terminated.get("finishedAt"):
            return parse_timestamp(terminated["finishedAt"])
    return time.time()
