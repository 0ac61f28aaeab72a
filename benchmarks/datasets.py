"""Many Datasets on a real API server: what cache controller and metadata service cost, and how soon one is bound.

Owns the cluster of a run (etcd and kube-apiserver as processes, our metadata service on SQLite, our cache controller;
no workers, so nothing is cached) and the clock: an independent watch of the Datasets. They arrive in three ways, each
in a cluster of its own: `steady`, so many a second whatever becomes of them; `turns`, a few at a time, the next one
when one is bound; `at-once`, as fast as the API server takes them, 32 requests at a time. Bound means status.phase
Bound, and its seconds count from the request that makes the Dataset. `late` are the last tenth, made when nine tenths
are there; `idle` is the time after the last.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from benchmarks import frame
from benchmarks.cluster import CREATE_IN_FLIGHT, Meta, cpu_seconds, peak_mib
from headrace.cluster import manifests, ports
from headrace.cluster.binaries import require
from headrace.cluster.control_plane import WITHOUT_CONTROLLERS, ControlPlane
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import DATASETS
from kube.watch import list_watch

NAMESPACE = "default"
COUNT, QUICK_COUNT = 10_000, 300
ARRIVALS = ("steady", "turns", "at-once")
UNDER_WAY = 8
EACH_SECOND = 20.0
FOLDERS, FILES = 16, 4
IDLE_SECONDS = 20.0
GOAL_SECONDS = 2.0
GOAL_MEMORY_MIB = 1024.0
#: Nothing is bound for so long: the run fails with the ends of the logs.
STUCK_SECONDS = 180.0
LOG_TAIL = 2000


class _Status(msgspec.Struct, gc=False):
    phase: str = ""


class _Dataset(msgspec.Struct, gc=False):
    """As little of a Dataset as shows that it is bound."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    status: _Status = msgspec.field(default_factory=_Status)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run showed; seconds in order of creation."""

    arrival: str
    seconds: list[float]
    rate: float
    memory_mib: Mapping[str, float]
    cpu_ms_each: Mapping[str, float]
    idle_cpu_percent: Mapping[str, float]


def main(arguments: list[str]) -> int:
    """Measure; prints the report."""
    options = _options(arguments)
    binaries = require(("etcd", "kube-apiserver"))
    cases = []
    for arrival in options.arrival or ARRIVALS:
        cases += _cases([_run(binaries, options, arrival) for _ in range(options.runs)], options)
    frame.report("datasets", cases, options.json, options.plot)
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = frame.parser("datasets", __doc__ or "")
    parser.add_argument("--count", type=int, default=0, metavar="N", help=f"Datasets ({COUNT}; quick {QUICK_COUNT})")
    parser.add_argument("--arrival", action="append", choices=ARRIVALS, help="only this way; may be repeated (all)")
    parser.add_argument(
        "--each-second",
        type=float,
        default=EACH_SECOND,
        metavar="N",
        help=f"Datasets a second that arrive steadily ({EACH_SECOND:g})",
    )
    parser.add_argument(
        "--before",
        type=int,
        default=0,
        metavar="N",
        help="Datasets that are there already: made at once, not measured (0)",
    )
    parser.add_argument(
        "--under-way", type=int, default=UNDER_WAY, metavar="N", help=f"in turns, at a time ({UNDER_WAY})"
    )
    parser.set_defaults(runs=1)
    options = parser.parse_args(arguments)
    options.count = options.count or (QUICK_COUNT if options.quick else COUNT)
    return options


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _cases(runs: list[Run], options: argparse.Namespace) -> list[frame.Case]:
    arrival = runs[0].arrival
    name, late = f"datasets-{options.count}-{arrival}", options.count // 10
    if options.before:
        name = f"datasets-{options.before}+{options.count}-{arrival}"
    # Those that come all at once wait for each other: what counts then is the rate.
    goal = None if arrival == "at-once" else GOAL_SECONDS

    def each(value: Any) -> list[frame.Run]:
        return [(float(value(run)),) for run in runs]

    parts = tuple(runs[0].memory_mib)
    note = {
        "steady": f"{options.each_second:g} a second arrive",
        "turns": f"{options.under_way} under way at a time",
        "at-once": "as fast as they can be made",
    }[arrival]
    return [
        frame.Case(f"{name}-bound-p99", "s", each(lambda run: _percentile(run.seconds, 99)), higher_is_better=False,
                   goal=goal, note=note),
        frame.Case(f"{name}-bound-late-p99", "s", each(lambda run: _percentile(run.seconds[-late:], 99)),
                   higher_is_better=False, goal=goal, note=f"the last {late}"),
        frame.Case(f"{name}-bound-slowest", "s", each(lambda run: max(run.seconds)), higher_is_better=False, note=note),
        frame.Case(f"{name}-bound-median", "s", each(lambda run: statistics.median(run.seconds)),
                   higher_is_better=False, note=note),
        frame.Case(f"{name}-rate", "datasets/s", each(lambda run: run.rate), note=note),
        frame.Case(f"{name}-memory", "MiB", each(lambda run: sum(run.memory_mib.values())), higher_is_better=False,
                   goal=GOAL_MEMORY_MIB, note="most resident: " + ", ".join(f"{part} {runs[0].memory_mib[part]:.0f}"
                                                                            for part in parts)),
        *(frame.Case(f"{name}-cpu-{part}", "ms each", each(lambda run, part=part: run.cpu_ms_each[part]),
                     higher_is_better=False, note="processor time, which a busy machine changes little")
          for part in parts),
        *(frame.Case(f"{name}-idle-{part}", "% of a core", each(lambda run, part=part: run.idle_cpu_percent[part]),
                     higher_is_better=False) for part in parts),
    ]  # fmt: skip


def _run(binaries: Mapping[str, Path], options: argparse.Namespace, arrival: str) -> Run:
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        for index in range(FOLDERS):
            (folder / "origin" / str(index)).mkdir(parents=True)
            for file in range(FILES):
                (folder / "origin" / str(index) / f"file-{file}").write_bytes(b"x" * 1000)
        plane = ControlPlane(
            folder / "plane",
            binaries,
            name="bench",
            components=("etcd", "kube-apiserver"),
            extra_args={"kube-apiserver": WITHOUT_CONTROLLERS},
        )
        frame.progress(f"{arrival}: starting etcd and kube-apiserver")
        try:
            plane.start()
            manifests.apply(plane.kubeconfig, manifests.crd_files())
            return asyncio.run(_measure(plane.kubeconfig, folder, options, arrival))
        finally:
            plane.stop()


async def _measure(kubeconfig: Path, folder: Path, options: argparse.Namespace, arrival: str) -> Run:
    address = f"127.0.0.1:{ports.pick_free(())}"
    commands = {
        "metadata": ["metadata", "--listen", address, "--store", f"sqlite://{folder}/metadata.db",
                     "--credentials-dir", str(folder)],
        "controller": ["cacheruntime", "controller", "--metadata", address, "--kubeconfig", str(kubeconfig),
                       "--credentials-dir", str(folder / "credentials"), "--no-leader-elect"],
    }  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        pids = {
            name: await stack.enter_async_context(_process(name, words, folder)) for name, words in commands.items()
        }
        client = await stack.enter_async_context(KubeClient(load_config(kubeconfig), user_agent="headrace-bench"))
        clock = _Clock(kubeconfig)
        watching = asyncio.create_task(clock.run())
        stack.callback(watching.cancel)
        await clock.make(client, "first", _body("first", folder, 0))
        await _fill(clock, client, folder, options, arrival="at-once", indices=range(options.before))
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        began = time.monotonic()
        wanted = range(options.before, options.before + options.count)
        seconds = await _fill(clock, client, folder, options, arrival=arrival, indices=wanted)
        rate = options.count / (time.monotonic() - began)
        busy = {name: cpu_seconds(pid) for name, pid in pids.items()}
        frame.progress(f"{options.count} bound, {rate:.0f}/s; looking on for {IDLE_SECONDS:.0f} s")
        await asyncio.sleep(IDLE_SECONDS)
        return Run(
            arrival,
            seconds,
            rate,
            {name: peak_mib(pid) for name, pid in pids.items()},
            {name: 1000 * (busy[name] - before[name]) / options.count for name in pids},
            {name: 100 * (cpu_seconds(pid) - busy[name]) / IDLE_SECONDS for name, pid in pids.items()},
        )


async def _fill(
    clock: "_Clock", client: KubeClient, folder: Path, options: argparse.Namespace, *, arrival: str, indices: range
) -> list[float]:
    seconds = [0.0] * len(indices)
    rooms = asyncio.Semaphore(options.under_way if arrival == "turns" else len(indices))
    began = time.monotonic()

    async def make(index: int) -> None:
        name = f"dataset-{index}"
        try:
            seconds[index - indices.start] = await clock.make(client, name, _body(name, folder, index))
        finally:
            rooms.release()

    async with asyncio.TaskGroup() as tasks:
        for number, index in enumerate(indices):
            await rooms.acquire()
            if arrival == "steady":
                await asyncio.sleep(began + number / options.each_second - time.monotonic())
            tasks.create_task(make(index))
            if number and number % 1000 == 0:
                frame.progress(
                    f"{arrival}: {number} asked for, {clock.bound} bound in {time.monotonic() - began:.0f} s"
                )
    return seconds


def _body(name: str, folder: Path, index: int) -> dict[str, Any]:
    mount = {"name": "data", "mountPoint": f"file://{folder}/origin/{index % FOLDERS}"}
    spec = {"mounts": [mount], "accessModes": ["ReadOnlyMany"]}
    return {"apiVersion": DATASETS.api_version, "kind": DATASETS.kind, "metadata": {"name": name}, "spec": spec}


@dataclass
class _Clock:
    """Tells when a Dataset is bound."""

    kubeconfig: Path
    bound: int = 0
    _latest: float = 0.0
    _waiting: dict[str, asyncio.Event] = field(default_factory=dict)
    _requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CREATE_IN_FLIGHT))

    async def run(self) -> None:
        async with KubeClient(load_config(self.kubeconfig), user_agent="headrace-bench-watch") as client:
            batches = list_watch(client, DATASETS, _Dataset, namespace=NAMESPACE, jitter=Random(0))
            async for batch in batches:
                for change in getattr(batch, "events", ()):
                    if change.object.status.phase == "Bound":
                        event = self._waiting.pop(change.object.metadata.name, None)
                        if event is not None:
                            self.bound += 1
                            self._latest = time.monotonic()
                            event.set()

    async def make(self, client: KubeClient, name: str, body: dict[str, Any]) -> float:
        """Create a Dataset; the seconds until it is bound. TimeoutError when none is bound for long."""
        event = self._waiting[name] = asyncio.Event()
        async with self._requests:
            began = time.monotonic()
            await client.create(DATASETS, body, NAMESPACE)
        while not event.is_set():
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    await event.wait()
            except TimeoutError:
                if time.monotonic() - self._latest > STUCK_SECONDS:
                    raise
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def _process(name: str, words: list[str], folder: Path) -> AsyncIterator[int]:
    """One of our processes for as long as the context lasts; its pid."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", *words, stdout=output, stderr=output)
    try:
        yield process.pid
    except BaseException:
        frame.progress(f"{name}: {log.read_text(errors='replace')[-LOG_TAIL:]}")
        raise
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(20):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
