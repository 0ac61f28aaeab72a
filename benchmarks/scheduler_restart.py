"""Restart in a full cluster: from the start of the process to its first bind, and the memory it takes.

Owns the full cluster (pods are created bound, as objects) and the clock. The yardstick is kube-scheduler in the same
cluster. A pod that waits is created before the process starts, so what is measured is starting, listing everything
and deciding once.
"""

import asyncio
import contextlib
import os
import shlex
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import frame
from kube.client import KubeClient
from kube.resources import PODS

RESTART_GOAL_SECONDS = 5.0
MEMORY_GOAL_MIB = 500.0
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.02
IN_FLIGHT = 48
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
    commands: Sequence[tuple[str, str, str]],
    *,
    size: str,
    runs: int,
) -> list[frame.Case]:
    """`commands`: (name, command, schedulerName), ours first. Two cases: seconds to first bind, MiB then."""
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in commands}
    memory: dict[str, list[float]] = {name: [] for name, _, _ in commands}
    for turn in range(runs):
        for name, command, scheduler in commands if turn % 2 else reversed(commands):
            taken, held = await _once(client, kubeconfig, folder / "restart.log", command, f"{scheduler}/{turn}")
            frame.progress(f"restart-{size}: {name}: first bind after {taken:.2f} s, {held:.0f} MiB")
            seconds[name].append(taken)
            memory[name].append(held)
    ours, other = commands[0][0], commands[1][0]
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


async def _once(client: KubeClient, kubeconfig: Path, log: Path, command: str, run: str) -> tuple[float, float]:
    """`run`: schedulerName/number."""
    scheduler, _, turn = run.partition("/")
    name = f"waiting-{scheduler}-{turn}"
    container = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": {"cpu": "100m"}}}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"schedulerName": scheduler, "containers": [container]},
    }
    await client.create(PODS, body, NAMESPACE)
    argv = shlex.split(command.replace("{kubeconfig}", str(kubeconfig)).replace("{name}", scheduler))
    started = time.monotonic()
    async with _process(argv, log) as pid:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await client.get(PODS, name, NAMESPACE))["spec"].get("nodeName"):
                await asyncio.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - started
        held = _peak_mebibytes(pid)
    await client.delete(PODS, name, NAMESPACE, grace_period_seconds=0)
    return seconds, held


@contextlib.asynccontextmanager
async def _process(argv: Sequence[str], log: Path) -> AsyncIterator[int]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output, env=dict(os.environ))
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


def _peak_mebibytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this kernel does not tell VmHWM")
