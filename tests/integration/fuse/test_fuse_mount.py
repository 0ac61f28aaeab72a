"""A real mount over real metadata and worker processes and a file:// origin; and a daemon full of defects."""

import ctypes
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from benchmarks.data_plane import DataPlane, Process
from fuse.node.mounts import MAX_BACKGROUND, READ_AHEAD_KIB, is_mounted

pytestmark = pytest.mark.mount

DEADLINE_SECONDS = 30.0
SYS_CACHESTAT = 451


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module", params=["raw", "pyfuse3"])
def plane(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[DataPlane]:
    root = tmp_path_factory.mktemp("mount")
    stdlib = root / "stdlib"
    ignored = shutil.ignore_patterns("site-packages", "__pycache__", "test", "idlelib", "ensurepip", "lib-dynload")
    shutil.copytree(sysconfig.get_path("stdlib"), stdlib, ignore=ignored, symlinks=False)
    (root / "work").mkdir()
    with DataPlane(root / "plane") as plane:
        plane.start_worker("n1")
        plane.sync("stdlib", f"file://{stdlib}")
        plane.sync("work", f"file://{root / 'work'}", writable=True)
        plane.start_mount("n1", "--backend", request.param)
        yield plane


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_thousands_of_real_files_have_the_bytes_of_the_origin(plane: DataPlane) -> None:
    origin = plane.directory.parent / "stdlib"
    expected = _digests(origin)
    assert len(expected) > 500
    assert _digests(plane.mounts["n1"] / "bench" / "stdlib") == expected


def test_python_runs_from_the_mount(plane: DataPlane) -> None:
    library = plane.mounts["n1"] / "bench" / "stdlib"
    code = "import json, argparse, asyncio; print(json.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == str(library / "json" / "__init__.py")


def _cached_pages(path: Path) -> int:
    """Pages of the mount's own that the kernel holds of a file (cachestat(2), Linux 6.5)."""
    whole, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    with path.open("rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(SYS_CACHESTAT, file.fileno(), whole, counts, 0) != 0:
            pytest.skip(f"cachestat: {os.strerror(ctypes.get_errno())}")
    return counts[0]


def test_a_file_that_was_read_cold_is_not_held_in_memory_twice(
    plane: DataPlane, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["plane"] == "pyfuse3":
        pytest.skip("without passthrough the mount's pages are the ones that are used")
    origin = plane.directory.parent / "pages"
    origin.mkdir()
    data = os.urandom(6 << 20)
    (origin / "large").write_bytes(data)
    plane.sync("pages", f"file://{origin}")
    path = plane.mounts["n1"] / "bench" / "pages" / "large"
    with path.open("rb") as file:
        assert file.read() == data
        assert _cached_pages(path) > 0  # while it is open its reader has the pages
    _eventually(lambda: _cached_pages(path) == 0)
    assert path.read_bytes() == data


def test_where_files_are_read_whole_the_next_one_is_here_when_it_is_open(
    plane: DataPlane, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["plane"] == "pyfuse3":
        pytest.skip("without passthrough the mount's pages are the ones that are used")
    data = os.urandom(20 << 20)
    for name in ("shards", "archives"):
        origin = plane.directory.parent / name
        origin.mkdir()
        for number in range(3):
            (origin / f"{number}.tar").write_bytes(data)
        plane.sync(name, f"file://{origin}")
    shards, archives = (plane.mounts["n1"] / "bench" / name for name in ("shards", "archives"))
    assert (shards / "0.tar").read_bytes() == data
    _eventually(lambda: _cached_pages(shards / "0.tar") == 0)  # that it was closed is known
    with (shards / "1.tar").open("rb") as file:
        assert os.getxattr(shards / "1.tar", "user.headrace.resident") == b"1"
        assert file.read() == data
        assert _cached_pages(shards / "1.tar") == 0  # the kernel read the worker's file
    # Of files of which only the end is looked at nothing more is brought.
    for number in range(3):
        with (archives / f"{number}.tar").open("rb") as file:
            assert os.pread(file.fileno(), 100, 20_000_000) == data[20_000_000:20_000_100]
        assert os.getxattr(archives / f"{number}.tar", "user.headrace.resident") == b"0"


def test_many_readers_at_once(plane: DataPlane) -> None:
    origin = plane.directory.parent / "stdlib"
    mounted = plane.mounts["n1"] / "bench" / "stdlib"
    names = [path.relative_to(origin) for path in sorted(origin.rglob("*.py"))][:400]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda name: (mounted / name).read_bytes() == (origin / name).read_bytes(), names))
    assert all(results)


def test_a_checkpoint_is_visible_in_the_namespace(plane: DataPlane) -> None:
    work = plane.mounts["n1"] / "bench" / "work"
    data = os.urandom(6 << 20)
    directory = work / "step-100.tmp"
    directory.mkdir()
    with (directory / "shard-0").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    directory.rename(work / "step-100")
    (work / "step-100" / "COMPLETE").touch()
    with grpc.insecure_channel(plane.metadata_address) as channel:
        stub = metadata_pb2_grpc.NamespaceStub(channel)
        shard = stub.Lookup(pb.LookupRequest(uid="uid-bench-work", path="step-100/shard-0"), timeout=10)
        marker = stub.Lookup(pb.LookupRequest(uid="uid-bench-work", path="step-100/COMPLETE"), timeout=10)
    assert (shard.size_bytes, marker.size_bytes) == (len(data), 0)
    assert (plane.directory.parent / "work" / "step-100" / "shard-0").read_bytes() == data
    assert (work / "step-100" / "shard-0").read_bytes() == data


def test_copying_programs_work(plane: DataPlane, tmp_path: Path) -> None:
    work = plane.mounts["n1"] / "bench" / "work"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.bin").write_bytes(os.urandom(100_000))
    (tmp_path / "source" / "config.json").write_text("{}")
    shutil.copytree(tmp_path / "source", work / "copied")
    subprocess.run(["cp", "-r", str(tmp_path / "source"), str(work / "cp")], check=True, timeout=60)
    subprocess.run(["tar", "-C", str(work / "cp"), "-cf", str(work / "cp.tar"), "."], check=True, timeout=60)
    # These make directories with other modes than they have in the end.
    subprocess.run(["cp", "-a", str(tmp_path / "source"), str(work / "cp-a")], check=True, timeout=60)
    (work / "tar").mkdir()
    subprocess.run(["tar", "-C", str(work / "tar"), "-xpf", str(work / "cp.tar")], check=True, timeout=60)
    wanted = _digests(tmp_path / "source")
    assert all(_digests(work / each) == wanted for each in ("copied", "cp", "cp-a", "tar"))
    shutil.rmtree(work / "copied")
    assert not (work / "copied").exists()


def test_the_kernels_tunables_are_raised(plane: DataPlane, tmp_path: Path) -> None:
    device = plane.mounts["n1"].stat().st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert int(bdi.read_text()) == READ_AHEAD_KIB
    (tmp_path / "fusectl").mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", str(tmp_path / "fusectl")], check=True, timeout=10)
    try:
        assert int((tmp_path / "fusectl" / str(os.minor(device)) / "max_background").read_text()) == MAX_BACKGROUND
    finally:
        subprocess.run(["umount", str(tmp_path / "fusectl")], check=True, timeout=10)


READER = """
import hashlib, sys
digest = hashlib.sha256()
with open(sys.argv[1], "rb", buffering=0) as file:
    while chunk := file.read(1 << 16):
        digest.update(chunk)
        print(".", end="", flush=True)
print(digest.hexdigest(), flush=True)
"""


def test_a_reader_does_not_notice_that_the_worker_is_killed_again_and_again(plane: DataPlane) -> None:
    origin = plane.directory.parent / "killed"
    origin.mkdir()
    data = os.urandom(64 << 20)
    (origin / "large.bin").write_bytes(data)
    plane.sync("killed", f"file://{origin}")
    path = plane.mounts["n1"] / "bench" / "killed" / "large.bin"
    _eventually(path.exists)
    with subprocess.Popen([sys.executable, "-c", READER, str(path)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        for _ in range(3):
            assert reader.stdout.read(100) == b"." * 100
            plane.workers["n1"].stop(signal.SIGKILL)
            plane.start_worker("n1")
        rest = reader.stdout.read()
        assert reader.wait(60) == 0
    assert rest.decode().strip(".\n") == hashlib.sha256(data).hexdigest()


def test_a_second_daemon_at_the_same_place_is_refused(plane: DataPlane) -> None:
    process = _daemon(plane, "second", plane.mounts["n1"])
    assert process.popen.wait(DEADLINE_SECONDS) == 1
    assert "unmount it first" in process.tail()
    assert is_mounted(plane.mounts["n1"])


def _daemon(plane: DataPlane, name: str, mount: Path, *more: str) -> Process:
    arguments = ["--node", "n1", "--metadata", plane.metadata_address, "--worker-socket", str(plane.socket("n1"))]
    return plane.spawn(f"fuse-{name}", ["-m", "fuse", *arguments, "--mount", str(mount), *more])


def test_snapshot_data_is_read_while_metadata_is_away(plane: DataPlane, tmp_path: Path) -> None:
    process = _daemon(plane, "away", tmp_path / "mount", "--metadata-patience-seconds", "1")
    _eventually(lambda: "ready" in process.tail())
    library = tmp_path / "mount" / "bench" / "stdlib"
    expected = (library / "abc.py").read_bytes()
    assert plane.metadata is not None
    plane.metadata.stop(signal.SIGKILL)
    try:
        time.sleep(1.1)  # until the kernel asks again which datasets there are
        assert (library / "abc.py").read_bytes() == expected
        assert (library / "ast.py").stat().st_size > 0
    finally:
        plane.start_metadata()
    work = tmp_path / "mount" / "bench" / "work"
    _eventually(lambda: _writes(work / "after"))
    assert process.stop() == 0


def _writes(path: Path) -> bool:
    try:
        path.write_text("x")
    except OSError:
        return False
    return path.read_text() == "x"


def test_sigterm_unmounts_although_files_are_open(plane: DataPlane, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    process = _daemon(plane, "busy", mount)
    _eventually(lambda: "ready" in process.tail())
    descriptor = os.open(mount / "bench" / "stdlib" / "abc.py", os.O_RDONLY)
    assert os.read(descriptor, 10)
    assert process.stop(signal.SIGTERM) == 0
    assert not is_mounted(mount)
    assert list(mount.iterdir()) == []
    with pytest.raises(OSError) as caught:
        os.fsync(descriptor)
    assert caught.value.errno == errno.ENOTCONN
    with suppress(OSError):
        os.close(descriptor)


def test_an_unmount_from_outside_ends_the_daemon(plane: DataPlane, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    process = _daemon(plane, "outside", mount)
    _eventually(lambda: "ready" in process.tail())
    subprocess.run(["umount", str(mount)], check=True, timeout=10)
    assert process.popen.wait(DEADLINE_SECONDS) == 0


def test_metrics_are_served(plane: DataPlane, tmp_path: Path, unused_tcp_port: int) -> None:
    process = _daemon(plane, "metrics", tmp_path / "mount", "--metrics", f"127.0.0.1:{unused_tcp_port}")
    _eventually(lambda: "ready" in process.tail())
    (tmp_path / "mount" / "bench" / "stdlib" / "abc.py").read_bytes()
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}/metrics", timeout=10) as response:
        text = response.read().decode()
    assert 'headrace_fuse_requests_total{operation="open"} 1.0' in text
    assert process.stop() == 0


def test_bad_arguments_are_named() -> None:
    command = [sys.executable, "-m", "fuse", "--node", "n", "--metadata", "nowhere", "--worker-socket", "/s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--metadata" in done.stderr and "nowhere" in done.stderr
    assert "--mount" in done.stderr


RAISING = (
    "forget",
    "read",
    "readdir",
    "getxattr",
    "statfs",
    "flush",
    "release",
    "setattr",
    "mkdir",
    "rename",
    "unlink",
)


@pytest.mark.parametrize("backend", ["raw", "pyfuse3"])
def test_a_daemon_full_of_defects_answers_and_stays(tmp_path: Path, backend: str) -> None:
    books = tmp_path / "tree" / "ml" / "books-rw"
    books.mkdir(parents=True)
    (books / "a.txt").write_bytes(b"words")
    log = tmp_path / "fuse.log"
    mount = tmp_path / "mount"
    command = [sys.executable, "-m", "tests.builders.fuse_fake_daemon", backend, str(mount)]
    command += [str(tmp_path / "tree"), *RAISING]
    with log.open("wb") as output:
        process = Process("fake", subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), log)
    try:
        _eventually(lambda: "ready" in log.read_text())
        path = mount / "ml" / "books-rw" / "a.txt"
        for _ in range(3):
            for operation in (
                path.read_bytes,
                lambda: list(path.parent.iterdir()),
                lambda: os.getxattr(path, "user.headrace.etag"),
                lambda: os.statvfs(path),
                lambda: os.truncate(path, 1),
                (path.parent / "d").mkdir,
                lambda: path.rename(path.parent / "b"),
                path.unlink,
            ):
                with pytest.raises(OSError) as caught:
                    operation()
                assert caught.value.errno == errno.EIO
            assert path.stat().st_size == 5
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        assert path.stat().st_size == 5
    finally:
        assert process.stop() == 0
    assert log.read_text().count("defect in read\n") <= 2
