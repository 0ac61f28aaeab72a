"""Priority, shares and pins of datasets on a real worker: who makes room, and that a restart forgets none of it."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2 as pb
from tests.builders.cache_cluster import CacheCluster, WorkerProcess, wait_for

BLOCK = 64 << 10
FILE_BLOCKS = 4
FILES_MAX = 16
"""So many files of any dataset fit the worker's only tier."""
FILES = {
    f"{folder}/{number}.bin": random.Random(f"{folder}{number}").randbytes(FILE_BLOCKS * BLOCK)
    for folder in ("keep", "other")
    for number in range(FILES_MAX // 2)
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    environment = {
        "HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK),
        "HEADRACE_WORKER_DATASET_SECONDS": "0.2",
        "HEADRACE_WORKER_IDLE_DESCRIPTORS": "1",
    }
    made = CacheCluster(tmp_path, environment=environment)
    try:
        made.put_origin(FILES)
        yield made
    finally:
        made.stop()


def start(cluster: CacheCluster) -> WorkerProcess:
    size = FILES_MAX * FILE_BLOCKS * BLOCK
    worker = cluster.add_worker("a", tiers=[f"SSD:{cluster.folder}/a/ssd:{size}"], is_ready=False)
    wait_for("its start", lambda: '"worker_ready"' in worker.log, 120)
    return worker


def read_all(cluster: CacheCluster, worker: WorkerProcess, uid: str) -> int:
    """Read the dataset; return the bytes of it that are resident then, as far as was reported."""
    client = worker.client()
    for path, entry in cluster.entries(uid).items():
        if entry.is_directory:
            continue
        with client.opened(uid, entry) as (opened, descriptor):
            if not opened.is_resident:
                ensure = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=entry.size_bytes)
                client.call(Op.ENSURE, ensure, bp.Ensured)
            assert os.pread(descriptor, entry.size_bytes, 0) == FILES[path]
    client.close()
    return resident(cluster, uid)


def resident(cluster: CacheCluster, uid: str, path: str = "") -> int:
    request = pb.LocateRequest(uid=uid, paths=[path])
    return sum(cluster.residency.Locate(request, timeout=10).resident_bytes.values())


def half(cluster: CacheCluster, uid: str, path: str, parts: int = 1) -> None:
    """Wait until that is resident, in parts of eight files."""
    size = parts * FILES_MAX // 2 * FILE_BLOCKS * BLOCK
    wait_for(f"{size} bytes of {uid}/{path}", lambda: resident(cluster, uid, path) == size)


def test_a_pinned_path_stays_over_a_restart_and_the_rest_makes_room(cluster: CacheCluster) -> None:
    worker = start(cluster)
    cluster.sync("old", terms=pb.CacheTerms(pinned=["keep"]))
    cluster.sync("new")
    read_all(cluster, worker, "old")
    half(cluster, "old", "", parts=2)
    worker.kill()
    worker.start()
    wait_for("its second start", lambda: worker.log.count('"worker_ready"') == 2, 120)
    half(cluster, "old", "", parts=2)
    read_all(cluster, worker, "new")  # twice what is not pinned
    half(cluster, "old", "keep")
    half(cluster, "old", "other", parts=0)
    half(cluster, "new", "")
    cluster.sync("old")  # and pinned no more
    wait_for("room for all of it", lambda: read_all(cluster, worker, "new") and not resident(cluster, "old"))
    assert cluster.metric("bugs_total") == 0


def test_priority_guarantee_and_maximum_decide_who_gets_the_room(cluster: CacheCluster) -> None:
    worker = start(cluster)
    size = FILES_MAX // 2 * FILE_BLOCKS * BLOCK
    cluster.sync("high", terms=pb.CacheTerms(priority=5))
    cluster.sync("low")
    read_all(cluster, worker, "high")
    half(cluster, "high", "", parts=2)
    read_all(cluster, worker, "low")
    half(cluster, "low", "", parts=0)
    cluster.sync("low", terms=pb.CacheTerms(guaranteed_bytes=size))
    wait_for("its guarantee", lambda: read_all(cluster, worker, "low") == size)
    half(cluster, "high", "")
    cluster.sync("capped", terms=pb.CacheTerms(priority=9, maximum_bytes=size // 2))
    read_all(cluster, worker, "capped")
    wait_for("its maximum", lambda: resident(cluster, "capped") == size // 2)
    assert resident(cluster, "low") == size, "nobody takes what is guaranteed, whatever the priority"
    half_of_high = resident(cluster, "high")
    assert half_of_high == size // 2
    assert cluster.metric("bugs_total") == 0


def test_the_measured_hit_ratio_is_the_cached_part_and_stands_beside_it(cluster: CacheCluster) -> None:
    worker = start(cluster)
    size = FILES_MAX * FILE_BLOCKS * BLOCK
    cluster.sync("data", terms=pb.CacheTerms(maximum_bytes=size // 4))
    assert not info(cluster).HasField("reads")
    for _ in range(3):
        read_all(cluster, worker, "data")
    wait_for("what is cached", lambda: info(cluster).cached_bytes == size // 4)
    measured = pb.ReadCounters(local_bytes=250, origin_bytes=750)
    wait_for(f"the last pass, {measured}", lambda: info(cluster).reads == measured)
    for kind in ("measured", "expected"):
        wait_for(kind, lambda kind=kind: worker.metric("hit_ratio", kind=kind) == pytest.approx(0.25))  # type: ignore[misc]


def info(cluster: CacheCluster) -> pb.DatasetInfo:
    return cluster.namespace.GetDataset(pb.DatasetRequest(uid="data"), timeout=10)


def test_what_is_fetched_waits_for_the_limits_of_its_dataset_and_of_the_pool(cluster: CacheCluster) -> None:
    cluster.environment["HEADRACE_WORKER_ORIGIN_BYTES_PER_SECOND"] = str(64 * FILES_MAX * FILE_BLOCKS * BLOCK)
    worker = start(cluster)
    size = FILES_MAX * FILE_BLOCKS * BLOCK
    cluster.sync("free")
    read_all(cluster, worker, "free")
    assert not worker.metric("limited_seconds_total", limit="dataset")
    cluster.sync("held", terms=pb.CacheTerms(origin_bytes_per_second=size // 2))
    read_all(cluster, worker, "held")
    assert worker.metric("limited_seconds_total", limit="dataset") > 0, "all but the burst of a second waits"
    assert not worker.metric("limited_seconds_total", limit="pool")
