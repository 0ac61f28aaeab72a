"""The worker's byte plane over loopback: one worker, one connection, everything resident and in the page cache.

- large-4MiB: whole blocks, four requests in flight, against a bare sendfile → recv_into loop: a second process that
  sends a file of the same bytes without being asked. Neither side's reader computes checksums.
- small-4KiB-files, small-4KiB-ranges: whole files of 4 KiB, and pieces of 4 KiB out of 4 MiB blocks, in random order,
  128 in flight.
"""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from api.byteplane import Read
from benchmarks import frame
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import MIB, make_file, make_small_files
from benchmarks.frame import Case, interleave
from benchmarks.peer_client import PeerClient, receive_whole

NODE: Final = "bench-node"
LARGE_DEPTH: Final = 4
BATCH: Final = 64
SMALL_BYTES: Final = 4096
LARGE_GOAL, SMALL_GOAL = 0.9, 30_000.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done."""

    file_bytes: int
    moved_bytes: int
    small_files: int
    small_reads: int


FULL: Final = Sizes(512 * MIB, 8 << 30, 5_000, 100_000)
QUICK: Final = Sizes(64 * MIB, 512 * MIB, 500, 5_000)


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("byte-plane", __doc__ or "").parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    with TemporaryDirectory(prefix="headrace-bench-bytes-") as name:
        cases = _cases(Path(name), sizes, options.runs)
    frame.report("byte-plane", cases, options.json, options.plot)
    return 0


def _cases(directory: Path, sizes: Sizes, pairs: int) -> list[Case]:
    origin = directory / "origin"
    make_file(origin / "large.bin", sizes.file_bytes)
    make_small_files(origin / "small", sizes.small_files, SMALL_BYTES)
    with DataPlane(directory / "plane") as plane:
        plane.start_worker(NODE)
        uid = plane.sync("data", f"file://{origin}").uid
        endpoint = plane.live()[NODE].data_endpoint
        entries = plane.entries(uid)
        with PeerClient(endpoint) as client:
            block = client.block_size_bytes

            def read(path: str, offset: int, length: int) -> Read:
                entry = entries[path]
                return Read(
                    uid=uid,
                    path=path,
                    etag=entry.etag,
                    size_bytes=entry.size_bytes,
                    offset_bytes=offset,
                    length_bytes=length,
                )

            large = next(path for path in entries if path.endswith("large.bin"))
            blocks = [read(large, at, min(block, sizes.file_bytes - at)) for at in range(0, sizes.file_bytes, block)]
            small = [read(path, 0, SMALL_BYTES) for path in entries if "/small/" in f"/{path}"]
            frame.progress("making everything resident")
            client.read_large(blocks, LARGE_DEPTH)
            client.read_small(small, BATCH)
            many = blocks * (sizes.moved_bytes // sizes.file_bytes)
            chance = random.Random(1)
            files = [chance.choice(small) for _ in range(sizes.small_reads)]
            pieces = sizes.file_bytes // SMALL_BYTES
            ranges = [
                read(large, chance.randrange(pieces) * SMALL_BYTES, SMALL_BYTES) for _ in range(sizes.small_reads)
            ]
            frame.progress("large reads")
            with _bare(origin / "large.bin", block) as bare:
                warm = sizes.file_bytes
                bare(warm)
                runs = interleave(pairs, lambda: _large_rate(client, many), lambda: bare(sizes.moved_bytes))
            note = f"{LARGE_DEPTH} requests in flight on one connection; pages warm on both sides"
            cases = [Case("large-4MiB", "MB/s", runs, "sendfile loop", goal=LARGE_GOAL, note=note)]
            note = f"at most {2 * BATCH} in flight on one connection; resident, pages warm"
            for name, reads in (("small-4KiB-files", files), ("small-4KiB-ranges", ranges)):
                frame.progress(name)
                runs = interleave(pairs, lambda reads=reads: _small_rate(client, reads))  # type: ignore[misc]
                cases.append(Case(name, "reads/s", runs, goal=SMALL_GOAL, note=note))
            return cases


def _large_rate(client: PeerClient, reads: Sequence[Read]) -> float:
    started = time.perf_counter()
    return client.read_large(reads, LARGE_DEPTH) / (time.perf_counter() - started) / 1e6


def _small_rate(client: PeerClient, reads: Sequence[Read]) -> float:
    started = time.perf_counter()
    client.read_small(reads, BATCH)
    return len(reads) / (time.perf_counter() - started)


@contextmanager
def _bare(path: Path, block_bytes: int) -> Iterator[Callable[[int], float]]:
    """A bare sender; what is yielded takes so many bytes of it and returns MB/s."""
    command = [sys.executable, "-m", "benchmarks.bare_sender", str(path), str(block_bytes)]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert sender.stdout is not None
        port = int(sender.stdout.readline())

        def rate(size_bytes: int) -> float:
            buffer = memoryview(bytearray(block_bytes))
            with socket.create_connection(("127.0.0.1", port)) as sock:
                started = time.perf_counter()
                for _ in range(size_bytes // block_bytes):
                    receive_whole(sock, buffer)
                return size_bytes / (time.perf_counter() - started) / 1e6

        yield rate
    finally:
        sender.kill()
        sender.communicate()
