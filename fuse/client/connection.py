"""One connection to the node's worker: frames out, frames and descriptors in, many requests at a time.

Owns the socket. Does not retry or reconnect (worker_client.py does), and does not know what the ops mean.

The socket is read with recvmsg, because a descriptor comes as ancillary data of the bytes it was sent with.
The kernel never merges the bytes of two descriptors into one recvmsg, and keeps their order; so the n-th frame
with flag FD owns the n-th descriptor.

Data of a reply goes from the socket straight to where who asked wants it.

Invariants: a request ends with its reply, its deadline or the connection, whichever comes first; a descriptor
nobody waits for any more is closed; data is put where somebody wants it only if it has room there.
"""

import array
import asyncio
import os
import socket
from collections import deque
from typing import Final

from api.byteplane import (
    BLOCK_SIZE_BYTES,
    HEADER,
    Failure,
    Flag,
    FrameError,
    Header,
    Op,
    Struct,
    decode_header,
    decode_meta,
    encode,
)
from api.trust.source import Shown

RECEIVE_BYTES: Final = 64 << 10
DESCRIPTORS_MAX: Final = 64
UNHURRIED_SECONDS: Final = 0.002
"""How long what nobody waits for may wait."""
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)


class ConnectionLost(Exception):
    """The worker hung up, or never answered; the request may or may not have been carried out."""


class Refused(Exception):
    """The worker answered with an errno."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class Reply:
    """Meta of an answer, the descriptor that came with it (the receiver's to close), and how much data was put where
    the request wanted it."""

    __slots__ = ("data_bytes", "descriptor", "meta")

    def __init__(self, meta: bytes, descriptor: int | None, data_bytes: int = 0) -> None:
        self.meta = meta
        self.descriptor = descriptor
        self.data_bytes = data_bytes


class _Arrival:
    """A frame whose data is on its way."""

    __slots__ = ("header", "meta", "rest")

    def __init__(self, header: Header, meta: bytes, rest: memoryview) -> None:
        self.header, self.meta, self.rest = header, meta, rest


class Connection:
    """A connected socket; made by `connect`."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = sock
        self._loop = loop
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._places: dict[int, memoryview] = {}
        """Where the data of an answer goes, for those who asked for some."""
        self._arrival: _Arrival | None = None
        self._descriptors: deque[int] = deque()
        self._received = bytearray()
        self._unsent = bytearray()
        self._unhurried = bytearray()
        self._hurry: asyncio.TimerHandle | None = None
        self.is_open = True
        #: Tokens this connection has shown; None: the worker wants none.
        self.shown: Shown | None = None
        #: No READ asks for more than one of the worker's blocks.
        self.block_size_bytes = BLOCK_SIZE_BYTES
        #: The worker knows SET_MODE.
        self.sets_modes = False
        loop.add_reader(sock.fileno(), self._readable)

    async def request(self, op: Op, meta: Struct, timeout_seconds: float, into: memoryview | None = None) -> Reply:
        """Send one request and return its reply. Refused, ConnectionLost (also when the deadline passes: a worker
        that does not answer is as good as gone, but its late answer is still read). Data of the answer goes
        `into` memory if it has room there, else it is dropped; after a failure some may still be written to it."""
        if not self.is_open:
            raise ConnectionLost("the connection is closed")
        request_id = self._next_id
        self._next_id += 1
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[request_id] = future
        if into is not None:
            self._places[request_id] = into
        self._send(encode(op, request_id, meta))
        timer = self._loop.call_later(timeout_seconds, self._expire, request_id, timeout_seconds, op)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(request_id, None)
            self._places.pop(request_id, None)

    def notify(self, op: Op, meta: Struct) -> None:
        """Send a request whose reply does not matter, with the next one or a moment later: whoever closes one file
        mostly opens another, and a message of its own would wake the worker for it."""
        if not self.is_open:
            return
        request_id = self._next_id
        self._next_id += 1
        self._unhurried += encode(op, request_id, meta)
        if self._hurry is None:
            self._hurry = self._loop.call_later(UNHURRIED_SECONDS, self._send, b"")

    def close(self, reason: str = "closed here") -> None:
        """Hang up; every waiting request ends with ConnectionLost. May be called twice."""
        if not self.is_open:
            return
        self.is_open = False
        if self._hurry is not None:
            self._hurry.cancel()
        self._loop.remove_reader(self._socket.fileno())
        if self._unsent:
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionLost(reason))
        self._waiting.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _expire(self, request_id: int, timeout_seconds: float, op: Op) -> None:
        future = self._waiting.pop(request_id, None)
        if future is not None and not future.done():
            future.set_exception(ConnectionLost(f"no answer to {op.name} within {timeout_seconds} s"))

    def _send(self, frame: bytes) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None
            frame, self._unhurried = bytes(self._unhurried) + frame, bytearray()
        if self._unsent:
            self._unsent += frame
            return
        try:
            sent = self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.close(f"send failed: {error.strerror}")
            return
        if sent < len(frame):
            self._unsent += frame[sent:]
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"send failed: {error.strerror}")
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        if self._arrival is not None:
            self._receive_data(self._arrival)
            return
        try:
            data, ancillary, _, _ = self._socket.recvmsg(RECEIVE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"receive failed: {error.strerror}")
            return
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if not data:
            self.close("the worker hung up")
            return
        self._received += data
        try:
            self._take_frames()
        except FrameError as error:
            self.close(str(error))

    def _receive_data(self, arrival: _Arrival) -> None:
        # No further than this frame: a descriptor that comes with the next one would be lost here.
        try:
            count = self._socket.recv_into(arrival.rest)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"receive failed: {error.strerror}")
            return
        if not count:
            self.close("the worker hung up")
            return
        arrival.rest = arrival.rest[count:]
        if arrival.rest:
            return
        self._arrival = None
        try:
            self._deliver(arrival.header, arrival.meta)
        except FrameError as error:
            self.close(str(error))

    def _take_frames(self) -> None:
        at = 0
        received = self._received
        while len(received) - at >= HEADER.size and self._arrival is None:
            header = decode_header(memoryview(received)[at : at + HEADER.size])
            end = at + HEADER.size + header.meta_bytes
            if len(received) < end:
                break
            meta = bytes(received[at + HEADER.size : end])
            at = end
            if not header.data_bytes:
                self._deliver(header, meta)
            else:
                at += self._begin_data(header, meta, memoryview(received)[at : at + header.data_bytes])
            if not self.is_open:
                return
        del received[:at]

    def _begin_data(self, header: Header, meta: bytes, here: memoryview) -> int:
        """Take what has come of a frame's data; return its bytes."""
        with here:
            place = self._places.get(header.request_id)
            if place is None or len(place) < header.data_bytes:
                place = memoryview(bytearray(header.data_bytes))
            place[: len(here)] = here
            if len(here) == header.data_bytes:
                self._deliver(header, meta)
            else:
                self._arrival = _Arrival(header, meta, place[len(here) : header.data_bytes])
            return len(here)

    def _deliver(self, header: Header, meta: bytes) -> None:
        descriptor = None
        if header.flags & Flag.FD:
            if not self._descriptors:
                raise FrameError(f"{header.op.name} reply says it has a descriptor, but none came")
            descriptor = self._descriptors.popleft()
        future = self._waiting.pop(header.request_id, None)
        if future is None or future.done():
            if descriptor is not None:
                os.close(descriptor)
        elif header.status:
            if descriptor is not None:
                os.close(descriptor)
            message = decode_meta(meta, Failure).message
            future.set_exception(Refused(header.status, message))
        else:
            future.set_result(Reply(meta, descriptor, header.data_bytes))


async def connect(path: str, timeout_seconds: float) -> Connection:
    """Return a connection to the unix socket at `path`; OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    # Not asyncio.timeout: the raw backend steps coroutines outside of any task.
    attempt = asyncio.ensure_future(loop.sock_connect(sock, path))
    try:
        done, _ = await asyncio.wait({attempt}, timeout=timeout_seconds)
        if not done:
            raise TimeoutError(f"no connection to {path} within {timeout_seconds} s")
        attempt.result()
    except BaseException:
        attempt.cancel()
        sock.close()
        raise
    return Connection(sock, loop)
