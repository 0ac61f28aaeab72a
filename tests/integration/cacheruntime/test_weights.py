"""Files that are read like weights are fetched whole: real metadata, real workers."""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2 as pb
from tests.builders.cache_cluster import CacheCluster, LocalClient, wait_for

BLOCK = 64 << 10
BLOCKS = 40
FILES = {
    name: random.Random(name).randbytes(BLOCKS * BLOCK - 7)
    for name in ("m.safetensors", "jumps.bin", "on.bin", "no.pt")
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheCluster]:
    made = CacheCluster(
        tmp_path_factory.mktemp("weights"), environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK)}
    )
    try:
        made.put_origin(FILES)
        made.add_worker("a")
        made.sync()
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


def resident(cluster: CacheCluster, path: str) -> int:
    request = pb.LocateRequest(uid="u-1", paths=[path])
    return sum(cluster.residency.Locate(request, timeout=10).resident_bytes.values())


def read(client: LocalClient, opened: bp.Opened, descriptor: int, path: str, block: int) -> None:
    ensure = bp.Ensure(handle=opened.handle, offset_bytes=block * BLOCK, length_bytes=100)
    client.call(Op.ENSURE, ensure, bp.Ensured)
    assert os.pread(descriptor, 100, block * BLOCK) == FILES[path][block * BLOCK : block * BLOCK + 100]


@pytest.mark.parametrize(("path", "blocks"), [("m.safetensors", [17]), ("jumps.bin", [39, 20, 3, 30])])
def test_one_read_like_weights_brings_the_whole_file_once(cluster: CacheCluster, path: str, blocks: list[int]) -> None:
    before = cluster.metric("origin_read_bytes_total")
    with closing(cluster.workers["a"].client()) as client:
        with client.opened("u-1", cluster.entries()[path]) as (opened, descriptor):
            for block in blocks:
                read(client, opened, descriptor, path, block)
            wait_for("the whole file", lambda: resident(cluster, path) == len(FILES[path]))
        data, ensured = client.read("u-1", cluster.entries()[path])
    assert data == FILES[path] and ensured.is_resident
    assert cluster.metric("origin_read_bytes_total") - before == len(FILES[path])


def test_who_reads_on_and_what_may_not_stay_brings_no_more_than_was_asked_for(
    cluster: CacheCluster, tmp_path: Path
) -> None:
    before = cluster.metric("promoted_files_total")
    files = cluster.entries()
    with (
        closing(cluster.workers["a"].client()) as client,
        client.opened("u-1", files["on.bin"]) as (opened, descriptor),
    ):
        for block in range(6):
            read(client, opened, descriptor, "on.bin", block)
    small = cluster.add_worker("b", tiers=[f"SSD:{tmp_path}/ssd:{4 * BLOCK}"])
    with closing(small.client()) as client, client.opened("u-1", files["no.pt"]) as (opened, descriptor):
        read(client, opened, descriptor, "no.pt", 30)
    assert small.metric("promoted_files_total") == 0
    assert cluster.metric("promoted_files_total") == before
