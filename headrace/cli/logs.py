"""`headrace logs`: what a pod's container printed, or those of all pods of a job, read through the API server.

Owns the requests and their output. Does not talk to nodes: the API server does, with its own
certificate, so whoever may read `pods/log` may use this."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from api import names
from api.training_v1alpha1 import FAILED, SUCCEEDED
from headrace.cli.follow import LOOK_SECONDS, log_lines, pod_order
from headrace.cli.tables import state_of
from headrace.errors import HeadraceError, UsageError
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import BadName, ConfigError, KubeError, NotFound
from kube.resources import PODS, TRAINING_JOBS

#: A followed log may be silent for as long as it likes.
SILENCE_SECONDS = 3600.0


def logs(
    name: Annotated[str, typer.Argument(help="name of the pod; with --all of the job")],
    *,
    of_all: Annotated[
        bool, typer.Option("--all", help="of every pod of the job, each line behind the pod's name")
    ] = False,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="namespace of the pod")] = "default",
    container: Annotated[
        str | None, typer.Option("--container", "-c", help="container; needed if there are more")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the container ends")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="only the last lines")] = None,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="of the start before the current one")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="put the time before each line")] = False,
    kubeconfig: Annotated[Path | None, typer.Option("--kubeconfig", help="kubeconfig file")] = None,
) -> None:
    """Print the log of a pod's container, or with --all those of a job's pods (of the first container, unless told)."""
    params = {"follow": _word(follow), "previous": _word(previous), "timestamps": _word(timestamps)}
    if container is not None:
        params["container"] = container
    if tail is not None:
        params["tailLines"] = str(tail)
    whose = f"{'job' if of_all else 'pod'} {namespace}/{name}"
    work = _print_all if of_all else _print
    try:
        asyncio.run(work(name, namespace, params, kubeconfig))
    except NotFound as error:
        raise UsageError(f"no log of {whose}: {error.message}") from error
    except BadName as error:
        raise UsageError(str(error)) from error
    except (KubeError, ConfigError) as error:
        raise HeadraceError(f"the log of {whose} cannot be read: {error}") from error
    except KeyboardInterrupt:
        return


async def _print(pod: str, namespace: str, params: dict[str, str], kubeconfig: Path | None) -> None:
    config = load_config(kubeconfig)
    path = PODS.path(namespace, pod, "log")
    async with KubeClient(config, user_agent="headrace-logs") as client, client.stream(path, params=params) as stream:
        while True:
            chunk = await stream.read(SILENCE_SECONDS)
            if chunk == b"":
                return
            sys.stdout.buffer.write(chunk or b"")
            sys.stdout.buffer.flush()


async def _print_all(job: str, namespace: str, params: dict[str, str], kubeconfig: Path | None) -> None:
    async with KubeClient(load_config(kubeconfig), user_agent="headrace-logs") as client:
        body = await client.get(TRAINING_JOBS, job, namespace)
        if params["follow"] == "true":
            await _follow_all(client, body, params)
            return
        pods = await _pods_of(client, body)
        if not pods:
            raise UsageError(f"job {namespace}/{job} has no pods")
        # One after another: a pod's lines stay together, and no log has to be held in memory.
        found = [await _lines(client, pod, params) for pod in pods]
    if not any(found):
        raise HeadraceError(f"no log of job {namespace}/{job} can be read; the lines above say why")


async def _pods_of(client: KubeClient, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    meta = job["metadata"]
    found = await client.list(PODS, meta["namespace"], label_selector=f"{names.JOB_UID_LABEL}={meta['uid']}")
    return sorted(found.items, key=pod_order)


async def _follow_all(client: KubeClient, job: Mapping[str, Any], params: Mapping[str, str]) -> None:
    """Follow every pod from when it has started, those of later attempts too, until the job has ended."""
    meta, tasks = job["metadata"], dict[str, asyncio.Task[bool]]()
    while True:
        try:
            body = await client.get(TRAINING_JOBS, meta["name"], meta["namespace"])
        except NotFound:
            body = {}
        is_over = body.get("metadata", {}).get("uid") != meta["uid"] or state_of(body)[0] in (SUCCEEDED, FAILED)
        for pod in await _pods_of(client, job):
            has_started = pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")
            if has_started and pod["metadata"]["uid"] not in tasks:
                tasks[pod["metadata"]["uid"]] = asyncio.create_task(_lines(client, pod, params))
        if is_over:
            # A log ends with its container; with cleanPodPolicy None that may take long.
            await asyncio.gather(*tasks.values())
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _lines(client: KubeClient, pod: dict[str, Any], params: Mapping[str, str]) -> bool:
    """Print a pod's log, line by line; whether there was one. What one pod lacks ends nobody else's."""
    name = pod["metadata"]["name"]
    try:
        async for lines in log_lines(client, pod, params):
            _write(name, lines)
    except KubeError as error:
        print(f"[{name}] {error.message}", file=sys.stderr, flush=True)
        return False
    return True


def _write(pod: str, lines: list[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(b"[%s] %s\n" % (pod.encode(), line))
    sys.stdout.buffer.flush()


def _word(value: bool) -> str:
    return "true" if value else "false"
