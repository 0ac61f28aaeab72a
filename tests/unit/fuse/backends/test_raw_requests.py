"""Requests of the raw protocol over a socket in place of /dev/fuse: what is answered at once, and with what."""

import asyncio
import errno
import inspect
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import pytest
from structlog.testing import capture_logs

from fuse.backends.raw_handlers import Handlers
from fuse.backends.raw_loop import RequestLoop
from fuse.backends.raw_opens import PASSTHROUGH_BYTES_MIN
from fuse.core import protocol
from fuse.core.inodes import ROOT_INODE
from fuse.core.protocol import IN_HEADER, OUT_HEADER, Opcode, OpenFlag
from fuse.metrics import Metrics
from tests.builders.fuse_mount import KernelLessMount

OPEN_IN: Final = struct.Struct("<II")


class Kernel:
    """Our side of the socket: asks, and reads the answer."""

    def __init__(self, *, writable: bool) -> None:
        self.mount = KernelLessMount(writable=writable)
        self.handlers = Handlers(self.mount.operations, Metrics())
        self.socket, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.device.setblocking(False)
        self.written_down: list[int] = []
        self.unwritable: Exception | None = None
        """Why nothing can be written down."""
        self.undone: list[int] = []
        self.loop = RequestLoop(
            self.device.fileno(),
            self.handlers.quick(),
            self.handlers.table(),
            frozenset(),
            self.handlers.refusal,
            prepared=self._write_down,
            undo=lambda opcode, _: self.undone.append(opcode),
        )
        self._unique = 0

    def _write_down(self, opcode: int, *_: object) -> None:
        if self.unwritable is not None:
            raise self.unwritable
        self.written_down.append(opcode)

    async def ask(self, opcode: Opcode, inode: int, body: bytes, bits: int = 0) -> bytes:
        """Return the payload of the answer; OSError of its errno. `bits` are set in the request's number."""
        self._unique += 2
        head = IN_HEADER.pack(IN_HEADER.size + len(body), opcode, self._unique | bits, inode, 0, 0, 0, 0)
        running = asyncio.get_running_loop()
        await running.sock_sendall(self.socket, head + body)
        async with asyncio.timeout(10):
            answer = await running.sock_recv(self.socket, 1 << 20)
        _, error, unique = OUT_HEADER.unpack_from(answer)
        assert unique == self._unique | bits
        if error:
            raise OSError(-error, os.strerror(-error))
        return answer[OUT_HEADER.size :]

    async def open(self, inode: int, flags: int = os.O_RDONLY) -> tuple[int, OpenFlag]:
        number, given, _ = protocol.OPEN_OUT.unpack(await self.ask(Opcode.OPEN, inode, OPEN_IN.pack(flags, 0)))
        return number, OpenFlag(given)

    async def release(self, inode: int, number: int) -> None:
        await self.ask(Opcode.RELEASE, inode, protocol.RELEASE_IN.pack(number, 0, 0, 0))

    def answers_now(self, inode: int, flags: int = os.O_RDONLY) -> bool:
        """Whether an open is answered without anything being awaited."""
        answered = self.handlers.open(inode, 2, memoryview(OPEN_IN.pack(flags, 0)))
        if inspect.iscoroutine(answered):
            answered.close()
            return False
        return True


@pytest.fixture
async def books() -> AsyncIterator[Kernel]:
    async for kernel in _served(writable=False):
        yield kernel


@pytest.fixture
async def work() -> AsyncIterator[Kernel]:
    async for kernel in _served(writable=True):
        yield kernel


async def _served(*, writable: bool) -> AsyncIterator[Kernel]:
    kernel = Kernel(writable=writable)
    serving = asyncio.create_task(kernel.loop.run())
    yield kernel
    kernel.loop.stop()
    await serving
    kernel.socket.close()
    kernel.device.close()


def put(kernel: Kernel, path: str, size_bytes: int) -> None:
    kernel.mount.peers.put(kernel.mount.dataset, path, b"x" * size_bytes)


async def test_a_small_file_of_a_read_only_dataset_is_opened_and_closed_at_once(books: Kernel) -> None:
    put(books, "small", 4096)
    inode = await books.mount.inode("small")
    state, opens = books.mount.operations.state, books.handlers.opens

    first, flags = await books.open(inode)
    assert flags == OpenFlag.NO_FLUSH  # no page of it can be cached yet
    second, flags = await books.open(inode)
    assert flags == OpenFlag.NO_FLUSH | OpenFlag.KEEP_CACHE
    assert state.handles.file(first).is_light
    assert state.inodes.get(inode).handles == 2

    assert await books.mount.read(second) == b"x" * 4096
    for number in (first, second):
        await books.release(inode, number)
    assert not len(state.handles)
    assert not len(opens.modes)
    assert not state.inodes.get(inode).handles
    assert books.answers_now(inode)


KEPT: Final = OpenFlag.NO_FLUSH | OpenFlag.KEEP_CACHE


async def test_a_small_file_is_opened_again_by_the_same_handle_and_nothing_is_written_down(books: Kernel) -> None:
    put(books, "small", 4096)
    inode = await books.mount.inode("small")
    state = books.mount.operations.state
    number, _ = await books.open(inode)
    await books.release(inode, number)
    assert state.handles.find(number) is None
    assert books.written_down == [Opcode.OPEN]

    books.written_down.clear()
    assert [await books.open(inode) for _ in range(3)] == [(number, KEPT)] * 3
    assert state.inodes.get(inode).handles == 3
    for left in (2, 1, 0):
        assert await books.mount.read(number) == b"x" * 4096
        await books.release(inode, number)
        assert state.inodes.get(inode).handles == left
    assert state.handles.find(number) is None
    assert books.mount.peers.pins_open == 0
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await books.release(inode, number)
    assert Opcode.OPEN not in books.written_down


async def test_requests_are_counted_however_they_are_answered(books: Kernel) -> None:
    put(books, "small", 1)
    inode = await books.mount.inode("small")
    for _ in range(3):
        number, _ = await books.open(inode)
        await books.release(inode, number)
    assert books.handlers.failures.metrics.requests == {"open": 3, "release": 3}


async def test_another_version_is_not_opened_as_the_one_before(books: Kernel) -> None:
    put(books, "small", 10)
    inode = await books.mount.inode("small")
    number, _ = await books.open(inode)
    await books.release(inode, number)
    books.mount.peers.put(books.mount.dataset, "small", b"newer")
    books.mount.published()
    assert await books.mount.inode("small") == inode
    other, flags = await books.open(inode)
    assert flags == OpenFlag.NO_FLUSH  # its pages are not cached
    assert other != number
    assert await books.mount.read(other) == b"newer"
    assert await books.open(inode) == (other, KEPT)


async def test_a_file_that_became_large_is_asked_of_the_worker(books: Kernel) -> None:
    put(books, "file", 10)
    inode = await books.mount.inode("file")
    number, _ = await books.open(inode)
    await books.release(inode, number)
    put(books, "file", PASSTHROUGH_BYTES_MIN)
    books.mount.published()
    assert await books.mount.inode("file") == inode
    assert not books.answers_now(inode)
    await books.open(inode)
    assert len(books.handlers.opens.modes) == 1


async def test_a_known_open_is_for_reading_a_read_only_dataset(books: Kernel) -> None:
    put(books, "small", 10)
    inode = await books.mount.inode("small")
    number, _ = await books.open(inode)
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        await books.open(inode, os.O_RDWR)
    node = books.mount.operations.state.inodes.get(inode)
    assert node.dataset is not None
    node.dataset = msgspec.structs.replace(node.dataset)  # heard of again
    assert await books.open(inode) == (number, KEPT)
    node.dataset = msgspec.structs.replace(node.dataset, writable=True)
    assert not books.answers_now(inode)
    assert (await books.open(inode))[0] != number


async def test_an_open_that_is_sent_again_gets_the_answer_that_was_written_down(books: Kernel) -> None:
    put(books, "small", 10)
    inode = await books.mount.inode("small")
    await books.open(inode)
    answer = protocol.OPEN_OUT.pack(77, 0, 0)
    books.handlers.answers = {6: answer}
    await books.open(inode)
    assert await books.ask(Opcode.OPEN, inode, OPEN_IN.pack(os.O_RDONLY, 0), protocol.RESENT) == answer


async def test_an_open_whose_asker_is_gone_is_closed_again(books: Kernel) -> None:
    put(books, "small", 10)
    inode = await books.mount.inode("small")
    number, _ = await books.open(inode)
    answer = await books.ask(Opcode.OPEN, inode, OPEN_IN.pack(os.O_RDONLY, 0))
    await books.handlers.opens.undo(Opcode.OPEN, answer)
    assert books.mount.operations.state.inodes.get(inode).handles == 1
    await books.release(inode, number)
    assert not len(books.mount.operations.state.handles)


async def test_a_file_the_kernel_forgot_goes_with_its_last_reader(books: Kernel) -> None:
    put(books, "small", 10)
    inode = await books.mount.inode("small")
    inodes = books.mount.operations.state.inodes
    number, _ = await books.open(inode)
    inodes.forget(inode, 1)
    node = inodes.get(inode)
    await books.release(inode, number)
    assert inodes.find(inode) is None
    assert node.shared_open is None


async def test_a_handle_that_is_not_open_is_a_bad_one(books: Kernel) -> None:
    put(books, "small", 1)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await books.release(await books.mount.inode("small"), 12345)


async def test_what_may_be_read_past_us_is_asked_of_the_worker(books: Kernel) -> None:
    put(books, "large", PASSTHROUGH_BYTES_MIN)
    inode = await books.mount.inode("large")
    assert not books.answers_now(inode)
    number, _ = await books.open(inode)
    await books.release(inode, number)
    assert not len(books.mount.operations.state.handles)


async def test_pages_of_a_file_that_became_whole_are_let_go_with_its_last_reader(books: Kernel) -> None:
    """From then on it is opened onto the worker's file; the pages would be a second copy of it in memory."""
    dropped: list[int] = []
    books.handlers.opens.drop_pages = dropped.append
    put(books, "large", PASSTHROUGH_BYTES_MIN)
    inode = await books.mount.inode("large")

    first, second = [(await books.open(inode))[0] for _ in range(2)]
    assert len(await books.mount.read(first)) == PASSTHROUGH_BYTES_MIN
    await books.release(inode, first)
    assert dropped == []  # somebody has the pages in use still
    await books.release(inode, second)
    assert dropped == [inode]


async def test_pages_of_other_files_stay(books: Kernel) -> None:
    dropped: list[int] = []
    books.handlers.opens.drop_pages = dropped.append
    put(books, "small", 4096)
    put(books, "unread", PASSTHROUGH_BYTES_MIN)
    for path, is_read in (("small", True), ("unread", False)):
        inode = await books.mount.inode(path)
        number, _ = await books.open(inode)
        if is_read:
            await books.mount.read(number)
        await books.release(inode, number)
    assert dropped == []


async def test_a_writable_dataset_is_held_against_its_listing(work: Kernel) -> None:
    put(work, "file", 10)
    inode = await work.mount.inode("file")
    for flags in (os.O_RDONLY, os.O_RDWR):
        assert not work.answers_now(inode, flags)
        number, _ = await work.open(inode, flags)
        await work.release(inode, number)


async def test_what_cannot_be_opened_is_an_errno(books: Kernel) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):
        await books.open(ROOT_INODE)
    put(books, "file", 10)
    inode = await books.mount.inode("file")
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        await books.open(inode, os.O_WRONLY)
    number, _ = await books.open(inode)
    node = books.mount.operations.state.inodes.get(inode)
    books.mount.operations.state.inodes.detach(node)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        await books.open(inode)
    await books.release(inode, number)


async def test_a_request_that_is_too_short_is_an_errno(books: Kernel) -> None:
    put(books, "file", 10)
    with capture_logs() as logs, pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await books.ask(Opcode.OPEN, await books.mount.inode("file"), b"\0")
    assert [each["event"] for each in logs] == ["defect"]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_cannot_be_written_down_is_an_errno(work: Kernel, waits: bool) -> None:
    """Not told, because another daemon would not know it; and not left without an answer."""
    put(work, "d/file", 10)
    inode = await work.mount.inode("d")
    work.unwritable = OSError(errno.EMFILE, "too many open files")
    if waits:
        work.mount.peers.listings = asyncio.Semaphore(0)
    with capture_logs() as logs, pytest.raises(OSError, match=os.strerror(errno.EIO)):
        asking = asyncio.create_task(work.ask(Opcode.LOOKUP, inode, b"file\0"))
        if waits:
            while not work.mount.peers.calls["read_directory"]:
                await asyncio.sleep(0)
            assert work.mount.peers.listings is not None
            work.mount.peers.listings.release()
        await asking
    assert [each["event"] for each in logs] == ["defect"]
    assert work.undone == [Opcode.LOOKUP]
    work.mount.peers.listings = None
    with capture_logs(), pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        await work.open(ROOT_INODE, os.O_RDWR)
    work.unwritable = None
    assert await work.ask(Opcode.LOOKUP, inode, b"file\0")


async def test_a_request_whose_wait_is_cancelled_is_an_errno(work: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(work.mount.operations.names, "lookup", cancelled)
    with capture_logs(), pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await work.ask(Opcode.LOOKUP, ROOT_INODE, b"ns\0")


async def test_a_listing_that_was_read_to_its_end_is_kept_by_the_kernel(books: Kernel) -> None:
    put(books, "d/file", 10)
    inode = await books.mount.inode("d")

    async def opened() -> tuple[int, OpenFlag]:
        number, flags, _ = protocol.OPEN_OUT.unpack(await books.ask(Opcode.OPENDIR, inode, OPEN_IN.pack(0, 0)))
        return number, OpenFlag(flags)

    number, flags = await opened()
    assert flags == OpenFlag.CACHE_DIRECTORY
    for position, is_end in ((0, False), (1, True)):
        body = protocol.READ_IN.pack(number, position, 4096, 0, 0, 0, 0)
        assert (await books.ask(Opcode.READDIRPLUS, inode, body) == b"") is is_end
    await books.ask(Opcode.RELEASEDIR, inode, protocol.RELEASE_IN.pack(number, 0, 0, 0))
    assert (await opened())[1] == OpenFlag.CACHE_DIRECTORY | OpenFlag.KEEP_CACHE
