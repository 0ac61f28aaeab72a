"""One file under a million operations, a crowd of processes, and memory over an hour."""

import mmap
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.builders.both_backends import BothBackends
from tests.exercise import memory
from tests.exercise.one_file import OneFile
from tests.kills.campaign import serving_pids

pytestmark = pytest.mark.mount

BACKENDS = {"raw": 0, "pyfuse3": 1}
HOUR_SECONDS = 3600.0


def exercise(site: BothBackends, backend: str, operations: int) -> None:
    one = OneFile(site.mounts[BACKENDS[backend]] / f"one-{operations}-{backend}", seed=time.time_ns() % 1_000_000)
    print(f"{operations} operations, seed {one.seed}")
    try:
        one.run(operations)
        assert (site.origin / one.path.name).read_bytes() == one.model
    finally:
        one.close()
    # The rarest come three times in a thousand.
    assert len(one.done) == 12 or operations < 10_000, "each kind of operation was done"


def crowd(site: BothBackends, backend: str, *more: str, processes: int, seconds: float) -> subprocess.Popen[str]:
    """A process of its own, which forks: one that has other threads must not."""
    directory = site.mounts[BACKENDS[backend]] / f"crowd-{time.time_ns()}"
    directory.mkdir()
    numbers = ["--processes", str(processes), "--seconds", str(seconds), "--seed", str(time.time_ns() % 1_000_000)]
    command = [sys.executable, "-m", "tests.exercise.crowd", str(directory), *numbers, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def settled(started: subprocess.Popen[str], seconds: float) -> str:
    output, _ = started.communicate(timeout=seconds + 120)
    assert started.returncode == 0, output
    return output.splitlines()[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_keeps_every_byte(both_backends: BothBackends, backend: str) -> None:
    exercise(both_backends, backend, 800)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sixty_four_processes_end(both_backends: BothBackends, backend: str) -> None:
    line = settled(crowd(both_backends, backend, processes=64, seconds=1.5), 1.5)
    assert line.startswith("64 processes, ") and line.endswith(" 0 errors")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_overwritten_and_cut_by_many_at_once_is_whole(both_backends: BothBackends, backend: str) -> None:
    """The release of a close comes while the next open is answered."""
    name = f"over-{backend}"
    path = both_backends.mounts[BACKENDS[backend]] / name
    path.write_bytes(b"first")

    def overwrite(letter: bytes) -> None:
        for number in range(12):
            with path.open("wb") as file:
                file.write(letter * (number * 397 % 3000))

    def cut() -> None:
        for number in range(12):
            os.truncate(path, number * 389 % 2000)

    with ThreadPoolExecutor(4) as threads:
        for done in [*(threads.submit(overwrite, letter) for letter in (b"a", b"b", b"c")), threads.submit(cut)]:
            done.result(60)
    data = path.read_bytes()
    assert len(set(data) - {0}) <= 3
    assert data == (both_backends.origin / name).read_bytes()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sharing", [mmap.MAP_SHARED, mmap.MAP_PRIVATE], ids=["shared", "private"])
def test_a_mapping_beside_one_who_only_writes_shows_what_is_written(
    both_backends: BothBackends, backend: str, sharing: int
) -> None:
    chance = random.Random(sharing)
    name, size = f"mapped-{backend}-{sharing}", 16 * 4096
    path = both_backends.mounts[BACKENDS[backend]] / name
    writer = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(writer, bytes(size))
    reader = os.open(path, os.O_RDONLY)
    try:
        with mmap.mmap(reader, size, flags=sharing, prot=mmap.PROT_READ) as mapping:
            is_over = threading.Event()

            def look() -> None:
                while not is_over.is_set():
                    for at in range(0, size, 4096):
                        mapping[at]

            with ThreadPoolExecutor(1) as threads:
                looking = threads.submit(look)
                try:
                    for _ in range(150):
                        at, byte = chance.randrange(size), chance.randbytes(1)
                        os.pwrite(writer, byte, at)
                        assert mapping[at : at + 1] == byte == os.pread(reader, 1, at)
                finally:
                    is_over.set()
                    looking.result(60)
            assert mapping[:] == os.pread(reader, size, 0)
    finally:
        os.close(reader)
        os.close(writer)
    assert path.read_bytes() == (both_backends.origin / name).read_bytes()


def test_growth_is_told_from_noise() -> None:
    chance = random.Random(5)
    flat = [(second, (80 << 20) + chance.randrange(3 << 20)) for second in range(0, 3600, 5)]
    warming = [(second, size - max(0, 600 - second) * 50_000) for second, size in flat]
    peak = [(second, size + (200 << 20) * (second % 600 < 60)) for second, size in flat]
    leak = [(second, size + second * 3000) for second, size in flat]
    assert [memory.growth(samples).is_flat for samples in (flat, warming, peak, leak)] == [True, True, True, False]


@pytest.mark.nightly
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_keeps_every_byte_over_a_million_operations(both_backends: BothBackends, backend: str) -> None:
    exercise(both_backends, backend, 1_000_000)


@pytest.mark.nightly
@pytest.mark.parametrize("backend", BACKENDS)
def test_sixty_four_processes_end_after_minutes(both_backends: BothBackends, backend: str) -> None:
    print(settled(crowd(both_backends, backend, "--strict", processes=64, seconds=300), 300))


@pytest.mark.nightly
def test_memory_is_flat_over_an_hour(both_backends: BothBackends, tmp_path: Path) -> None:
    memory_stays_flat(both_backends, HOUR_SECONDS)


def memory_stays_flat(site: BothBackends, seconds: float) -> None:
    crowds = [crowd(site, backend, processes=4, seconds=seconds) for backend in BACKENDS]
    keeper = site.plane.daemons["raw"]
    processes = {
        "keeper": keeper.popen.pid,
        "daemon (raw)": serving_pids(keeper)[-1],
        "daemon (pyfuse3)": site.plane.daemons["pyfuse3"].popen.pid,
        **{f"worker ({node})": worker.popen.pid for node, worker in site.plane.workers.items()},
    }
    samples = memory.watch(
        processes, seconds, seconds / 720, goes_on=lambda: all(each.poll() is None for each in crowds)
    )
    print(*(settled(each, seconds) for each in crowds), sep="\n")
    grown = {name: memory.growth(each) for name, each in samples.items()}
    for name, each in grown.items():
        print(f"{name:<20} {each.median_bytes / 2**20:7.1f} MiB, grown by {each.grown_bytes / 2**20:+.2f} MiB")
    assert serving_pids(keeper)[-1] == processes["daemon (raw)"], "one daemon served all the time"
    assert [name for name, each in grown.items() if not each.is_flat] == []
