"""Waiting for jobs: each change of state as a line, and with `--follow` what their pods print.

Owns the loop. Invariant: a pod's log is followed once, and no line of it is lost when the pod ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from api import names
from api.training_v1alpha1 import FAILED, SUCCEEDED
from headrace.cli.tables import state_of
from kube.client import KubeClient
from kube.errors import KubeError, NotFound
from kube.resources import PODS, TRAINING_JOBS

Body = dict[str, Any]
LOOK_SECONDS = 0.5
#: a followed log may be silent for as long as it likes
SILENCE_SECONDS = 3600.0
#: after the job's end its logs have this long to come in
LAST_LINES_SECONDS = 5.0


class Follower:
    """Follows one job; `say` takes one line, `show` the job at every look."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        job: str,
        say: Callable[[str], None],
        show: Callable[[Body], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._job = job
        self._say = say
        self._show = show
        self._logs: dict[str, asyncio.Task[None]] = {}

    async def until_finished(self, *, with_logs: bool, until: str | None = None) -> bool:
        """Return whether the job succeeded, or came to the state `until`; False also when it was deleted. Raises
        KubeError."""
        last: tuple[str, str] | None = None
        try:
            while True:
                try:
                    job = await self._client.get(TRAINING_JOBS, self._job, self._namespace)
                except NotFound:
                    self._say(f"{self._job}: deleted")
                    return False
                state, message = state_of(job)[0], job.get("status", {}).get("message", "")
                if (state, message) != last:
                    self._say(f"{self._job}: {state}: {message}" if message else f"{self._job}: {state}")
                    last = (state, message)
                self._show(job)
                if with_logs:
                    await self._follow_new_pods(job)
                if state == until:
                    return True
                if state in (SUCCEEDED, FAILED):
                    return until is None and state == SUCCEEDED
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._end_logs()

    async def _follow_new_pods(self, job: Body) -> None:
        selector = f"{names.JOB_UID_LABEL}={job['metadata']['uid']}"
        for pod in (await self._client.list(PODS, self._namespace, label_selector=selector)).items:
            name = pod["metadata"]["name"]
            has_started = pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")
            if has_started and name not in self._logs:
                self._logs[name] = asyncio.create_task(self._follow_log(pod))

    async def _follow_log(self, pod: Body) -> None:
        name = pod["metadata"]["name"]
        try:
            async for lines in log_lines(self._client, pod, {"follow": "true"}):
                for line in lines:
                    self._say(f"[{name}] {line.decode('utf-8', 'replace')}")
        except KubeError as error:
            self._say(f"[{name}] the log ended: {error.message}")

    async def _end_logs(self) -> None:
        if not self._logs:
            return
        _, going = await asyncio.wait(self._logs.values(), timeout=LAST_LINES_SECONDS)
        for task in going:
            task.cancel()
        if going:
            await asyncio.wait(going)


async def log_lines(client: KubeClient, pod: Body, params: Mapping[str, str]) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a pod's log as they come, of its first container unless `params` names another; what there is
    of a last one too, also before a KubeError."""
    meta = pod["metadata"]
    container = {"container": pod["spec"]["containers"][0]["name"]} | dict(params)
    held = b""
    try:
        async with client.stream(PODS.path(meta["namespace"], meta["name"], "log"), params=container) as stream:
            while (chunk := await stream.read(SILENCE_SECONDS)) != b"":
                *lines, held = (held + (chunk or b"")).split(b"\n")
                yield lines
    except KubeError:
        if held:
            yield [held]
        raise
    if held:
        yield [held]


def pod_order(pod: Body) -> tuple[str, int, int, str]:
    """Return role, attempt, index and name of a pod, for sorting; one that somebody else gave a job's label may have
    none of them."""
    labels = pod["metadata"].get("labels") or {}
    numbers = [labels.get(label, "") for label in (names.JOB_ATTEMPT_LABEL, names.JOB_INDEX_LABEL)]
    attempt, index = (int(text) if text.isascii() and text.isdigit() else -1 for text in numbers)
    return labels.get(names.JOB_ROLE_LABEL, ""), attempt, index, pod["metadata"]["name"]
