"""What SEMANTICS.md says of files the node's cache may not keep."""

import hashlib
import mmap
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.data_plane import DataPlane

pytestmark = pytest.mark.mount

BLOCK_BYTES = 4 << 20
SIZE_BYTES = 25 * BLOCK_BYTES + 12345
"""More than the least temporary room of a tier, 64 MiB."""


@dataclass
class Mounted:
    plane: DataPlane
    folder: Path
    origin: Path


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    root = tmp_path_factory.mktemp("bypassed")
    origin = root / "origin"
    origin.mkdir()
    for name in ("in-order", "at-random", "mapped", "together"):
        (origin / name).write_bytes(random.Random(name).randbytes(SIZE_BYTES))
    with DataPlane(root / "plane", tier_bytes=256 << 20) as plane:
        # The mount's node keeps nothing of the dataset: the other one is the home of all of it.
        plane.start_workers(["home", "reader"])
        plane.sync("train", f"file://{origin}", eligible_nodes=["home"])
        yield Mounted(plane, plane.start_mount("reader") / "bench" / "train", origin)


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_file_larger_than_the_temporary_room_is_read_in_order(mounted: Mounted) -> None:
    """A file is read whole, in order, at random or through a map, also where the node's cache may not keep it and has
    less room for a moment than it is large."""
    assert _sha(mounted.folder / "in-order") == _sha(mounted.origin / "in-order")


def test_and_at_random(mounted: Mounted) -> None:
    want = (mounted.origin / "at-random").read_bytes()
    chance = random.Random(7)
    with (mounted.folder / "at-random").open("rb", buffering=0) as file:
        places = [at * BLOCK_BYTES for at in range(SIZE_BYTES // BLOCK_BYTES)] + [SIZE_BYTES - 100]
        chance.shuffle(places)
        for place in places:
            at = place + chance.randrange(64)
            assert os.pread(file.fileno(), 4096, at) == want[at : at + 4096]


def test_and_mapped_backwards(mounted: Mounted) -> None:
    want = (mounted.origin / "mapped").read_bytes()
    with (mounted.folder / "mapped").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for at in range(SIZE_BYTES - 4096, 0, -(1 << 20)):
            assert mapped[at : at + 4096] == want[at : at + 4096]


def test_and_by_two_readers_at_different_places(mounted: Mounted) -> None:
    want = (mounted.origin / "together").read_bytes()
    with (
        (mounted.folder / "together").open("rb", buffering=0) as first,
        (mounted.folder / "together").open("rb", buffering=0) as second,
    ):
        second.seek(SIZE_BYTES // 2)
        step = 1 << 20
        for at in range(0, SIZE_BYTES // 2, step):
            assert first.read(step) == want[at : at + step]
            there = SIZE_BYTES // 2 + at
            assert second.read(step) == want[there : there + step]
