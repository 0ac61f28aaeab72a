"""The FUSE mount against ext4: metadata, a worker and the mount as real processes over a file:// origin.

The page cache in each case (nothing is warmed for one side only):
- resident-*: the file is resident on the worker and was read once on both sides; pages warm on both.
- resident-first-read-*: resident, the mount's own pages dropped, so each read passes the daemon; warm on ext4.
- small-*: as `resident` for small files; small-first-pass-*: not resident, origin's pages warm, as ext4's are.
- metadata-*: the directory was listed once on both sides.
- cold-*: not resident; the origin's pages warm for both.
- write-*: until durable in the under store (fsync) on both sides.
The origin has no rate limit here: it is a directory on the same disk.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import frame
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import (
    MIB,
    list_names,
    make_file,
    make_small_files,
    open_read_close,
    random_read,
    sequential_read,
    stat_all,
    write_durably,
)
from benchmarks.frame import Case, interleave

NODE: Final = "bench-node"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done; the figures are rates, so they are comparable between the two."""

    large_bytes: int
    random_reads: int
    small_files: int
    listed_files: int
    cold_bytes: int
    cold_files: int
    written_bytes: int


FULL: Final = Sizes(1 << 30, 200_000, 5_000, 100_000, 1 << 30, 1_000, 512 * MIB)
QUICK: Final = Sizes(128 * MIB, 20_000, 1_000, 10_000, 128 * MIB, 200, 64 * MIB)
COLD_FILE_BYTES: Final = 115_000


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with the same files as the origin, and its name as a yardstick."""

    name: str
    directory: Path


def main(arguments: list[str]) -> int:
    """Run every case; a directory given as yardstick gets the resident, small and metadata cases too."""
    options = frame.parser("fuse", __doc__ or "").parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    cases: list[Case] = []
    for case in _cases(sizes, options.runs, [Place(name, Path(place)) for name, place in options.yardstick]):
        frame.progress(f"{case.case}: {case.ours:,.0f} {case.unit}")
        cases.append(case)
    frame.report("fuse", cases, options.json, options.plot)
    return 0


def _cases(sizes: Sizes, pairs: int, places: Sequence[Place]) -> Iterator[Case]:
    with TemporaryDirectory(prefix="headrace-bench-fuse-") as name:
        directory = Path(name)
        origin = directory / "origin"
        frame.progress("making the files")
        _make_origin(origin, sizes)
        with DataPlane(directory / "plane") as plane:
            plane.start_worker(NODE)
            plane.sync("data", f"file://{origin}")
            mount = plane.start_mount(NODE) / "bench"
            yield _first_pass(mount / "data", origin, pairs)
            yield from _against(mount / "data", Place("ext4", origin), sizes, pairs)
            unopened = plane.start_mount(NODE, "--no-open", name="no-open") / "bench"
            yield _without_opens(unopened / "data", origin, pairs)
            for place in places:
                with TemporaryDirectory(prefix="headrace-bench-", dir=place.directory) as copy:
                    shutil.copytree(origin, copy, dirs_exist_ok=True)
                    yield from _against(mount / "data", Place(place.name, Path(copy)), sizes, pairs)
            yield _cold(plane, mount, directory, sizes, pairs)
            yield _cold_small(plane, mount, directory, sizes, pairs)
            yield _write(plane, mount, directory, sizes, pairs)


def _make_origin(origin: Path, sizes: Sizes) -> None:
    make_file(origin / "large.bin", sizes.large_bytes)
    make_small_files(origin / "small", sizes.small_files, 4096)
    make_small_files(origin / "training", sizes.small_files, 17 << 10)
    make_small_files(origin / "listed", sizes.listed_files, 0)


def _paths(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.iterdir())


def _first_pass(ours: Path, origin: Path, pairs: int) -> Case:
    own, other = _paths(ours / "training"), _paths(origin / "training")
    share = len(own) // pairs
    turns = iter(range(pairs))
    other_turns = iter(range(pairs))

    def part(paths: Sequence[str], turn: int) -> Sequence[str]:
        return paths[turn * share : (turn + 1) * share]

    runs = interleave(
        pairs,
        lambda: open_read_close(part(own, next(turns)), 1 << 17),
        lambda: open_read_close(part(other, next(other_turns)), 1 << 17),
    )
    note = "each file once, fetched from the origin by the worker; origin's pages warm"
    return Case("small-first-pass-17KiB", "files/s", runs, "ext4", note=note)


def _against(ours: Path, place: Place, sizes: Sizes, pairs: int) -> Iterator[Case]:
    name, other = place.name, place.directory
    own_large, other_large = ours / "large.bin", other / "large.bin"
    for path in (own_large, other_large):
        sequential_read(path)
    warm = "pages warm on both sides"
    runs = interleave(pairs, lambda: sequential_read(own_large), lambda: sequential_read(other_large))
    yield Case("resident-sequential-1MiB", "MB/s", runs, name, goal=0.95, note=warm)
    runs = interleave(
        pairs,
        lambda: random_read(own_large, sizes.random_reads),
        lambda: random_read(other_large, sizes.random_reads),
    )
    yield Case("resident-random-4KiB", "reads/s", runs, name, goal=0.95, note=warm)
    runs = interleave(pairs, lambda: _without_pages(own_large), lambda: sequential_read(other_large))
    note = "the mount's pages dropped, so every byte passes the daemon; the worker's and the yardstick's warm"
    yield Case("resident-first-read-1MiB", "MB/s", runs, name, goal=0.95, note=note)
    own_small, other_small = _paths(ours / "small"), _paths(other / "small")
    for paths in (own_small, other_small):
        open_read_close(paths, 4096)
    runs = interleave(pairs, lambda: open_read_close(own_small, 4096), lambda: open_read_close(other_small, 4096))
    yield _absolute(Case("small-open-read-close", "files/s", runs, name, note=warm), 20_000)
    yield from _metadata(ours / "listed", other / "listed", name, pairs)


def _without_opens(ours: Path, origin: Path, pairs: int) -> Case:
    own, other = _paths(ours / "small"), _paths(origin / "small")
    for paths in (own, other):
        open_read_close(paths, 4096)
    runs = interleave(pairs, lambda: open_read_close(own, 4096), lambda: open_read_close(other, 4096))
    note = "a mount with --no-open; pages warm on both sides"
    return _absolute(Case("small-no-open", "files/s", runs, "ext4", note=note), 100_000)


def _metadata(ours: Path, other: Path, name: str, pairs: int) -> Iterator[Case]:
    own_paths, other_paths = _paths(ours), _paths(other)
    runs = interleave(pairs, lambda: list_names(ours), lambda: list_names(other))
    yield _absolute(Case("metadata-list", "names/s", runs, name, note=f"{len(own_paths):,} names"), 150_000)
    runs = interleave(pairs, lambda: _stat_after_list(ours, own_paths), lambda: _stat_after_list(other, other_paths))
    yield _absolute(Case("metadata-stat", "files/s", runs, name, note="right after a listing"), 300_000)


def _stat_after_list(directory: Path, paths: Sequence[str]) -> float:
    list_names(directory)
    return stat_all(paths)


def _absolute(case: Case, goal: float) -> Case:
    """The case with a rate of its own as the goal; the neighbour's figure goes into the note."""
    note = f"{case.note}; {case.yardstick}: {case.yardstick_value or 0:,.0f}"
    return Case(case.case, case.unit, [run[:1] for run in case.runs], goal=goal, note=note)


def _without_pages(path: Path) -> float:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return sequential_read(path)


def _cold(plane: DataPlane, mount: Path, directory: Path, sizes: Sizes, pairs: int) -> Case:
    """Each turn has a file of its own, made beforehand; nothing of it is on the worker."""
    origin, copies = directory / "cold-origin", directory / "copies"
    copies.mkdir()
    for turn in range(2 * pairs):
        make_file(origin / f"{turn}.bin", sizes.cold_bytes, seed=turn)
    os.sync()
    plane.sync("cold", f"file://{origin}")
    turns = iter(range(2 * pairs))

    def copy() -> float:
        turn = next(turns)
        started = time.perf_counter()
        subprocess.run(["cp", str(origin / f"{turn}.bin"), str(copies / f"{turn}.bin")], check=True)
        return sizes.cold_bytes / (time.perf_counter() - started) / 1e6

    runs = interleave(pairs, lambda: sequential_read(mount / "cold" / f"{next(turns)}.bin"), copy)
    # Copies that were removed would leave their memory to the next one: a virtual machine has little that is as quick.
    note = "through the worker, which keeps the blocks; cp to the same disk, its copies kept as well"
    return Case("cold-sequential", "MB/s", runs, "cp", goal=0.8, note=note)


def _cold_small(plane: DataPlane, mount: Path, directory: Path, sizes: Sizes, pairs: int) -> Case:
    """Each turn has a directory of its own, as in `_cold`."""
    origin, copies = directory / "cold-small-origin", directory / "small-copies"
    copies.mkdir()
    for turn in range(2 * pairs):
        make_small_files(origin / str(turn), sizes.cold_files, COLD_FILE_BYTES)
    os.sync()
    plane.sync("cold-small", f"file://{origin}")
    turns = iter(range(2 * pairs))

    def read() -> float:
        return open_read_close(_paths(mount / "cold-small" / str(next(turns))), COLD_FILE_BYTES + 1)

    def copy() -> float:
        turn = str(next(turns))
        started = time.perf_counter()
        subprocess.run(["cp", "-r", str(origin / turn), str(copies / turn)], check=True)
        return sizes.cold_files / (time.perf_counter() - started)

    runs = interleave(pairs, read, copy)
    note = "each file once, through the worker, which keeps it; cp -r to the same disk; origin's pages warm"
    return Case("cold-small-files-115KB", "files/s", runs, "cp -r", note=note)


def _write(plane: DataPlane, mount: Path, directory: Path, sizes: Sizes, pairs: int) -> Case:
    origin, direct = directory / "write-origin", directory / "direct"
    origin.mkdir()
    direct.mkdir()
    plane.sync("written", f"file://{origin}", writable=True)
    block = os.urandom(MIB)
    turns = iter(range(2 * pairs))

    def put(place: Path) -> float:
        return write_durably(place / f"checkpoint-{next(turns)}", sizes.written_bytes, block)

    runs = interleave(pairs, lambda: put(mount / "written"), lambda: put(direct))
    return Case("write-checkpoint", "MB/s", runs, "direct put", goal=0.8, note="write, fsync and close")
