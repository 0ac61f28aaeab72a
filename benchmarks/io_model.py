"""The event engine's I/O model against real workers: bytes by source and seconds of an epoch, by room and readers.

Readers on one or three nodes train on one dataset (training.py) of an origin that is capped below what they want, with
room for c of it on each node, each in an order of its own. The origin and the workers count the bytes; the model
(simulations/io_model.py) gets the same sizes and speeds. A figure is how far the two are apart, of the larger, for the
first epoch and for the mean of the later ones; 10 % is the goal.
"""

import math
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import frame
from benchmarks.cached_reader import CachedReader
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import make_file
from benchmarks.frame import Case, Run
from benchmarks.origin_process import MOUNT, OriginProcess
from benchmarks.training import Workload, epoch
from headrace.cluster.ports import pick_free
from simulations.io_model import TOLERANCE, Epoch, Readers, apart, bytes_apart, expected, mean

BLOCK_BYTES: Final = 256 << 10
# One sample a file; the accelerator takes 40 MB/s, and sleeping is all that costs.
JOB: Final = Workload("io-model", 1 << 20, 1, 1, 4, 4 * (1 << 20) / 40e6)
WANTED_BYTES_PER_SECOND: Final = JOB.batch * JOB.file_bytes / JOB.batch_seconds


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read, and how."""

    files: int
    epochs: int
    nodes: tuple[int, ...]
    fractions: tuple[float, ...]
    origin_bytes_per_second: float = 16e6


FULL: Final = Sizes(96, 4, (1, 3), (0.25, 0.5, 0.75, 1.0))
QUICK: Final = Sizes(16, 2, (1,), (0.5,))


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("io-model", __doc__ or "").parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    cases: list[Case] = []
    for nodes in sizes.nodes:
        for fraction in sizes.fractions:
            cases += _cases(_readers(sizes, nodes, fraction), options.runs)
    frame.report("io-model", cases, options.json, options.plot)
    return 0


def _readers(sizes: Sizes, nodes: int, fraction: float) -> Readers:
    return Readers(
        nodes,
        fraction,
        sizes.files * JOB.file_bytes,
        sizes.epochs,
        WANTED_BYTES_PER_SECOND,
        sizes.origin_bytes_per_second,
    )


def _cases(readers: Readers, runs: int) -> list[Case]:
    model = expected(readers)
    name = f"{readers.nodes}-nodes-c{readers.fraction}"
    made: dict[str, tuple[list[Run], list[Run], str]] = {}
    for number in range(runs):
        frame.progress(f"{name}: run {number + 1} of {runs}")
        with TemporaryDirectory(prefix="headrace-bench-io-model-") as folder:
            real = measured(Path(folder), readers)
        for which, ours, theirs in (("first", model[0], real[0]), ("later", mean(model[1:]), mean(real[1:]))):
            by_bytes, by_seconds, _ = made.get(which, ([], [], ""))
            by_bytes.append((bytes_apart(ours, theirs),))
            by_seconds.append((apart(ours.seconds, theirs.seconds),))
            made[which] = by_bytes, by_seconds, f"real {_text(theirs)}; model {_text(ours)}"
    return [
        Case(f"{name}-{which}-{what}", "apart", figures, higher_is_better=False, goal=TOLERANCE, note=note)
        for which, (by_bytes, by_seconds, note) in made.items()
        for what, figures in (("bytes", by_bytes), ("seconds", by_seconds))
    ]


def _text(found: Epoch) -> str:
    parts = (found.local_bytes, found.peer_bytes, found.origin_bytes)
    return " + ".join(f"{part / 1e6:.0f}" for part in parts) + f" MB local, peers, origin, {found.seconds:.1f} s"


def measured(directory: Path, readers: Readers) -> list[Epoch]:
    """The same readers on real workers, epoch by epoch."""
    files = readers.dataset_bytes // JOB.file_bytes
    room = math.ceil(readers.fraction * readers.dataset_bytes)
    nodes = [f"node-{number}" for number in range(readers.nodes)]
    with (
        OriginProcess(directory / "origin", readers.origin_bytes_per_second) as origin,
        DataPlane(directory / "plane", tier_bytes=room) as plane,
        ThreadPoolExecutor(len(nodes)) as pool,
    ):
        for number in range(files):
            make_file(origin.files / f"{number:05}.bin", JOB.file_bytes, seed=number)
        ports: list[int] = []
        for node in nodes:
            ports.append(pick_free(ports))
            environment = {"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK_BYTES)}
            plane.start_worker(node, environment, more=["--metrics", f"127.0.0.1:{ports[-1]}"])
        plane.await_workers(nodes)
        uid = plane.sync("data", MOUNT, options=origin.options).uid
        entries = plane.entries(uid)
        sources = [CachedReader(plane.socket(node), uid, entries) for node in nodes]
        one_epoch = partial(_epoch, sorted(entries))
        found: list[Epoch] = []
        for number in range(readers.epochs):
            sent, local = origin.sent_bytes(), _local_bytes(ports)
            seeds = [number * len(nodes) + index for index in range(len(nodes))]
            seconds = max(pool.map(one_epoch, sources, seeds))
            fetched, here = origin.sent_bytes() - sent, _local_bytes(ports) - local
            found.append(Epoch(here, len(nodes) * readers.dataset_bytes - here - fetched, fetched, seconds))
        return found


def _epoch(paths: Sequence[str], source: CachedReader, seed: int) -> float:
    return epoch(JOB, source, paths, seed)


def _local_bytes(ports: Sequence[int]) -> float:
    """Bytes that all workers had themselves when a reader of their node wanted them."""
    total = 0.0
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "headrace_worker_reader_bytes_total" and sample.labels["source"] == "local":
                    total += sample.value
    return total
