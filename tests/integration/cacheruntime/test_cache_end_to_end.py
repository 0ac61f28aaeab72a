"""Three real workers, the real metadata service, a directory as under store."""

import errno
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2, worker_pb2
from benchmarks.origin_process import MOUNT, OriginProcess
from cacheruntime.core.homes import rank
from tests.builders.cache_cluster import CacheCluster, WorkerRefused, wait_for
from understores.posix import STREAM_PIECE_BYTES

UID = "u-1"
BLOCK = 64 << 10
FILES = {f"train/{i % 7}/f{i}.bin": random.Random(i).randbytes(500 + 97 * i) for i in range(120)}
BIG = random.Random(99).randbytes(10 * BLOCK + 123)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path, environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK)})
    try:
        made.put_origin({**FILES, "big.bin": BIG, "empty": b""})
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


def total_bytes() -> int:
    return sum(map(len, FILES.values())) + len(BIG)


def home_of_block(path: str, block: int, *nodes: str) -> str:
    return rank(UID, path, block, tuple(sorted(nodes)))[0]


def home_of(path: str, *nodes: str) -> str:
    return home_of_block(path, 0, *nodes)


def flip_a_bit(file: Path, at: int | None = None) -> None:
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2 if at is None else at)
        byte = damaged.read(1)[0]
        damaged.seek(-1, os.SEEK_CUR)
        damaged.write(bytes([byte ^ 0x10]))


def test_a_load_reads_the_origin_once_and_every_node_reads_the_same_bytes(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b", "c")
    cluster.sync()
    shares = cluster.load("l1")
    assert sum(share.bytes_loaded for share in shares.values()) == total_bytes()
    assert sum(share.bytes_total for share in shares.values()) == total_bytes()
    assert all(share.files_loaded == share.files_total and not share.failed_count for share in shares.values())
    assert all(share.bytes_loaded > 0 for share in shares.values())
    assert cluster.metric("origin_read_bytes_total") == total_bytes()
    wait_for("reports", lambda: sum(cluster.resident().values()) == total_bytes() or None)

    entries = cluster.entries()
    for node in ("a", "b"):
        client = cluster.workers[node].client()
        for path, data in {**FILES, "big.bin": BIG, "empty": b""}.items():
            got, ensured = client.read(UID, entries[path])
            assert got == data, path
            assert ensured.local_bytes + ensured.peer_bytes == len(data) and ensured.origin_bytes == 0
        client.close()
    assert cluster.metric("origin_read_bytes_total") == total_bytes()
    # Both keep a copy now, so a second epoch stays on the node.
    client = cluster.workers["a"].client()
    with client.opened(UID, entries["big.bin"]) as (opened, descriptor):
        assert opened.is_resident and os.pread(descriptor, len(BIG), 0) == BIG
    client.close()
    info = cluster.namespace.GetDataset(metadata_pb2.DatasetRequest(uid=UID), timeout=10)
    assert info.cached_bytes == total_bytes()


def test_a_small_file_comes_with_the_answer_to_its_opening(cluster: CacheCluster) -> None:
    worker = cluster.add_worker("a")
    cluster.sync()
    entries = cluster.entries()
    with closing(worker.client()) as client:

        def opened(path: str) -> bp.Opened:
            entry = entries[path]
            meta = bp.Open(
                uid=UID, path=path, etag=entry.etag, size_bytes=entry.size_bytes, first_bytes=entry.size_bytes
            )
            answer, _, descriptor = client.call(Op.OPEN, meta, bp.Opened)
            assert descriptor is not None
            try:
                assert os.pread(descriptor, entry.size_bytes + 1, 0) == (cluster.origin / path).read_bytes()
            finally:
                os.close(descriptor)
            # The next answer is the next request's: this one has none.
            client.tell(Op.CLOSE, bp.Handle(handle=answer.handle, is_silent=True))
            return answer

        for path in list(FILES)[:5]:
            first, again = opened(path), opened(path)
            assert first.is_resident and first.brought == bp.Ensured(is_resident=True, origin_bytes=len(FILES[path]))
            assert again.is_resident and again.brought is None
        assert opened("empty").is_resident
        assert worker.metric("open_handles") == 0
        changed = list(FILES)[5]
        (cluster.origin / changed).write_bytes(b"another version")
        with pytest.raises(WorkerRefused) as refused:
            opened(changed)
        assert refused.value.errno == errno.ESTALE
        assert worker.metric("open_handles") == 0


def test_cold_readers_on_all_nodes_read_the_origin_once(cluster: CacheCluster) -> None:
    workers = cluster.add_workers("a", "b", "c")
    cluster.sync()
    entry = cluster.entries()["big.bin"]
    clients = [worker.client() for worker in workers]
    handles = []
    for number, client in enumerate(clients):
        meta = bp.Open(uid=UID, path=entry.path, etag=entry.etag, size_bytes=entry.size_bytes)
        opened, _, descriptor = client.call(Op.OPEN, meta, bp.Opened)
        assert descriptor is not None and not opened.is_resident
        handles.append((opened.handle, descriptor))
        # All three are asked before any answer is awaited.
        ensure = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=entry.size_bytes)
        client._socket.sendall(bp.encode(Op.ENSURE, 1000 + number, ensure))
    for client, (_, descriptor) in zip(clients, handles, strict=True):
        header = bp.decode_header(client._exactly(bp.HEADER.size))
        assert header.status == 0
        client._exactly(header.meta_bytes)
        assert os.pread(descriptor, entry.size_bytes, 0) == BIG
        os.close(descriptor)
        client.close()
    assert cluster.metric("origin_read_bytes_total") == len(BIG)


def test_after_the_snapshot_epochs_ask_the_store_for_bytes_only(cluster: CacheCluster, tmp_path: Path) -> None:
    cluster.add_workers("a", "b")
    with OriginProcess(tmp_path / "s3", 1e9) as origin:
        for path, data in FILES.items():
            (origin.files / path).parent.mkdir(parents=True, exist_ok=True)
            (origin.files / path).write_bytes(data)
        cluster.sync(mounts=[metadata_pb2.Mount(mount_point=MOUNT, options=origin.options)], force=False)
        listed = origin.counters()
        assert listed["lists"] >= 1
        for epoch in range(2):
            for node in ("a", "b"):
                client = cluster.workers[node].client()
                # As a mount does: names and sizes come from metadata, bytes from the worker.
                for path, entry in cluster.entries().items():
                    got, _ = client.read(UID, entry)
                    assert got == FILES[path], (epoch, path)
                client.close()
        after = origin.counters()
    assert (after["lists"], after["heads"]) == (listed["lists"], 0)
    assert after["bytes"] == sum(map(len, FILES.values()))


def test_without_local_copies_only_homes_keep_blocks(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b")
    cluster.sync(local_copies=False)
    cluster.load("l1")
    before = wait_for("reports", lambda: r if sum((r := cluster.resident()).values()) == total_bytes() else None)
    client = cluster.workers["a"].client()
    entries = cluster.entries()
    with client.opened(UID, entries["big.bin"]) as (opened, descriptor):
        ensure = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=len(BIG))
        ensured, _, _ = client.call(Op.ENSURE, ensure, bp.Ensured)
        assert not ensured.is_resident and ensured.peer_bytes > 0
        assert os.pread(descriptor, len(BIG), 0) == BIG
        assert cluster.workers["a"].metric("peer_read_bytes_total") == ensured.peer_bytes
    client.close()
    assert cluster.resident() == before
    held = sum(file.stat().st_blocks * 512 for file in cluster.workers["a"].data_files())
    assert held < before["a"] + len(FILES) * 4096 + 8 * 4096


def test_a_flipped_bit_is_found_refetched_and_counted(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b")
    cluster.sync()
    cluster.load("l1")
    entries = cluster.entries()
    path = next(path for path, data in FILES.items() if home_of(path, "a", "b") == "a" and len(data) > 8000)
    owner = cluster.workers["a"]
    damaged = owner.data_files()
    for file in damaged:
        flip_a_bit(file)
    client = cluster.workers["b"].client()
    assert client.read(UID, entries[path])[0] == FILES[path]
    assert client.read(UID, entries["big.bin"])[0] == BIG
    client.close()
    client = owner.client()
    for name, data in FILES.items():
        assert client.read(UID, entries[name])[0] == data
    client.close()
    # One of them is big.bin, of which the damaged block may have its home on the other node.
    assert len(damaged) > 20 and owner.metric("corrupt_blocks_total") >= len(damaged) - 1


def test_damage_that_leaves_no_trace_on_the_file_does_not_pass_to_a_peer(tmp_path: Path) -> None:
    tunables = {"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(1 << 20), "HEADRACE_WORKER_SCRUB_BYTES_PER_SECOND": "0"}
    cluster = CacheCluster(tmp_path, environment=tunables)
    try:
        data = random.Random(8).randbytes(6 << 20)
        cluster.put_origin({"weights": data})
        cluster.add_workers("a", "b")
        cluster.sync(local_copies=False)
        cluster.load("l1")
        for worker in cluster.workers.values():
            (file,) = worker.data_files()
            stamp = file.stat()
            for block in range(6):
                flip_a_bit(file, at=block << 20)
            os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        # Each reads the other's blocks; its own it would find out only when it looks (a scrub, or a restart).
        entry = cluster.entries()["weights"]
        for worker in cluster.workers.values():
            client = worker.client()
            with client.opened(UID, entry) as (opened, descriptor):
                for block in range(6):
                    others = home_of_block("weights", block, "a", "b") != worker.node
                    ensure = bp.Ensure(handle=opened.handle, offset_bytes=block << 20, length_bytes=1 << 20)
                    if others:
                        client.call(Op.ENSURE, ensure, bp.Ensured)
                        assert os.pread(descriptor, 1 << 20, block << 20) == data[block << 20 :][: 1 << 20]
            client.close()
        assert cluster.metric("corrupt_blocks_total", found="peer") == 6
        assert cluster.metric("corrupt_blocks_total", found="read") == 6
        assert cluster.metric("bugs_total") == 0
    finally:
        cluster.stop()


def test_a_bit_that_flips_in_the_cache_is_found_in_the_background(tmp_path: Path) -> None:
    cluster = CacheCluster(
        tmp_path,
        environment={
            "HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK),
            "HEADRACE_WORKER_SCRUB_BYTES_PER_SECOND": str(100 << 20),
            "HEADRACE_WORKER_SCRUB_PASS_SECONDS": "0.1",
        },
    )
    try:
        cluster.put_origin({"big.bin": BIG})
        (worker,) = cluster.add_workers("a")
        cluster.sync()
        cluster.load("l1")
        (cached,) = worker.data_files()
        entry, status = cluster.entries()["big.bin"], cached.stat()

        def damage() -> None:
            flip_a_bit(cached, 3 * BLOCK + 7)
            os.utime(cached, ns=(status.st_atime_ns, status.st_mtime_ns))  # a bad cell leaves no trace

        def found() -> float:
            return worker.metric("corrupt_blocks_total", found="scrub")

        damage()
        wait_for("the scrubber", lambda: found() == 1 or None)
        client = worker.client()
        got, ensured = client.read(UID, entry)
        assert (got == BIG, ensured.origin_bytes) == (True, BLOCK)

        # A reader who has the file open asks nobody: the block is put right under it.
        with client.opened(UID, entry) as (opened, descriptor):
            assert opened.is_resident
            status = cached.stat()
            damage()
            wait_for("the scrubber", lambda: found() == 2 or None)
            wait_for("the repair", lambda: os.pread(descriptor, len(BIG), 0) == BIG or None)
        client.close()
        assert cluster.metric("bugs_total") == 0
    finally:
        cluster.stop()


def test_a_killed_worker_costs_its_blocks_and_nothing_else(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b", "c")
    cluster.sync()
    cluster.load("l1")
    cluster.workers["c"].kill(signal.SIGKILL)
    entries = cluster.entries()
    client = cluster.workers["a"].client()
    for path, data in {**FILES, "big.bin": BIG}.items():
        assert client.read(UID, entries[path])[0] == data
    client.close()
    wait_for("c is dead", lambda: set(cluster.live()) == {"a", "b"} or None)
    # The same load goes on: the others take over what was c's.
    shares = cluster.load("l1")
    assert sum(share.bytes_loaded for share in shares.values()) == total_bytes()

    # Its files are still there: verified and reported without a byte from the origin.
    before = cluster.metric("origin_read_bytes_total")
    cluster.workers["c"].start()
    cluster.workers["c"].wait_ready()
    wait_for("c's blocks are reported", lambda: cluster.resident().get("c", 0) > 0 or None)
    client = cluster.workers["c"].client()
    for path, data in FILES.items():
        assert client.read(UID, entries[path])[0] == data
    client.close()
    assert cluster.metric("origin_read_bytes_total") == before


def test_a_load_survives_the_death_of_a_worker_in_its_midst(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b", "c")
    cluster.sync()
    # 100 kB/s a worker of about 470 kB each: seconds to be killed in.
    request = worker_pb2.StartLoadRequest(load_id="slow", uid=UID, rate_limit_bytes_per_second=100_000)
    for node in cluster.live():
        progress = cluster.control(node, lambda stub: stub.StartLoad(request, timeout=10))
        assert not progress.done
    wait_for("some bytes", lambda: cluster.metric("origin_read_bytes_total") > 100_000 or None)
    cluster.workers["c"].kill(signal.SIGKILL)
    wait_for("c is dead", lambda: set(cluster.live()) == {"a", "b"} or None)
    shares = cluster.wait_load("slow")
    assert sum(share.bytes_loaded for share in shares.values()) == total_bytes()
    assert not any(share.failed_count for share in shares.values())
    wait_for("reports", lambda: sum(cluster.resident().values()) == total_bytes() or None)


def test_a_pool_that_shrinks_and_grows_moves_blocks_between_nodes_and_reads_the_origin_for_none(
    cluster: CacheCluster,
) -> None:
    nodes = ("n1", "n2", "n3")
    cluster.add_workers(*nodes)
    cluster.sync(local_copies=False)
    cluster.load("all")
    read_once = cluster.metric("origin_read_bytes_total")
    assert read_once == total_bytes()
    for members in (("n1", "n2"), ("n1", "n2", "n3"), ("n3",)):
        info = cluster.sync(local_copies=False, eligible_nodes=members)
        assert tuple(info.eligible_nodes) == members
        wait_for(f"all of it is on {members}", partial(_has_all_after_a_load, cluster, members))
        assert cluster.metric("origin_read_bytes_total") == read_once, f"moved to {members}"
        entries, reader = cluster.entries(), cluster.workers[members[0]].client()
        for path, data in {**FILES, "big.bin": BIG}.items():
            assert reader.read(UID, entries[path])[0] == data
        reader.close()
        assert cluster.metric("origin_read_bytes_total") == read_once, f"read on {members}"


def _has_all_after_a_load(cluster: CacheCluster, members: tuple[str, ...]) -> bool:
    """Whether nodes have it all between them; they hear in their own time that they are to keep it."""
    cluster.load(f"{'-'.join(members)} {time.monotonic_ns()}")
    return sum(cluster.resident(UID).get(node, 0) for node in members) >= total_bytes()


def test_named_nodes_keep_a_whole_copy(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b")
    cluster.sync()
    shares = cluster.load("l1", nodes=("a",))
    assert (shares["a"].bytes_loaded, shares["b"].bytes_total) == (total_bytes(), 0)
    assert shares["a"].origin_bytes + shares["a"].peer_bytes == total_bytes()
    assert cluster.metric("origin_read_bytes_total") == total_bytes()
    wait_for("reports", lambda: cluster.resident().get("a") == total_bytes() or None)


def test_a_file_that_cannot_be_read_is_listed_and_the_rest_is_loaded(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b")
    cluster.sync()
    (cluster.origin / "train/3/f3.bin").unlink()
    (cluster.origin / "big.bin").write_bytes(b"changed since the listing")
    shares = cluster.load("l1").values()
    failed = {file.path: file.error for share in shares for file in share.failed}
    assert set(failed) == {"train/3/f3.bin", "big.bin"}
    assert "there is no file" in failed["train/3/f3.bin"] and "changed" in failed["big.bin"]
    expected = total_bytes() - len(FILES["train/3/f3.bin"]) - len(BIG)
    assert sum(share.bytes_loaded for share in shares) == expected


def test_writing_renaming_and_removing_go_through_to_the_origin(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b")
    cluster.sync(writable=True)
    data = random.Random(5).randbytes(5 * BLOCK + 77)
    client = cluster.workers["a"].client()
    client.call(Op.MAKE_DIRECTORY, bp.MakeDirectory(uid=UID, path="ckpt", mode=0o755), bp.Mutated)
    committed = client.write(UID, "ckpt/step.tmp", data)
    assert (cluster.origin / "ckpt/step.tmp").read_bytes() == data
    entry = cluster.entries()["ckpt/step.tmp"]
    assert (entry.etag, entry.size_bytes, entry.mode) == (committed.etag, len(data), 0o644)
    # The writer's node has it already.
    with client.opened(UID, entry) as (opened, descriptor):
        assert opened.is_resident and os.pread(descriptor, len(data), 0) == data
    wait_for("the written bytes are reported", lambda: cluster.resident().get("a", 0) == len(data) or None)

    moved, _, _ = client.call(Op.RENAME, bp.Rename(uid=UID, source="ckpt/step.tmp", target="ckpt/step"), bp.Mutated)
    assert (cluster.origin / "ckpt/step").read_bytes() == data and not (cluster.origin / "ckpt/step.tmp").exists()
    entry = cluster.entries()["ckpt/step"]
    assert entry.etag == moved.etag and "ckpt/step.tmp" not in cluster.entries()
    with client.opened(UID, entry) as (opened, _):
        assert opened.is_resident
    other = cluster.workers["b"].client()
    got, ensured = other.read(UID, entry)
    assert got == data

    client.call(Op.RENAME, bp.Rename(uid=UID, source="ckpt", target="kept"), bp.Mutated)
    assert (cluster.origin / "kept/step").read_bytes() == data and not (cluster.origin / "ckpt").exists()
    entry = cluster.entries()["kept/step"]
    assert other.read(UID, entry)[0] == data

    with pytest.raises(WorkerRefused) as refused:
        client.call(Op.REMOVE, bp.Remove(uid=UID, path="kept", directory=True), bp.Mutated)
    assert refused.value.errno == errno.ENOTEMPTY
    client.call(Op.REMOVE, bp.Remove(uid=UID, path="kept/step"), bp.Mutated)
    client.call(Op.REMOVE, bp.Remove(uid=UID, path="kept", directory=True), bp.Mutated)
    assert not (cluster.origin / "kept").exists() and "kept/step" not in cluster.entries()
    with pytest.raises(WorkerRefused) as refused:
        client.call(Op.REMOVE, bp.Remove(uid=UID, path="kept/step"), bp.Mutated)
    assert refused.value.errno == errno.ENOENT
    client.close()
    other.close()
    wait_for("its bytes are gone", lambda: not any(cluster.resident().values()) or None)
    assert ensured.peer_bytes + ensured.local_bytes + ensured.origin_bytes == len(data)


def test_a_checkpoint_is_sent_while_it_is_written(cluster: CacheCluster) -> None:
    cluster.add_workers("a")
    cluster.sync(writable=True)
    worker = cluster.workers["a"]
    client = worker.client()
    data = os.urandom(1 << 20) * 42
    whole_bytes = len(data) // STREAM_PIECE_BYTES * STREAM_PIECE_BYTES
    assert whole_bytes < len(data)
    for name, rewritten in (("as-it-came", False), ("header-last", True)):
        created, _, descriptor = client.call(Op.CREATE, bp.Create(uid=UID, path=name), bp.Created)
        assert descriptor is not None
        os.write(descriptor, data)
        wait_for("all whole parts sent", lambda: _sent_ahead(cluster) == whole_bytes)
        if rewritten:
            os.pwrite(descriptor, b"header", 0)
        client.call(Op.COMMIT, bp.Commit(handle=created.handle, mode=0o600, mtime_ns=1), bp.Committed)
        client.call(Op.CLOSE, bp.Handle(handle=created.handle), bp.Empty)
        os.close(descriptor)
        assert (cluster.origin / name).read_bytes() == (b"header" + data[6:] if rewritten else data)
        assert _sent_ahead(cluster) == 0
    assert worker.metric("ahead_uploads_total", outcome="used") == 1
    assert worker.metric("ahead_uploads_total", outcome="changed") == 1
    assert worker.metric("ahead_bytes_total") == whole_bytes
    client.close()


def _sent_ahead(cluster: CacheCluster) -> int:
    return sum(path.stat().st_size for path in cluster.origin.glob(".headrace-tmp-*"))


def test_a_successor_goes_on_with_a_dead_clients_staging_file(cluster: CacheCluster) -> None:
    cluster.add_workers("a")
    cluster.sync(writable=True)
    dying, successor = cluster.workers["a"].client(), cluster.workers["a"].client()
    _, _, descriptor = dying.call(Op.CREATE, bp.Create(uid=UID, path="log"), bp.Created)
    assert descriptor is not None
    os.write(descriptor, b"one")
    inode = os.fstat(descriptor).st_ino
    # Before the worker can have noticed that the first is gone, and after it has.
    for late in (False, True):
        if late:
            dying.close()
            time.sleep(0.5)
            dying, successor = successor, cluster.workers["a"].client()
        create = bp.Create(uid=UID, path="log", adopts_inode=inode)
        adopted, _, other = successor.call(Op.CREATE, create, bp.Created)
        assert other is not None
        assert os.path.samestat(os.fstat(other), os.fstat(descriptor))
        os.close(other)
        dying.close()
    os.write(descriptor, b"two")
    commit = bp.Commit(handle=adopted.handle, mode=0o600, mtime_ns=1)
    successor.call(Op.COMMIT, commit, bp.Committed)
    assert (cluster.origin / "log").read_bytes() == b"onetwo"
    successor.call(Op.CLOSE, bp.Handle(handle=adopted.handle), bp.Empty)
    # Closed by its owner: there is nothing to adopt any more.
    _, _, other = successor.call(Op.CREATE, create, bp.Created)
    assert other is not None
    assert not os.path.samestat(os.fstat(other), os.fstat(descriptor))
    os.close(other)
    os.close(descriptor)
    successor.close()


def test_a_file_written_into_a_directory_store_is_its_object(cluster: CacheCluster) -> None:
    cluster.add_workers("a")
    cluster.sync(writable=True)
    worker = cluster.workers["a"]
    dying, client = worker.client(), worker.client()
    data = os.urandom(9 << 20)
    create = bp.Create(uid=UID, path="deep/step", may_seal=True)
    created, _, descriptor = dying.call(Op.CREATE, create, bp.Created)
    assert descriptor is not None and created.is_sealing
    os.write(descriptor, data)
    assert not list(cluster.origin.rglob("step*"))
    # A successor takes it as it is, if it names the device too: inodes of two file systems may have one number.
    status = os.fstat(descriptor)
    dying.close()
    for device in (status.st_dev, status.st_dev + 1):
        adopts = structs.replace(create, adopts_inode=status.st_ino, adopts_device=device)
        adopted, _, other = client.call(Op.CREATE, adopts, bp.Created)
        assert other is not None
        assert os.path.samestat(os.fstat(other), status) is (device == status.st_dev)
        os.close(other)
        created = adopted if device == status.st_dev else created
    commit = bp.Commit(handle=created.handle, mode=0o600, mtime_ns=1)
    committed, _, _ = client.call(Op.COMMIT, commit, bp.Committed)
    assert committed.is_sealed and committed.size_bytes == len(data)
    assert (cluster.origin / "deep" / "step").stat().st_ino == status.st_ino
    assert client.call(Op.COMMIT, commit, bp.Committed)[0] == committed
    # It is an object: whoever goes on for a dead client gets a file of its own.
    adopts = structs.replace(create, adopts_inode=status.st_ino, adopts_device=status.st_dev)
    _, _, other = client.call(Op.CREATE, adopts, bp.Created)
    assert other is not None and not os.path.samestat(os.fstat(other), status)
    os.close(other)
    # A copy stays in the cache.
    client.call(Op.CLOSE, bp.Handle(handle=created.handle), bp.Empty)
    os.close(descriptor)
    wait_for("kept here", lambda: cluster.resident().get("a") == len(data) or None)
    got, ensured = client.read(UID, cluster.entries()["deep/step"])
    assert got == data and ensured.local_bytes == len(data)
    assert cluster.metric("origin_read_bytes_total") == 0
    client.close()


def test_commits_follow_the_writer_and_answer_at_once_when_nothing_changed(cluster: CacheCluster) -> None:
    cluster.add_workers("a")
    cluster.sync(writable=True)
    client = cluster.workers["a"].client()
    created, _, descriptor = client.call(Op.CREATE, bp.Create(uid=UID, path="log"), bp.Created)
    assert descriptor is not None
    commit = bp.Commit(handle=created.handle, mode=0o600, mtime_ns=1)
    os.write(descriptor, b"one")
    first, _, _ = client.call(Op.COMMIT, commit, bp.Committed)
    same, _, _ = client.call(Op.COMMIT, commit, bp.Committed)
    assert same == first
    os.write(descriptor, b"two")
    os.fsync(descriptor)
    second, _, _ = client.call(Op.COMMIT, commit, bp.Committed)
    assert second.snapshot_version > first.snapshot_version
    assert (cluster.origin / "log").read_bytes() == b"onetwo"
    os.pwrite(descriptor, b"ONE", 0)  # same size, after the commit
    third, _, _ = client.call(Op.COMMIT, commit, bp.Committed)
    assert third.etag != second.etag and (cluster.origin / "log").read_bytes() == b"ONEtwo"
    os.write(descriptor, b"never committed")
    os.close(descriptor)
    client.call(Op.ABORT, bp.Handle(handle=created.handle), bp.Empty)
    entry = cluster.entries()["log"]
    assert client.read(UID, entry)[0] == b"ONEtwo"

    # Appending starts from the committed bytes.
    create = bp.Create(uid=UID, path="log", base_etag=entry.etag, base_size_bytes=entry.size_bytes)
    created, _, descriptor = client.call(Op.CREATE, create, bp.Created)
    assert descriptor is not None
    assert os.pread(descriptor, 100, 0) == b"ONEtwo"
    os.pwrite(descriptor, b"three", 6)
    client.call(Op.COMMIT, bp.Commit(handle=created.handle, mode=0o600, mtime_ns=1), bp.Committed)
    os.close(descriptor)
    client.close()
    assert (cluster.origin / "log").read_bytes() == b"ONEtwothree"


def test_a_dataset_that_is_not_writable_refuses_every_change(cluster: CacheCluster) -> None:
    cluster.add_workers("a")
    cluster.sync()
    client = cluster.workers["a"].client()
    requests: list[tuple[Op, bp.Struct]] = [
        (Op.CREATE, bp.Create(uid=UID, path="x")),
        (Op.REMOVE, bp.Remove(uid=UID, path="big.bin")),
        (Op.RENAME, bp.Rename(uid=UID, source="big.bin", target="y")),
        (Op.MAKE_DIRECTORY, bp.MakeDirectory(uid=UID, path="d", mode=0o755)),
        (Op.SET_MODE, bp.SetMode(uid=UID, path="big.bin", mode=0o755)),
    ]
    for op, meta in requests:
        with pytest.raises(WorkerRefused) as refused:
            client.call(op, meta, bp.Empty)
        assert refused.value.errno == errno.EROFS, op
    with pytest.raises(WorkerRefused) as refused:
        client.call(Op.OPEN, bp.Open(uid=UID, path="../x", etag="e", size_bytes=1), bp.Opened)
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(WorkerRefused) as refused:
        client.call(Op.OPEN, bp.Open(uid="unknown", path="x", etag="e", size_bytes=1), bp.Opened)
    assert refused.value.errno == errno.ENOENT
    client.close()


def test_a_changed_object_is_stale_for_who_opened_it_and_new_after_a_sync(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b")
    cluster.sync()
    client = cluster.workers["a"].client()
    entry = cluster.entries()["big.bin"]
    with client.opened(UID, entry) as (opened, descriptor):
        one = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=BLOCK)
        client.call(Op.ENSURE, one, bp.Ensured)
        (cluster.origin / "big.bin").write_bytes(BIG[::-1])
        rest = bp.Ensure(handle=opened.handle, offset_bytes=BLOCK, length_bytes=len(BIG) - BLOCK)
        with pytest.raises(WorkerRefused) as refused:
            client.call(Op.ENSURE, rest, bp.Ensured)
        assert refused.value.errno == errno.ESTALE
        assert os.pread(descriptor, BLOCK, 0) == BIG[:BLOCK]
    cluster.sync()
    newer = cluster.entries()["big.bin"]
    assert client.read(UID, newer)[0] == BIG[::-1]
    client.close()


def test_metadata_may_restart_and_learns_everything_again(cluster: CacheCluster) -> None:
    cluster.add_workers("a", "b")
    cluster.sync()
    cluster.load("l1")
    wait_for("reports", lambda: sum(cluster.resident().values()) == total_bytes() or None)
    assert cluster.metadata is not None
    cluster.metadata.kill()
    cluster.metadata.wait(10)
    # What is resident is read on while metadata is away.
    client = cluster.workers["a"].client()
    path = next(path for path in FILES if home_of(path, "a", "b") == "a")
    size = len(FILES[path])
    cluster.start_metadata()
    cluster.namespace.ListDatasets(metadata_pb2.ListDatasetsRequest(), timeout=30, wait_for_ready=True)
    wait_for("both are back", lambda: set(cluster.live()) == {"a", "b"} or None)
    wait_for("reports again", lambda: sum(cluster.resident().values()) == total_bytes() or None)
    got, ensured = client.read(UID, cluster.entries()[path])
    assert got == FILES[path] and ensured.local_bytes == size
    client.close()


def test_evicting_a_dataset_leaves_nothing(cluster: CacheCluster) -> None:
    worker = cluster.add_worker("a")
    cluster.sync()
    cluster.load("l1")
    request = worker_pb2.EvictRequest(uid=UID, paths=["train/0"])
    freed = cluster.control("a", lambda stub: stub.Evict(request, timeout=10)).freed_bytes
    assert freed == sum(len(data) for path, data in FILES.items() if path.startswith("train/0/"))
    rest = cluster.control("a", lambda stub: stub.Evict(worker_pb2.EvictRequest(uid=UID), timeout=10)).freed_bytes
    assert freed + rest == total_bytes()
    assert worker.data_files() == []
    wait_for("the report", lambda: not any(cluster.resident().values()) or None)


@pytest.mark.mount
def test_a_full_medium_is_bypassed_and_no_wrong_byte_is_read(cluster: CacheCluster, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "headrace-test", str(small)], check=True)
    try:
        quota = f"MEM:{small}/tier:64Mi"
        both = cluster.add_worker("both", tiers=[quota, f"SSD:{tmp_path}/both-ssd:64Mi"])
        cluster.sync()
        cluster.load("l1")
        client = both.client()
        entries = cluster.entries()
        for path, data in {**FILES, "big.bin": BIG}.items():
            assert client.read(UID, entries[path])[0] == data
        client.close()
        both.kill(signal.SIGTERM)

        # Nowhere else to go: the descriptor cannot hold a larger file; the bytes still come inline.
        only = cluster.add_worker("only", tiers=[f"MEM:{small}/only:64Mi"])
        wait_for("only is alone", lambda: set(cluster.live()) == {"only"} or None)
        huge = random.Random(3).randbytes(3 << 20)
        cluster.put_origin({"huge": huge})
        cluster.sync()
        entry = cluster.entries()["huge"]
        client = only.client()
        with client.opened(UID, entry) as (opened, _):
            ensure = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=len(huge))
            with pytest.raises(WorkerRefused) as refused:
                client.call(Op.ENSURE, ensure, bp.Ensured)
            assert refused.value.errno == errno.ENOBUFS
        got = b""
        for offset in range(0, len(huge), BLOCK):
            read = bp.Read(
                uid=UID,
                path="huge",
                etag=entry.etag,
                size_bytes=entry.size_bytes,
                offset_bytes=offset,
                length_bytes=min(BLOCK, len(huge) - offset),
            )
            got += client.call(Op.READ, read, bp.ReadReply)[1]
        client.close()
        assert got == huge
        assert only.metric("tier_full_total") >= 1 and "tier_full" in only.log
        only.kill(signal.SIGTERM)
    finally:
        subprocess.run(["umount", str(small)], check=True)
