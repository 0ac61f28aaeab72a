"""A real mount over OSS, HDFS and a web server: checkpoints are in the store when close returns; the web is EROFS."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.data_plane import DataPlane
from tests.builders.http_files import HttpFiles
from tests.builders.oss_server import REGION, OssServer, OssUser
from tests.builders.webhdfs_server import WebHdfsServer

pytestmark = pytest.mark.mount

SHARD = os.urandom(3 << 20)


@dataclass
class Mounted:
    oss: OssServer
    hdfs: WebHdfsServer
    folder: Path

    def stored(self, name: str, path: str) -> bytes | None:
        """What the store itself holds."""
        if name == "oss":
            one = self.oss.buckets["a-bucket"].get(path)
            return None if one is None else one.body
        node = self.hdfs.nodes.get(f"/{path}")
        return None if node is None else node.body


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    oss = OssServer(users={"id": OssUser("secret")}, buckets={"a-bucket": {}})
    hdfs, files = WebHdfsServer(), HttpFiles()
    files.write("train/shard-0", SHARD)
    with ExitStack() as stack:
        oss_url = stack.enter_context(oss.server()).url
        hdfs_address = stack.enter_context(hdfs.server()).address
        http_url = stack.enter_context(files.server()).url
        plane = stack.enter_context(DataPlane(tmp_path_factory.mktemp("stores") / "plane"))
        plane.start_worker("n1")
        options = {
            "fs.oss.endpoint": oss_url,
            "fs.oss.region": REGION,
            "fs.oss.accessKeyId": "id",
            "fs.oss.accessKeySecret": "secret",
        }
        plane.sync("oss", "oss://a-bucket", writable=True, options=options)
        plane.sync("hdfs", f"webhdfs://{hdfs_address}", writable=True)
        plane.sync("http", http_url, writable=True)
        yield Mounted(oss, hdfs, plane.start_mount("n1") / "bench")


@pytest.mark.parametrize("name", ["oss", "hdfs"])
def test_a_checkpoint_is_in_the_store_when_close_returns(mounted: Mounted, name: str) -> None:
    steps = mounted.folder / name / "steps"
    steps.mkdir()
    with (steps / "model.tmp").open("wb") as file:
        file.write(SHARD)
        file.flush()
        os.fsync(file.fileno())
        assert mounted.stored(name, "steps/model.tmp") == SHARD
        file.write(b"more")
    assert mounted.stored(name, "steps/model.tmp") == SHARD + b"more"
    (steps / "model.tmp").rename(steps / "model.bin")
    assert mounted.stored(name, "steps/model.bin") == SHARD + b"more"
    assert mounted.stored(name, "steps/model.tmp") is None
    assert (steps / "model.bin").read_bytes() == SHARD + b"more"
    (steps / "model.bin").unlink()
    assert mounted.stored(name, "steps/model.bin") is None


def test_a_web_servers_files_are_read_and_cannot_be_written(mounted: Mounted) -> None:
    train = mounted.folder / "http" / "train"
    assert [path.name for path in train.iterdir()] == ["shard-0"]
    assert (train / "shard-0").read_bytes() == SHARD
    for act in (
        lambda: (train / "new").write_bytes(b"x"),
        (train / "shard-0").unlink,
        lambda: (train / "shard-0").rename(train / "other"),
        (train / "directory").mkdir,
    ):
        with pytest.raises(OSError) as refused:
            act()
        assert refused.value.errno == errno.EROFS
    assert (train / "shard-0").read_bytes() == SHARD
