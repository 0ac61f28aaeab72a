"""Metadata and workers over a real S3 server (SeaweedFS): listed, loaded, read with equal digests, written through."""

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.gen import metadata_pb2 as pb
from tests.builders.cache_cluster import CacheCluster, WorkerRefused
from tests.builders.real_seaweedfs import ACCESS_KEY, REGION, SECRET_KEY, RealSeaweedFS

pytestmark = pytest.mark.nightly

UID = "u-seaweed"
SHARDS = {f"train/part-{number:03}.bin": os.urandom(300_000 + number) for number in range(40)}
FILES = {**SHARDS, "train/empty": b"", "labels/ä b+c.txt": b"labels", "vocab.json": b"{}"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealSeaweedFS]:
    if missing := RealSeaweedFS.missing():
        pytest.skip(missing)
    with RealSeaweedFS(tmp_path / "seaweedfs") as started:
        for name, body in FILES.items():
            started.write(f"p/{name}", body)
        yield started


@pytest.fixture
def cluster(tmp_path: Path, server: RealSeaweedFS) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path / "cluster", environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(64 << 10)})
    try:
        keys = made.credentials / "ns" / "keys"
        keys.mkdir(parents=True)
        (keys / "id").write_text(ACCESS_KEY)
        (keys / "secret").write_text(SECRET_KEY)
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


def _mount(server: RealSeaweedFS) -> pb.Mount:
    return pb.Mount(
        mount_point=f"s3://{server.bucket}/p",
        options={"fs.s3.endpoint": server.endpoint, "fs.s3.region": REGION},
        secret_options={"fs.s3.accessKeyId": "ns/keys/id", "fs.s3.accessKeySecret": "ns/keys/secret"},
    )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_a_dataset_is_listed_read_and_written_through(cluster: CacheCluster, server: RealSeaweedFS) -> None:
    first, second = cluster.add_workers("n1", "n2")
    info = cluster.sync(UID, mounts=[_mount(server)], writable=True)
    assert (info.files, info.bytes) == (len(FILES), sum(map(len, FILES.values())))

    cluster.load("load", uid=UID)
    entries = cluster.entries(UID)
    reader = second.client()
    found = {name: _digest(reader.read(UID, entries[name])[0]) for name in FILES}
    assert found == {name: _digest(body) for name, body in FILES.items()}
    reader.close()

    # Above the limit for one request, so that it goes up in parts.
    checkpoint = os.urandom(1 << 20) * 40
    writer = first.client()
    committed = writer.write(UID, "checkpoints/step-10/model.bin", checkpoint)
    writer.close()
    assert committed.size_bytes == len(checkpoint)
    # Durable in the store when the commit was answered.
    assert _digest(server.read("p/checkpoints/step-10/model.bin")) == _digest(checkpoint)
    assert server.uploads("p/") == []

    cluster.sync(UID, mounts=[_mount(server)], writable=True)
    entry = cluster.entries(UID)["checkpoints/step-10/model.bin"]
    reader = second.client()
    assert _digest(reader.read(UID, entry)[0]) == _digest(checkpoint)
    reader.close()


def test_a_server_that_dies_and_comes_back_is_used_again(cluster: CacheCluster, server: RealSeaweedFS) -> None:
    client = cluster.add_worker("n1").client()
    cluster.sync(UID, mounts=[_mount(server)], writable=True)
    entries = cluster.entries(UID)
    names = sorted(SHARDS)
    assert client.read(UID, entries[names[0]])[0] == SHARDS[names[0]]
    client.write(UID, "checkpoints/step-10/model.bin", SHARDS[names[1]])

    server.kill()
    # What is on the node needs no store; what is not, and a commit, are refused.
    assert client.read(UID, entries[names[0]])[0] == SHARDS[names[0]]
    for act in (
        lambda: client.read(UID, entries[names[2]]),
        lambda: client.write(UID, "checkpoints/step-20/model.bin", SHARDS[names[3]]),
    ):
        with pytest.raises(WorkerRefused) as refused:
            act()
        assert refused.value.errno == errno.EIO

    server.start()
    assert {name: _digest(client.read(UID, entries[name])[0]) for name in names} == {
        name: _digest(body) for name, body in SHARDS.items()
    }
    client.write(UID, "checkpoints/step-30/model.bin", SHARDS[names[4]])
    client.close()
    # What was committed before the death is there, and what was refused is not.
    assert server.read("p/checkpoints/step-10/model.bin") == SHARDS[names[1]]
    assert server.read("p/checkpoints/step-30/model.bin") == SHARDS[names[4]]
    listed = server.client.list_objects_v2(Bucket=server.bucket, Prefix="p/checkpoints/")
    assert [one["Key"] for one in listed["Contents"]] == [
        "p/checkpoints/step-10/model.bin",
        "p/checkpoints/step-30/model.bin",
    ]
