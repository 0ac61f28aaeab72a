"""Files are here before their readers open them: real metadata, a real worker, the Python client."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from headrace_sdk import FileDataset, HeadraceFileSystem
from tests.builders.cache_cluster import CacheCluster, WorkerRefused, wait_for

BLOCK = 64 << 10
FILES = {f"train/{i * 7919 % 1000:03}x{i}.bin": random.Random(i).randbytes(30_000 + i) for i in range(40)}
SHARDS = {f"shards/part-{i:04}.tar": random.Random(1000 + i).randbytes(BLOCK + i) for i in range(12)}
LATER = {f"later/{name}.bin": random.Random(name).randbytes(20_000) for name in "abcdefgh"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheCluster]:
    made = CacheCluster(
        tmp_path_factory.mktemp("preheat"),
        environment={
            "HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK),
            "HEADRACE_WORKER_PREHEAT_BYTES": str(256 << 20),
            "HEADRACE_WORKER_PREHEAT_ROWS": "true",
        },
    )
    try:
        made.put_origin({**FILES, **SHARDS, **LATER})
        made.add_worker("a")
        made.sync()
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


def file_system(cluster: CacheCluster) -> HeadraceFileSystem:
    return HeadraceFileSystem(socket=str(cluster.workers["a"].socket), skip_instance_cache=True)


def bytes_from_origin(cluster: CacheCluster) -> float:
    return cluster.metric("preheated_bytes_total", source="origin")


def test_a_declared_epoch_is_here_before_it_is_read(cluster: CacheCluster) -> None:
    socket = str(cluster.workers["a"].socket)
    data = FileDataset("headrace://default/u-1/train", socket=socket)
    order = data.order(seed=1, epoch=0)
    before = bytes_from_origin(cluster)
    data.declare(order)
    whole = sum(map(len, FILES.values()))
    wait_for("the epoch ahead of its reader", lambda: bytes_from_origin(cluster) - before >= whole or None)
    wanted = cluster.metric("origin_read_bytes_total")
    used = cluster.metric("preheated_files_total", outcome="used")
    for index in order:
        assert data[index] == FILES[data.files[index].removeprefix("default/u-1/")]
    assert cluster.metric("origin_read_bytes_total") == wanted
    # Its reader is told of each byte as of what it would have waited for: hit ratios stay what the cache is worth.
    assert cluster.metric("reader_bytes_total", source="origin") == whole
    assert cluster.metric("reader_bytes_total", source="local") == 0
    for index in order:
        assert data[index] == FILES[data.files[index].removeprefix("default/u-1/")]
    assert cluster.metric("reader_bytes_total", source="origin") == whole
    assert cluster.metric("reader_bytes_total", source="local") == whole
    assert cluster.metric("preheated_files_total", outcome="used") - used == len(order)


def test_shards_in_turn_are_ahead_after_three(cluster: CacheCluster) -> None:
    fs = file_system(cluster)
    names = sorted(SHARDS)
    for name in names[:3]:
        assert fs.cat_file(f"headrace://default/u-1/{name}") == SHARDS[name]
    entries = cluster.entries()
    with closing(cluster.workers["a"].client()) as client:

        def is_here(name: str) -> bool:
            entry = entries[name]
            read = bp.Read(
                uid="u-1",
                path=name,
                etag=entry.etag,
                size_bytes=entry.size_bytes,
                offset_bytes=BLOCK,
                length_bytes=entry.size_bytes - BLOCK,
                resident_only=True,
            )
            try:
                client.call(Op.READ, read, bp.ReadReply)
            except WorkerRefused:
                return False
            return True

        wait_for("the next shards", lambda: (is_here(names[3]) and is_here(names[4])) or None)
        assert not is_here(names[-1])
    for name in names[3:]:
        assert fs.cat_file(f"headrace://default/u-1/{name}") == SHARDS[name]
    # One behind the last of them was looked for, and was not there: no failure.
    assert cluster.metric("preheated_files_total", outcome="failed") == 0


def test_what_may_not_stay_is_held_for_its_reader(cluster: CacheCluster, tmp_path: Path) -> None:
    """A cache without room for a single block: the bytes wait in the room of bypassed readers."""
    worker = cluster.add_worker("b", tiers=[f"SSD:{tmp_path}/ssd:32Ki"])
    fs = HeadraceFileSystem(socket=str(worker.socket), skip_instance_cache=True)
    names = [f"headrace://default/u-1/{name}" for name in sorted(LATER)]
    fs.declare(names)
    whole = sum(map(len, LATER.values()))
    wait_for("the bytes", lambda: worker.metric("preheated_bytes_total") >= whole or None)
    wait_for("their room", lambda: worker.metric("temporary_bytes") > 0 or None)
    fetched = worker.metric("origin_read_bytes_total") + worker.metric("peer_read_bytes_total")
    for name in names:
        assert fs.cat_file(name) == LATER[name.removeprefix("headrace://default/u-1/")]
    assert worker.metric("origin_read_bytes_total") + worker.metric("peer_read_bytes_total") == fetched
    wait_for("the room given back", lambda: worker.metric("temporary_bytes") == 0 or None)


def test_an_order_that_is_none_is_refused(cluster: CacheCluster) -> None:
    fs = file_system(cluster)
    with pytest.raises(ValueError, match="several datasets"):
        fs.declare(["headrace://default/u-1/a", "headrace://default/u-2/a"])
    with closing(cluster.workers["a"].client()) as client:
        for wanted, words in (
            (bp.Declare(uid="u-1", first=7, paths=["a"]), "first 7 is not where the order goes on"),
            (bp.Declare(uid="u-1", first=0, paths=["../a"]), "path"),
        ):
            with pytest.raises(WorkerRefused, match=words):
                client.call(Op.DECLARE, wanted, bp.Declared)
        assert client.call(Op.DECLARE, bp.Declare(uid="u-1", first=0, paths=["none"]), bp.Declared)[0].files == 1
