"""Workers that leave hand their blocks over: real metadata, real workers, the under store asked for nothing."""

import random
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from api.gen import worker_pb2
from tests.builders.cache_cluster import CacheCluster, wait_for

BLOCK = 64 << 10
FILES = {f"{i}.bin": random.Random(i).randbytes(6 * BLOCK - i) for i in range(8)}
WHOLE = sum(map(len, FILES.values()))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    made = CacheCluster(
        tmp_path,
        environment={
            "HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK),
            "HEADRACE_WORKER_REPORT_SECONDS": "0.1",
        },
    )
    try:
        made.put_origin(FILES)
        made.add_worker("b", environment={"HEADRACE_WORKER_LEAVE_SECONDS": "60"})
        made.add_workers("a", "c")
        made.sync(local_copies=False)
        made.load("load")
        wait_for("all of it", lambda: sum(made.resident().values()) == WHOLE)
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


def test_a_node_that_is_drained_and_a_pool_that_shrinks_keep_every_byte_in_the_cache(cluster: CacheCluster) -> None:
    from_origin = {node: worker.metric("origin_read_bytes_total") for node, worker in cluster.workers.items()}
    of_a = cluster.resident()["a"]

    def leave(node: str, *, stay: bool = False) -> worker_pb2.LeaveProgress:
        return cluster.control(node, lambda stub: stub.Leave(worker_pb2.LeaveRequest(stay=stay), timeout=10))

    assert leave("a").leaving
    wait_for("a's blocks elsewhere", lambda: leave("a").done)
    assert leave("a").moved_bytes == of_a and not leave("a").refused_bytes
    wait_for("news of it", lambda: cluster.resident()["b"] + cluster.resident()["c"] == WHOLE)
    assert cluster.live()["a"].leaving

    # Its own readers are served by the others meanwhile, and it may come back.
    entries = cluster.entries()
    with closing(cluster.workers["a"].client()) as client:
        for path, data in FILES.items():
            assert client.read("u-1", entries[path])[0] == data
    assert not leave("a", stay=True).leaving
    wait_for("its return", lambda: not cluster.live()["a"].leaving)

    cluster.workers["b"].kill(signal.SIGTERM)
    wait_for("b's blocks elsewhere", lambda: "b" not in cluster.live())
    with closing(cluster.workers["c"].client()) as client:
        for path, data in FILES.items():
            assert client.read("u-1", entries[path])[0] == data
    for node in ("a", "c"):
        assert cluster.workers[node].metric("origin_read_bytes_total") == from_origin[node]
