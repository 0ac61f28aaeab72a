"""A cold epoch over a distant origin: files fetched ahead of their reader, against the same reader without that.

One reader opens and reads file after file, as a data loader's process does, and spends `COMPUTE_SECONDS` on each. The
origin answers after 30 ms, as object stores do. Cases: small files in a declared random order; the same where the
cache may keep none of them; shards read in turn, of which nobody said anything.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import frame
from benchmarks.cached_reader import CachedReader
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import MIB, make_file, make_small_files
from benchmarks.frame import Case, Run
from benchmarks.origin_process import MOUNT, OriginProcess, cap_text
from headrace_sdk.worker import Worker

LATENCY_SECONDS: Final = 0.03
BYTES_PER_SECOND: Final = 200e6
COMPUTE_SECONDS: Final = 0.002
NO_ROOM_BYTES: Final = 1 << 20
AHEAD: Final = {"HEADRACE_WORKER_PREHEAT_ROWS": "true"}
NOT_AHEAD: Final = {"HEADRACE_WORKER_PREHEAT_BYTES": "0"}
YARDSTICK: Final = "the same reader, nothing ahead of it"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is read, and how."""

    name: str
    files: int
    file_bytes: int
    tier_bytes: int = 8 << 30
    is_declared: bool = True


def _shapes(*, quick: bool) -> list[Shape]:
    part = 40 if quick else 1
    return [
        Shape("declared-epoch", 1_600 // part, 115_000),
        Shape("declared-no-room", 1_600 // part, 115_000, tier_bytes=NO_ROOM_BYTES),
        Shape("shards-in-turn", 8 if quick else 80, 2 * MIB, is_declared=False),
    ]


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("preheat", __doc__ or "").parse_args(arguments)
    cases = []
    for shape in _shapes(quick=options.quick):
        runs: list[Run] = []
        for number in range(options.runs):
            frame.progress(f"{shape.name}: run {number + 1} of {options.runs}")
            runs.append((_seconds(shape, is_ahead=True), _seconds(shape, is_ahead=False)))
        note = f"{shape.files} files of {shape.file_bytes} bytes; {cap_text(BYTES_PER_SECOND)}, {LATENCY_SECONDS} s off"
        cases.append(Case(f"preheat-{shape.name}", "s", runs, YARDSTICK, higher_is_better=False, note=note))
    frame.report("preheat", cases, options.json, options.plot)
    return 0


def _seconds(shape: Shape, *, is_ahead: bool) -> float:
    with TemporaryDirectory(prefix="headrace-bench-preheat-") as folder:
        return _read(Path(folder), shape, is_ahead=is_ahead)


def _read(directory: Path, shape: Shape, *, is_ahead: bool) -> float:
    with (
        OriginProcess(directory / "origin", BYTES_PER_SECOND, LATENCY_SECONDS) as origin,
        DataPlane(directory / "plane", tier_bytes=shape.tier_bytes) as plane,
    ):
        if shape.is_declared:
            make_small_files(origin.files, shape.files, shape.file_bytes)
        else:
            for number in range(shape.files):
                make_file(origin.files / f"shard-{number:05d}.tar", shape.file_bytes, seed=number)
        plane.start_worker("node-0", AHEAD if is_ahead else NOT_AHEAD)
        uid = plane.sync("data", MOUNT, options=origin.options).uid
        entries = plane.entries(uid)
        order = sorted(entries)
        if shape.is_declared:
            random.Random(7).shuffle(order)
        reader = CachedReader(plane.socket("node-0"), uid, entries)
        started = time.perf_counter()
        if is_ahead and shape.is_declared:
            declaring = Worker(str(plane.socket("node-0")))
            declaring.declare(uid, order)
        total = 0
        for path in order:
            total += reader.read_whole(path)
            time.sleep(COMPUTE_SECONDS)
        seconds = time.perf_counter() - started
        assert total == sum(entry.size_bytes for entry in entries.values()), f"{total} bytes were read"
        return seconds
