"""The job controller on a real API server, beside Kubernetes' own Job controller (Indexed Jobs).

Owns the cluster of a run (etcd and kube-apiserver as processes, fresh for every run of every side, so that no side sees
what another left), and the clock: an independent watch of the job objects. A job counts as reconciled when its status
says that all its pods were made: `status.createdAttempt` of a TrainingJob, `status.active` of a Job. Nothing places or
runs the pods. A run: one job of many pods, then many jobs of one pod, submitted while the controller runs."""

import argparse
import asyncio
import contextlib
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from benchmarks import frame
from benchmarks.cluster import Meta, cpu_seconds, create_all, peak_mib
from headrace.cluster import manifests
from headrace.cluster.binaries import require
from headrace.cluster.control_plane import WITHOUT_CONTROLLERS, ControlPlane
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import TRAINING_JOBS, Resource
from kube.watch import list_watch
from simulations.kwok.process import Scheduler, running

NAMESPACE = "default"
JOBS, PODS = 10_000, 1000
QUICK_JOBS, QUICK_PODS = 200, 100
GOAL_JOBS_PER_SECOND = 20.0
GOAL_MEMORY_MIB = 600.0
GOAL_SECONDS = 5.0
#: A controller that finishes no job for so long is stuck; the run then fails with what it did.
STUCK_SECONDS = 120.0
QPS, BURST = 5000, 10000
#: Both have as many reconciles at a time; 5 is Kubernetes' default, 16 ours.
WORKERS = 16
YARDSTICK = "Indexed Job (kube-controller-manager 1.36.3)"
BATCH_JOBS = Resource("batch", "v1", "jobs", "Job", namespaced=True)


class _Status(msgspec.Struct, gc=False):
    createdAttempt: int | None = None
    active: int = 0


class _Job(msgspec.Struct, gc=False):
    """As little of a job, of either kind, as shows that its pods are made."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    status: _Status = msgspec.field(default_factory=_Status)


@dataclass(frozen=True, slots=True)
class Side:
    """A controller: how it is started, what it reconciles, and when a job of it is done."""

    name: str
    resource: Resource
    command: Callable[[Path], list[str]]
    body: Callable[[str, int], dict[str, Any]]
    is_done: Callable[[_Status, int], bool]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one side showed."""

    jobs_per_second: float
    one_job_seconds: float
    memory_mib: float
    cpu_ms_a_job: float


def main(arguments: list[str]) -> int:
    """Run both sides in turn; prints the report."""
    options = _options(arguments)
    binaries = require(("etcd", "kube-apiserver", "kube-controller-manager"))
    ours, theirs = _ours(), _theirs(str(binaries["kube-controller-manager"]))
    pairs: list[tuple[Run, Run]] = []
    for turn in range(options.runs):
        sides = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        found = {side.name: _run(side, binaries, options) for side in sides}
        pairs.append((found[ours.name], found[theirs.name]))
    frame.report("jobs", _cases(pairs, options), options.json, options.plot)
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = frame.parser("jobs", __doc__ or "")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help=f"jobs of one pod ({JOBS}; quick {QUICK_JOBS})"
    )
    parser.add_argument(
        "--pods", type=int, default=0, metavar="N", help=f"pods of one job ({PODS}; quick {QUICK_PODS})"
    )
    parser.set_defaults(runs=1)
    options = parser.parse_args(arguments)
    options.jobs = options.jobs or (QUICK_JOBS if options.quick else JOBS)
    options.pods = options.pods or (QUICK_PODS if options.quick else PODS)
    return options


def _cases(pairs: list[tuple[Run, Run]], options: argparse.Namespace) -> list[frame.Case]:
    rates = [(ours.jobs_per_second, theirs.jobs_per_second) for ours, theirs in pairs]
    seconds = [(ours.one_job_seconds, theirs.one_job_seconds) for ours, theirs in pairs]
    cpu = [(ours.cpu_ms_a_job, theirs.cpu_ms_a_job) for ours, theirs in pairs]
    memory = [(ours.memory_mib, theirs.memory_mib) for ours, theirs in pairs]
    made = "a PodGroup, a Service and a pod each; theirs: a pod"
    many, one = f"jobs-{options.jobs}", f"one-job-of-{options.pods}-pods"
    return [
        frame.Case(
            many, "jobs/s", [run[:1] for run in rates], goal=GOAL_JOBS_PER_SECOND, note=f"submitted at once; {made}"
        ),
        frame.Case(f"{many}-beside", "jobs/s", rates, yardstick=YARDSTICK, note=f"{WORKERS} workers, QPS {QPS}"),
        frame.Case(
            f"{many}-cpu", "ms/job", cpu, yardstick=YARDSTICK, higher_is_better=False,
            note="processor time of the controller alone, which a busy machine changes little",
        ),
        frame.Case(
            f"{many}-memory", "MiB", [run[:1] for run in memory], higher_is_better=False, goal=GOAL_MEMORY_MIB,
            note=f"most resident; theirs: {memory[0][1]:.0f} MiB",
        ),
        frame.Case(
            one, "s", [run[:1] for run in seconds], higher_is_better=False, goal=GOAL_SECONDS,
            note="from the submission until the status says that all pods are made",
        ),
        frame.Case(f"{one}-beside", "s", seconds, yardstick=YARDSTICK, higher_is_better=False),
    ]  # fmt: skip


def _run(side: Side, binaries: Mapping[str, Path], options: argparse.Namespace) -> Run:
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        plane = ControlPlane(
            folder,
            binaries,
            name="bench",
            components=("etcd", "kube-apiserver"),
            extra_args={"kube-apiserver": WITHOUT_CONTROLLERS},
        )
        frame.progress(f"{side.name}: starting etcd and kube-apiserver")
        try:
            plane.start()
            manifests.apply(plane.kubeconfig, manifests.crd_files())
            return asyncio.run(_measure(side, plane.kubeconfig, folder, options))
        finally:
            plane.stop()


async def _measure(side: Side, kubeconfig: Path, folder: Path, options: argparse.Namespace) -> Run:
    controller = Scheduler(side.name, shlex.join(side.command(kubeconfig)), "")
    async with (
        KubeClient(load_config(kubeconfig), user_agent="headrace-bench") as client,
        running(controller, kubeconfig, folder, otherwise="did not reconcile all jobs") as process,
    ):
        # The first one tells that the controller is there.
        await _submit(side, client, kubeconfig, {"first": 1})
        alone = await _submit(side, client, kubeconfig, {"one": options.pods})
        frame.progress(f"{side.name}: a job of {options.pods} pods in {alone:.2f} s; creating {options.jobs} jobs")
        before = cpu_seconds(process.pid)
        seconds = await _submit(side, client, kubeconfig, {f"job-{index}": 1 for index in range(options.jobs)})
        rate = options.jobs / seconds
        memory = peak_mib(process.pid)
        cpu = 1000 * (cpu_seconds(process.pid) - before) / options.jobs
        frame.progress(f"{side.name}: {options.jobs} jobs in {seconds:.1f} s, {rate:.0f} jobs/s; {memory:.0f} MiB")
        return Run(rate, alone, memory, cpu)


async def _submit(side: Side, client: KubeClient, kubeconfig: Path, pods: Mapping[str, int]) -> float:
    """Create jobs (name → pods) and return the seconds until the last is done."""
    waiting = dict(pods)
    async with _changes(side, kubeconfig) as batches:
        began = time.monotonic()
        creating = asyncio.create_task(
            create_all(client, side.resource, [side.body(name, count) for name, count in pods.items()], NAMESPACE)
        )
        while waiting:
            async with asyncio.timeout(STUCK_SECONDS):
                batch = await anext(batches)
            for job in (change.object for change in getattr(batch, "events", ())):
                count = waiting.get(job.metadata.name)
                if count is not None and side.is_done(job.status, count):
                    del waiting[job.metadata.name]
        seconds = time.monotonic() - began
        await creating
    return seconds


@contextlib.asynccontextmanager
async def _changes(side: Side, kubeconfig: Path) -> AsyncIterator[AsyncIterator[Any]]:
    async with KubeClient(load_config(kubeconfig), user_agent="headrace-bench-watch") as client:
        batches = list_watch(client, side.resource, _Job, namespace=NAMESPACE, jitter=Random(0))
        # The list: what comes from here on is news.
        async with asyncio.timeout(STUCK_SECONDS):
            await anext(batches)
        yield batches


def _ours() -> Side:
    return Side(
        "headrace",
        TRAINING_JOBS,
        lambda kubeconfig: [
            sys.executable, "-m", "jobcontroller", "--kubeconfig", str(kubeconfig), "--no-leader-elect",
        ],
        _training_job,
        lambda status, _: status.createdAttempt is not None,
    )  # fmt: skip


def _theirs(kube_controller_manager: str) -> Side:
    return Side(
        "kube-controller-manager",
        BATCH_JOBS,
        lambda kubeconfig: [
            kube_controller_manager,
            f"--kubeconfig={kubeconfig}",
            "--controllers=job",
            "--leader-elect=false",
            "--secure-port=0",
            f"--kube-api-qps={QPS}",
            f"--kube-api-burst={BURST}",
            f"--concurrent-job-syncs={WORKERS}",
        ],
        _indexed_job,
        lambda status, pods: status.active == pods,
    )


def _template() -> dict[str, Any]:
    container = {"name": "main", "image": "registry.invalid/none", "command": ["true"]}
    return {"spec": {"containers": [container], "restartPolicy": "Never"}}


def _training_job(name: str, pods: int) -> dict[str, Any]:
    workers = {"replicas": pods, "template": _template()}
    return {
        "apiVersion": TRAINING_JOBS.api_version,
        "kind": TRAINING_JOBS.kind,
        "metadata": {"name": name},
        "spec": {"framework": "JAX", "replicaSpecs": {"Worker": workers}},
    }


def _indexed_job(name: str, pods: int) -> dict[str, Any]:
    spec = {"completionMode": "Indexed", "completions": pods, "parallelism": pods, "template": _template()}
    return {"apiVersion": BATCH_JOBS.api_version, "kind": BATCH_JOBS.kind, "metadata": {"name": name}, "spec": spec}
