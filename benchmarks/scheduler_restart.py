"""Restart in a full cluster: from the start of the process to its first bind, and the memory it takes.

Owns the full cluster (pods are created bound, as objects) and the clock. The yardstick is kube-scheduler in the same
cluster. A pod that waits is created before the process starts, so what is measured is starting, listing everything
and deciding once.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import frame
from benchmarks.cluster import peak_mib
from kube.client import KubeClient
from kube.resources import PODS
from simulations.kwok.process import Scheduler, running

RESTART_GOAL_SECONDS = 5.0
MEMORY_GOAL_MIB = 500.0
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.02
NAMESPACE = "default"


def bound_pods(nodes: int, pods: int) -> list[dict[str, Any]]:
    """Pods that are on nodes already, spread evenly."""
    requests = {"cpu": "100m", "memory": "64Mi"}
    container = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": requests}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"full-{index}", "labels": {"app": f"app-{index % 100}"}},
            "spec": {"nodeName": f"node-{index % nodes:05d}", "containers": [container]},
        }
        for index in range(pods)
    ]


async def restart_cases(
    client: KubeClient,
    kubeconfig: Path,
    folder: Path,
    schedulers: Sequence[Scheduler],
    *,
    size: str,
    runs: int,
) -> list[frame.Case]:
    """`schedulers`: ours first. Two cases: seconds to first bind, MiB then."""
    seconds: dict[str, list[float]] = {each.name: [] for each in schedulers}
    memory: dict[str, list[float]] = {each.name: [] for each in schedulers}
    for turn in range(runs):
        for each in schedulers if turn % 2 else reversed(schedulers):
            taken, held = await _once(client, kubeconfig, folder, each, turn)
            frame.progress(f"restart-{size}: {each.name}: first bind after {taken:.2f} s, {held:.0f} MiB")
            seconds[each.name].append(taken)
            memory[each.name].append(held)
    ours, other = schedulers[0].name, schedulers[1].name
    note = f"process start to first bind; goal {RESTART_GOAL_SECONDS:.0f} s"
    return [
        frame.Case(
            f"restart-{size}", "s", [(value,) for value in seconds[ours]], higher_is_better=False,
            goal=RESTART_GOAL_SECONDS, note=f"{note}; {other}: {min(seconds[other]):.2f} s",
        ),
        frame.Case(
            f"restart-memory-{size}", "MiB", [(value,) for value in memory[ours]], higher_is_better=False,
            goal=MEMORY_GOAL_MIB, note=f"peak resident memory at first bind; {other}: {min(memory[other]):.0f} MiB",
        ),
    ]  # fmt: skip


async def _once(
    client: KubeClient, kubeconfig: Path, folder: Path, scheduler: Scheduler, turn: int
) -> tuple[float, float]:
    name = f"waiting-{scheduler.pod_scheduler_name}-{turn}"
    container = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": {"cpu": "100m"}}}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"schedulerName": scheduler.pod_scheduler_name, "containers": [container]},
    }
    await client.create(PODS, body, NAMESPACE)
    started = time.monotonic()
    async with running(scheduler, kubeconfig, folder) as process:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await client.get(PODS, name, NAMESPACE))["spec"].get("nodeName"):
                await asyncio.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - started
        held = peak_mib(process.pid)
    await client.delete(PODS, name, NAMESPACE, grace_period_seconds=0)
    return seconds, held
