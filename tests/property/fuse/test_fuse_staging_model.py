"""A file that is written, committed and written on, by a client and a worker that die at any moment: the client's
staging file over a unix socket, the worker's own sessions and writes, a directory store.

Whatever comes, every object that the store ever showed keeps the bytes it had when it was first seen, what is read is
what was written, and a commit that returns has exactly those bytes in the store, under the etag the namespace knows.
"""

import asyncio
import errno
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.byteplane import HelloReply
from api.gen import metadata_pb2 as pb
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import CacheError
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Location
from cacheruntime.worker.fetched import Keep
from cacheruntime.worker.frame_server import FrameServer
from cacheruntime.worker.local_socket import LocalSession, listen
from cacheruntime.worker.metrics import Metrics as WorkerMetrics
from cacheruntime.worker.path_order import PathOrder
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.trust import OpenGate
from cacheruntime.worker.writes import Writes
from fuse.client import worker_client
from fuse.client.staging_file import StagedWorkerFile
from fuse.client.vault import NoVault
from fuse.client.worker_client import WorkerClient
from fuse.errors import FileSystemError
from fuse.metrics import Metrics
from understores.posix import PosixStore

PATH: Final = "deep/a"
MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where nothing is waited for that a disk does."""
TURNS: Final = st.integers(0, 30)
"""Of the event loop, before somebody dies."""
SIZES: Final = st.sampled_from([0, 1, 4095, 4096, 5000, 20_000])
DATA: Final = st.builds(lambda size, first: bytes((first + i) % 251 for i in range(size)), SIZES, st.integers(0, 250))
WRITE: Final = st.tuples(st.just("write"), SIZES, DATA)
CUT: Final = st.tuples(st.just("truncate"), SIZES)
COMMIT: Final = st.tuples(st.just("commit"), st.sampled_from([0o644, 0o600]))
DEATH: Final = st.sampled_from(["client", "worker", "both", "commit and client"])
CALL: Final = st.one_of(WRITE, COMMIT, WRITE, COMMIT, CUT)
STEPS: Final = st.lists(
    st.one_of(
        CALL,
        CALL,
        st.tuples(st.just("death"), CALL, DEATH, TURNS),
        st.tuples(st.just("death"), COMMIT, DEATH, TURNS),
        st.tuples(st.just("beside"), COMMIT, WRITE, TURNS),
        st.tuples(st.just("fault"), st.sampled_from(["metadata", "link", "sync", ""])),
    ),
    min_size=1,
    max_size=14,
)


class Peers:
    """What outlives workers: the directory, the namespace, and what is wrong with them now."""

    def __init__(self, origin: Path) -> None:
        self.origin = origin
        self.etag = ""
        self.fault = ""

    @contextmanager
    def faults(self) -> Iterator[None]:
        """The system calls that may be refused."""
        link, fsync = os.link, os.fsync

        def broken_link(*arguments: Any, **more: Any) -> None:
            if self.fault == "link":
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            link(*arguments, **more)

        def broken_fsync(descriptor: int) -> None:
            fsync(descriptor)
            # Of the directory, when the name is there.
            if self.fault == "sync" and Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
                raise OSError(errno.EIO, "Input/output error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "link", broken_link)
            patch.setattr(os, "fsync", broken_fsync)
            # Who connects to a worker that dies just then may have to try again.
            patch.setattr(worker_client, "CONNECT_SECONDS", 0.3)
            yield


class Worker:
    """One life of a worker: its dataset, namespace and home are answered here."""

    def __init__(self, peers: Peers, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._peers = peers
        self.is_dead = False
        self._under = PosixStore(peers.origin)
        self._order, metrics = PathOrder(), WorkerMetrics()
        store = BlockStore(
            [TierFolder(Tier("SSD", 1 << 20, 0), folder / "tier")],
            block_size_bytes=4096,
            threads=threads,
            clock=lambda: 0.0,
            metrics=metrics,
            changed=lambda _: None,
        )
        nothing, self_ = cast(Any, None), cast(Any, self)
        self._writes = Writes(
            store=store, reader=nothing, filler=self_, datasets=self_, metadata=self_, metrics=metrics
        )
        self._store = store

        def session(link: Any, _: object) -> LocalSession:
            return LocalSession(
                link,
                greeting=HelloReply(node="n", epoch=1, block_size_bytes=4096),
                store=store,
                reader=nothing,
                writes=self._writes,
                renames=nothing,
                names=nothing,
                answerer=nothing,
                order=self._order,
                metrics=metrics,
                gate=OpenGate(),
                preheater=self_,
            )

        self._serving = asyncio.create_task(FrameServer(listen(folder / "socket"), session, metrics).run())

    async def locate_for_change(self, uid: str, path: str, *, is_begun: bool = True) -> Location:
        await asyncio.sleep(0)
        return Location(cast(Any, self._under), path, False)

    async def get(self, uid: str) -> pb.DatasetInfo:
        return pb.DatasetInfo(uid=uid)

    async def put_file(self, uid: str, path: str, *, etag: str, **_: object) -> int:
        await asyncio.sleep(0)
        if self.is_dead or self._peers.fault == "metadata":
            raise CacheError("metadata is away", number=errno.EAGAIN, is_retryable=True)
        self._peers.etag = etag
        return 1

    def may_be_home(self, info: pb.DatasetInfo) -> bool:
        return True

    def keep(self, *_: object) -> Keep:
        return Keep.HOME

    def forget(self, _: object) -> None:
        """Of what was declared, nothing."""

    async def die(self) -> None:
        """What it had begun in the under store is done, and nobody hears of it."""
        self.is_dead = True
        await asyncio.sleep(0)  # it listens at least
        self._serving.cancel()
        await asyncio.wait({self._serving})
        while self._order._tasks:
            await asyncio.sleep(0)
        await self._writes.close()
        self._store.close()
        await self._under.close()


class Kept(NoVault):
    """What the keeper of the mount keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors: dict[int, int] = {}

    def keep(self, number: int, descriptor: int) -> None:
        self.let_go(number)
        self.descriptors[number] = os.dup(descriptor)

    def let_go(self, number: int) -> None:
        if number in self.descriptors:
            os.close(self.descriptors.pop(number))

    def take(self, number: int) -> int | None:
        return os.dup(self.descriptors[number]) if number in self.descriptors else None


class Model:
    """One file, and all that was ever shown of it."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._folder, self._threads = folder, threads
        self.peers = Peers(folder / "origin")
        self._vault = Kept()
        self._worker = Worker(self.peers, folder, threads)
        self._client = self._new_client()
        self._file: StagedWorkerFile = self._client.stage("u", PATH, "", 0)
        self.expected = bytearray()
        self._shown: dict[int, tuple[int, bytes]] = {}

    def _new_client(self) -> WorkerClient:
        return WorkerClient(
            str(self._folder / "socket"), node="n", metrics=Metrics(), vault=self._vault, patience_seconds=10.0
        )

    def look(self) -> None:
        """Every object that is there, or was, has the bytes it had."""
        path = self.peers.origin / PATH
        if path.exists():
            inode = path.stat().st_ino
            if inode not in self._shown:
                self._shown[inode] = (os.open(path, os.O_RDONLY), path.read_bytes())
        for descriptor, data in self._shown.values():
            assert os.pread(descriptor, len(data) + 1, 0) == data, "an object was written to"

    async def call(self, step: tuple[Any, ...]) -> bool:
        """Do one call, until it is done; return whether it was refused."""
        try:
            await _do(self._file, step)
        except FileSystemError:
            assert self.peers.fault
            return True
        if step[0] == "commit":
            path = self.peers.origin / PATH
            assert path.read_bytes() == self.expected, "what was committed is what was written"
            assert self.peers.etag.split("-")[0] == f"{path.stat().st_ino:x}", "the namespace knows the object"
        return False

    def apply(self, step: tuple[Any, ...]) -> None:
        """What the call does to the bytes."""
        if step[0] == "write" and step[2]:
            _, offset, data = step
            self.expected.extend(bytes(max(0, offset - len(self.expected))))
            self.expected[offset : offset + len(data)] = data
        elif step[0] == "truncate":
            del self.expected[step[1] :]
            self.expected.extend(bytes(step[1] - len(self.expected)))

    async def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("fault", fault):
                self.peers.fault = fault
            case ("death", call, who, turns):
                await self._death(call, who, turns)
            case ("beside", commit, write, turns):
                before = bytes(self.expected)
                committing = asyncio.ensure_future(self._file.commit(commit[1], 1))
                await _turns(turns)
                self.apply(write)
                await self._file.write(*write[1:])
                after = bytes(self.expected)
                outcome = (await asyncio.gather(committing, return_exceptions=True))[0]
                if isinstance(outcome, BaseException):
                    assert isinstance(outcome, FileSystemError) and self.peers.fault, outcome
                else:
                    assert outcome.size_bytes in {len(before), len(after)}
            case _:
                self.apply(step)
                await self.call(step)
        self.look()
        assert bytes(await self._file.read(0, 1 << 20)) == self.expected

    async def _death(self, call: tuple[Any, ...], who: str, turns: int) -> None:
        """Somebody dies in the middle of a call, which is done again, as the kernel sends it again."""
        self.apply(call)
        calling = asyncio.ensure_future(_do(self._file, call))
        await _turns(turns)
        if who != "worker":
            await self._next_client(waits_for_worker=who == "commit and client")
        if who in {"worker", "both"}:
            await self._worker.die()
            self.look()
            self._worker = Worker(self.peers, self._folder, self._threads)
        if who != "worker":
            # Before the dead one's last call is over, and after: all of it is the successor's.
            for step in (("write", 0, b"after"), ("write", 0, b"death"), call):
                self.apply(step)
                await self.call(step)
                self.look()
        outcome = (await asyncio.gather(calling, return_exceptions=True))[0]
        assert outcome is None or (isinstance(outcome, FileSystemError) and (self.peers.fault or who != "worker"))

    async def _next_client(self, *, waits_for_worker: bool) -> None:
        """The client's death: nothing of it reaches worker or vault from here on."""
        left, file, vault = self._client, self._file, self._vault
        left._vault = NoVault()
        left._is_closed = True
        if left._connection is not None:
            left._connection.close("killed")
        if waits_for_worker:
            await _turns(3)  # the worker has heard of it, and of the commit before
        self._client = self._new_client()
        restaged = self._client.restage(file.number, "u", PATH, "", 0)
        self._file = cast(StagedWorkerFile, restaged.staging)
        assert self._vault is vault
        await self._file.open()
        file.close()

    async def end(self) -> None:
        self.peers.fault = ""
        try:
            # What was refused is done at last, by a file that is written anew if its medium had failed.
            if await self.call(("commit", 0o644)):
                raise AssertionError("nothing is wrong any more")
            self.look()
        finally:
            self._file.close()
            await self._client.close()
            await self._worker.die()
            for descriptor, _ in self._shown.values():
                os.close(descriptor)


async def _do(file: StagedWorkerFile, step: tuple[Any, ...]) -> None:
    match step:
        case ("commit", mode):
            await file.commit(mode, 1)
        case ("write", offset, data):
            await file.write(offset, data)
        case ("truncate", size_bytes):
            await file.truncate(size_bytes)


async def _turns(count: int) -> None:
    for turn in range(count):
        await asyncio.sleep(0.001 if turn % 5 == 4 else 0)  # threads of the store get theirs, too


async def _run(folder: Path, steps: list[tuple[Any, ...]], *, has_directory: bool) -> None:
    (folder / "origin" / ("deep" if has_directory else "")).mkdir(parents=True)
    (folder / "tier").mkdir()
    with ThreadPoolExecutor(4) as threads:
        model = Model(folder, threads)
        with model.peers.faults():
            try:
                for step in steps:
                    await model.step(step)
            finally:
                await model.end()


def check(steps: list[tuple[Any, ...]], *, has_directory: bool) -> None:
    """Play one history; at its end nobody has a file of the store open."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        asyncio.run(_run(Path(folder), steps, has_directory=has_directory))
        open_files = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert [each for each in open_files if each.startswith(f"{folder}/origin/")] == []


#: Published, not shown; then not published, and put: the first is an object all the same.
PUBLISHED_ONCE = [
    *[("write", 0, b""), ("fault", "metadata"), ("commit", 0o644)],
    *[("fault", "link"), ("commit", 0o644), ("write", 0, b"x")],
]


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, has_directory=st.booleans())
@example(steps=PUBLISHED_ONCE, has_directory=False)
def test_no_object_changes_and_no_byte_is_lost(steps: list[tuple[Any, ...]], has_directory: bool) -> None:
    check(steps, has_directory=has_directory)


@pytest.mark.nightly
@settings(max_examples=2000, deadline=None)
@given(steps=STEPS, has_directory=st.booleans())
def test_no_object_changes_and_no_byte_is_lost_in_many_histories(
    steps: list[tuple[Any, ...]], has_directory: bool
) -> None:
    check(steps, has_directory=has_directory)
