"""Reloading a checkpoint after a restart: through the cache against directly from a slow origin.

The checkpoint was read (or loaded) once before, so it is on one node; the kernel's page cache is dropped before every
reload where that is permitted. `reload-SIZE-same-node` reads on that node, `reload-SIZE-other-node` on one that has
none of it and gets it from its peer. The origin's cap makes each direct read take a minute (--quick: seconds).
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import frame
from benchmarks.cached_reader import CachedReader
from benchmarks.data_plane import DataPlane, drop_page_cache
from benchmarks.file_system import MIB, make_file
from benchmarks.frame import Case, Run
from benchmarks.origin_process import MOUNT, OriginProcess

FILE: Final = "step-1000/model.bin"
GOAL: Final = 20.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """The checkpoint, and how long the direct read takes."""

    size_bytes: int
    direct_seconds: float


FULL: Final = (Sizes(1_000_000_000, 62.0), Sizes(4_000_000_000, 62.0))
QUICK: Final = (Sizes(64 * MIB, 3.0),)


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("checkpoint-reload", __doc__ or "").parse_args(arguments)
    cases: list[Case] = []
    for sizes in QUICK if options.quick else FULL:
        with TemporaryDirectory(prefix="headrace-bench-reload-") as name:
            cases += _cases(Path(name), sizes, options.runs)
    frame.report("checkpoint-reload", cases, options.json, options.plot)
    return 0


def _cases(directory: Path, sizes: Sizes, pairs: int) -> list[Case]:
    cap = sizes.size_bytes / sizes.direct_seconds
    with OriginProcess(directory / "origin", cap) as origin, DataPlane(directory / "plane") as plane:
        make_file(origin.files / FILE, sizes.size_bytes)
        plane.start_workers(["first", "other"])
        # The other node keeps no copies, so that each of its reloads comes from the peer.
        uid = plane.sync("checkpoints", MOUNT, options=origin.options, eligible_nodes=["first"]).uid
        entries = plane.entries(uid)
        path = next(iter(entries))
        readers = {node: CachedReader(plane.socket(node), uid, entries) for node in ("first", "other")}
        frame.progress("the first read, which fills the cache")
        first_seconds = _seconds(lambda: readers["first"].read_whole(path), sizes.size_bytes)
        runs: dict[str, list[Run]] = {"same-node": [], "other-node": []}
        filled = _origin_blocks(plane)
        before, is_cold = origin.sent_bytes(), True
        for number in range(pairs):
            frame.progress(f"run {number + 1} of {pairs}")
            ours = {}
            for name, reader in zip(runs, readers.values(), strict=True):
                is_cold &= drop_page_cache()
                ours[name] = _seconds(lambda reader=reader: reader.read_whole(path), sizes.size_bytes)  # type: ignore[misc]
            extra = origin.sent_bytes() - before
            assert extra == 0, f"a reload went to the origin for {extra} bytes: {_origin_blocks(plane) - filled}"
            direct = _seconds(lambda: origin.read_through(FILE), sizes.size_bytes)
            before = origin.sent_bytes()
            for name, each in runs.items():
                each.append((ours[name], direct))
        pages = "page cache dropped" if is_cold else "page cache could not be dropped: pages warm"
        note = (
            f"{sizes.size_bytes / 1e6:.0f} MB; {origin.cap}; {pages}; first read, by the cache, {first_seconds:.1f} s"
        )
        return [
            Case(
                f"reload-{_size_name(sizes.size_bytes)}-{name}",
                "s",
                each,
                "direct",
                higher_is_better=False,
                goal=GOAL,
                note=note,
            )
            for name, each in runs.items()
        ]


def _origin_blocks(plane: DataPlane) -> Counter[str]:
    """Blocks read from the origin so far, by worker and reason."""
    return Counter(
        {
            f"{node} {why}": count
            for node in plane.workers
            for why, count in plane.counts(node, "origin_blocks_total").items()
        }
    )


def _size_name(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.0f}GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f}MB"


def _seconds(read: Callable[[], int], size_bytes: int) -> float:
    started = time.perf_counter()
    count = read()
    assert count == size_bytes, f"{count} bytes came of {size_bytes}"
    return time.perf_counter() - started
