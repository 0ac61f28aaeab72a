"""A mount and the Python client of a worker that wants tokens: got, renewed in time, taken over by the next daemon."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.trust.identity import METADATA_SERVER, Identity, Role
from headrace_sdk import HeadraceFileSystem
from tests.builders.cache_cluster import ADMIN, ROOT, CacheCluster, wait_for

pytestmark = pytest.mark.mount

BODY = os.urandom(900_000)
LIFE_SECONDS = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheCluster]:
    made = CacheCluster(
        tmp_path_factory.mktemp("fuse-trust"),
        is_trusting=True,
        metadata_environment={"HEADRACE_METADATA_TOKEN_SECONDS": str(LIFE_SECONDS)},
    )
    try:
        made.add_worker("n1")
        made.put_origin({f"{number}.bin": BODY for number in range(40)})
        made.sync(writable=True)
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


class Mounted:
    """A keeper and its mount."""

    def __init__(self, path: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path / "default" / "u-1"
        self.log = log
        self.process = process

    def events(self, name: str) -> list[dict[str, object]]:
        lines = self.log.read_text().splitlines()
        return [event for line in lines if line.startswith("{") and (event := json.loads(line))["event"] == name]


@contextmanager
def mounted(cluster: CacheCluster, name: str, identity: Identity | None) -> Iterator[Mounted]:
    mount, log = cluster.folder / name, cluster.folder / f"{name}.log"
    options = ["--node", "n1", "--metadata", cluster.address, "--mount", str(mount)]
    options += ["--worker-socket", str(cluster.workers["n1"].socket), "--worker-patience-seconds", "10"]
    options += ["--metadata-patience-seconds", "1"]
    if identity is not None:
        options += ["--trust", str(cluster.trust_folder(identity))]
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "fuse", *options], cwd=ROOT, stdout=file, stderr=file)
    made = Mounted(mount, log, process)
    try:
        yield made
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True, timeout=10)


ROTATION = (4, 9, 14)
"""Files apart by more than the second in which a change is seen."""


def rotate(cluster: CacheCluster, step: int) -> None:
    """Believe a new authority, reissue by it, forget the old one."""
    if step == 0:
        cluster.authority.add_issuer()
    elif step == 2:
        cluster.authority.forget_issuers()
    for who in (METADATA_SERVER, ADMIN, Identity(Role.WORKER, "n1"), Identity(Role.NODE, "n1")):
        folder = cluster.folder / "trust" / who.role / who.name
        if step == 1:
            cluster.authority.issue(who, folder)
        else:
            cluster.authority.trust_only(folder)


def test_a_mount_reads_and_writes_on_after_its_tokens_and_its_daemon(cluster: CacheCluster) -> None:
    with mounted(cluster, "mnt", Identity(Role.NODE, "n1")) as mount:
        wait_for("the mount", lambda: bool(mount.events("ready")) and mount.path.is_dir(), 40)
        # Well past the end of the first token, and through a change of the authority: a new file of the origin each
        # time, so that the worker is asked.
        started, number = time.monotonic(), 0
        while time.monotonic() - started < LIFE_SECONDS * 2 or number < 20:
            if number in ROTATION:
                rotate(cluster, ROTATION.index(number))
            assert (mount.path / f"{number}.bin").read_bytes() == BODY
            (mount.path / f"written-{number}").write_bytes(b"%d" % number)
            number += 1
            time.sleep(0.3)
        assert number < 35
        assert cluster.metric("refused_total") == 0, "tokens are renewed before they end"
        assert [event["number"] for event in mount.events("certificates_changed")] == [2, 3, 4]
        # The daemon dies while metadata is away: its follower has its tokens.
        with (mount.path / "35.bin").open("rb") as file:
            assert file.read(1) == BODY[:1]
            assert cluster.metadata is not None
            cluster.metadata.kill()
            cluster.metadata.wait(10)
            (first,) = {event["pid"] for event in mount.events("ready")}
            os.kill(int(str(first)), signal.SIGKILL)
            assert file.read() == BODY[1:]
            followers = {event["pid"] for event in mount.events("ready")} - {first}
            assert followers, "another daemon serves"
        cluster.start_metadata()
        cluster.channel.close()
        cluster.connect()
        cluster.token("n1")  # returns when metadata answers
        assert (mount.path / "36.bin").read_bytes() == BODY
    text = mount.log.read_text()
    assert not re.search(r"hr1\.", text), "no token is in the log"


@pytest.mark.parametrize("identity", [None, Identity(Role.NODE, "n2")], ids=["none", "other-node"])
def test_a_mount_of_nobody_or_of_another_node_gets_no_byte(cluster: CacheCluster, identity: Identity | None) -> None:
    name = "none" if identity is None else f"{identity.role}-{identity.name}"
    with mounted(cluster, name, identity) as mount:
        if identity is None:
            # It serves, and is told nothing: metadata does not speak to it.
            wait_for("the mount", lambda: bool(mount.events("ready")), 40)
            with pytest.raises(OSError, match=r"."):
                (mount.path / "0.bin").read_bytes()
        else:
            assert mount.process.wait(40) != 0
            assert str(identity) in mount.log.read_text()


def test_the_python_client_shows_the_tokens_of_its_folder(cluster: CacheCluster, tmp_path: Path) -> None:
    cluster.put_origin({"sdk.bin": BODY})
    cluster.sync(writable=True)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    fs = HeadraceFileSystem(socket=str(cluster.workers["n1"].socket), tokens=str(tokens), skip_instance_cache=True)
    with pytest.raises(PermissionError, match=r"0 good tokens in .*, which HEADRACE_TOKENS names"):
        fs.cat_file("headrace://default/u-1/sdk.bin")
    (tokens / "default.u-1").write_text(cluster.token("n1") + "\n")
    assert fs.cat_file("headrace://default/u-1/sdk.bin") == BODY
    with pytest.raises(PermissionError, match="for reading"):
        fs.pipe_file("headrace://default/u-1/new.bin", b"x")
    (tokens / "default.u-1").write_text(cluster.token("n1", write=True))
    # What was shown is for reading and good, so it is not read again by itself; a new connection does.
    writer = HeadraceFileSystem(socket=str(cluster.workers["n1"].socket), tokens=str(tokens), skip_instance_cache=True)
    writer.pipe_file("headrace://default/u-1/new.bin", b"x")
    assert (cluster.origin / "new.bin").read_bytes() == b"x"
    with pytest.raises(PermissionError):
        fs.cat_file("headrace://default/u-2/sdk.bin")
