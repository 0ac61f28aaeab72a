"""Epochs over a dataset larger than the cache: accelerator utilisation from the second epoch, by the cached fraction c.

Three training-like jobs (training.py) read a dataset of an origin that is capped below what their accelerator wants: a
new order each epoch, one node, cache room for c of the bytes. Beside ours, over the same origin: an LRU read-through
cache of the same room, no cache, and the closed form AU = C / max(C, (1 − h) D / R) with C the accelerator's seconds
an epoch, D the dataset, R the cap and h = c, the most that any cache can hit when every sample comes once an epoch.
`…-hit-error` is |h − c| as the origin counted it. Blocks are as much smaller than 4 MiB as the samples are.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import frame
from benchmarks.cached_reader import CachedReader
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import make_file
from benchmarks.frame import Case, Run
from benchmarks.lru_reader import LruReader
from benchmarks.origin_process import MOUNT, OriginProcess
from benchmarks.training import WORKLOADS, Source, Workload, epoch

NODE: Final = "bench-node"
BLOCK_BYTES: Final = 256 << 10
HIT_GOAL: Final = 0.01


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read; `epochs` includes the first, which is not measured."""

    dataset_bytes: int
    epochs: int
    fractions: tuple[float, ...]
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What one job saw from its second epoch on."""

    utilisation: float
    hit_ratio: float


FULL: Final = Sizes(134_000_000, 3, (0.1, 0.25, 0.5, 1.0), 20e6)
QUICK: Final = Sizes(14_000_000, 2, (0.5,), 20e6)


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("epochs", __doc__ or "").parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    cases: list[Case] = []
    for workload in WORKLOADS:
        with TemporaryDirectory(prefix="headrace-bench-epochs-") as name:
            cases += _cases(Path(name), workload, sizes, options.runs)
    frame.report("epochs", cases, options.json, options.plot)
    return 0


def _cases(directory: Path, workload: Workload, sizes: Sizes, pairs: int) -> list[Case]:
    files = workload.files(sizes.dataset_bytes)
    dataset_bytes = files * workload.file_bytes
    cases: list[Case] = []
    with OriginProcess(directory / "origin", sizes.bytes_per_second) as origin:
        for number in range(files):
            make_file(origin.files / f"{number:05}.bin", workload.file_bytes, seed=number)
        through = functools.partial(_lru, origin, workload, sizes)
        frame.progress(f"{workload.name}: no cache")
        none = through(0).utilisation
        for fraction in sizes.fractions:
            room = math.ceil(fraction * dataset_bytes)
            runs: list[Run] = []
            errors: list[Run] = []
            hits: list[tuple[float, float]] = []
            for turn in range(pairs):
                frame.progress(f"{workload.name}: c = {fraction}, run {turn + 1} of {pairs}")
                ours = _ours(directory / f"plane-{fraction}-{turn}", origin, workload, sizes, room)
                other = through(room)
                runs.append((ours.utilisation, other.utilisation))
                errors.append((abs(ours.hit_ratio - fraction),))
                hits.append((ours.hit_ratio, other.hit_ratio))
            compute = workload.compute_seconds(files)
            closed = compute / max(compute, (1 - fraction) * dataset_bytes / sizes.bytes_per_second)
            hit, lru_hit = hits[-1]
            note = f"closed form {closed:.2f}, no cache {none:.2f}; hits {hit:.3f}, LRU {lru_hit:.3f}; {origin.cap}"
            name = f"{workload.name}-c{fraction}"
            cases.append(Case(name, "AU", runs, "LRU", note=note))
            cases.append(
                Case(f"{name}-hit-error", "of all bytes", errors, higher_is_better=False, goal=HIT_GOAL, note="|h − c|")
            )
    return cases


def _ours(directory: Path, origin: OriginProcess, workload: Workload, sizes: Sizes, room_bytes: int) -> Seen:
    with DataPlane(directory, tier_bytes=room_bytes) as plane:
        plane.start_worker(NODE, {"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK_BYTES)})
        uid = plane.sync("data", MOUNT, options=origin.options).uid
        entries = plane.entries(uid)
        return _train(CachedReader(plane.socket(NODE), uid, entries), origin, workload, sorted(entries), sizes)


def _lru(origin: OriginProcess, workload: Workload, sizes: Sizes, room_bytes: int) -> Seen:
    paths = [f"{number:05}.bin" for number in range(workload.files(sizes.dataset_bytes))]
    reader = LruReader(origin, workload.file_bytes, BLOCK_BYTES, room_bytes)
    return _train(reader, origin, workload, paths, sizes)


def _train(source: Source, origin: OriginProcess, workload: Workload, paths: list[str], sizes: Sizes) -> Seen:
    epoch(workload, source, paths, seed=0)
    before = origin.sent_bytes()
    seconds = sum(epoch(workload, source, paths, seed=number) for number in range(1, sizes.epochs))
    measured = sizes.epochs - 1
    fetched = (origin.sent_bytes() - before) / (measured * len(paths) * workload.file_bytes)
    return Seen(measured * workload.compute_seconds(len(paths)) / seconds, 1 - fetched)
