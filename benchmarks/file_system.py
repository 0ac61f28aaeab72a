"""What is done to a directory of files and timed: the same for the mount, ext4 and any yardstick.

Each function returns the figure of its unit. Reads go to buffers made beforehand, so that what is timed is the file
system and not the allocator, and large ones to where a page begins: at malloc's 16 bytes behind it a processor copies
from a page cache at a quarter of its speed.
"""

import mmap
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20


def sequential_read(path: Path, block_bytes: int = MIB) -> float:
    """MB/s of opening the file and reading all of it in order."""
    buffer = mmap.mmap(-1, block_bytes)
    started = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        total = 0
        while count := os.readv(descriptor, [buffer]):
            total += count
        return total / (time.perf_counter() - started) / 1e6
    finally:
        os.close(descriptor)


def random_read(path: Path, reads: int, block_bytes: int = 4096, seed: int = 1) -> float:
    """Reads/s at random aligned offsets of an open file."""
    blocks = path.stat().st_size // block_bytes
    chosen = random.Random(seed)
    offsets = [chosen.randrange(blocks) * block_bytes for _ in range(reads)]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        started = time.perf_counter()
        for offset in offsets:
            os.pread(descriptor, block_bytes, offset)
        return reads / (time.perf_counter() - started)
    finally:
        os.close(descriptor)


def open_read_close(paths: Sequence[str], read_bytes: int) -> float:
    """Files/s of opening, reading the beginning of and closing each."""
    started = time.perf_counter()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, read_bytes)
        os.close(descriptor)
    return len(paths) / (time.perf_counter() - started)


def list_names(directory: Path) -> float:
    """Names/s of listing a directory."""
    started = time.perf_counter()
    with os.scandir(directory) as entries:
        count = sum(1 for _ in entries)
    return count / (time.perf_counter() - started)


def stat_all(paths: Sequence[str]) -> float:
    """Files/s of stat, in order."""
    started = time.perf_counter()
    for path in paths:
        os.stat(path)  # noqa: PTH116 - a Path each would be timed too
    return len(paths) / (time.perf_counter() - started)


def write_durably(path: Path, size_bytes: int, block: bytes) -> float:
    """MB/s of writing a new file, fsync and close included."""
    started = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for _ in range(size_bytes // len(block)):
            os.write(descriptor, block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size_bytes / (time.perf_counter() - started) / 1e6


def make_file(path: Path, size_bytes: int, seed: int = 1) -> None:
    """Write incompressible bytes, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = random.Random(seed)
    with path.open("wb") as file:
        left = size_bytes
        while left:
            count = min(left, MIB)
            file.write(source.randbytes(count))
            left -= count


def make_small_files(directory: Path, count: int, size_bytes: int) -> None:
    """Write `count` files named in order."""
    directory.mkdir(parents=True, exist_ok=True)
    data = random.Random(2).randbytes(size_bytes)
    for index in range(count):
        (directory / f"{index:06}").write_bytes(data)
