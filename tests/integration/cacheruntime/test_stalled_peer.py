"""A peer that lives and does not answer: whoever waits for it is served by somebody else."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from cacheruntime.core.homes import rank
from tests.builders.cache_cluster import CacheCluster

UID = "u-1"
BLOCK = 64 << 10
FILES = {f"f{i}.bin": random.Random(i).randbytes(BLOCK) for i in range(60)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path, environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK)})
    try:
        made.put_origin(FILES)
        yield made
    finally:
        made.stop()


def test_a_stopped_peer_is_raced_before_it_counts_as_dead(cluster: CacheCluster) -> None:
    reader, stalled = cluster.add_workers("a", "b")
    cluster.sync(local_copies=False)
    cluster.load("l1")
    entries = cluster.entries()
    at_stalled = [path for path in FILES if rank(UID, path, 0, ("a", "b"))[0] == "b"]
    warm, *late = at_stalled
    client = reader.client()
    for _ in range(25):  # what an answer takes: nothing is kept, so each comes from the peer
        assert client.read(UID, entries[warm])[0] == FILES[warm]
    assert reader.metric("hedges_won_total") == 0
    assert stalled.process is not None
    stalled.process.send_signal(signal.SIGSTOP)
    try:
        with client.opened(UID, entries[late[0]]) as (opened, descriptor):
            ensure = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=BLOCK)
            ensured, _, _ = client.call(Op.ENSURE, ensure, bp.Ensured)
            assert os.pread(descriptor, BLOCK, 0) == FILES[late[0]]
        # It came while the peer was still waited for: no request to it had failed, and nobody had called it dead.
        assert ensured.origin_bytes == BLOCK
        assert reader.metric("hedges_total") == reader.metric("hedges_won_total") == 1
        assert reader.metric("failed_peer_reads_total") == 0 and "peer_failed" not in reader.log
    finally:
        stalled.process.send_signal(signal.SIGCONT)
    for path in late:
        assert client.read(UID, entries[path])[0] == FILES[path]
    client.close()
    assert cluster.metric("bugs_total") == 0
