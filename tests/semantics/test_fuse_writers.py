"""What SEMANTICS.md says of writers beside each other, and of calls that ask for durability in other ways."""

import ctypes
import errno
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.builders.both_backends import BothBackends

pytestmark = pytest.mark.mount

BACKENDS = {"raw": 0, "pyfuse3": 1}
DEADLINE_SECONDS = 30.0
APPENDED = 60
LIBC = ctypes.CDLL(None, use_errno=True)
APPEND = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for number in range(int(sys.argv[3])):
    os.write(file, f"{sys.argv[2]} {number:05} {'x' * 80}\\n".encode())
os.close(file)
"""


class Place:
    """A directory of one test, as two nodes and the under store have it."""

    def __init__(self, site: BothBackends, backend: str, name: str) -> None:
        first = BACKENDS[backend]
        self.here, self.there = (site.mounts[number] / name for number in (first, 1 - first))
        self.origin = site.origin / name
        self.here.mkdir()
        eventually(self.there.exists)

    def stored(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self.origin / name).read_bytes()
        return None


@pytest.fixture(params=BACKENDS)
def place(both_backends: BothBackends, request: pytest.FixtureRequest) -> Place:
    return Place(both_backends, request.param, f"writers-{time.time_ns()}")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_writes_that_ask_to_be_durable(place: Place) -> None:
    """A write() to a file opened with O_SYNC or O_DSYNC is in the under store when it returns, like one with RWF_DSYNC
    and what msync() wrote."""
    for access in (os.O_WRONLY, os.O_RDWR):
        for flag in (os.O_SYNC, os.O_DSYNC):
            name = f"{access}-{flag}"
            file = os.open(place.here / name, access | os.O_CREAT | flag, 0o644)
            for number in range(3):
                os.write(file, b"%d" % number)
                assert place.stored(name) == b"012"[: number + 1]
            os.close(file)
        file = os.open(place.here / f"{access}", access | os.O_CREAT, 0o644)
        os.pwrite(file, b"not yet", 0)
        assert place.stored(f"{access}") is None
        os.pwritev(file, [b"durable"], 0, os.RWF_DSYNC)
        assert place.stored(f"{access}") == b"durable"
        os.close(file)
    with (place.here / "mapped").open("w+b", buffering=0) as mapped:
        mapped.write(b"before")
        with mmap.mmap(mapped.fileno(), 6) as view:
            view[:] = b"mapped"
            view.flush()
            assert place.stored("mapped") == b"mapped"


def test_sync(place: Place) -> None:
    """syncfs(), and so sync(), does not commit what is being written: that is for fsync() and close()."""
    with (place.here / "a").open("wb", buffering=0) as file:
        file.write(b"bytes")
        assert LIBC.syncfs(file.fileno()) == 0
        assert place.stored("a") is None
        os.fsync(file.fileno())
        assert place.stored("a") == b"bytes"


def test_two_nodes_write_one_file(place: Place) -> None:
    """A file that two nodes write at once is, after each close(), the whole file as that node wrote it: the last
    close() stays, and nothing is mixed."""
    (place.here / "a").write_bytes(b"base")
    eventually((place.there / "a").exists)
    ours, theirs = (os.open(where / "a", os.O_RDWR) for where in (place.here, place.there))
    os.pwrite(ours, b"OURS and more", 0)
    os.pwrite(theirs, b" theirs", 4)
    os.close(ours)
    assert place.stored("a") == b"OURS and more"
    os.close(theirs)
    assert place.stored("a") == b"base theirs"
    for where in (place.here, place.there):
        eventually(lambda where=where: (where / "a").read_bytes() == b"base theirs")  # type: ignore[misc]


def test_exclusive_on_one_node(place: Place) -> None:
    """O_EXCL keeps out another node only when the file has been committed, so a lock file is good for one node."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    files = [os.open(where / "lock", flags) for where in (place.here, place.there)]
    for where in (place.here, place.there):
        with pytest.raises(FileExistsError):
            os.open(where / "lock", flags)
    os.close(files[0])
    os.close(files[1])
    (place.here / "committed").touch()
    with pytest.raises(FileExistsError):
        os.open(place.there / "committed", flags)


def test_appending_together(place: Place) -> None:
    """What several processes of a node append with O_APPEND is all there, each write in one piece."""
    path = place.here / "log"
    writers = [
        subprocess.Popen([sys.executable, "-c", APPEND, str(path), letter, str(APPENDED)]) for letter in ("a", "b", "c")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = path.read_text().splitlines()
    wanted = {f"{letter} {number:05} {'x' * 80}" for letter in ("a", "b", "c") for number in range(APPENDED)}
    assert len(lines) == len(wanted)
    assert set(lines) == wanted
    assert place.stored("log") == path.read_bytes()


def test_names_of_extended_attributes(place: Place) -> None:
    """listxattr() names the extended attributes that have a value, and a buffer that is too small is ERANGE."""
    with (place.here / "a").open("w+b", buffering=0) as file:
        assert os.listxattr(file.fileno()) == ["user.headrace.snapshot"], "it has no version yet"
        file.write(b"x")
        os.fsync(file.fileno())
        descriptor = file.fileno()
        assert os.listxattr(descriptor) == [
            f"user.headrace.{name}" for name in ("etag", "resident", "durable", "snapshot")
        ]
        for is_removed in (False, True):
            if is_removed:
                (place.here / "a").unlink()
            for name in os.listxattr(descriptor):
                assert os.getxattr(descriptor, name)
        buffer = ctypes.create_string_buffer(2)
        assert LIBC.fgetxattr(descriptor, b"user.headrace.etag", buffer, 2) == -1
        assert ctypes.get_errno() == errno.ERANGE
        assert LIBC.flistxattr(descriptor, buffer, 2) == -1
        assert ctypes.get_errno() == errno.ERANGE
    assert os.listxattr(place.here) == ["user.headrace.snapshot"]
