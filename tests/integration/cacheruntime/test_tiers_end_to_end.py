"""Levels of a real worker: fill order, several paths, moves that metadata hears of, descriptors that stay good."""

import os
import random
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from api.gen import metadata_pb2, metadata_pb2_grpc, worker_pb2, worker_pb2_grpc
from benchmarks.data_plane import DataPlane
from cacheruntime.core.blocks import Version, version_name
from tests.builders.cache_cluster import LocalClient, free_port, wait_for

BLOCK = 64 << 10
FILE_BYTES = 1 << 20
"""The least that a mount opens by passthrough."""
FILES = {f"f{i}.bin": random.Random(i).randbytes(FILE_BYTES) for i in range(12)}
TUNABLES = {
    "HEADRACE_WORKER_PREHEAT_BYTES": "0",
    "HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK),
    "HEADRACE_WORKER_PROBE_BYTES": "0",
    "HEADRACE_WORKER_REUSE_SECONDS": "0",
    "HEADRACE_WORKER_MOVE_SECONDS": "0.05",
    "HEADRACE_WORKER_REPORT_SECONDS": "0.1",
}
UID = "uid-bench-books"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[DataPlane]:
    origin = tmp_path / "books"
    origin.mkdir()
    for name, data in FILES.items():
        (origin / name).write_bytes(data)
    with DataPlane(tmp_path / "plane") as plane:
        tiers = [
            f"MEM:{tmp_path}/mem:{4 * FILE_BYTES},high=0.9,low=0.5",
            f"SSD:{tmp_path}/ssd1:{6 * FILE_BYTES}",
            f"SSD:{tmp_path}/ssd2:{6 * FILE_BYTES}",
        ]
        plane.start_worker("n1", TUNABLES, tiers=tiers)
        plane.sync("books", f"file://{origin}")
        yield plane


def resident(plane: DataPlane) -> dict[str, int]:
    with grpc.insecure_channel(plane.metadata_address) as channel:
        nodes = metadata_pb2_grpc.ResidencyStub(channel).ByNode(metadata_pb2.ByNodeRequest(), timeout=10).nodes
    return {
        medium: size for node in nodes for dataset in node.datasets for medium, size in dataset.resident_bytes.items()
    }


def evict(plane: DataPlane, *paths: str) -> int:
    with grpc.insecure_channel(plane.live()["n1"].control_endpoint) as channel:
        request = worker_pb2.EvictRequest(uid=UID, paths=paths)
        return int(worker_pb2_grpc.WorkerControlStub(channel).Evict(request, timeout=10).freed_bytes)


def paths_in(folder: Path) -> int:
    return len(list(folder.glob("*/*/*.map")))


def on_disk(folder: Path) -> dict[str, int]:
    return {
        "MEM": FILE_BYTES * paths_in(folder / "mem"),
        "SSD": FILE_BYTES * (paths_in(folder / "ssd1") + paths_in(folder / "ssd2")),
    }


def test_all_levels_are_filled_and_bytes_are_reported_where_they_are(plane: DataPlane, tmp_path: Path) -> None:
    entries = plane.entries(UID)
    client = LocalClient(plane.socket("n1"))
    with client.opened(UID, entries["f0.bin"]) as (_, descriptor):
        for path in sorted(FILES, key=lambda name: int(name[1:-4])):
            assert client.read(UID, entries[path])[0] == FILES[path]
        total = sum(map(len, FILES.values()))
        wait_for("MEM is below its mark", lambda: resident(plane).get("MEM", 1 << 60) <= 0.9 * 4 * FILE_BYTES or None)

        def is_told() -> bool:
            # Files still move: what is told is compared with what was there before and after it was asked.
            before, found, after = on_disk(tmp_path), resident(plane), on_disk(tmp_path)
            return before == after == found and sum(found.values()) == total

        wait_for("what is on disk is what is told", lambda: is_told() or None)
        assert abs(paths_in(tmp_path / "ssd1") - paths_in(tmp_path / "ssd2")) <= 1
        # One line a medium, whatever paths it has.
        assert [(tier.medium, tier.capacity_bytes) for tier in plane.live()["n1"].tiers] == [
            ("MEM", 4 * FILE_BYTES),
            ("SSD", 12 * FILE_BYTES),
        ]
        assert os.pread(descriptor, FILE_BYTES, 0) == FILES["f0.bin"]
    for path, data in FILES.items():
        content, ensured = client.read(UID, entries[path])
        assert content == data and ensured.origin_bytes == 0
    client.close()


@pytest.mark.mount
def test_an_open_file_of_a_mount_reads_on_while_its_file_changes_the_level(plane: DataPlane, tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    top = plane.start_mount("n1", "--backend", "raw", "--metrics", metrics) / "bench" / "books"
    names = sorted(FILES, key=lambda name: int(name[1:-4]))
    for name in names[:8]:
        assert (top / name).read_bytes() == FILES[name]
    wait_for("demotions", lambda: paths_in(tmp_path / "mem") <= 3 or None)
    wait_for("reports", lambda: sum(resident(plane).values()) == 8 * FILE_BYTES or None)
    in_memory = {path.name.removesuffix(".map") for path in (tmp_path / "mem").glob("*/*/*.map")}
    entries = plane.entries(UID)
    moved = next(name for name in names[:8] if _hash(entries[name]) not in in_memory)
    # All others: on a busy machine the first reads took so long that some of them count as used again, and go up too.
    assert evict(plane, *(name for name in names[:8] if name != moved)) > 0
    with (top / moved).open("rb", buffering=0) as reader:  # used again, with room above: it is promoted
        assert passthrough_opens(metrics) > 0
        assert reader.read(10) == FILES[moved][:10]
        wait_for("the promotion", lambda: list((tmp_path / "mem").glob(f"*/*/{_hash(entries[moved])}.map")) or None)
        assert not list(tmp_path.glob(f"ssd*/*/*/{_hash(entries[moved])}"))
        assert os.pread(reader.fileno(), FILE_BYTES, 0) == FILES[moved]
        # Beside the open descriptor of the old file the kernel takes a new one.
        assert (top / moved).read_bytes() == FILES[moved]
    assert (top / moved).read_bytes() == FILES[moved]


def passthrough_opens(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        found = re.search(r'passthrough_opens_total{result="opened"} (\S+)', response.read().decode())
    return float(found[1]) if found else 0.0


def _hash(entry: metadata_pb2.Entry) -> str:
    return version_name(Version(UID, entry.path, entry.etag, entry.size_bytes))
