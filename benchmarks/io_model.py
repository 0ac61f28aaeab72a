"""The event engine's I/O model against real workers: bytes by source and seconds of an epoch, by room and readers.

Readers on one to three nodes train on one dataset (training.py) of an origin that is capped below what they want, with
room for c of it on each node, each in an order of its own; in one case a third node caches and reads nothing, in one
the first epoch ends early. The origin and the workers count the bytes; the model (simulations/io_model.py) gets the
same sizes and speeds. A figure is how far the two are apart, of the larger, for the first epoch and for the mean of the
later ones; 10 % is the goal. The model knows nothing of processors, so speeds are far below what two cores do.
"""

import math
import random
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from benchmarks.training import READERS, Workload, epoch
from headrace.cli.progress import Bar
from headrace.cluster.ports import pick_free
from simulations.io_model import TOLERANCE, Epoch, Readers, apart, bytes_apart, expected, mean

# Of files of four blocks two hundred: of half as many, which home has which decides 20 % of what homes lack in the end.
BLOCK_BYTES: Final = 128 << 10
# One sample a file; the accelerator takes 20 MB/s, and sleeping is all that costs.
JOB: Final = Workload("io-model", 512 << 10, 1, 1, 8, 8 * (512 << 10) / 20e6)
WANTED_BYTES_PER_SECOND: Final = JOB.batch * JOB.file_bytes / JOB.batch_seconds


ORIGIN_BYTES_PER_SECOND: Final = 8e6


@dataclass(frozen=True, slots=True)
class Shape:
    """Who reads: `nodes` with a reader, `idle` ones that only cache, room for `fraction` of the dataset on each;
    `first_part`: how much of it the first epoch reads."""

    nodes: int
    fraction: float
    idle: int = 0
    first_part: float = 1.0

    @property
    def name(self) -> str:
        """A word for it."""
        idle = f"-{self.idle}-idle" if self.idle else ""
        part = f"-first-{self.first_part}" if self.first_part < 1.0 else ""
        return f"{self.nodes}-nodes{idle}-c{self.fraction}{part}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read, and by whom."""

    files: int
    epochs: int
    shapes: tuple[Shape, ...]


FULL: Final = Sizes(
    192,
    4,
    (
        Shape(1, 0.5),
        Shape(3, 0.25),
        Shape(3, 0.5),
        Shape(3, 1.0),
        Shape(2, 0.4, idle=1),
        Shape(3, 0.5, first_part=0.375),
    ),
)
QUICK: Final = Sizes(32, 2, (Shape(1, 0.5),))


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = frame.parser("io-model", __doc__ or "")
    parser.add_argument(
        "--slower",
        type=float,
        default=1.0,
        metavar="N",
        help="readers and origin at an N-th of their speeds: seconds then depend less on a processor others use too",
    )
    parser.add_argument("--only", choices=[shape.name for shape in FULL.shapes], help="one of the cases")
    options = parser.parse_args(arguments)
    if not 1.0 <= options.slower < math.inf:
        parser.error(f"--slower is {options.slower}; give a number from 1 on")
    sizes = QUICK if options.quick else FULL
    cases: list[Case] = []
    chosen = [shape for shape in sizes.shapes if options.only in (None, shape.name)]
    with Bar() as bar:
        next_is = bar.counted(len(chosen) * options.runs * sizes.epochs)
        for shape in chosen:
            cases += _cases(shape.name, _readers(sizes, shape, options.slower), options.runs, next_is)
    frame.report("io-model", cases, options.json, options.plot)
    return 0


def _readers(sizes: Sizes, shape: Shape, slower: float) -> Readers:
    return Readers(
        shape.nodes,
        shape.fraction,
        sizes.files * JOB.file_bytes,
        sizes.epochs,
        WANTED_BYTES_PER_SECOND / slower,
        ORIGIN_BYTES_PER_SECOND / slower,
        idle_nodes=shape.idle,
        first_part=shape.first_part,
        file_bytes=JOB.file_bytes,
        block_bytes=BLOCK_BYTES,
        files_open=READERS,
    )


def _cases(name: str, readers: Readers, runs: int, next_is: Callable[[str], None]) -> list[Case]:
    """`next_is` hears of each epoch of the real readers before it begins."""
    model = expected(readers)
    made: dict[str, tuple[list[Run], list[Run], str]] = {}
    for number in range(runs):
        frame.progress(f"{name}: run {number + 1} of {runs}")
        with TemporaryDirectory(prefix="headrace-bench-io-model-") as folder:
            real = measured(Path(folder), readers, number, lambda epoch: next_is(f"{name}: {epoch}"))
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


def measured(
    directory: Path, readers: Readers, run: int = 0, next_is: Callable[[str], None] = lambda _: None
) -> list[Epoch]:
    """The same readers on real workers, epoch by epoch; each run has other homes and other orders."""
    files = readers.dataset_bytes // JOB.file_bytes
    room = math.ceil(readers.fraction * readers.dataset_bytes)
    nodes = [f"node-{number}" for number in range(readers.nodes + readers.idle_nodes)]
    reading = nodes[: readers.nodes]
    job = replace(JOB, batch_seconds=JOB.batch * JOB.file_bytes / readers.reader_bytes_per_second)
    with (
        OriginProcess(directory / "origin", readers.origin_bytes_per_second) as origin,
        DataPlane(directory / "plane", tier_bytes=room) as plane,
        ThreadPoolExecutor(len(reading)) as pool,
    ):
        for number in range(files):
            make_file(origin.files / f"{number:05}.bin", JOB.file_bytes, seed=number)
        ports: list[int] = []
        for node in nodes:
            ports.append(pick_free(ports))
            environment = {"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK_BYTES)}
            plane.start_worker(node, environment, more=["--metrics", f"127.0.0.1:{ports[-1]}"])
        plane.await_workers(nodes)
        uid = plane.sync(f"data-{run}", MOUNT, options=origin.options).uid
        entries = plane.entries(uid)
        sources = [CachedReader(plane.socket(node), uid, entries) for node in reading]
        found: list[Epoch] = []
        for number in range(readers.epochs):
            next_is(f"epoch {number + 1} of {readers.epochs}")
            sent, local = origin.sent_bytes(), _local_bytes(ports)
            seeds = [1000 * run + number * len(reading) + index for index in range(len(reading))]
            count = files if number else round(readers.first_part * files)
            seconds = max(pool.map(partial(_epoch, job, sorted(entries), count), sources, seeds))
            fetched, here = origin.sent_bytes() - sent, _local_bytes(ports) - local
            read = len(reading) * count * JOB.file_bytes
            found.append(Epoch(here, read - here - fetched, fetched, seconds))
        return found


def _epoch(job: Workload, paths: Sequence[str], count: int, source: CachedReader, seed: int) -> float:
    return epoch(job, source, random.Random(seed).sample(paths, count), seed)


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
