"""SEMANTICS.md, sentence by sentence: each docstring is one of its sentences.

Real metadata, workers, mounts and a file:// origin on two nodes, except where only a fake can fail on demand.
"""

import ast
import ctypes
import errno
import mmap
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

import fuse
from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from benchmarks.data_plane import DataPlane, Process
from fuse.errors import NoSpace
from fuse.node.mounts import is_mounted
from tests.builders.fuse_mount import KernelLessMount

pytestmark = pytest.mark.mount

DEADLINE_SECONDS = 20.0
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100


class Site:
    """Two nodes, a read-only dataset `books` and a writable one `work`, and their origins."""

    def __init__(self, plane: DataPlane, root: Path) -> None:
        self.plane = plane
        self.books_origin = root / "books"
        self.work_origin = root / "work"
        self.here = plane.mounts["here"] / "bench"
        self.there = plane.mounts["there"] / "bench"
        self.books = self.here / "books"
        self.work = self.here / "work"
        self.work_there = self.there / "work"

    def sync_books(self) -> None:
        self.plane.sync("books", f"file://{self.books_origin}")


@pytest.fixture(scope="module", params=["raw", "pyfuse3"])
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("semantics")
    for name in ("books", "work", "other", "back", "alone"):
        (root / name).mkdir()
    (root / "books" / "poems").mkdir()
    (root / "books" / "poems" / "one.txt").write_bytes(b"whose woods these are")
    (root / "books" / "large.bin").write_bytes(os.urandom(9 << 20))
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        environment.setenv("HEADRACE_METADATA_FENCE_SETTLE_SECONDS", "2.5")
        plane = stack.enter_context(DataPlane(root / "plane"))
        for node in ("here", "there"):
            # A file that waits for its upload waits for little.
            plane.start_worker(node, {"HEADRACE_WORKER_HELD_SETTLE_SECONDS": "0.3"})
        plane.sync("books", f"file://{root / 'books'}")
        plane.sync("work", f"file://{root / 'work'}", writable=True)
        plane.sync("other", f"file://{root / 'other'}", writable=True)
        plane.sync("back", f"file://{root / 'back'}", writable=True, write_back=True)
        plane.sync("alone", f"file://{root / 'alone'}", writable=True, write_back=True, eligible_nodes=["here"])
        for node in ("here", "there"):
            plane.start_mount(node, "--backend", request.param)
        yield Site(plane, root)


@pytest.fixture
def work(site: Site, request: pytest.FixtureRequest) -> Path:
    """A directory of this test's own in the writable dataset."""
    directory = site.work / re.sub(r"\W", "_", request.node.name)[:100]
    directory.mkdir()
    return directory


def _there(site: Site, path: Path) -> Path:
    return site.work_there / path.relative_to(site.work)


def _origin(site: Site, path: Path) -> Path:
    return site.work_origin / path.relative_to(site.work)


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def _fails(number: int, operation: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        operation()
    assert caught.value.errno == number, os.strerror(caught.value.errno or 0)


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def _rename(source: Path, target: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_tree(site: Site) -> None:
    """The root lists namespaces, a namespace lists its datasets, and a dataset holds its files and directories."""
    assert _names(site.plane.mounts["here"]) == ["bench"]
    assert sorted(_names(site.here)) == ["alone", "back", "books", "other", "work"]
    assert sorted(_names(site.books))[:2] == ["large.bin", "poems"]
    assert (site.books / "poems").is_dir()


def test_catalogue_is_read_only(site: Site) -> None:
    """The root and the namespaces cannot be changed through the mount: EROFS."""
    for directory in (site.plane.mounts["here"], site.here):
        _fails(errno.EROFS, (directory / "new").mkdir)
        _fails(errno.EROFS, (directory / "new").touch)
    _fails(errno.EROFS, site.work.rmdir)
    _fails(errno.EROFS, lambda: site.work.rename(site.here / "renamed"))


def test_names(work: Path) -> None:
    """A name is UTF-8 and at most 255 bytes long: a longer one is ENAMETOOLONG, creating one in another encoding
    is EILSEQ."""
    (work / ("é" * 127)).write_text("x")
    _fails(errno.ENAMETOOLONG, lambda: (work / ("x" * 256)).write_text("x"))
    _fails(errno.EILSEQ, lambda: os.open(os.fsencode(work) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))


def test_links_and_special_files(work: Path) -> None:
    """Symbolic links, hard links and special files are refused with EPERM."""
    (work / "a").write_text("x")
    _fails(errno.EPERM, lambda: (work / "s").symlink_to("a"))
    _fails(errno.EPERM, lambda: (work / "h").hardlink_to(work / "a"))
    _fails(errno.EPERM, lambda: os.mkfifo(work / "p"))


def test_owner_and_modes(work: Path, site: Site) -> None:
    """Everything belongs to the user the daemon runs as; files are 0644 and directories 0755 unless the namespace
    holds another mode."""
    descriptor = os.open(work / "secret", os.O_CREAT | os.O_WRONLY, 0o600)
    os.close(descriptor)
    assert stat.S_IMODE((work / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(site.work.stat().st_mode) == 0o755
    status = work.stat()
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_group_rights(site: Site, work: Path) -> None:
    """With `--group-rights`, as the CSI driver mounts, the group has what the owner has: files are 0664 and
    directories 0775, and a mode that is set without the group's rights has them."""
    name = f"shared-{work.name[-10:]}"
    backend = ["--backend", "pyfuse3"] if "pyfuse3" in work.name else []
    shared = site.plane.start_mount("here", "--group-rights", *backend, name=name) / "bench" / "work" / work.name
    old = os.umask(0o022)
    try:
        (shared / "d").mkdir()
        (shared / "f").write_bytes(b"x")
        os.close(os.open(shared / "private", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (shared, *shared.iterdir())}
    assert modes == {work.name: 0o775, "d": 0o775, "f": 0o664, "private": 0o660}
    read_only = site.plane.mounts[name] / "bench" / "books"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (read_only, read_only / "large.bin")] == [0o555, 0o444]
    # What the file shows changes nothing when it is set, nor does what it was made with.
    for mode in (0o664, 0o644):
        (shared / "f").chmod(mode)
    (shared / "d").chmod(0o700)
    assert stat.S_IMODE((shared / "d").stat().st_mode) == 0o770
    # A mount beside it shows what was set.
    wanted = [0o644, 0o600, 0o700]
    _eventually(lambda: _modes(work, "f", "private", "d") == wanted)


def test_statfs(site: Site) -> None:
    """statfs shows the bytes and files of all datasets, and room for more, because an object store has no limit."""
    status = os.statvfs(site.books)
    assert (status.f_blocks - status.f_bfree) * status.f_frsize >= 9 << 20
    assert status.f_bavail * status.f_frsize > 1 << 40


def test_exact_bytes(site: Site) -> None:
    """A file has exactly the bytes and the size of its object in the under store."""
    for name in ("poems/one.txt", "large.bin"):
        expected = (site.books_origin / name).read_bytes()
        assert (site.books / name).stat().st_size == len(expected)
        assert (site.books / name).read_bytes() == expected
    with (site.books / "large.bin").open("rb") as file:
        file.seek(9 << 20)
        assert file.read() == b""


def test_mmap(site: Site) -> None:
    """A memory map has the same bytes as read()."""
    with (
        (site.books / "large.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[5_000_000:5_001_000] == (site.books_origin / "large.bin").read_bytes()[5_000_000:5_001_000]
        assert mapped[-10:] == (site.books_origin / "large.bin").read_bytes()[-10:]


def test_one_version(site: Site) -> None:
    """An open file reads one version to its end: when the object is replaced, it reads the old bytes or gets
    ESTALE."""
    old, new = os.urandom(12 << 20), os.urandom(12 << 20)
    (site.books_origin / "replaced.bin").write_bytes(old)
    site.sync_books()
    _eventually((site.books / "replaced.bin").exists)
    descriptor = os.open(site.books / "replaced.bin", os.O_RDONLY)
    try:
        assert os.pread(descriptor, 4096, 0) == old[:4096]
        (site.books_origin / "replaced.tmp").write_bytes(new)
        (site.books_origin / "replaced.tmp").rename(site.books_origin / "replaced.bin")
        site.sync_books()
        for offset in range(0, len(old), 1 << 20):
            try:
                data = os.pread(descriptor, 4096, offset)
            except OSError as error:
                assert error.errno == errno.ESTALE
            else:
                assert data == old[offset : offset + 4096]
    finally:
        os.close(descriptor)
    _eventually(lambda: (site.books / "replaced.bin").read_bytes() == new)


def test_replaced_inode(site: Site) -> None:
    """A file replaced elsewhere has another inode for those who open it while the old version is open here."""
    (site.books_origin / "versions.txt").write_bytes(b"old")
    site.sync_books()
    _eventually((site.books / "versions.txt").exists)
    with (site.books / "versions.txt").open("rb") as old:
        assert old.read() == b"old"
        (site.books_origin / "versions.txt").write_bytes(b"newer")
        site.sync_books()
        _eventually(lambda: (site.books / "versions.txt").stat().st_size == 5)
        with (site.books / "versions.txt").open("rb") as new:
            assert new.read() == b"newer"
            assert os.fstat(new.fileno()).st_ino != os.fstat(old.fileno()).st_ino
        old.seek(0)
        assert old.read() == b"old"


def test_new_snapshot(site: Site) -> None:
    """A new snapshot of a read-only dataset is seen without remounting."""
    assert not (site.books / "later.txt").exists()
    (site.books_origin / "later.txt").write_bytes(b"late")
    site.sync_books()
    _eventually((site.books / "later.txt").exists)
    assert (site.books / "later.txt").read_bytes() == b"late"


def test_extended_attributes(site: Site, work: Path) -> None:
    """`user.headrace.etag` is the version of a file, `user.headrace.resident` says whether all of it is on this
    node (1 or 0), `user.headrace.durable` where it is kept (UnderStore or TwoWorkers), and `user.headrace.snapshot` is
    the dataset's snapshot version; any other extended attribute is ENODATA, and setting one is ENOTSUP."""
    path = site.books / "large.bin"
    assert os.getxattr(path, "user.headrace.etag")
    assert int(os.getxattr(path, "user.headrace.snapshot")) > 0
    names = ["user.headrace.etag", "user.headrace.resident", "user.headrace.durable", "user.headrace.snapshot"]
    assert os.listxattr(path) == names
    assert os.getxattr(path, "user.headrace.durable") == b"UnderStore"
    assert path.read_bytes()
    assert os.getxattr(path, "user.headrace.resident") == b"1"
    (site.books_origin / "unread.bin").write_bytes(b"x" * 100)
    site.sync_books()
    _eventually((site.books / "unread.bin").exists)
    assert os.getxattr(site.books / "unread.bin", "user.headrace.resident") == b"0"
    assert (site.books / "unread.bin").read_bytes() == b"x" * 100
    assert os.getxattr(site.books / "unread.bin", "user.headrace.resident") == b"1"
    _fails(errno.ENODATA, lambda: os.getxattr(path, "user.other"))
    (work / "a").write_text("x")
    _fails(errno.ENOTSUP, lambda: os.setxattr(work / "a", "user.other", b"x"))


def _durable(path: Path) -> str:
    return os.getxattr(path, "user.headrace.durable").decode()


@contextmanager
def _no_uploads(site: Site, name: str) -> Iterator[Path]:
    """A directory of the dataset that is written back, whose place in the under store takes nothing meanwhile."""
    directory, origin = site.here / "back" / name, site.work_origin.parent / "back" / name
    directory.mkdir()
    origin.rmdir()
    origin.write_bytes(b"in the way")
    yield directory
    origin.unlink()


def _is_uploaded(site: Site, name: str, data: bytes) -> None:
    """The under store has the file, and the mount says so."""
    _eventually(lambda: _durable(site.here / "back" / name) == "UnderStore")
    assert (site.work_origin.parent / "back" / name).read_bytes() == data


def test_write_back(site: Site) -> None:
    """close() and fsync() return when two workers have the file on their disks, and its upload to the under store
    follows."""
    data = os.urandom(5 << 20)
    with _no_uploads(site, "closes") as directory:
        (directory / "closed").write_bytes(data)
        with (directory / "synced").open("wb") as file:
            file.write(b"first")
            file.flush()
            os.fsync(file.fileno())
            for node in ("here", "there"):
                held = (site.plane.directory / f"{node}-tier" / "held").glob("*[0-9a-f]")
                assert {path.stat().st_size for path in held} >= {len(data), 5}
            file.write(b", second")
    _is_uploaded(site, "closes/closed", data)
    _is_uploaded(site, "closes/synced", b"first, second")


def test_write_back_elsewhere(site: Site) -> None:
    """Until it is uploaded `user.headrace.durable` is TwoWorkers, and other nodes read it from those workers."""
    with _no_uploads(site, "elsewhere") as directory:
        there = site.there / "back" / "elsewhere" / "read"
        (directory / "read").write_bytes(b"from two workers")
        _eventually(there.exists)
        assert there.read_bytes() == b"from two workers"
        assert _durable(directory / "read") == _durable(there) == "TwoWorkers"
    _is_uploaded(site, "elsewhere/read", b"from two workers")
    assert _durable(there) == "UnderStore"
    assert (directory / "read").read_bytes() == b"from two workers"


def test_write_back_changes(site: Site) -> None:
    """A file that waits for its upload is written on, renamed and removed like any other, and only what is left of
    that is uploaded."""
    back, origin = site.here / "back", site.work_origin.parent / "back"
    (back / "removed").write_bytes(b"for nobody")
    (back / "log").write_bytes(b"one, ")
    with (back / "log").open("ab") as file:
        file.write(b"two")
    (back / "model.tmp").write_bytes(b"weights")
    (back / "model.tmp").rename(back / "model")
    (back / "removed").unlink()
    assert (back / "model").read_bytes() == b"weights"
    _is_uploaded(site, "model", b"weights")
    _is_uploaded(site, "log", b"one, two")
    assert {"removed", "model.tmp"} & set(_names(origin)) == set()


def test_write_back_alone(site: Site) -> None:
    """Without a second worker that may hold it, close() returns when the file is in the under store."""
    (site.here / "alone" / "a").write_bytes(b"durable")
    assert (site.work_origin.parent / "alone" / "a").read_bytes() == b"durable"
    assert _durable(site.here / "alone" / "a") == "UnderStore"


def test_large_listing(site: Site) -> None:
    """A listing has every name once, however large the directory is."""
    directory = site.books_origin / "many"
    directory.mkdir()
    for index in range(10_050):
        (directory / f"{index:05}").touch()
    site.sync_books()
    _eventually((site.books / "many").exists)
    _eventually(lambda: len(_names(site.books / "many")) == 10_050)
    names = _names(site.books / "many")
    assert sorted(names) == [f"{index:05}" for index in range(10_050)]


class _Directory:
    """opendir(3) and what goes with it."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.opendir.restype = self._libc.readdir.restype = ctypes.c_void_p
        for call in (self._libc.readdir, self._libc.rewinddir, self._libc.closedir):
            call.argtypes = [ctypes.c_void_p]
        self._directory = self._libc.opendir(os.fsencode(path))

    def rest(self) -> int:
        """Return how many names are left."""
        count = 0
        while self._libc.readdir(self._directory):
            count += 1
        return count

    def rewind(self) -> None:
        self._libc.rewinddir(self._directory)

    def close(self) -> None:
        self._libc.closedir(self._directory)


def test_open_directory(work: Path) -> None:
    """An open directory keeps the list it began with, and rewinddir() begins with what is there now."""
    (work / "a").write_text("x")
    directory = _Directory(work)
    assert directory.rest() == 1
    (work / "b").write_text("x")
    assert directory.rest() == 0
    directory.rewind()
    assert directory.rest() == 2
    directory.close()


def test_kept_listing(site: Site) -> None:
    """Listing a directory of a read-only dataset again shows the newest snapshot, also to who has it open."""
    origin, path = site.books_origin / "listed", site.books / "listed"
    origin.mkdir()
    for name in ("a", "b"):
        (origin / name).touch()
    site.sync_books()
    _eventually(path.exists)
    directory = _Directory(path)
    assert [_names(path) for _ in range(3)] == [["a", "b"]] * 3
    assert directory.rest() == 2
    for count, name in enumerate(("c", "d"), 3):
        (origin / name).touch()
        site.sync_books()
        assert directory.rest() == 0

        def shows_it(count: int = count) -> bool:
            directory.rewind()
            return directory.rest() == count == len(_names(path))

        _eventually(shows_it)
        assert len(_names(path)) == count
    directory.close()


def test_read_only(site: Site) -> None:
    """In a read-only dataset every change is refused with EROFS, and modes show no write bits."""
    path = site.books / "large.bin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(site.books.stat().st_mode) == 0o555
    for change in (
        lambda: (site.books / "new").write_text("x"),
        lambda: path.open("r+b"),
        lambda: os.truncate(path, 0),
        lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
        path.unlink,
        lambda: path.rename(site.books / "other"),
        (site.books / "d").mkdir,
        (site.books / "poems").rmdir,
        lambda: path.chmod(0o600),
        lambda: os.utime(path),
    ):
        _fails(errno.EROFS, change)
    small = next(path for path in sorted(site.books.rglob("*")) if path.is_file() and 0 < path.stat().st_size < 1 << 20)
    for _ in range(2):  # opened before, it is opened by a shorter way
        _fails(errno.EROFS, lambda: os.open(small, os.O_RDONLY | os.O_TRUNC))
        assert small.read_bytes()


def test_read_your_writes(work: Path) -> None:
    """Written bytes are read back at once by every process of this node."""
    with (work / "a").open("wb", buffering=0) as file:
        file.write(b"hello")
        command = [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read(), end='')", str(work / "a")]
        assert subprocess.run(command, check=True, capture_output=True, timeout=60).stdout == b"hello"
        assert (work / "a").stat().st_size == 5
        assert _names(work) == ["a"]


def test_visible_at_close(site: Site, work: Path) -> None:
    """Another node sees a file when close() or fsync() has returned, and not before."""
    with (work / "a").open("wb", buffering=0) as file:
        file.write(b"one")
        assert not _there(site, work / "a").exists()
        os.fsync(file.fileno())
        _eventually(_there(site, work / "a").exists)
        assert _there(site, work / "a").read_bytes() == b"one"
        file.write(b"two")
    _eventually(lambda: _there(site, work / "a").read_bytes() == b"onetwo")


def test_close_to_open(site: Site, work: Path) -> None:
    """An open after another node's close() has returned sees what was closed, at most a second later."""
    for content in (b"first", b"second, longer", b"3"):
        (work / "a").write_bytes(content)
        _eventually(partial(_shows, _there(site, work / "a"), content))


def _shows(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def test_durable(site: Site, work: Path) -> None:
    """When fsync() or close() has returned, the bytes are in the under store."""
    data = os.urandom(9 << 20)
    with (work / "a").open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
        assert _origin(site, work / "a").read_bytes() == data
        file.write(b"more")
    assert _origin(site, work / "a").read_bytes() == data + b"more"


def test_any_close_commits(site: Site, work: Path) -> None:
    """Every close() commits, also that of a duplicate or of a descriptor a child process inherited."""
    with (work / "a").open("wb", buffering=0) as file:
        file.write(b"one")
        os.close(os.dup(file.fileno()))
        assert _origin(site, work / "a").read_bytes() == b"one"
        file.write(b"two")
        subprocess.run([sys.executable, "-c", ""], check=True, timeout=60)
        assert _origin(site, work / "a").read_bytes() == b"onetwo"


async def test_failed_commit() -> None:
    """When a commit fails, close() or fsync() returns its error, and the file can be written again."""
    mount = KernelLessMount(writable=True)
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"x")
    mount.peers.failures["commit"] = NoSpace("full")
    with pytest.raises(NoSpace):
        await mount.operations.changes.fsync(number)
    with pytest.raises(NoSpace):
        await mount.operations.changes.flush(number)
    del mount.peers.failures["commit"]
    await mount.operations.changes.flush(number)
    assert mount.origin() == {"a": b"x"}


def test_touch(site: Site, work: Path) -> None:
    """A file that is created and not written is an empty file."""
    (work / "_SUCCESS").touch()
    assert _origin(site, work / "_SUCCESS").read_bytes() == b""
    assert (work / "_SUCCESS").read_bytes() == b""


def test_open_flags(work: Path) -> None:
    """O_APPEND adds to what is there, O_TRUNC starts empty, and O_EXCL of an existing name is EEXIST."""
    path = work / "log"
    path.write_bytes(b"one\n")
    with path.open("ab") as file:
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with path.open("r+b") as file:
        file.write(b"ONE")
    assert path.read_bytes() == b"ONE\ntwo\n"
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    _fails(errno.EEXIST, lambda: path.open("xb"))
    descriptor = os.open(path, os.O_RDONLY | os.O_TRUNC)
    assert os.read(descriptor, 9) == b""
    os.close(descriptor)
    assert path.read_bytes() == b""


def test_sparse_writes(work: Path) -> None:
    """Any offset may be written, and a gap reads as zeros."""
    with (work / "a").open("wb", buffering=0) as file:
        os.pwrite(file.fileno(), b"end", 10)
        os.pwrite(file.fileno(), b"start", 0)
    assert (work / "a").read_bytes() == b"start\0\0\0\0\0end"


def test_truncate(site: Site, work: Path) -> None:
    """truncate() is durable when it returns."""
    (work / "a").write_bytes(b"0123456789")
    os.truncate(work / "a", 4)
    assert _origin(site, work / "a").read_bytes() == b"0123"
    os.truncate(work / "a", 6)
    assert (work / "a").read_bytes() == _origin(site, work / "a").read_bytes() == b"0123\0\0"


def test_mode_and_times_while_writing(site: Site, work: Path) -> None:
    """Mode and times set on a file that is being written are part of its next commit."""
    with (work / "a").open("wb", buffering=0) as file:
        file.write(b"x")
        os.fchmod(file.fileno(), 0o640)
        os.utime(file.fileno(), ns=(1_000_000_000, 2_000_000_000))
    _eventually(_there(site, work / "a").exists)
    status = _there(site, work / "a").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640, 2_000_000_000)


def test_mode_of_committed(site: Site, work: Path) -> None:
    """The mode of a committed file or a directory can be set: the namespace keeps it, other nodes see it, and it stays
    when the under store is listed anew. That of a dataset itself is ENOTSUP, unless it has that mode already."""
    (work / "a").write_bytes(b"x")
    (work / "d").mkdir()
    (_origin(site, work) / "listed").mkdir()
    (_origin(site, work) / "listed" / "b").write_bytes(b"y")
    _sync_work(site)
    _eventually((work / "listed" / "b").exists)
    names = ("a", "d", "listed", "listed/b")
    modes = [0o600, 0o700, 0o2750, 0o755]
    for name, mode in zip(names, modes, strict=True):
        (work / name).chmod(mode)
        assert _modes(work, name) == [mode]
    _eventually(lambda: _modes(_there(site, work), *names) == modes)
    (_origin(site, work) / "more").write_bytes(b"z")
    _sync_work(site)
    for where in (work, _there(site, work)):
        _eventually((where / "more").exists)
        assert _modes(where, *names) == modes
    assert (work / "a").read_bytes() == b"x"
    with (work / "a").open("ab") as file:
        file.write(b"more")
    (work / "d").rename(work / "e")
    (work / "a").rename(work / "e" / "a")
    _eventually((_there(site, work) / "e" / "a").exists)
    for where in (work, _there(site, work)):
        assert _modes(where, "e", "e/a") == [0o700, 0o600]
    site.work.chmod(0o755)
    _fails(errno.ENOTSUP, lambda: site.work.chmod(0o700))


def _sync_work(site: Site) -> None:
    site.plane.sync("work", f"file://{site.work_origin}", writable=True)


def _modes(directory: Path, *names: str) -> list[int]:
    return [stat.S_IMODE((directory / name).stat().st_mode) for name in names]


def test_mode_zero(work: Path) -> None:
    """Mode 0 cannot be kept: creating a file or directory with it and setting it are ENOTSUP."""
    _fails(errno.ENOTSUP, lambda: os.open(work / "a", os.O_CREAT | os.O_WRONLY, 0))
    _fails(errno.ENOTSUP, lambda: (work / "d").mkdir(0))
    with (work / "b").open("wb") as file:
        _fails(errno.ENOTSUP, lambda: os.fchmod(file.fileno(), 0))
    _fails(errno.ENOTSUP, lambda: (work / "b").chmod(0))
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in work.iterdir()] == [("b", 0o644)]


def test_times_of_committed(work: Path) -> None:
    """Setting the times of a committed file succeeds and is not kept, because copying programs do it and treat a
    refusal as failure."""
    (work / "a").write_bytes(b"x")
    before = (work / "a").stat().st_mtime_ns
    os.utime(work / "a", ns=(1, 1))
    _eventually(lambda: (work / "a").stat().st_mtime_ns == before)


def test_owner(work: Path) -> None:
    """Setting another owner is EPERM."""
    (work / "a").write_bytes(b"x")
    os.chown(work / "a", os.getuid(), os.getgid())
    _fails(errno.EPERM, lambda: os.chown(work / "a", 12345, -1))


def test_killed_writer(site: Site, work: Path) -> None:
    """A process killed while writing leaves what it had written, as on a local disk."""
    code = "import os,sys,time; f=open(sys.argv[1],'wb',0); f.write(b'half'); print('go',flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(work / "a")], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"go\n"
        writer.kill()
        writer.wait(DEADLINE_SECONDS)
    _eventually(lambda: _origin(site, work / "a").exists())
    assert _origin(site, work / "a").read_bytes() == b"half"


def test_rename_over(site: Site, work: Path) -> None:
    """rename() over an existing file replaces it in one step: another reader finds the old bytes or the new ones."""
    old, new = b"o" * 100_000, b"n" * 50_000
    (work / "a").write_bytes(old)
    _eventually(_there(site, work / "a").exists)
    (work / "tmp").write_bytes(new)
    (work / "tmp").rename(work / "a")
    assert (work / "a").read_bytes() == new
    seen: set[bytes] = set()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while new not in seen and time.monotonic() < deadline:
        seen.add(_there(site, work / "a").read_bytes())
    assert new in seen and seen <= {old, new}
    assert _names(work) == ["a"]


def test_rename_while_writing(site: Site, work: Path) -> None:
    """A file that is being written goes on under its new name after a rename, and what was written before is
    committed by the rename."""
    with (work / "tmp").open("wb", buffering=0) as file:
        file.write(b"one")
        (work / "tmp").rename(work / "final")
        assert _origin(site, work / "final").read_bytes() == b"one"
        file.write(b"two")
    assert _origin(site, work / "final").read_bytes() == b"onetwo"
    assert not _origin(site, work / "tmp").exists()


def test_rename_refusals(site: Site, work: Path) -> None:
    """A rename to another dataset is EXDEV, one that must not replace is EEXIST when the name is taken, and an
    exchange is EINVAL."""
    for name in "ab":
        (work / name).write_bytes(b"x")
    _fails(errno.EXDEV, lambda: (work / "a").rename(site.here / "other" / "a"))
    _fails(errno.EEXIST, lambda: _rename(work / "a", work / "b", RENAME_NOREPLACE))
    _fails(errno.EINVAL, lambda: _rename(work / "a", work / "b", RENAME_EXCHANGE))
    _rename(work / "a", work / "c", RENAME_NOREPLACE)
    assert sorted(_names(work)) == ["b", "c"]


def test_rename_directory(site: Site, work: Path) -> None:
    """A directory can be renamed onto nothing or onto an empty directory, with everything below it."""
    (work / "step.tmp" / "deep").mkdir(parents=True)
    (work / "step.tmp" / "deep" / "a").write_bytes(b"x")
    with (work / "step.tmp" / "shard").open("wb", buffering=0) as file:
        file.write(b"one")
        (work / "step.tmp").rename(work / "step")
        file.write(b"two")
    assert _origin(site, work / "step" / "shard").read_bytes() == b"onetwo"
    assert (work / "step" / "deep" / "a").read_bytes() == b"x"
    (work / "empty").mkdir()
    (work / "step").rename(work / "empty")
    assert (work / "empty" / "deep" / "a").read_bytes() == b"x"
    assert _names(work) == ["empty"]


def test_removed_while_open(site: Site, work: Path) -> None:
    """A removed file goes on for those who have it open, and their close() does not bring it back."""
    (work / "a").write_bytes(b"committed")
    with (work / "a").open("r+b", buffering=0) as file:
        file.write(b"COMMIT")
        (work / "a").unlink()
        file.write(b"!")
        file.seek(0)
        assert file.read() == b"COMMIT!ed"
    assert not (work / "a").exists()
    assert not _origin(site, work / "a").exists()
    (work / "b").write_bytes(b"committed")
    with (work / "b").open("r+b", buffering=0) as file:
        (work / "b").unlink()
        assert file.read() == b"committed"
        assert os.pwrite(file.fileno(), b"C", 0) == 1
        assert os.pread(file.fileno(), 99, 0) == b"Committed"
    assert not _origin(site, work / "b").exists()


def test_wrong_kinds(work: Path) -> None:
    """rmdir() of a directory that is not empty is ENOTEMPTY, of a file ENOTDIR, and unlink() of a directory is
    EISDIR."""
    (work / "d").mkdir()
    (work / "d" / "f").write_bytes(b"x")
    _fails(errno.ENOTEMPTY, (work / "d").rmdir)
    _fails(errno.ENOTDIR, (work / "d" / "f").rmdir)
    _fails(errno.EISDIR, (work / "d").unlink)
    (work / "d" / "f").unlink()
    (work / "d").rmdir()
    assert _names(work) == []


APPLICATION = """
import os, sys
reader = open(sys.argv[1], "rb", buffering=0)
writer = open(sys.argv[2], "wb", buffering=0)
os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
data = reader.read(4096)
writer.write(b"before ")
print("half", flush=True)
sys.stdin.readline()
os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
while chunk := reader.read(1 << 20):
    data += chunk
writer.write(b"after")
writer.close()
sys.stdout.buffer.write(data)
"""


def test_worker_death(site: Site, work: Path) -> None:
    """The death of the worker is not seen by readers and writers, except as a wait for its successor."""
    # A process of its own: one that forks with a file open on the mount would commit it by the child's exec.
    command = [sys.executable, "-c", APPLICATION, str(site.books / "large.bin"), str(work / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as application:
        assert application.stdout is not None
        assert application.stdout.readline() == b"half\n"
        site.plane.workers["here"].stop(signal.SIGKILL)
        site.plane.start_worker("here")
        data, _ = application.communicate(b"go on\n", timeout=60)
        assert application.returncode == 0
    assert data == (site.books_origin / "large.bin").read_bytes()
    assert _origin(site, work / "a").read_bytes() == b"before after"


def test_worker_away(site: Site, tmp_path: Path) -> None:
    """A worker that stays away makes the requests that need it fail with EIO after the patience that was set, and
    the mount goes on."""
    mount = tmp_path / "lonely"
    arguments = ["--node", "lonely", "--metadata", site.plane.metadata_address, "--mount", str(mount)]
    away = ["--worker-socket", str(tmp_path / "none.sock"), "--worker-patience-seconds", "0.5"]
    process = site.plane.spawn("fuse-lonely", ["-m", "fuse", *arguments, *away])
    _ready(process)
    path = mount / "bench" / "books" / "large.bin"
    _fails(errno.EIO, path.read_bytes)
    assert path.stat().st_size == 9 << 20
    _fails(errno.EIO, lambda: (mount / "bench" / "work" / "new").write_text("x"))
    assert process.stop() == 0


FILES_OF_REMOVED = 100


@pytest.fixture
def removed(site: Site, tmp_path: Path) -> Iterator[tuple[Path, list[int], int]]:
    """A dataset that is gone: its directory, descriptors of its files (the first one was read), one being written."""
    for number in range(FILES_OF_REMOVED):
        (tmp_path / f"f{number}").write_bytes(b"%d" % number)
    name = f"removed-{tmp_path.name.replace('_', '-')}"
    info = site.plane.sync(name, f"file://{tmp_path}", writable=True)
    directory = site.here / name
    handles = [os.open(directory / f"f{number}", os.O_RDONLY) for number in range(FILES_OF_REMOVED)]
    assert os.pread(handles[0], 9, 0) == b"0"
    written = os.open(directory / "new", os.O_WRONLY | os.O_CREAT, 0o644)
    site.plane.remove(info.uid)
    try:
        yield directory, handles, written
    finally:
        for handle in handles:
            os.close(handle)


def test_fenced_node(site: Site, work: Path) -> None:
    """On a node that is fenced off from a directory every change in it is EACCES, also close() of what was being
    written, and reads go on."""
    (work / "old").write_bytes(b"old")
    written = os.open(work / "new", os.O_WRONLY | os.O_CREAT)
    os.write(written, b"x")
    fence = pb.Fence(node="here", path=work.name, pods=["pod"])
    with site.plane.metadata_channel() as channel:
        fences = metadata_pb2_grpc.FencesStub(channel)
        named = pb.DatasetRequest(namespace="bench", name="work")
        uid = metadata_pb2_grpc.NamespaceStub(channel).GetDataset(named, timeout=10).uid
        try:
            while settle_seconds := fences.Raise(
                pb.RaiseFencesRequest(uid=uid, fences=[fence]), timeout=10
            ).settle_seconds:
                time.sleep(settle_seconds)
            _fails(errno.EACCES, lambda: os.close(written))
            for change in (
                (work / "d").mkdir,
                (work / "old").unlink,
                lambda: (work / "old").chmod(0o600),
                lambda: (work / "old").write_bytes(b"newer"),
                lambda: (work / "old").rename(work / "older"),
                lambda: (work / "old").rename(site.work / "elsewhere"),
            ):
                _fails(errno.EACCES, change)
            assert (work / "old").read_bytes() == b"old"
            there = _there(site, work)
            _eventually((there / "old").exists)
            (there / "old").write_bytes(b"of another node")
        finally:
            fences.Lift(pb.LiftFencesRequest(uid=uid, node="here", pods=["pod"]), timeout=10)


def test_removed_dataset(removed: tuple[Path, list[int], int]) -> None:
    """In a dataset that was removed every name is ENOENT a second later, and so are fsync() and close() of what was
    written and reads of open files that need bytes from elsewhere; nothing waits."""
    directory, handles, written = removed
    _eventually(lambda: not directory.exists())
    for operation in (
        directory.stat,
        (directory / "f1").stat,
        (directory / "f2").read_bytes,
        (directory / "f3").unlink,
        (directory / "d").mkdir,
        lambda: (directory / "g").write_bytes(b"x"),
        lambda: list(directory.iterdir()),
    ):
        _fails(errno.ENOENT, operation)
    os.write(written, b"x")
    _fails(errno.ENOENT, lambda: os.fsync(written))
    _fails(errno.ENOENT, lambda: os.close(written))
    cold = iter(handles[1:])

    def fails() -> bool:
        # A worker asks for its datasets every two seconds, and until then reads for those who have files open.
        time.sleep(0.1)
        try:
            return not os.pread(next(cold), 9, 0)
        except OSError as error:
            assert error.errno == errno.ENOENT
            return True

    _eventually(fails)


def test_removed_dataset_here(removed: tuple[Path, list[int], int]) -> None:
    """What an open file of a removed dataset has on this node is still read."""
    _, handles, written = removed
    os.posix_fadvise(handles[0], 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(handles[0], 9, 0) == b"0"
    _fails(errno.ENOENT, lambda: os.close(written))


@pytest.mark.parametrize("backend", ["raw", "pyfuse3"])
def test_defect(tmp_path: Path, backend: str) -> None:
    """A defect inside the daemon is EIO for that request, and the mount goes on."""
    with _fake_mount(tmp_path, "read", backend=backend) as mount:
        path = mount / "ml" / "books" / "a.txt"
        _fails(errno.EIO, path.read_bytes)
        assert path.stat().st_size == 5
        _fails(errno.EIO, path.read_bytes)


@pytest.mark.parametrize("backend", ["raw", "pyfuse3"])
def test_stale_mount(tmp_path: Path, backend: str) -> None:
    """A mount whose processes were killed is unmounted by the next one."""
    with _fake_mount(tmp_path, backend=backend) as mount:
        pass
    killed = _FakeMount(tmp_path, backend=backend)
    killed.__enter__()
    killed.process.popen.kill()
    killed.process.popen.wait(DEADLINE_SECONDS)
    _fails(errno.ENOTCONN, lambda: _names(mount))
    with _fake_mount(tmp_path, backend=backend) as mount:
        assert _names(mount) == ["ml"]
    assert not is_mounted(mount)


class _FakeMount:
    """A mount over in-memory peers, whose handlers can be made to raise."""

    def __init__(self, directory: Path, *raising: str, backend: str = "raw") -> None:
        self._backend = backend
        self._tree = directory / "tree"
        self._mount = directory / "mount"
        self._raising = raising
        self._log = directory / "fuse.log"

    def __enter__(self) -> Path:
        (self._tree / "ml" / "books").mkdir(parents=True, exist_ok=True)
        (self._tree / "ml" / "books" / "a.txt").write_bytes(b"words")
        command = [sys.executable, "-m", "tests.builders.fuse_fake_daemon", self._backend]
        command += [str(self._mount), str(self._tree)]
        with self._log.open("wb") as log:
            popen = subprocess.Popen([*command, *self._raising], stdout=log, stderr=subprocess.STDOUT)
        self.process = Process("fake", popen, self._log)
        _ready(self.process)
        return self._mount

    def __exit__(self, *error: object) -> None:
        assert self.process.stop() == 0


_fake_mount = _FakeMount


def _ready(process: Process) -> None:
    def is_ready() -> bool:
        assert process.popen.poll() is None, process.tail()
        return "ready" in process.log.read_text()

    _eventually(is_ready)


def test_every_sentence_has_a_test() -> None:
    text = (Path(fuse.__file__).parent / "SEMANTICS.md").read_text()
    sentences = {_flat(each) for each in re.findall(r"^- (.*)$", text, re.MULTILINE)}
    tests = [ast.parse(path.read_text()) for path in Path(__file__).parent.glob("test_*.py")]
    functions = [
        each for tree in tests for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    tested = {_flat(ast.get_docstring(each) or "") for each in functions}
    assert sentences - tested == set()
    assert len(sentences) > 30


def _flat(text: str) -> str:
    return " ".join(text.split())
