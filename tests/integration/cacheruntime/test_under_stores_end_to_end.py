"""Metadata and a worker over OSS, HDFS and a web server: listed, loaded, read, written; no credential shows."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.gen import metadata_pb2 as pb
from tests.builders.cache_cluster import CacheCluster, WorkerRefused
from tests.builders.http_files import HttpFiles
from tests.builders.oss_server import REGION, OssServer, OssUser
from tests.builders.webhdfs_server import WebHdfsServer

CANARIES = {"id": "key-id", "secret": "canary-secret-1", "sts": "canary-token-2", "hdfs": "canary-token-3"}
BIG = os.urandom(300_000)


@dataclass
class Stores:
    oss: OssServer
    hdfs: WebHdfsServer
    files: HttpFiles
    mounts: dict[str, pb.Mount]


@pytest.fixture
def stores() -> Iterator[Stores]:
    oss = OssServer(
        users={CANARIES["id"]: OssUser(CANARIES["secret"], CANARIES["sts"])},
        buckets={"a-bucket": {}},
    )
    hdfs = WebHdfsServer(tokens={CANARIES["hdfs"]})
    files = HttpFiles(authorization=f"Bearer {CANARIES['hdfs']}")
    for name, body in (("a/small", b"small"), ("a/b/big", BIG), ("empty", b"")):
        oss.write("a-bucket", f"p/{name}", body)
        hdfs.write(f"/p/{name}", body)
        files.write(f"p/{name}", body)
    with ExitStack() as stack:
        servers = [stack.enter_context(one.server()) for one in (oss, hdfs, files)]
        mounts = {
            "oss": pb.Mount(
                mount_point="oss://a-bucket/p",
                options={"fs.oss.endpoint": servers[0].url, "fs.oss.region": REGION},
                secret_options={
                    "fs.oss.accessKeyId": "ns/keys/id",
                    "fs.oss.accessKeySecret": "ns/keys/secret",
                    "fs.oss.securityToken": "ns/keys/sts",
                },
            ),
            "hdfs": pb.Mount(
                mount_point="hdfs://namenode:8020/p",
                options={"dfs.namenode.http-address": servers[1].address},
                secret_options={"delegationToken": "ns/keys/hdfs"},
            ),
            "http": pb.Mount(mount_point=f"{servers[2].url}/p", secret_options={"fs.http.bearerToken": "ns/keys/hdfs"}),
        }
        yield Stores(oss, hdfs, files, mounts)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path, environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(64 << 10)})
    try:
        keys = made.credentials / "ns" / "keys"
        keys.mkdir(parents=True)
        for name, value in CANARIES.items():
            (keys / name).write_text(value)
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


def test_every_store_is_listed_loaded_read_and_written(cluster: CacheCluster, stores: Stores) -> None:
    worker = cluster.add_worker("n1")
    client = worker.client()
    for name, mount in stores.mounts.items():
        uid = f"u-{name}"
        info = cluster.sync(uid, mounts=[mount], writable=True)
        assert (info.files, info.bytes) == (3, len(BIG) + 5)
        cluster.load(f"load-{name}", uid=uid)
        entries = cluster.entries(uid)
        assert client.read(uid, entries["a/b/big"])[0] == BIG
        assert client.read(uid, entries["a/small"])[0] == b"small"

    for name in ("oss", "hdfs"):
        committed = client.write(f"u-{name}", "steps/10/model.bin", BIG)
        assert committed.size_bytes == len(BIG)
    # Durable in the store when the commit was answered.
    assert stores.oss.buckets["a-bucket"]["p/steps/10/model.bin"].body == BIG
    assert stores.hdfs.nodes["/p/steps/10/model.bin"].body == BIG
    with pytest.raises(WorkerRefused) as refused:
        client.write("u-http", "steps/10/model.bin", BIG)
    assert refused.value.errno == errno.EROFS
    client.close()

    places = {
        "worker's log": worker.log.encode(),
        "metadata's log": (cluster.folder / "metadata.log").read_bytes(),
        "metadata's database": b"".join(one.read_bytes() for one in cluster.folder.glob("metadata.db*")),
    }
    assert worker.process is not None and cluster.metadata is not None
    for process in (worker.process, cluster.metadata):
        for file in ("cmdline", "environ"):
            places[f"{file} of process {process.pid}"] = Path(f"/proc/{process.pid}/{file}").read_bytes()
    places["metrics"] = worker.metrics_text().encode()
    assert [place for place, text in places.items() if b"canary" in text] == []


def test_a_mount_that_cannot_be_listed_says_why(cluster: CacheCluster) -> None:
    for name, words in {
        "oss://a-bucket/p": "option 'fs.oss.endpoint' is missing",
        "ftp://host/p": "accepted are file://, hdfs://",
        "http://127.0.0.1:9/p": "127.0.0.1:9 cannot be reached",
    }.items():
        with pytest.raises(AssertionError, match=words):
            cluster.sync(f"u-{name.partition(':')[0]}", mounts=[pb.Mount(mount_point=name)])
