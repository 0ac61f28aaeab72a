"""One connection that carries frames: buffered receive, ordered send, descriptors, files without copies.

Owns a non-blocking socket. Does not know what frames mean. Invariants: one task receives; sends of several tasks
do not mix (a lock is held for a whole frame); after any error the connection is of no more use and is closed.
`ConnectionResetError` stands for every way the other side can be gone.
"""

import array
import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from api.byteplane import HEADER, Header, decode_header

log = structlog.get_logger()

_BUFFER_BYTES: Final = 64 << 10
"""Many small frames arrive in one system call; a block's bytes go straight to their place."""
_TOGETHER_BYTES_MAX: Final = 32 << 10
"""Frames with more data do not wait for others: their own system call costs little beside their bytes."""
_PARTS_MAX: Final = 1024
"""Of one sendmsg (IOV_MAX)."""
_FILES_TOGETHER: Final = 8
"""One after another by one thread, before other frames of the connection have their turn."""
_SEND_SECONDS: Final = 60.0
"""A reader that takes nothing for so long is gone."""


@dataclass(slots=True, eq=False)
class _FileFrame:
    """A frame whose data is a piece of a file."""

    head: memoryview
    descriptor: int
    offset: int
    size_bytes: int
    gone: asyncio.Future[None]

    def done(self, lost: ConnectionResetError | None) -> None:
        """Tell who waits; in the loop."""
        if not self.gone.done():
            if lost is None:
                self.gone.set_result(None)
            else:
                self.gone.set_exception(lost)


class FrameSocket:
    """A connected stream socket; closes it in the end."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._loop = loop
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._sending = asyncio.Lock()
        self._together: list[tuple[list[memoryview], asyncio.Future[None] | None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._files: deque[_FileFrame] = deque()
        self._moving: asyncio.Task[None] | None = None
        self.is_closed = False
        self.received_bytes = 0
        """What came so far, of whole frames and parts."""

    async def receive_header(self) -> Header | None:
        """Return the next frame's header; None when the other side hung up between frames. FrameError."""
        while self._end - self._start < HEADER.size:
            if not await self._fill():
                if self._end == self._start:
                    return None
                raise ConnectionResetError("the connection ended inside a frame's header")
        header = decode_header(self._view[self._start : self._end])
        self._start += HEADER.size
        return header

    def received(self) -> tuple[Header, bytes] | None:
        """Return the next frame's header and meta if both are here already. FrameError."""
        after = self._start + HEADER.size
        if after > self._end:
            return None
        header = decode_header(self._view[self._start : after])
        end = after + header.meta_bytes
        if end > self._end:
            return None
        self._start = end
        return header, bytes(self._view[after:end])

    async def receive_request(self) -> tuple[Header, bytes] | None:
        """Return the next frame's header and meta; None when the other side hung up between frames. FrameError."""
        header = await self.receive_header()
        return None if header is None else (header, bytes(await self.receive(header.meta_bytes)))

    async def receive(self, size_bytes: int) -> bytearray:
        """Return exactly that many bytes."""
        if self._end - self._start >= size_bytes:
            self._start += size_bytes
            return self._buffer[self._start - size_bytes : self._start]
        data = bytearray(size_bytes)
        await self.receive_into(memoryview(data))
        return data

    async def receive_into(self, view: memoryview) -> None:
        """Fill `view`."""
        ready = min(len(view), self._end - self._start)
        view[:ready] = self._view[self._start : self._start + ready]
        self._start += ready
        view = view[ready:]
        while view:
            if len(view) < _BUFFER_BYTES // 2:
                if not await self._fill():
                    raise ConnectionResetError("the connection ended inside a frame")
                ready = min(len(view), self._end - self._start)
                view[:ready] = self._view[self._start : self._start + ready]
                self._start += ready
                view = view[ready:]
                continue
            count = await self._receive_some(view)
            if count == 0:
                raise ConnectionResetError("the connection ended inside a frame")
            self.received_bytes += count
            view = view[count:]

    async def _fill(self) -> bool:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        count = await self._receive_some(self._view[self._end :])
        self._end += count
        self.received_bytes += count
        return count > 0

    async def _receive_some(self, view: memoryview) -> int:
        """Put what comes next into the view; 0 at the end."""
        return await self._loop.sock_recv_into(self._socket, view)

    async def send(self, head: bytes, data: memoryview | None = None) -> None:
        """Send a frame whose data is in memory; small ones that are ready together go out together."""
        parts = [memoryview(head)] if data is None else [memoryview(head), data]
        if data is not None and len(data) > _TOGETHER_BYTES_MAX:
            async with self._sending, self._unbroken():
                await self._send(parts)
            return
        await self._gone(parts)

    def send_soon(self, head: bytes, data: memoryview) -> int:
        """Have a small frame go out with the next ones; return how many wait: with many, await `sent` first."""
        self._queue([memoryview(head), data], None)
        return len(self._together)

    async def sent(self) -> None:
        """Wait until all that was to go out soon has."""
        await self._gone([])

    async def _gone(self, parts: list[memoryview]) -> None:
        gone: asyncio.Future[None] = self._loop.create_future()
        self._queue(parts, gone)
        await gone

    def _queue(self, parts: list[memoryview], gone: asyncio.Future[None] | None) -> None:
        self._together.append((parts, gone))
        if len(self._together) == 1:
            self._flushing = self._loop.create_task(self._flush())

    async def _flush(self) -> None:
        # Starts after the tasks that were ready before it: what they have to say is here by then.
        together: list[tuple[list[memoryview], asyncio.Future[None] | None]] = []
        failure: ConnectionError | None = ConnectionResetError("the connection was closed before a frame was sent")
        try:
            async with self._sending, self._unbroken():
                together, self._together = self._together, []
                await self._send([part for parts, _ in together for part in parts])
            failure = None
        except ConnectionError as error:
            failure = error
        finally:
            if not together:
                together, self._together = self._together, []
            for _, gone in together:
                if gone is None or gone.done():
                    continue  # whoever does not wait learns of it by the end of the connection
                if failure is None:
                    gone.set_result(None)
                else:
                    gone.set_exception(failure)

    async def send_with_descriptor(self, head: bytes, descriptor: int) -> None:
        """Send a frame with one descriptor at its first byte."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        async with self._sending, self._unbroken():
            while True:
                try:
                    sent = self._socket.sendmsg([head], ancillary, socket.MSG_NOSIGNAL)
                    break
                except BlockingIOError:
                    await self._writable()
            await self._send([memoryview(head)[sent:]])

    async def send_file(self, head: bytes, descriptor: int, offset: int, size_bytes: int, senders: Executor) -> None:
        """Send a frame whose data is a piece of a file, which the kernel moves by itself."""
        frame = _FileFrame(memoryview(head), descriptor, offset, size_bytes, self._loop.create_future())
        self._files.append(frame)
        if self._moving is None:
            self._moving = self._loop.create_task(self._move(senders))
        try:
            await asyncio.shield(frame.gone)
        except asyncio.CancelledError:
            try:
                self._files.remove(frame)
            except ValueError:
                # A thread uses both descriptors: they may be closed only after it.
                self.hang_up()
                await asyncio.wait({frame.gone})
                frame.gone.exception()  # nobody else looks
            raise

    async def _move(self, senders: Executor) -> None:
        # In a thread: the file may have to come from a disk, and moving 4 MiB takes the loop milliseconds.
        try:
            while self._files:
                async with self._sending:
                    await self._loop.run_in_executor(senders, self._move_some)
        except RuntimeError as error:
            log.warning("no_thread_sends", error=str(error))  # the process is ending
        finally:
            self._moving = None
            for frame in self._files:
                frame.done(ConnectionResetError("the connection was closed before a file was sent"))

    def _move_some(self) -> None:
        """Send files that wait, a few, then others have their turn. Between two of them the connection would be idle if
        the loop were asked. Blocks."""
        for _ in range(_FILES_TOGETHER):
            try:
                frame = self._files.popleft()
            except IndexError:
                return
            lost: ConnectionResetError | None = None
            try:
                _send_head(self._socket, frame.head)
                _send_file(self._socket.fileno(), frame.descriptor, frame.offset, frame.size_bytes)
            except OSError as error:
                lost = self._broken(error)
            self._loop.call_soon_threadsafe(frame.done, lost)

    @asynccontextmanager
    async def _unbroken(self) -> AsyncIterator[None]:
        # Part of a frame may be out, also when a disk failed under sendfile: nothing more can follow it.
        try:
            yield
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: OSError) -> ConnectionResetError:
        self.hang_up()
        lost = ConnectionResetError(f"a frame could not be sent: {error}")
        lost.__cause__ = error
        return lost

    async def _send(self, parts: list[memoryview], *, more: bool = False) -> None:
        flags = socket.MSG_MORE if more else 0
        while parts:
            try:
                sent = self._socket.sendmsg(parts[:_PARTS_MAX], [], flags | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await self._writable()
                continue
            whole = 0
            while whole < len(parts) and sent >= len(parts[whole]):
                sent -= len(parts[whole])
                whole += 1
            del parts[:whole]
            if parts:
                parts[0] = parts[0][sent:]

    async def _writable(self) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        number = self._socket.fileno()
        if number < 0:
            raise ConnectionResetError("the connection was closed while a frame was being sent")

        def ready() -> None:
            if not future.done():
                future.set_result(None)

        self._loop.add_writer(number, ready)
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await future
        except TimeoutError:
            raise ConnectionResetError(f"the other side took nothing for {_SEND_SECONDS} s") from None
        finally:
            self._loop.remove_writer(number)

    def hang_up(self) -> None:
        """End the connection in both directions; a task that waits on it sees that. May be called twice."""
        if not self.is_closed:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # already gone

    async def close(self) -> None:
        """Give the socket back, after whoever sends on it is done."""
        if self.is_closed:
            return
        self.hang_up()
        self.is_closed = True
        async with self._sending:
            self._socket.close()


def _send_head(sock: socket.socket, head: memoryview) -> None:
    """Send what comes before a piece of a file. Blocks; OSError."""
    while head:
        try:
            head = head[sock.send(head, socket.MSG_MORE | socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            _wait_writable(sock.fileno())


def _send_file(sock: int, descriptor: int, offset: int, size_bytes: int) -> None:
    """Move a piece of a file to a non-blocking socket. Blocks; OSError."""
    while size_bytes:
        try:
            sent = os.sendfile(sock, descriptor, offset, size_bytes)
        except BlockingIOError:
            _wait_writable(sock)
            continue
        if sent == 0:
            raise ConnectionResetError("the cached file ended early")
        offset, size_bytes = offset + sent, size_bytes - sent


def _wait_writable(sock: int) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    if not poll.poll(_SEND_SECONDS * 1000):
        raise ConnectionResetError(f"the other side took nothing for {_SEND_SECONDS} s")
