"""A proxy between a store and its server that breaks what it is told to, and says how often it did.

HTTP/1.1, one request a connection to the server; the Host header stays the client's, so that signatures hold and
redirects lead back here.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote

from tests.builders.loopback_server import LoopThread

HEAD_BYTES_MAX: Final = 64 << 10
Matches = Callable[[str, str], bool]
"""Whether a request, by method and target without percent codes, is meant."""


class Kind(Enum):
    STALL = auto()
    """Half of the body, then silence."""
    STALL_AT_ONCE = auto()
    """Not a byte of an answer."""
    RESET = auto()
    """Half of the body, then a TCP reset; without a body, no answer to what the server did."""
    SHORT_BODY = auto()
    """Half of the body, then an orderly end."""
    SHORT_LENGTH = auto()
    """Half of the body, and a Content-Length that says so."""
    LONG_LENGTH = auto()
    """A body and a Content-Length of some bytes more."""
    STATUS = auto()
    """An answer with `status` in place of the server's."""
    HOOK = auto()
    """Half of the body, then `hook` is called, then the rest."""


@dataclass
class Fault:
    """What to do to the next `times` requests that `matches`."""

    kind: Kind
    matches: Matches
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hook: Callable[[], None] | None = None
    injected: int = 0


class FaultProxy(LoopThread):
    """`requests` are (method, target) of all that came."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__("fault-proxy")
        self._upstream_port = upstream_port
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        target = unquote(target)
        self.requests.append((method, target))
        body = await _body(head, reader)
        fault = next((one for one in self.faults if one.times > one.injected and one.matches(method, target)), None)
        if fault is not None:
            fault.injected += 1
            if fault.kind is Kind.STATUS:
                headers = "".join(f"{name}: {value}\r\n" for name, value in fault.headers.items())
                text = f"HTTP/1.1 {fault.status} Fault\r\n{headers}Content-Length: {len(fault.body)}\r\n\r\n"
                writer.write(text.encode() + (b"" if method == "HEAD" else fault.body))
                await writer.drain()
                return True
            if fault.kind is Kind.STALL_AT_ONCE:
                await reader.read()
                return False
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port, limit=HEAD_BYTES_MAX)
        try:
            up_writer.write(head + body)
            await up_writer.drain()
            answer = await up_reader.readuntil(b"\r\n\r\n")
            if answer.startswith(b"HTTP/1.1 100"):
                answer = await up_reader.readuntil(b"\r\n\r\n")
            if fault is not None:
                return await self._faulty(fault, reader, writer, answer, up_reader, has_body=method != "HEAD")
            payload = b"" if method == "HEAD" else await _body(answer, up_reader)
            writer.write(answer + payload)
            await writer.drain()
            return b"connection: close" not in answer.lower()
        finally:
            up_writer.close()

    async def _faulty(
        self,
        fault: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: bytes,
        up_reader: asyncio.StreamReader,
        *,
        has_body: bool,
    ) -> bool:
        length = _length(answer) if has_body else 0
        assert length > 1 or fault.kind in (Kind.RESET, Kind.SHORT_BODY), "a fault inside a body needs a body"
        half = length // 2
        if fault.kind is Kind.LONG_LENGTH:
            writer.write(_with_length(answer, length, length + 7) + await up_reader.readexactly(length) + b"garbage")
            await writer.drain()
            return True
        if fault.kind is Kind.SHORT_LENGTH:
            writer.write(_with_length(answer, length, half) + await up_reader.readexactly(half))
            await writer.drain()
            return True
        if half:
            writer.write(answer + await up_reader.readexactly(half))
            await writer.drain()
        if fault.kind is Kind.HOOK:
            assert fault.hook is not None
            await asyncio.to_thread(fault.hook)
            writer.write(await up_reader.readexactly(length - half))
            await writer.drain()
            return True
        if fault.kind is Kind.STALL:
            await reader.read()
        elif fault.kind is Kind.RESET:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def _with_length(head: bytes, old: int, new: int) -> bytes:
    lines = [
        b"Content-Length: %d" % new if line.lower().startswith(b"content-length") else line
        for line in head.split(b"\r\n")
    ]
    assert _length(head) == old
    return b"\r\n".join(lines)


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if b"transfer-encoding: chunked" not in head.lower():
        return await reader.readexactly(_length(head))
    body = b""
    while True:
        line = await reader.readline()
        chunk = await reader.readexactly(int(line, 16) + 2)
        body += line + chunk
        if int(line, 16) == 0:
            return body
