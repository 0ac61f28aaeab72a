"""A disk that gives errors or takes seconds, under a running worker: strace answers its calls instead of the kernel.

strace says INJECTED on every call it answered, so each test proves that its fault took place.
"""

import errno
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2
from benchmarks.origin_process import MOUNT, OriginProcess
from tests.builders.cache_cluster import CacheCluster, LocalClient, WorkerProcess, WorkerRefused, wait_for

UID = "u-1"
BLOCK = 64 << 10
FILES = {f"f{i}.bin": random.Random(i).randbytes(3 * BLOCK + i) for i in range(6)}

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the faults; it is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    tunables = {
        "HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK),
        "HEADRACE_WORKER_SLOW_DISK_SECONDS": "0.2",
        "HEADRACE_WORKER_SCRUB_BYTES_PER_SECOND": "0",
        "HEADRACE_WORKER_TEMPORARY_BYTES_MIN": str(2 * BLOCK),
        "HEADRACE_WORKER_TEMPORARY_PERCENT": "0",
    }
    # The origin is spoken to over sockets, which no fault here touches.
    with OriginProcess(tmp_path / "bucket", 1e9) as origin:
        for name, data in FILES.items():
            (origin.files / name).write_bytes(data)
        made = CacheCluster(tmp_path / "cluster", environment=tunables)
        try:
            made.sync(mounts=[metadata_pb2.Mount(mount_point=MOUNT, name="data", path="", options=origin.options)])
            yield made
            assert made.metric("bugs_total") == 0
        finally:
            made.stop()


@contextmanager
def injected(worker: WorkerProcess, log: Path, calls: str, fault: str) -> Iterator[None]:
    """Answer these system calls of the worker with a fault; at the end: it did happen."""
    assert worker.process is not None
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    tracer = subprocess.Popen([*command, "-p", str(worker.process.pid)], stderr=subprocess.DEVNULL)
    try:
        status = Path(f"/proc/{worker.process.pid}/status")
        wait_for("strace holds the worker", lambda: "TracerPid:\t0" not in status.read_text() or None)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # lets go of the worker
        tracer.wait(20)
    assert "INJECTED" in log.read_text() or "DELAYED" in log.read_text(), "the fault did not happen"


def read_as_sdk(client: LocalClient, entry: metadata_pb2.Entry) -> bytes:
    """OPEN, ENSURE, and READ for what cannot be made readable, as headrace_sdk does."""
    with client.opened(UID, entry) as (opened, _):
        parts = []
        for offset in range(0, entry.size_bytes, BLOCK):
            length = min(BLOCK, entry.size_bytes - offset)
            try:
                client.call(
                    Op.ENSURE, bp.Ensure(handle=opened.handle, offset_bytes=offset, length_bytes=length), bp.Ensured
                )
            except WorkerRefused as refused:
                assert refused.errno == errno.ENOBUFS, refused
            parts.append(inline(client, entry, offset, length))
    return b"".join(parts)


def inline(client: LocalClient, entry: metadata_pb2.Entry, offset: int, length: int) -> bytes:
    read = bp.Read(
        uid=UID,
        path=entry.path,
        etag=entry.etag,
        size_bytes=entry.size_bytes,
        offset_bytes=offset,
        length_bytes=length,
    )
    return client.call(Op.READ, read, bp.ReadReply)[1]


def resident(worker: WorkerProcess) -> float:
    return worker.metric("used_bytes", medium="SSD")


@pytest.mark.parametrize(
    ("calls", "fault", "why"),
    [
        ("pwrite64,preadv,preadv2,sendfile", "error=EIO", "failed"),
        ("pwrite64,preadv", "delay_enter=900000", "slow"),
    ],
)
def test_a_bad_disk_is_passed_by_and_used_again_when_it_works(
    cluster: CacheCluster, tmp_path: Path, calls: str, fault: str, why: str
) -> None:
    worker = cluster.add_worker("a", tiers=[f"SSD:{tmp_path}/ssd:64Mi"])
    entries = cluster.entries()
    client = worker.client()
    cached, *cold = FILES
    assert client.read(UID, entries[cached])[0] == FILES[cached]
    with injected(worker, tmp_path / "strace", calls, fault):
        for path in (cached, *cold):
            assert read_as_sdk(client, entries[path]) == FILES[path]
    assert worker.metric("tier_paused_total", medium="SSD", why=why) >= 1 and "tier_paused" in worker.log

    def all_is_kept() -> bool | None:
        for path, data in FILES.items():
            assert read_as_sdk(client, entries[path]) == data
        return resident(worker) == sum(map(len, FILES.values())) or None

    wait_for("the disk is used again", all_is_kept)
    for path, data in FILES.items():
        assert client.read(UID, entries[path])[0] == data
    wait_for("metadata knows", lambda: cluster.resident()["a"] == sum(map(len, FILES.values())) or None)
    client.close()
