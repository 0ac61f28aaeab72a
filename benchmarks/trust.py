"""What trust costs on the byte plane: two workers over the same files, one with trust and one without, in turn.

- tokens-4KiB: pieces of 4 KiB on the unix socket, 128 in flight; the one with trust was shown a token first. There is
  no TLS on it, so the difference is the token's.
- tls-4KiB, tls-4MiB: the same, and whole blocks with four in flight, over TCP: the one with trust under TLS 1.3.

Everything is resident and in the page cache.
"""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from api.byteplane import Read
from api.trust.identity import Identity, Role
from benchmarks import frame
from benchmarks.data_plane import DataPlane
from benchmarks.file_system import MIB, make_file
from benchmarks.frame import Case, interleave
from benchmarks.peer_client import PeerClient

NODE: Final = "bench-node"
PIECE_BYTES: Final = 4096
LARGE_DEPTH: Final = 4
BATCH: Final = 64
TOKENS_GOAL: Final = 0.97


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("trust", __doc__ or "").parse_args(arguments)
    file_bytes, moved_bytes, pieces = (64 * MIB, 256 * MIB, 5_000) if options.quick else (256 * MIB, 2 << 30, 60_000)
    with TemporaryDirectory(prefix="headrace-bench-trust-") as name, ExitStack() as stack:
        cases = _cases(Path(name), stack, file_bytes, moved_bytes, pieces, options.runs)
    frame.report("trust", cases, options.json, options.plot)
    return 0


def _cases(  # noqa: PLR0917  # one call
    directory: Path, stack: ExitStack, file_bytes: int, moved_bytes: int, pieces: int, pairs: int
) -> list[Case]:
    origin = directory / "origin"
    make_file(origin / "large.bin", file_bytes)
    local: list[PeerClient] = []
    remote: list[PeerClient] = []
    uid = ""
    for name, is_trusting in (("on", True), ("off", False)):
        plane = stack.enter_context(DataPlane(directory / name, is_trusting=is_trusting))
        plane.start_worker(NODE)
        uid = plane.sync("data", f"file://{origin}").uid
        token = plane.token(uid, Identity(Role.NODE, NODE)) if is_trusting else ""
        local.append(stack.enter_context(PeerClient(plane.socket(NODE), token=token)))
        token = plane.token(uid, Identity(Role.ADMIN, "bench")) if is_trusting else ""
        endpoint = plane.live()[NODE].data_endpoint
        remote.append(stack.enter_context(PeerClient(endpoint, trust=plane.admin, token=token)))
        entry = plane.entries(uid)["large.bin"]

    def read(offset: int, length: int) -> Read:
        return Read(
            uid=uid,
            path=entry.path,
            etag=entry.etag,
            size_bytes=file_bytes,
            offset_bytes=offset,
            length_bytes=length,
        )

    block = local[0].block_size_bytes
    blocks = [read(at, min(block, file_bytes - at)) for at in range(0, file_bytes, block)]
    chance = random.Random(1)
    small = [read(chance.randrange(file_bytes // PIECE_BYTES) * PIECE_BYTES, PIECE_BYTES) for _ in range(pieces)]
    frame.progress("making everything resident")
    for client in (*local, *remote):
        client.read_large(blocks, LARGE_DEPTH)
        client.read_small(small, BATCH)
    many = blocks * (moved_bytes // file_bytes)
    frame.progress("small reads")
    return [
        Case(
            "tokens-4KiB",
            "reads/s",
            interleave(pairs, lambda: _small_rate(local[0], small), lambda: _small_rate(local[1], small)),
            "without trust",
            goal=TOKENS_GOAL,
            note="unix socket; a token is verified once a connection",
        ),
        Case(
            "tls-4KiB",
            "reads/s",
            interleave(pairs, lambda: _small_rate(remote[0], small), lambda: _small_rate(remote[1], small)),
            "without trust",
            note="TCP; TLS 1.3 in the worker's process",
        ),
        Case(
            "tls-4MiB",
            "MB/s",
            interleave(pairs, lambda: _large_rate(remote[0], many), lambda: _large_rate(remote[1], many)),
            "without trust",
            note="TCP; without trust the kernel sends the file by itself",
        ),
    ]


def _large_rate(client: PeerClient, reads: Sequence[Read]) -> float:
    started = time.perf_counter()
    return client.read_large(reads, LARGE_DEPTH) / (time.perf_counter() - started) / 1e6


def _small_rate(client: PeerClient, reads: Sequence[Read]) -> float:
    started = time.perf_counter()
    client.read_small(reads, BATCH)
    return len(reads) / (time.perf_counter() - started)
