"""What SEMANTICS.md says of the death of a mount's processes, each sentence the docstring of its test."""

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.data_plane import DataPlane, Process
from fuse.node.follower import LOOK_SECONDS
from fuse.node.mounts import is_mounted
from tests.kills import campaign, modes

pytestmark = pytest.mark.mount

DEADLINE_SECONDS = 30.0
LARGE_BYTES = 24 << 20
READER = """
import sys
try:
    open(sys.argv[1]).read()
    print(0)
except OSError as error:
    print(error.errno)
"""


class Site:
    """A worker, a read-only dataset `books` and a writable one `work`, and their origins."""

    def __init__(self, root: Path, plane: DataPlane) -> None:
        self.plane = plane
        self.books_origin = root / "books"
        self.work_origin = root / "work"

    @contextmanager
    def mounted(self, directory: Path, *more: str) -> Iterator[tuple[Path, Process]]:
        """Yield the datasets' directory and the keeper of a mount of its own; nothing is left of it."""
        mount = directory / "mount"
        arguments = ["--metadata", self.plane.metadata_address, "--worker-socket", str(self.plane.socket("n1"))]
        keeper = self.plane.spawn(
            f"fuse-{directory.name}", ["-m", "fuse", "--node", "n1", *arguments, "--mount", str(mount), *more]
        )
        try:
            served_by(keeper, 1)
            yield mount / "bench", keeper
        finally:
            keeper.stop()
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True, timeout=10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("death")
    (root / "books" / "many").mkdir(parents=True)
    (root / "work").mkdir()
    (root / "books" / "large.bin").write_bytes(random.Random(1).randbytes(LARGE_BYTES))
    for number in range(3000):
        (root / "books" / "many" / f"{number:05}").write_bytes(b"x")
    with DataPlane(root / "plane") as plane:
        plane.start_worker("n1")
        plane.sync("books", f"file://{root / 'books'}")
        plane.sync("work", f"file://{root / 'work'}", writable=True)
        yield Site(root, plane)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def served_by(keeper: Process, count: int) -> int:
    """Return the process of the daemon that is the `count`-th to serve."""
    eventually(lambda: len(campaign.serving_pids(keeper)) >= count or keeper.popen.poll() is not None)
    assert keeper.popen.poll() is None, keeper.tail()
    return campaign.serving_pids(keeper)[count - 1]


def is_alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False


def test_death_of_the_daemon(site: Site, tmp_path: Path) -> None:
    """The death of the daemon is not seen by those who have files open or mapped, write them, read a directory or wait
    for an answer, except as a wait for its successor."""
    expected = (site.books_origin / "large.bin").read_bytes()
    with site.mounted(tmp_path) as (top, keeper):
        daemon = served_by(keeper, 1)
        with (
            (top / "books" / "large.bin").open("rb", buffering=0) as reader,
            (top / "work" / "written").open("wb", buffering=0) as writer,
            mmap.mmap(reader.fileno(), LARGE_BYTES, prot=mmap.PROT_READ) as mapped,
            os.scandir(top / "books" / "many") as listing,
        ):
            names = [next(listing).name for _ in range(10)]
            assert reader.read(1000) == expected[:1000]
            writer.write(b"before ")
            for count in range(2, 5):
                os.kill(daemon, signal.SIGKILL)
                # Asked at once: it waits in the kernel until somebody takes it.
                assert (top / "books" / "many" / "00001").read_bytes() == b"x"
                daemon = served_by(keeper, count)
                os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                at = 4096 * 1000 * count
                assert mapped[at : at + 4096] == expected[at : at + 4096]
                writer.write(b"%d " % count)
                names += [next(listing).name for _ in range(700)]
            assert reader.read() == expected[1000:]
            names += [entry.name for entry in listing]
        assert names == sorted(path.name for path in (site.books_origin / "many").iterdir())
        assert (site.work_origin / "written").read_bytes() == b"before 2 3 4 "
        assert (top / "work" / "written").read_bytes() == b"before 2 3 4 "
        # The worker still had what was written: nothing was copied.
        carried = [event["event"] for event in keeper.events() if event["event"].startswith("staging_")]
        assert set(carried) == {"staging_adopted"}


def test_done_once(site: Site, tmp_path: Path) -> None:
    """What the daemon was asked and did not answer is done once, also when it had been done and only the answer was
    missing."""
    outcome = campaign.run(tmp_path, 6, seed=11, told=lambda _: None)
    assert outcome.kills.total() == 6
    assert outcome.errors == 0, [*outcome.faults, *(report["told"] for report in outcome.reports)]
    assert all(report["calls"] for report in outcome.reports)
    assert {report["actor"] for report in outcome.reports} >= {"names", "writing", "appending", "mapped", "listing"}


def test_a_daemon_that_waits_follows_the_journal(site: Site, tmp_path: Path) -> None:
    """What was written down before is read before its writer dies."""
    with site.mounted(tmp_path) as (top, keeper):

        def has_followed() -> bool:
            count = len(campaign.serving_pids(keeper))
            list((top / "books" / "many").iterdir())
            os.kill(served_by(keeper, count), signal.SIGKILL)
            served_by(keeper, count + 1)
            time.sleep(LOOK_SECONDS)
            return any(each.get("followed_bytes") for each in keeper.events())

        eventually(has_followed)


def test_stopped(site: Site, tmp_path: Path) -> None:
    """A daemon that is stopped is killed and followed like one that died."""
    with site.mounted(tmp_path) as (top, keeper):
        daemon = served_by(keeper, 1)
        os.kill(daemon, signal.SIGSTOP)
        assert (top / "books" / "many" / "00001").read_bytes() == b"x"
        assert served_by(keeper, 2) != daemon
        assert not is_alive(daemon)
        assert any(each.get("reason") == "stopped" for each in keeper.events())


def test_upgrade(site: Site, tmp_path: Path) -> None:
    """SIGHUP to the keeper lets another daemon serve, of the version that is installed then."""
    with site.mounted(tmp_path) as (top, keeper):
        daemon = served_by(keeper, 1)
        with (top / "work" / "upgraded").open("wb", buffering=0) as writer:
            writer.write(b"old ")
            keeper.popen.send_signal(signal.SIGHUP)
            successor = served_by(keeper, 2)
            writer.write(b"new")
        eventually(lambda: not is_alive(daemon))
        assert is_alive(successor)
        assert (site.work_origin / "upgraded").read_bytes() == b"old new"
        # What serves was loaded after the signal, not before.
        assert Path(f"/proc/{successor}").stat().st_ctime >= Path(f"/proc/{keeper.popen.pid}").stat().st_ctime
        assert any(each["event"] == "left" and not each["requests_left"] for each in keeper.events())


def test_crashing_request(site: Site, tmp_path: Path) -> None:
    """A request that is in work while three daemons crash one after the other is EIO, and the mount goes on."""
    worker = site.plane.workers["n1"].popen
    # After the refusal the kernel asks once more, for a single page, and that request is one like any other.
    with site.mounted(tmp_path, "--worker-patience-seconds", "2") as (top, keeper):
        read = (
            "import os, sys\n"
            "file = os.open(sys.argv[1], os.O_RDONLY)\n"
            "print('open', flush=True); sys.stdin.readline()\n"
            "try: os.read(file, 10)\n"
            "except OSError as error: print(error.errno)\n"
        )
        path = top / "books" / "many" / "02999"
        command = [sys.executable, "-c", read, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdin is not None
            assert reader.stdout.readline() == "open\n"
            worker.send_signal(signal.SIGSTOP)
            try:
                reader.stdin.write("go\n")
                reader.stdin.flush()
                for count in range(1, 4):
                    daemon = served_by(keeper, count)
                    time.sleep(0.3)
                    os.kill(daemon, signal.SIGSEGV)
                assert reader.stdout.readline() == f"{errno.EIO}\n"
            finally:
                worker.send_signal(signal.SIGCONT)
            reader.wait(DEADLINE_SECONDS)
        assert path.read_bytes() == b"x"
        assert "requests_in_flight_refused" in keeper.log.read_text()


def test_death_of_the_keeper(site: Site, tmp_path: Path) -> None:
    """When the keeper is killed its daemons end with it, and who has files open gets ENOTCONN, or ECONNABORTED when
    waiting for an answer."""
    with site.mounted(tmp_path) as (top, keeper):
        daemon = served_by(keeper, 1)
        with (top / "books" / "many" / "00001").open("rb") as file:
            keeper.popen.kill()
            keeper.popen.wait(DEADLINE_SECONDS)
            eventually(lambda: not is_alive(daemon))
            with pytest.raises(OSError) as caught:
                os.fsync(file.fileno())
            assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
            with pytest.raises(OSError):
                list(top.iterdir())
        assert is_mounted(top.parent), "until the next one, or its user, unmounts it"
    with site.mounted(tmp_path) as (top, _):
        assert (top / "books" / "many" / "00001").read_bytes() == b"x"
    assert not is_mounted(top.parent)


@pytest.mark.nightly
def test_keeper_that_is_stopped(site: Site, tmp_path: Path) -> None:
    """While the keeper is stopped the mount goes on; after some two thousand files were created another one is ENFILE,
    five seconds later, and nothing else waits for that."""
    with site.mounted(tmp_path) as (top, keeper):
        place = top / "work" / "kept"
        place.mkdir()
        os.kill(keeper.popen.pid, signal.SIGSTOP)
        try:
            created = 0
            with pytest.raises(OSError) as caught:
                while created < 5000:
                    (place / f"{created}").write_bytes(b"x")
                    created += 1
            assert caught.value.errno == errno.ENFILE
            assert created > 1000
            assert (place / "0").read_bytes() == b"x" and len(list(place.iterdir())) >= created
        finally:
            os.kill(keeper.popen.pid, signal.SIGCONT)
        eventually(lambda: (place / "more").write_bytes(b"y") == 1)


@pytest.mark.nightly
def test_processes_that_hang(site: Site, tmp_path: Path) -> None:
    """When no process of a mount answers any more, although none has ended, who waits gets an error after
    `--request-timeout-seconds` (two hours), from Linux 6.15 on."""
    if not Path("/proc/sys/fs/fuse/max_request_timeout").exists():
        pytest.skip("this kernel has no timeout of requests")
    # The least there is: the kernel looks every 15 seconds.
    with site.mounted(tmp_path, "--request-timeout-seconds", "15") as (top, keeper):
        daemon = served_by(keeper, 1)
        stopped = [keeper.popen.pid, daemon]
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            reader = subprocess.run(
                [sys.executable, "-c", READER, str(top / "books" / "many" / "02999")],
                check=True,
                capture_output=True,
                text=True,
                timeout=90,
            )
            assert int(reader.stdout) in {errno.ENOTCONN, errno.ECONNABORTED}
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def test_whole_file_outlives_all_processes(site: Site, tmp_path: Path) -> None:
    """A file of at least 1 MiB in a read-only dataset that is whole on this node when it is opened is read by the
    kernel alone: its readers go on when all processes of the mount are killed."""
    expected = (site.books_origin / "large.bin").read_bytes()
    with site.mounted(tmp_path) as (top, keeper):
        assert (top / "books" / "large.bin").read_bytes() == expected
        with (top / "books" / "large.bin").open("rb") as file:
            daemon = served_by(keeper, 1)
            keeper.stop(signal.SIGKILL)
            eventually(lambda: not is_alive(daemon))
            assert file.read() == expected
            # With its length: fstat would ask the daemon.
            with mmap.mmap(file.fileno(), len(expected), prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == expected


def test_no_open_is_refused_while_files_come_and_go(tmp_path: Path) -> None:
    outcome = modes.run(tmp_path, 3000, seed=3, kill_seconds=2.0)
    assert not outcome.errors
    assert outcome.steps >= 3000
    assert outcome.evictions and outcome.passthrough_opens, "what it is about happened"


@pytest.mark.nightly
def test_no_open_is_refused_for_long(tmp_path: Path) -> None:
    outcome = modes.run(tmp_path, 100_000, seed=int(time.time()), kill_seconds=5.0)
    assert not outcome.errors
    assert outcome.steps >= 100_000


@pytest.mark.nightly
def test_a_hundred_deaths(tmp_path: Path) -> None:
    outcome = campaign.run(tmp_path, 100, seed=int(time.time()))
    assert outcome.errors == 0, [*outcome.faults, *(report["told"] for report in outcome.reports)]
