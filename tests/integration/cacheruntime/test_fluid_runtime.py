"""Our cache under Fluid's contract: its config JSON and environment in, its answers out, with the real processes.

Not here: Fluid itself, which makes the pods and reads the answers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cacheruntime.fluid.__main__ import main
from tests.builders.cache_cluster import ROOT, TUNABLES, free_port, wait_for

MIB = 1 << 20
FILES = {
    "train/a.bin": os.urandom(3 * MIB),
    "train/deep/b.bin": os.urandom(MIB + 17),
    "test/c.bin": os.urandom(2 * MIB),
    "secret name.txt": b"small",
}
NAMESPACE, NAME = "team", "corpus"


@dataclass
class FluidPods:
    """What Fluid would start, as processes of this machine."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.origin = self.folder / "origin"
        for name, data in FILES.items():
            (self.origin / name).parent.mkdir(parents=True, exist_ok=True)
            (self.origin / name).write_bytes(data)
        self.target = self.folder / "runtime-mnt" / "cache" / NAMESPACE / NAME / "cache-fuse"
        self.config = self.folder / "runtime.json"
        self.port, self.metrics_port = free_port(), free_port()
        self.write_config()

    def write_config(self, **changes: Any) -> None:
        """The text as Fluid's controller writes it (Go's encoder: empty fields left out)."""
        quota, level = "256Mi", self.folder / "level-0"
        body = {
            "mounts": [{"mountPoint": f"file://{self.origin}", "name": "data", "path": "/data"}],
            "accessModes": ["ReadOnlyMany"],
            "targetPath": str(self.target),
            "master": {
                "enabled": True,
                "name": f"{NAME}-master",
                "replicas": 1,
                "service": {"name": f"svc-{NAME}-master"},
            },
            "worker": {
                "enabled": True,
                "name": f"{NAME}-worker",
                "replicas": 1,
                "service": {"name": f"svc-{NAME}-worker"},
                "tieredStoreLevels": [
                    {"mountPaths": [str(level)], "mediumType": "HDD", "quotas": [quota], "high": "0.9", "low": "0.7"}
                ],
            },
            "client": {"enabled": True, "name": f"{NAME}-client", "service": {"name": ""}},
        }
        self.config.write_text(json.dumps({**body, **changes}))

    def environment(self, component: str, pod: str) -> dict[str, str]:
        return {
            **os.environ,
            **TUNABLES,
            "PYTHONPATH": str(ROOT),
            "FLUID_DATASET_NAME": NAME,
            "FLUID_DATASET_NAMESPACE": NAMESPACE,
            "FLUID_RUNTIME_CONFIG_PATH": str(self.config),
            "FLUID_RUNTIME_MOUNT_PATH": str(self.target),
            "FLUID_RUNTIME_COMPONENT_TYPE": component,
            "POD_NAME": pod,
            "POD_IP": "127.0.0.1",
            "NODE_NAME": "node-1",
            "HEADRACE_FLUID_METADATA": f"127.0.0.1:{self.port}",
            "HEADRACE_FLUID_METADATA_PORT": str(self.port),
            "HEADRACE_FLUID_METADATA_METRICS_PORT": str(self.metrics_port),
            "HEADRACE_FLUID_WORKER_METRICS_PORT": str(free_port()),
            "HEADRACE_FLUID_BYTE_PORT": "0",
            "HEADRACE_FLUID_CONTROL_PORT": "0",
            "HEADRACE_FLUID_STATE": str(self.folder / "state"),
            "HEADRACE_FLUID_RUN": str(self.folder / f"run-{pod}"),
            "HEADRACE_FLUID_SECRETS": str(self.folder / "secrets"),
            "HEADRACE_FLUID_POLL_SECONDS": "0.1",
            "HEADRACE_FLUID_PATIENCE_SECONDS": "20",
            "HEADRACE_FUSE_STANDBY": "false",
            "HEADRACE_WORKER_PRUNE_SECONDS": "0.2",
        }

    def start(self, component: str, pod: str) -> None:
        with (self.folder / f"{pod}.log").open("ab") as log:
            self.processes[pod] = subprocess.Popen(
                [sys.executable, "-m", "cacheruntime.fluid", component],
                cwd=ROOT,
                env=self.environment(component, pod),
                stdout=log,
                stderr=log,
            )

    def start_master(self) -> None:
        """Until it is ready: Fluid asks for no mount before."""
        pod = f"{NAME}-master-0"
        self.start("master", pod)
        wait_for("the master", lambda: self.is_up(pod))

    def is_up(self, pod: str) -> bool:
        assert self.processes[pod].poll() is None, self.log(pod)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def log(self, pod: str) -> str:
        return (self.folder / f"{pod}.log").read_text()

    def run(self, command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """As Fluid executes it in the master's container, or in the pod of a DataLoad."""
        environment = self.environment("master", f"{NAME}-master-0")
        if command == "load":
            # A DataLoad's pod has the config and no other word of the runtime.
            environment = {key: value for key, value in environment.items() if not key.startswith("FLUID_DATASET")}
        out, err = io.StringIO(), io.StringIO()
        # In this process: a start of Python a call is most of the time they take.
        with patch.dict(os.environ, {**environment, **extra}, clear=True), redirect_stdout(out), redirect_stderr(err):
            status = main([command])
        return subprocess.CompletedProcess([command], status, out.getvalue(), err.getvalue())

    def summary(self) -> dict[str, str]:
        done = self.run("report-summary")
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[FluidPods]:
    found = FluidPods(tmp_path)
    try:
        yield found
    finally:
        found.stop()


def is_cached(pods: FluidPods, wanted: int) -> Callable[[], dict[str, str] | None]:
    """Reports of workers come a little later than their loads end."""

    def look() -> dict[str, str] | None:
        found = pods.summary()
        return found if found["cached"] == f"{wanted / MIB:.2f}MiB" else None

    return look


def test_fluid_mounts_loads_reports_and_reads(pods: FluidPods) -> None:
    pods.start("worker", f"{NAME}-worker-0")
    pods.start_master()

    done = pods.run("mount-ufs")
    assert done.returncode == 0, done.stderr + pods.log(f"{NAME}-master-0")
    assert json.loads(done.stdout) == {"mounted": ["/data"]}

    total, train = sum(map(len, FILES.values())), len(FILES["train/a.bin"]) + len(FILES["train/deep/b.bin"])
    # The worker may be on its way: a load waits for it.
    done = pods.run("load", FLUID_DATALOAD_DATA_PATH="/data/train", FLUID_DATALOAD_PATH_REPLICAS="1")
    assert done.returncode == 0, done.stderr + pods.log(f"{NAME}-worker-0")
    found = wait_for("the part is reported", is_cached(pods, train))
    assert found == {
        "cached": f"{train / MIB:.2f}MiB",
        "cachedPercentage": f"{100 * train / total:.1f}",
        # The room readers have beside what is kept comes out of Fluid's quota of 256 MiB.
        "cacheCapacity": "192.00MiB",
        "fileNum": str(len(FILES)),
        "ufsTotal": f"{total / MIB:.2f}MiB",
    }, "there were no reads, so of the hit ratio nothing is said"

    (pods.origin / "later.bin").write_bytes(os.urandom(MIB))
    done = pods.run("load", FLUID_DATALOAD_METADATA="true", FLUID_DATALOAD_DATA_PATH="/")
    assert done.returncode == 0, done.stderr
    assert wait_for("all is reported", is_cached(pods, total + MIB))["cachedPercentage"] == "100.0"

    done = pods.run("load", FLUID_DATALOAD_DATA_PATH="/data/train:/data/nowhere", FLUID_DATALOAD_PATH_REPLICAS="1:1")
    assert done.returncode == 1 and "/data/nowhere" not in done.stdout
    assert done.stderr.count("\n") == 1 and "no file at or below /data/nowhere" in done.stderr, done.stderr

    if os.geteuid() != 0:
        return
    pods.start("client", "client-pod")
    wait_for("the mount\n", lambda: (pods.target / "data").is_dir() or None)
    mounts = Path("/proc/self/mounts").read_text()
    assert f" {pods.target} fuse.headrace " in mounts, "Fluid looks for path and type in one line"
    for name, data in FILES.items():
        read = (pods.target / "data" / name).read_bytes()
        assert hashlib.sha256(read).digest() == hashlib.sha256(data).digest(), name
    ratio = wait_for("the reads are reported", lambda: pods.summary().get("cacheHitRatio"))
    assert ratio == "100.0", "the client's worker fetched from the worker, not from the store"
    assert pods.summary()["cacheCapacity"] == "192.00MiB", "a client's worker keeps nothing and counts for nothing"
    pods.processes["client-pod"].terminate()
    assert pods.processes["client-pod"].wait(15) == 0, pods.log("client-pod")
    assert str(pods.target) not in Path("/proc/self/mounts").read_text()


def test_what_cannot_be_mounted_is_said_in_one_sentence_and_mounted_once_it_can(pods: FluidPods) -> None:
    (pods.folder / "state").mkdir()
    (pods.folder / "state" / "introduced").touch()  # the database is taken as one that knows the dataset
    pods.start_master()
    pods.write_config(mounts=[{"mountPoint": f"file://{pods.origin}/absent", "name": "data"}])
    done = pods.run("mount-ufs")
    assert done.returncode == 1 and not done.stdout, done
    assert done.stderr.count("\n") == 1 and "cannot be listed" in done.stderr, done.stderr
    (pods.origin / "absent").mkdir()
    (pods.origin / "absent" / "file").write_bytes(b"x")
    done = pods.run("mount-ufs")
    assert done.returncode == 0 and json.loads(done.stdout) == {"mounted": ["/data"]}, done
    # No worker ever came: the load says so instead of waiting for ever.
    started = time.monotonic()
    done = pods.run("load", HEADRACE_FLUID_PATIENCE_SECONDS="0.5")
    assert done.returncode == 1 and "no worker is alive" in done.stderr, (done, time.monotonic() - started)


@pytest.mark.nightly
def test_a_master_in_a_new_pod_leaves_the_cache_as_it_is(pods: FluidPods) -> None:
    pods.start_master()
    pods.start("worker", f"{NAME}-worker-0")
    assert pods.run("mount-ufs").returncode == 0
    assert pods.run("load").returncode == 0
    total = sum(map(len, FILES.values()))
    wait_for("all is reported", is_cached(pods, total))
    master = pods.processes[f"{NAME}-master-0"]
    master.kill()
    master.wait()
    shutil.rmtree(pods.folder / "state")
    pods.start_master()
    time.sleep(3)  # many times the interval at which workers drop what no dataset has
    assert pods.run("mount-ufs").returncode == 0, "Fluid asks again when a master began later than it mounted"
    assert wait_for("all is there", is_cached(pods, total))["cachedPercentage"] == "100.0"
    assert '"dataset_dropped"' not in pods.log(f"{NAME}-worker-0")
