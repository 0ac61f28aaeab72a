"""`headrace up`, `status`, `down` with the real control plane: recovery, two side by side, nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from headrace.cluster import mounts
from headrace.cluster.local_cluster import LocalCluster, not_ready
from headrace.cluster.overview import look
from headrace.errors import ClusterError, UsageError


@pytest.fixture(scope="module")
def short_root(tmp_path_factory: pytest.TempPathFactory, control_plane_binaries: Mapping[str, Path]) -> Path:
    assert control_plane_binaries
    return tmp_path_factory.mktemp("c")


@pytest.fixture(scope="module")
def cluster(short_root: Path) -> Iterator[LocalCluster]:
    """For several tests: `up` brings back what one of them left undone."""
    one = LocalCluster("one", short_root / "one")
    yield one
    one.down(purge=True)


def pids_below(root: Path) -> list[str]:
    """Processes that name the folder in their command line. Read from /proc: a minimal system has no pgrep."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if str(root).encode() in command:
            found.append(entry.name)
    return found


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


# aiohttp keeps the socket of a TLS request that timed out against a dead API server until it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_killed_etcd_is_told_and_brought_back_with_its_data(cluster: LocalCluster) -> None:
    cluster.up({"parts": False})
    state = cluster.load()
    os.kill(state.components["etcd"].process.pid, signal.SIGKILL)
    os.waitpid(state.components["etcd"].process.pid, 0)
    overview = look("one", cluster.folder.root)
    assert not overview.is_healthy
    assert [one.name for one in overview.processes if not one.is_running] == ["etcd"]
    cluster.up({})
    again = look("one", cluster.folder.root)
    assert again.is_healthy
    assert cluster.load().ports["kube-apiserver"] == state.ports["kube-apiserver"]
    gc.collect()


def test_two_clusters_run_side_by_side_and_down_leaves_nothing(cluster: LocalCluster, short_root: Path) -> None:
    other = LocalCluster("two", short_root / "two")
    try:
        cluster.up({"parts": False})
        other.up({"parts": False})
        assert cluster.load().ports["kube-apiserver"] != other.load().ports["kube-apiserver"]
    finally:
        other.down(purge=True)
    assert not pids_below(short_root / "two")
    assert not other.folder.root.exists()
    assert look("one", cluster.folder.root).is_healthy


async def test_the_whole_cluster_comes_up_and_goes_down_without_a_trace(short_root: Path) -> None:
    root = short_root / "w"
    options = ["--name", "w", "--dir", str(root)]
    try:
        up = headrace("up", *options, "--nodes", "1")
        assert up.returncode == 0, up.stdout + up.stderr
        assert "nothing else is isolated" in " ".join(up.stdout.split())
        cluster = LocalCluster("w", root)
        assert await not_ready(cluster.kubeconfig, ["node-0"]) == []
        assert mounts.is_mounted(root / "nodes" / "node-0" / "mnt")
        status = headrace("status", *options, "-o", "json")
        assert status.returncode == 0, status.stdout + status.stderr
        assert '"is_ready": true' in status.stdout
    finally:
        down = headrace("down", *options, "--purge")
    assert down.returncode == 0, down.stdout + down.stderr
    assert not pids_below(root)
    assert not mounts.below(root)
    assert not root.exists()


def test_what_cannot_be_is_one_sentence(short_root: Path) -> None:
    with pytest.raises(ClusterError, match="there is no cluster in"):
        look("none", short_root / "none")
    with pytest.raises(UsageError, match="--name 'A_b' is not usable"):
        LocalCluster("A_b", short_root / "x")
    with pytest.raises(UsageError, match="--nodes 99 is out of range"):
        LocalCluster("one", short_root / "y").up({"nodes": 99})
