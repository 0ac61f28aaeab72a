"""What SEMANTICS.md says of mounts without opens, each sentence the docstring of its test."""

import errno
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.data_plane import DataPlane
from tests.builders.cache_cluster import free_port, wait_for
from tests.kills import campaign

pytestmark = pytest.mark.mount


class Site:
    """A read-only mount of `books` and `work`, and the daemon's metrics."""

    def __init__(self, root: Path, plane: DataPlane) -> None:
        self.plane = plane
        self.origin = root / "books"
        self._port = free_port()
        more = ("--backend", "raw", "--no-open", "--metrics", f"127.0.0.1:{self._port}")
        self.top = plane.start_mount("n1", *more) / "bench"

    def sync(self) -> None:
        self.plane.sync("books", f"file://{self.origin}")

    def requests(self, operation: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as response:
            text = response.read().decode()
        found = re.search(rf'headrace_fuse_requests_total{{operation="{operation}"}} (\S+)', text)
        return int(float(found[1])) if found is not None else 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("no-open")
    (root / "books").mkdir()
    (root / "work").mkdir()
    for number in range(50):
        (root / "books" / f"{number}.txt").write_text(f"text {number}")
    with DataPlane(root / "plane") as plane:
        plane.start_worker("n1")
        plane.sync("books", f"file://{root / 'books'}")
        plane.sync("work", f"file://{root / 'work'}", writable=True)
        yield Site(root, plane)


def test_nothing_is_asked(site: Site) -> None:
    """The mount is read-only, and neither open() nor close() of a file asks the daemon, so small files in the page
    cache cost nothing but system calls."""
    paths = [site.top / "books" / f"{number}.txt" for number in range(50)]
    assert [path.read_text() for path in paths] == [f"text {number}" for number in range(50)]
    assert site.requests("open") == 1, "by its answer the kernel knows"
    before = {operation: site.requests(operation) for operation in ("open", "flush", "release", "read", "lookup")}
    for _ in range(5):
        assert [path.read_text() for path in paths] == [f"text {number}" for number in range(50)]
    assert {operation: site.requests(operation) for operation in before} == before
    with pytest.raises(OSError) as caught:
        (site.top / "work" / "new").write_text("x")
    assert caught.value.errno == errno.EROFS


def test_replaced(site: Site) -> None:
    """A file that was replaced is another inode: who has it open reads on in the old version, and the next open() reads
    the new one."""
    path = site.top / "books" / "1.txt"
    with path.open() as old:
        inode = os.fstat(old.fileno()).st_ino
        assert old.read() == "text 1"
        status = (site.origin / "1.txt").stat()
        (site.origin / "1.txt").write_text("TEXT 1")
        os.utime(site.origin / "1.txt", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        site.sync()
        wait_for("the new version", lambda: path.read_text() == "TEXT 1" or None)
        assert path.stat().st_ino != inode
        old.seek(0)
        assert old.read() == "text 1"


def test_death(site: Site) -> None:
    """The death of the daemon is not seen by those who have files open without its knowledge."""
    keeper = site.plane.daemons["n1"]
    path = site.top / "books" / "2.txt"
    with path.open() as file, (site.top / "books" / "3.txt").open() as unread:
        assert file.read() == "text 2"
        count = len(campaign.serving_pids(keeper))
        os.kill(campaign.serving_pids(keeper)[-1], signal.SIGKILL)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert file.read() == "text 2"
        assert unread.read() == "text 3"
        assert len(campaign.serving_pids(keeper)) == count + 1
    assert (site.top / "books" / "4.txt").read_text() == "text 4"
