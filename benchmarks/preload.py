"""A load of a whole dataset to two nodes, as DataLoad makes the workers do it, against the origin's capped rate.

Time runs from the first StartLoad until every node says that its share is stored. Nothing is cached before.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import grpc

from api.gen import worker_pb2, worker_pb2_grpc
from benchmarks import frame
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import MIB, make_file, make_small_files
from benchmarks.frame import Case, Run
from benchmarks.origin_process import MOUNT, OriginProcess, cap_text

NODES: Final = ("node-0", "node-1")
GOAL: Final = 0.95
LOOK_SECONDS: Final = 0.05
CALL_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Shape:
    """One dataset and the origin it lies in."""

    name: str
    files: int
    file_bytes: int
    bytes_per_second: float


FULL: Final = (Shape("large-files", 8, 256 * MIB, 100e6), Shape("small-files", 6_000, 114_660, 40e6))
QUICK: Final = (Shape("large-files", 2, 48 * MIB, 50e6), Shape("small-files", 400, 114_660, 20e6))


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("preload", __doc__ or "").parse_args(arguments)
    cases = []
    for shape in QUICK if options.quick else FULL:
        runs: list[Run] = []
        for number in range(options.runs):
            frame.progress(f"{shape.name}: run {number + 1} of {options.runs}")
            with TemporaryDirectory(prefix="headrace-bench-preload-") as name:
                runs.append((_rate(Path(name), shape), shape.bytes_per_second / 1e6))
        what = f"{shape.files:,} files of {shape.file_bytes:,} bytes to {len(NODES)} nodes"
        note = f"{what}; {cap_text(shape.bytes_per_second)}; nothing cached"
        cases.append(Case(f"preload-{shape.name}", "MB/s", runs, "origin's cap", goal=GOAL, note=note))
    frame.report("preload", cases, options.json, options.plot)
    return 0


def _rate(directory: Path, shape: Shape) -> float:
    size_bytes = shape.files * shape.file_bytes
    with (
        OriginProcess(directory / "origin", shape.bytes_per_second) as origin,
        DataPlane(directory / "plane") as plane,
    ):
        if shape.file_bytes > MIB:
            for number in range(shape.files):
                make_file(origin.files / f"{number}.bin", shape.file_bytes, seed=number)
        else:
            make_small_files(origin.files, shape.files, shape.file_bytes)
        plane.start_workers(NODES)
        uid = plane.sync("data", MOUNT, options=origin.options).uid
        controls = [worker.control_endpoint for worker in plane.live().values()]
        started = time.perf_counter()
        loaded = _load(controls, uid)
        seconds = time.perf_counter() - started
        assert loaded == size_bytes, f"{loaded} bytes were loaded of {size_bytes}"
        assert origin.sent_bytes() == size_bytes, f"{origin.sent_bytes()} bytes were fetched of {size_bytes}"
        return size_bytes / seconds / 1e6


def _load(controls: list[str], uid: str) -> int:
    channels = [grpc.insecure_channel(control) for control in controls]
    try:
        stubs = [worker_pb2_grpc.WorkerControlStub(channel) for channel in channels]
        for stub in stubs:
            stub.StartLoad(worker_pb2.StartLoadRequest(load_id="bench", uid=uid, replicas=1), timeout=CALL_SECONDS)
        while True:
            request = worker_pb2.LoadRequest(load_id="bench")
            progress = [stub.GetLoad(request, timeout=CALL_SECONDS) for stub in stubs]
            if all(each.done for each in progress):
                assert not any(each.failed_count for each in progress), progress
                return sum(each.bytes_loaded for each in progress)
            time.sleep(LOOK_SECONDS)
    finally:
        for channel in channels:
            channel.close()
