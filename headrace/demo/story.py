"""The demo's course: one step a function, each saying what it saw and noting whether it held.

Owns the order and the claims. The cluster, the store, the objects, the watching and the picture are in the modules
beside it. Invariant: whatever happens, what was started here is stopped (unless `keep`)."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from api.quantities import format_bytes, to_int
from api.trust.files import TrustFiles
from headrace.cluster.local_cluster import LocalCluster
from headrace.cluster.state import default_root
from headrace.demo import objects, picture
from headrace.demo.record import JobRecord, Story
from headrace.demo.store import DistantStore
from headrace.demo.watching import JobWatch, kill_pod_process, read_sources, until
from headrace.errors import HeadraceError, UsageError
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import DATA_LOADS, DATASETS, NODE_CACHES, SECRETS, TRAINING_JOBS, Resource

CLUSTER = "demo"
NODES = 3
WARM_NODES = ["node-0", "node-1"]
COLD_NODE = "node-2"
ORIGIN_SHARE = 1.01
"""Bytes from the store, as a share of the dataset, that still count as fetched once."""
KILL_AFTER_STEP = 25
"""Past the checkpoints of steps 10 and 20, so that steps are lost and must be run again."""
STEP_PAUSE_SECONDS = 0.25
SHORT_STEPS = 5
LOSS_TOLERANCE = 1e-3


@dataclass(slots=True)
class Stage:
    """What every step needs."""

    client: KubeClient
    store: DistantStore
    metadata: str
    trust: TrustFiles | None
    story: Story
    console: Console

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False)


def run(*, out: Path, rate: str, latency_seconds: float, steps: int, keep: bool) -> bool:
    """Run the whole demo; True when everything it claims held."""
    try:
        bytes_per_second = to_int(rate)
    except ValueError as error:
        raise UsageError(f"--rate {error}") from error
    console, story = Console(), Story()
    out.mkdir(parents=True, exist_ok=True)
    cluster = LocalCluster(CLUSTER, default_root(CLUSTER, os.environ))
    started = time.monotonic()
    cluster.down(purge=True)
    try:
        with DistantStore(out / "store.log", bytes_per_second, latency_seconds) as store:
            _fill(store, console, rate, latency_seconds)
            _up(cluster, console)
            asyncio.run(_act(cluster, store, story, console, steps))
            if keep:
                console.print(f"--keep: the cluster runs on; KUBECONFIG={cluster.kubeconfig} (its store stops now)")
    finally:
        if not keep:
            with console.status("stopping the cluster"):
                cluster.down(purge=not story.claims or story.all_held)
    story.figures["total_seconds"] = round(time.monotonic() - started, 1)
    _summary(story, out, console)
    return story.all_held


def _fill(store: DistantStore, console: Console, rate: str, latency_seconds: float) -> None:
    console.rule("A distant object store")
    with console.status("copying the standard library into it") as spinner:

        def progress(done: int, total: int) -> None:
            if done % 100 == 0:
                spinner.update(f"copying the standard library into it: {done} of {total} files")

        files, size = store.fill(progress)
    console.print(
        f"{store.endpoint}: an S3 server behind a line of {rate}B/s and {latency_seconds * 1000:.0f} ms an answer; "
        f"it holds this interpreter's standard library: {files} files, {format_bytes(size)}"
    )


def _up(cluster: LocalCluster, console: Console) -> None:
    console.rule("A cluster on this machine")
    started = time.monotonic()
    with console.status("starting") as spinner:
        cluster.up({"nodes": NODES, "gpus": objects.GPUS_A_POD})
        spinner.update("started")
    console.print(
        f"etcd, kube-apiserver, kube-controller-manager, kwok, scheduler, operators, metadata and {NODES} process "
        f"nodes are ready after {time.monotonic() - started:.0f} s"
    )


async def _act(cluster: LocalCluster, store: DistantStore, story: Story, console: Console, steps: int) -> None:
    metadata = f"127.0.0.1:{cluster.load().ports['metadata']}"
    async with KubeClient(load_config(cluster.kubeconfig), user_agent="headrace-demo") as client:
        stage = Stage(client, store, metadata, cluster.trust(), story, console)
        await _load(stage)
        await _train(stage, steps)
        await _compare(stage)


async def _create(stage: Stage, resource: Resource, body: dict[str, Any]) -> None:
    await stage.client.create(resource, body, objects.NAMESPACE)


# 1. Dataset, DataLoad, NodeCache


async def _load(stage: Stage) -> None:
    stage.console.rule("1. The data is listed and loaded")
    endpoint = stage.store.endpoint
    await _create(stage, SECRETS, objects.secret())
    await _create(stage, DATASETS, objects.dataset(objects.DATA, objects.DATA_BUCKET, endpoint, nodes=WARM_NODES))
    await _create(stage, DATASETS, objects.dataset(objects.COLD_DATA, objects.DATA_BUCKET, endpoint, nodes=[]))
    checkpoints = objects.dataset(objects.CHECKPOINTS, objects.CHECKPOINT_BUCKET, endpoint, nodes=[], writable=True)
    await _create(stage, DATASETS, checkpoints)
    for name in (objects.DATA, objects.COLD_DATA, objects.CHECKPOINTS):
        await until(f"listing of Dataset {name}", lambda name=name: _is_bound(stage, name), 60)  # type: ignore[misc]
    snapshot = (await stage.client.get(DATASETS, objects.DATA, objects.NAMESPACE))["status"]["snapshot"]
    stage.say(f"Dataset {objects.DATA}: {snapshot['files']} files, {format_bytes(snapshot['bytes'])}")
    await _create(stage, DATA_LOADS, objects.load("warm-up", objects.DATA, copies=len(WARM_NODES)))
    status = await _follow_load(stage, "warm-up")
    progress = status["progress"]
    wanted = snapshot["bytes"] * len(WARM_NODES)
    stage.story.claim(
        "DataLoad: every block verified on both warm nodes, fetched from the store once (within 1 %)",
        status["phase"] == "Complete"
        and progress["bytesLoaded"] == wanted
        # A worker that seems dead for a moment, on a busy machine, may have a block fetched for it again.
        and progress["originBytes"] <= ORIGIN_SHARE * snapshot["bytes"],
        f"{format_bytes(progress['bytesLoaded'])} in {status.get('duration', '?')}, "
        f"{format_bytes(progress['originBytes'])} from the store",
    )
    held = await until("NodeCache of the warm nodes", lambda: _held(stage, snapshot["bytes"]), 20)
    for node, size in sorted(held.items()):
        stage.say(f"NodeCache {node}: {format_bytes(size)} of {objects.DATA}")
    stage.story.claim(
        f"NodeCache: all of it on {' and '.join(WARM_NODES)}, nothing on {COLD_NODE}",
        all(held.get(node) == snapshot["bytes"] for node in WARM_NODES) and not held.get(COLD_NODE),
        ", ".join(f"{node} {format_bytes(size)}" for node, size in sorted(held.items())),
    )


async def _is_bound(stage: Stage, name: str) -> bool:
    body = await stage.client.get(DATASETS, name, objects.NAMESPACE)
    status = body.get("status") or {}
    if status.get("phase") == "Failed":
        raise HeadraceError(f"Dataset {name}: {status['conditions'][0]['message']}")
    return bool(status.get("phase") == "Bound")


async def _follow_load(stage: Stage, name: str) -> dict[str, Any]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("DataLoad", *columns, console=stage.console) as bar:
        task = bar.add_task("load", total=None)

        async def finished() -> dict[str, Any] | None:
            status: dict[str, Any] = (await stage.client.get(DATA_LOADS, name, objects.NAMESPACE)).get("status") or {}
            progress = status.get("progress") or {}
            if progress.get("bytesTotal"):
                bar.update(task, total=progress["bytesTotal"], completed=progress["bytesLoaded"])
            return status if status.get("phase") in ("Complete", "Failed") else None

        answer: dict[str, Any] = await until(f"DataLoad {name}", finished, 90)
    return answer


async def _held(stage: Stage, wanted_bytes: int) -> dict[str, int] | None:
    held = {}
    for cache in (await stage.client.list(NODE_CACHES)).items:
        for one in (cache.get("status") or {}).get("datasets") or []:
            if one["name"] == objects.DATA:
                held[cache["metadata"]["name"]] = sum(one["residentBytes"].values())
    return held if all(held.get(node) == wanted_bytes for node in WARM_NODES) else None


# 2 and 3. A job on the warm nodes, killed and resumed


async def _train(stage: Stage, steps: int) -> None:
    stage.console.rule("2. A gang of two goes where the data is")
    body = objects.job("first", objects.DATA, steps=steps, pause_seconds=STEP_PAUSE_SECONDS, saves=True)
    watch = JobWatch(stage.client, "first")
    told = {"decision": False, "resumed": False}

    async def on_look() -> None:
        record = watch.record
        if not told["decision"] and len(record.decisions) >= 2:
            told["decision"] = True
            _tell_decisions(stage, record)
        done = record.losses(0)
        if record.killed_at is None and done and max(done) >= KILL_AFTER_STEP:
            stage.console.rule("3. One pod is killed, the job resumes from its checkpoint")
            pid = kill_pod_process("first", attempt=0, index=1)
            record.killed_at = time.time()
            stage.say(f"SIGKILL to process {pid} of pod index 1 after step {max(done)}")
        if not told["resumed"] and record.of("resume"):
            told["resumed"] = True
            seconds = record.of("resume")[0]["at"] - (record.killed_at or 0.0)
            stage.story.figures["kill_to_resume_seconds"] = round(seconds, 1)
            stage.say(f"attempt 1 resumes {seconds:.1f} s after the kill, from step {watch.status.get('resumeStep')}")

    end = await _run_job(stage, body, watch, on_look)
    _check_placement(stage, watch.record)
    _check_resume(stage, watch, end, steps)


async def _run_job(stage: Stage, body: dict[str, Any], watch: JobWatch, on_look: Callable[[], Any]) -> str:
    before = await read_sources(stage.metadata, stage.trust)
    await _create(stage, TRAINING_JOBS, body)
    end = await watch.run(on_look)
    await asyncio.sleep(1.0)  # workers report their counters every half second
    after = await read_sources(stage.metadata, stage.trust)
    watch.record.bytes_by_source = {source: after[source] - before[source] for source in after}
    stage.story.jobs.append(watch.record)
    stage.say(f"TrainingJob {watch.record.name}: {end}")
    return end


def _tell_decisions(stage: Stage, record: JobRecord) -> None:
    for pod, decision in sorted(record.decisions.items()):
        sources = decision.bytes_by_source
        local = ", ".join(f"{format_bytes(size)} {medium}" for medium, size in sources.local.items()) or "0 B"
        text = (
            f"{pod} → {decision.node}: {local} on the node, {format_bytes(sources.peers)} on peers, "
            f"{format_bytes(sources.origin)} only in the store; expected {decision.stage_in_seconds:.2f} s"
        )
        if decision.coldest:
            text += f"; {decision.coldest.node} would have cost {decision.coldest.stage_in_seconds:.2f} s"
        stage.say(text)


def _check_placement(stage: Stage, record: JobRecord) -> None:
    first = [one for pod, one in record.decisions.items() if pod.endswith("-a0")]
    nodes = sorted(one.node for one in first)
    coldest = [one.coldest for one in first if one.coldest]
    stage.story.claim(
        "Gang of 2 on the two warm nodes; the decision names the cold node's price",
        nodes == WARM_NODES
        and any(one.node == COLD_NODE for one in coldest)
        and all(one.coldest.stage_in_seconds > one.stage_in_seconds for one in first if one.coldest),
        f"{', '.join(nodes)}; cold: " + ", ".join(f"{one.node} {one.stage_in_seconds:.2f} s" for one in coldest),
    )


def _check_resume(stage: Stage, watch: JobWatch, end: str, steps: int) -> None:
    record, status = watch.record, watch.status
    before, after = record.losses(0), record.losses(1)
    resumed_at = status.get("resumeStep") or 0
    again = sorted(before.keys() & after.keys())
    difference = max((abs(before[step] - after[step]) for step in again), default=float("inf"))
    stage.story.claim(
        "The killed job resumed from its newest complete checkpoint, not from step 0",
        resumed_at > 0 and bool(after) and min(after, default=0) == resumed_at + 1,
        f"resumed at step {resumed_at}, first step then {min(after, default=0)}, killed after {max(before, default=0)}",
    )
    stage.story.claim(
        "The loss goes on where it was",
        difference < LOSS_TOLERANCE,
        f"steps {again[0]} to {again[-1]} run twice, losses differ by at most {difference:.1e}"
        if again
        else "no step twice",
    )
    stage.story.claim(
        "The job finished, with one restart counted as infrastructure",
        end == "Succeeded" and max(after, default=0) == steps and status.get("restarts", {}).get("infrastructure") == 1,
        f"{end} at step {max(after, default=0)}; restarts {status.get('restarts')}",
    )


# 4. Cold against warm


async def _compare(stage: Stage) -> None:
    stage.console.rule("4. The first pass over the files: warm against cold")
    records = []
    for name, data in (("second-warm", objects.DATA), ("second-cold", objects.COLD_DATA)):
        watch = JobWatch(stage.client, name)

        async def nothing() -> None:
            return

        body = objects.job(name, data, steps=SHORT_STEPS, pause_seconds=0.0, saves=False)
        end = await _run_job(stage, body, watch, nothing)
        if end != "Succeeded":
            stage.story.claim(f"TrainingJob {name} succeeds", False, end)
            return
        records.append(watch.record)
    warm, cold = records
    warm_seconds, cold_seconds = warm.read_seconds(), cold.read_seconds()
    stage.story.figures |= {"warm_read_seconds": round(warm_seconds, 2), "cold_read_seconds": round(cold_seconds, 2)}
    stage.story.claim(
        "The second job on the same data reads its first pass faster than from a cold cache",
        warm_seconds < cold_seconds,
        f"{format_bytes(warm.read_bytes())}: warm {warm_seconds:.2f} s, cold {cold_seconds:.2f} s, "
        f"{cold_seconds / warm_seconds:.1f} times",
    )
    stage.story.claim(
        "The warm job took nothing from the store, the cold one everything once",
        warm.bytes_by_source["origin"] == 0 and cold.bytes_by_source["origin"] >= cold.read_bytes(),
        f"warm {format_bytes(warm.bytes_by_source['origin'])}, cold {format_bytes(cold.bytes_by_source['origin'])}",
    )


# The end


def _summary(story: Story, out: Path, console: Console) -> None:
    console.rule("What happened")
    table = Table("held", "claim", "seen")
    for one in story.claims:
        table.add_row("[green]yes[/]" if one.held else "[red]NO[/]", one.text, one.seen)
    console.print(table)
    if story.jobs and all(job.spans for job in story.jobs):
        picture.draw(story, out / "demo.png")
        console.print(f"picture: {out / 'demo.png'}")
    (out / "demo.json").write_text(
        json.dumps(
            {"figures": story.figures, "claims": [[one.text, one.held, one.seen] for one in story.claims]}, indent=2
        )
    )
    console.print(f"figures: {out / 'demo.json'}; total {story.figures['total_seconds']} s")
    if not story.all_held:
        root = default_root(CLUSTER, os.environ)
        console.print(f"[red]Not everything held.[/] Logs: {root / 'logs'}")
