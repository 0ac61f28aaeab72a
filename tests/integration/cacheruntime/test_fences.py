"""A node that was given up changes nothing below a fenced path, neither in the namespace nor in the under store."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from tests.builders.cache_cluster import CacheCluster, LocalClient, WorkerRefused

UID = "u-1"
OLD, NEW = b"of the old attempt" * 1000, b"of the new attempt" * 1000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    # Records are read anew for every change, so that nothing has to be waited for.
    made = CacheCluster(
        tmp_path,
        environment={
            "HEADRACE_WORKER_DATASET_SECONDS": "0.000001",
            "HEADRACE_WORKER_METADATA_SECONDS": "1",
            "HEADRACE_WORKER_MUTATION_SECONDS": "1",
        },
        metadata_environment={"HEADRACE_METADATA_FENCE_SETTLE_SECONDS": "0"},
    )
    try:
        made.put_origin({"data": b"x"})
        made.add_workers("a", "b")
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


def fence(cluster: CacheCluster) -> None:
    fences = [pb.Fence(node="a", path="run", pods=["p1"])]
    stub = metadata_pb2_grpc.FencesStub(cluster.channel)
    stub.Raise(pb.RaiseFencesRequest(uid=UID, fences=fences), timeout=10)


def lift(cluster: CacheCluster) -> None:
    stub = metadata_pb2_grpc.FencesStub(cluster.channel)
    stub.Lift(pb.LiftFencesRequest(uid=UID, node="a", pods=["p1"]), timeout=10)


class Save:
    """A file that is being written."""

    def __init__(self, client: LocalClient, path: str, data: bytes) -> None:
        self._client = client
        create = bp.Create(uid=UID, path=path, may_seal=True)
        self._created, _, descriptor = client.call(Op.CREATE, create, bp.Created)
        assert descriptor is not None
        os.write(descriptor, data)
        os.close(descriptor)

    def commit(self) -> None:
        meta = bp.Commit(handle=self._created.handle, mode=0o644, mtime_ns=time.time_ns())
        self._client.call(Op.COMMIT, meta, bp.Committed)


def refusal_of(client: LocalClient, op: Op, meta: bp.Struct, kind: type[bp.Struct] = bp.Mutated) -> int:
    with pytest.raises(WorkerRefused) as refused:
        client.call(op, meta, kind)
    return refused.value.errno


@pytest.fixture
def client(cluster: CacheCluster) -> Iterator[Callable[[str], LocalClient]]:
    with ExitStack() as stack:
        yield lambda node: stack.enter_context(closing(cluster.workers[node].client()))


@pytest.mark.parametrize("write_back", [False, True], ids=["through", "back"])
def test_a_save_the_old_attempt_had_begun_does_not_replace_the_new_ones(
    cluster: CacheCluster, client: Callable[[str], LocalClient], write_back: bool
) -> None:
    cluster.sync(writable=True, write_back=write_back)
    old, new = client("a"), client("b")
    old.call(Op.MAKE_DIRECTORY, bp.MakeDirectory(uid=UID, path="run", mode=0o755), bp.Mutated)
    save = Save(old, "run/step-2", OLD)
    fence(cluster)
    Save(new, "run/step-2", NEW).commit()
    before = cluster.entries()["run/step-2"]
    with pytest.raises(WorkerRefused, match=r"'run/step-2' is not changed from node a") as refused:
        save.commit()
    assert refused.value.errno == errno.EACCES

    for op, meta in (
        (Op.REMOVE, bp.Remove(uid=UID, path="run/step-2", directory=False)),
        (Op.RENAME, bp.Rename(uid=UID, source="run/step-2", target="run/step-1")),
        (Op.RENAME, bp.Rename(uid=UID, source="data", target="run/step-2")),
        (Op.MAKE_DIRECTORY, bp.MakeDirectory(uid=UID, path="run/new", mode=0o755)),
    ):
        assert refusal_of(old, op, meta) == errno.EACCES
    assert refusal_of(old, Op.CREATE, bp.Create(uid=UID, path="run/step-3"), bp.Created) == errno.EACCES
    entries = cluster.entries()
    assert entries["run/step-2"].etag == before.etag or write_back, "of the new attempt, also when it is uploaded"
    assert sorted(entries) == ["data", "run/step-2"]
    assert new.read(UID, entries["run/step-2"])[0] == NEW
    assert old.read(UID, entries["run/step-2"])[0] == NEW, "reads go on"
    if not write_back:
        assert (cluster.origin / "run/step-2").read_bytes() == NEW
    Save(old, "elsewhere", OLD).commit()

    lift(cluster)
    Save(old, "run/step-3", NEW).commit()
    assert cluster.entries()["run/step-3"].size_bytes == len(NEW)


def test_a_node_that_lost_metadata_replaces_nothing_in_the_under_store(
    cluster: CacheCluster, client: Callable[[str], LocalClient]
) -> None:
    """It may be fenced off by now and does not hear of it, but reaches the under store."""
    cluster.sync(writable=True)
    lost = client("a")
    lost.call(Op.MAKE_DIRECTORY, bp.MakeDirectory(uid=UID, path="run", mode=0o755), bp.Mutated)
    Save(lost, "run/step-1", NEW).commit()
    save = Save(lost, "run/step-1", OLD)
    assert cluster.metadata is not None
    cluster.metadata.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(WorkerRefused) as refused:
            save.commit()
        assert refused.value.errno == errno.EIO
        assert (cluster.origin / "run/step-1").read_bytes() == NEW
        remove = bp.Remove(uid=UID, path="run/step-1", directory=False)
        assert refusal_of(lost, Op.REMOVE, remove) == errno.EIO
        assert (cluster.origin / "run/step-1").exists()
    finally:
        cluster.metadata.send_signal(signal.SIGCONT)
    save.commit()
    assert (cluster.origin / "run/step-1").read_bytes() == OLD
