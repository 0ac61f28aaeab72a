"""`cacheruntime worker --keeper`: a worker that dies is followed at once, and one that cannot serve is not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cacheruntime.worker.keeper import CRASHED, SHORT_LIVES_MAX
from tests.builders.cache_cluster import CacheCluster, wait_for

UID = "u-1"
FILES = {f"f{i}.bin": bytes([i]) * 5000 for i in range(4)}
SERVE = """
import os, signal, sys
from cacheruntime.__main__ import configure_logging
from cacheruntime.worker.keeper import keep
configure_logging()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
def serve():
    print(os.getpid(), flush=True)
    {what}
sys.exit(keep(serve))
"""


@contextmanager
def started(what: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", SERVE.format(what=what)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
        try:
            yield keeper
        finally:
            keeper.kill()


def told(keeper: "subprocess.Popen[str]") -> int:
    assert keeper.stdout is not None
    return int(keeper.stdout.readline())


def is_gone(pid: int) -> bool:
    """Not there, or a body nobody has buried yet: who adopts orphans in a test's container is not ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_killed_worker_is_followed_and_the_last_one_hears_of_the_end() -> None:
    with started("signal.pause()") as keeper:
        first = told(keeper)
        os.kill(first, signal.SIGKILL)
        second = told(keeper)
        assert second != first and is_gone(first)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(20) == 7
        assert is_gone(second)


def test_a_worker_that_ends_by_itself_is_not_followed() -> None:
    with started("return 1") as keeper:
        told(keeper)
        assert keeper.wait(20) == 1
        assert keeper.stdout is not None and keeper.stdout.read() == ""


def test_a_defect_that_ends_every_worker_ends_the_keeper() -> None:
    with started("raise RuntimeError('a defect')") as keeper:
        output, _ = keeper.communicate(timeout=20)
        assert keeper.returncode == CRASHED
        assert len(set(output.split())) == SHORT_LIVES_MAX


def test_no_worker_outlives_its_keeper() -> None:
    with started("signal.pause()") as keeper:
        worker = told(keeper)
        keeper.kill()
        keeper.wait(20)
        wait_for("the worker's end", lambda: is_gone(worker) or None)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path)
    try:
        made.put_origin(FILES)
        yield made
    finally:
        made.stop()


def test_readers_find_the_worker_that_follows_with_its_disks(cluster: CacheCluster) -> None:
    worker = cluster.add_worker("a", arguments=["--keeper"])
    cluster.sync()
    cluster.load("l1")
    entries = cluster.entries()
    killed = worker.serving_pids()
    assert len(killed) == 1 and worker.process is not None and killed[0] != worker.process.pid
    os.kill(killed[0], signal.SIGKILL)
    wait_for("another worker", lambda: len(worker.serving_pids()) == 2 or None)
    (cluster.origin / "f0.bin").unlink()
    client = worker.client()
    assert client.read(UID, entries["f0.bin"])[0] == FILES["f0.bin"], "what was loaded is on the disk still"
    client.close()
    assert worker.process.poll() is None
    worker.kill(signal.SIGTERM)
    assert worker.process.returncode == 0
