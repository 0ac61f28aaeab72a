"""Write policy WriteBack with real processes: closed is on two workers' disks, and the upload follows, whoever dies."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2 as pb
from api.gen import worker_pb2
from api.held import held_name, is_held
from tests.builders.cache_cluster import CacheCluster, LocalClient, WorkerProcess, WorkerRefused, wait_for

UID = "u-1"
AT_ONCE = {"HEADRACE_WORKER_HELD_SETTLE_SECONDS": "0.1", "HEADRACE_WORKER_HELD_TAKEOVER_SECONDS": "1"}
NEVER = {"HEADRACE_WORKER_HELD_SETTLE_SECONDS": "3600", "HEADRACE_WORKER_HELD_TAKEOVER_SECONDS": "7200"}
DATA = os.urandom((9 << 20) + 5)
"""Three blocks, the last one short."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    cluster = CacheCluster(tmp_path / "cluster")
    try:
        yield cluster
    finally:
        cluster.stop()


def begin(cluster: CacheCluster, environment: dict[str, str], *nodes: str) -> list[WorkerProcess]:
    cluster.environment = environment
    workers = cluster.add_workers(*nodes)
    cluster.sync(writable=True, write_back=True)
    return workers


def write(worker: WorkerProcess, path: str, data: bytes) -> str:
    client = worker.client()
    try:
        committed = client.write(UID, path, data, may_seal=True)
        assert committed.is_sealed == is_held(committed.etag)
        return committed.etag
    finally:
        client.close()


def read(cluster: CacheCluster, worker: WorkerProcess, path: str) -> bytes:
    """The file as a reader of that node sees it; a version that goes away meanwhile is looked up again."""

    def look() -> tuple[bytes] | None:
        client = worker.client()
        try:
            return (client.read(UID, cluster.entries()[path])[0],)
        except WorkerRefused:
            return None
        finally:
            client.close()

    return wait_for(f"{worker.node} reads {path}", look)[0]


def partner(cluster: CacheCluster, etag: str) -> WorkerProcess:
    name = held_name(etag)
    assert name is not None
    return cluster.workers[name.holders[1]]


def info(cluster: CacheCluster) -> pb.DatasetInfo:
    return cluster.namespace.GetDataset(pb.DatasetRequest(uid=UID), timeout=10)


def uploaded(cluster: CacheCluster, path: str, data: bytes) -> None:
    """The under store has the file, and the namespace says so."""
    wait_for(f"{path} is uploaded", lambda: not is_held(cluster.entries()[path].etag) or None)
    assert (cluster.origin / path).read_bytes() == data


def nothing_is_held(cluster: CacheCluster) -> None:
    def is_empty() -> bool:
        return not info(cluster).held_files and not any(
            list(worker.folder.glob("*/held/*[!k]")) for worker in cluster.workers.values()
        )

    wait_for("no copy is left", is_empty)


@pytest.mark.nightly
def test_a_file_is_closed_on_two_disks_read_everywhere_and_uploaded(cluster: CacheCluster) -> None:
    writer, _, _ = begin(cluster, NEVER, "a", "b", "c")
    etag = write(writer, "ckpt/step-1", DATA)
    name = held_name(etag)
    assert name is not None and name.holders[0] == "a"
    for node in name.holders:
        (copy,) = (cluster.folder / node / "ssd" / "held").glob("*[0-9a-f]")
        assert copy.read_bytes() == DATA
    assert not list(cluster.origin.iterdir())
    found = info(cluster)
    assert (found.held_files, found.held_bytes) == (1, len(DATA))
    for worker in cluster.workers.values():
        assert read(cluster, worker, "ckpt/step-1") == DATA
    # A listing that does not find it there leaves it alone, and a newer close replaces it.
    cluster.put_origin({"other": b"x", "ckpt/step-1": b"older"})
    cluster.sync(writable=True, write_back=True)
    assert sorted(path for path in cluster.entries() if "." not in path) == ["ckpt", "ckpt/step-1", "other"][1:]
    assert read(cluster, cluster.workers["c"], "ckpt/step-1") == DATA
    write(writer, "empty", b"")
    # The processes start anew and find what they hold.
    for worker in cluster.workers.values():
        worker.kill()
        worker.environment = dict(AT_ONCE)
        worker.start()
    for worker in cluster.workers.values():
        worker.wait_ready()
    uploaded(cluster, "ckpt/step-1", DATA)
    uploaded(cluster, "empty", b"")
    nothing_is_held(cluster)
    assert read(cluster, cluster.workers["c"], "ckpt/step-1") == DATA
    cluster.sync(writable=True, write_back=True)
    assert cluster.entries()["ckpt/step-1"].size_bytes == len(DATA)


@pytest.mark.parametrize("victim", ["writer", pytest.param("partner", marks=pytest.mark.nightly)])
def test_a_holder_that_is_killed_after_the_close_takes_nothing_with_it(cluster: CacheCluster, victim: str) -> None:
    writer, *_ = begin(cluster, {"HEADRACE_WORKER_HELD_SETTLE_SECONDS": "1"}, "a", "b", "c")
    etag = write(writer, "step", DATA)
    dead = writer if victim == "writer" else partner(cluster, etag)
    dead.kill()
    reader = next(worker for worker in cluster.workers.values() if worker is not dead)
    assert read(cluster, reader, "step") == DATA
    uploaded(cluster, "step", DATA)
    assert read(cluster, reader, "step") == DATA
    dead.start()
    dead.wait_ready()
    nothing_is_held(cluster)


@pytest.mark.nightly
def test_names_change_before_between_and_after_uploads(cluster: CacheCluster) -> None:
    writer, other = begin(cluster, {"HEADRACE_WORKER_HELD_SETTLE_SECONDS": "1.5"}, "a", "b")
    cluster.put_origin({"final": b"from before", "gone": b"from before"})
    cluster.sync(writable=True, write_back=True)
    write(writer, "final.tmp", b"one")
    write(writer, "gone", b"held over an object")
    client, elsewhere = writer.client(), other.client()
    renamed, _, _ = client.call(Op.RENAME, bp.Rename(uid=UID, source="final.tmp", target="final"), bp.Mutated)
    assert is_held(renamed.etag) and not (cluster.origin / "final.tmp").exists()
    assert (cluster.origin / "final").read_bytes() == b"from before"
    assert read(cluster, other, "final") == b"one"
    # A held file with an object beneath it takes that along, and a removal removes both.
    elsewhere.call(Op.RENAME, bp.Rename(uid=UID, source="gone", target="moved"), bp.Mutated)
    assert not (cluster.origin / "gone").exists()
    write(other, "removed", b"never seen")
    client.call(Op.REMOVE, bp.Remove(uid=UID, path="removed"), bp.Mutated)
    cluster.sync(writable=True, write_back=True)
    assert set(cluster.entries()) == {"final", "moved"}
    uploaded(cluster, "final", b"one")
    uploaded(cluster, "moved", b"held over an object")
    # And once more, of what is an object now.
    client.call(Op.RENAME, bp.Rename(uid=UID, source="final", target="last"), bp.Mutated)
    write(writer, "moved", b"two")
    client.call(Op.REMOVE, bp.Remove(uid=UID, path="last"), bp.Mutated)
    uploaded(cluster, "moved", b"two")
    nothing_is_held(cluster)
    assert {path.name for path in cluster.origin.iterdir()} == {"moved"}
    client.close()
    elsewhere.close()


@pytest.mark.nightly
def test_a_file_is_written_on_and_read_while_it_changes_its_etag(cluster: CacheCluster) -> None:
    (writer,) = begin(cluster, NEVER, "a")
    other = cluster.add_worker("b", environment=AT_ONCE)
    wait_for("both know each other", lambda: '"workers": ["a", "b"]' in writer.log or None)
    write(writer, "log", DATA)
    before = cluster.entries()["log"]
    client = other.client()
    with client.opened(UID, before) as (opened, descriptor):
        first = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=1)
        client.call(Op.ENSURE, first, bp.Ensured)
        # Uploaded in the middle of a read: its reader has the one version to its end.
        writer.kill()
        writer.environment = dict(AT_ONCE)
        writer.start()
        writer.wait_ready()
        uploaded(cluster, "log", DATA)
        nothing_is_held(cluster)
        client.call(Op.ENSURE, bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=len(DATA)), bp.Ensured)
        assert os.pread(descriptor, len(DATA), 0) == DATA
    append(client, before, b"more")
    uploaded(cluster, "log", DATA + b"more")
    client.close()


def append(client: LocalClient, base: pb.Entry, data: bytes) -> None:
    create = bp.Create(uid=UID, path=base.path, base_etag=base.etag, base_size_bytes=base.size_bytes, may_seal=True)
    created, _, descriptor = client.call(Op.CREATE, create, bp.Created)
    assert descriptor is not None
    os.pwrite(descriptor, data, base.size_bytes)
    os.close(descriptor)
    client.call(Op.COMMIT, bp.Commit(handle=created.handle, mode=0o644, mtime_ns=1), bp.Committed)
    client.call(Op.CLOSE, bp.Handle(handle=created.handle), bp.Empty)


@pytest.mark.nightly
def test_holders_show_each_other_certificates_and_tokens(tmp_path: Path) -> None:
    cluster = CacheCluster(tmp_path / "cluster", is_trusting=True)
    try:
        writer, other = begin(cluster, {"HEADRACE_WORKER_HELD_SETTLE_SECONDS": "1"}, "a", "b")
        for worker, path in ((writer, "one"), (other, "two")):
            client = worker.client()
            client.authorize(cluster.token(worker.node, write=True))
            assert is_held(client.write(UID, path, DATA, may_seal=True).etag)
            client.close()
        client = other.client()
        client.authorize(cluster.token("b"))
        assert client.read(UID, cluster.entries()["one"])[0] == DATA
        client.close()
        uploaded(cluster, "one", DATA)
        uploaded(cluster, "two", DATA)
        nothing_is_held(cluster)
    finally:
        cluster.stop()


@pytest.mark.nightly
def test_what_cannot_be_held_is_durable_first(cluster: CacheCluster) -> None:
    (alone,) = begin(cluster, NEVER | {"HEADRACE_WORKER_HELD_PERCENT": "1"}, "a")
    assert not is_held(write(alone, "alone", b"no second worker"))
    assert (cluster.origin / "alone").read_bytes() == b"no second worker"
    cluster.add_worker("b")
    wait_for("both know each other", lambda: '"workers": ["a", "b"]' in alone.log or None)
    assert not is_held(write(alone, "large", DATA))
    assert (cluster.origin / "large").read_bytes() == DATA
    assert is_held(write(alone, "alone", b"small"))
    # A held file is replaced by one that is not.
    assert not is_held(write(alone, "alone", DATA))
    assert (cluster.origin / "alone").read_bytes() == DATA
    assert read(cluster, cluster.workers["b"], "alone") == DATA
    assert alone.metric("held_fallbacks_total", why="no_partner") == 1
    assert alone.metric("held_fallbacks_total", why="quota") == 2
    assert alone.log.count("file_not_held") == 3  # once for each reason in a row


@pytest.mark.nightly
def test_an_under_store_that_is_away_gets_everything_when_it_is_back(cluster: CacheCluster) -> None:
    writer, other = begin(cluster, AT_ONCE, "a", "b")
    away = cluster.origin.with_name("away")
    cluster.origin.rename(away)
    cluster.origin.write_bytes(b"no directory")
    for number in range(3):
        assert is_held(write(writer, f"file-{number}", b"%d" % number))
    assert is_held(write(other, "file-0", b"newer"))
    wait_for("it was tried", lambda: cluster.metric("held_uploads_total", outcome="failed") > 0 or None)
    assert read(cluster, other, "file-0") == b"newer" and read(cluster, writer, "file-2") == b"2"
    assert info(cluster).held_files == 3
    cluster.origin.unlink()
    away.rename(cluster.origin)
    for path, data in {"file-0": b"newer", "file-1": b"1", "file-2": b"2"}.items():
        uploaded(cluster, path, data)
    nothing_is_held(cluster)


def test_a_worker_that_leaves_brings_what_it_holds_to_the_under_store_first(cluster: CacheCluster) -> None:
    writer, *_ = begin(cluster, NEVER, "a", "b")
    write(writer, "model", DATA)
    assert not list(cluster.origin.iterdir())

    def leave() -> worker_pb2.LeaveProgress:
        return cluster.control("a", lambda stub: stub.Leave(worker_pb2.LeaveRequest(), timeout=10))

    assert leave().leaving and not leave().done
    wait_for("a's files elsewhere", lambda: leave().done)
    uploaded(cluster, "model", DATA)
    assert not is_held(write(writer, "later", b"x")), "who leaves holds nothing new"
    nothing_is_held(cluster)
