"""Several nodes read one cold dataset at once: how much of it is asked of the origin, against its size.

Every reader reads every file, each in an order of its own, and all begin together. The origin counts what it sends and
is capped, so that readers do meet at blocks that are still on their way. 1.00 is each byte once for the whole cluster.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Final

from benchmarks import frame
from benchmarks.cached_reader import CachedReader
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import MIB, make_file, make_small_files
from benchmarks.frame import Case, Run
from benchmarks.origin_process import MOUNT, OriginProcess, cap_text

NODES: Final = 3
GOAL: Final = 1.01


@dataclass(frozen=True, slots=True)
class Sizes:
    """The dataset, and who reads it."""

    large_files: int
    large_bytes: int
    small_files: int
    readers: int
    bytes_per_second: float


FULL: Final = Sizes(8, 64 * MIB, 2_000, 12, 50e6)
QUICK: Final = Sizes(2, 24 * MIB, 200, 6, 25e6)


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("cold-readers", __doc__ or "").parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    cases = []
    for name, local_copies in (("copies-stay", True), ("one-copy-a-cluster", False)):
        runs: list[Run] = []
        for number in range(options.runs):
            frame.progress(f"{name}: run {number + 1} of {options.runs}")
            with TemporaryDirectory(prefix="headrace-bench-cold-") as folder:
                runs.append((_ratio(Path(folder), sizes, local_copies=local_copies),))
        note = f"{sizes.readers} readers on {NODES} nodes; {cap_text(sizes.bytes_per_second)}"
        cases.append(
            Case(
                f"cold-{name}", "fetched/size", runs, higher_is_better=False, goal=GOAL, note=f"{note}, nothing cached"
            )
        )
    frame.report("cold-readers", cases, options.json, options.plot)
    return 0


def _ratio(directory: Path, sizes: Sizes, *, local_copies: bool) -> float:
    with OriginProcess(directory / "origin", sizes.bytes_per_second) as origin, DataPlane(directory / "plane") as plane:
        for number in range(sizes.large_files):
            make_file(origin.files / "large" / f"{number}.bin", sizes.large_bytes, seed=number)
        make_small_files(origin.files / "small", sizes.small_files, 17 << 10)
        nodes = [f"node-{number}" for number in range(NODES)]
        plane.start_workers(nodes)
        uid = plane.sync("cold", MOUNT, options=origin.options, local_copies=local_copies).uid
        entries = plane.entries(uid)
        size_bytes = sum(entry.size_bytes for entry in entries.values())
        before = origin.sent_bytes()
        barrier = Barrier(sizes.readers)

        def read(number: int) -> int:
            reader = CachedReader(plane.socket(nodes[number % NODES]), uid, entries)
            order = sorted(entries)
            random.Random(number).shuffle(order)
            barrier.wait()
            return sum(reader.read_whole(path) for path in order)

        with ThreadPoolExecutor(sizes.readers) as pool:
            for count in pool.map(read, range(sizes.readers)):
                assert count == size_bytes, f"a reader got {count} bytes of {size_bytes}"
        return (origin.sent_bytes() - before) / size_bytes
