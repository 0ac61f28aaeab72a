"""A frame connection under TLS 1.3, with both sides' certificates.

Owns the TLS state between FrameSocket's calls and the socket. Nothing else changes but that a file's bytes go through
this process to be encrypted. Invariants: TLS state is touched by the loop's thread only; records go out in the order
they were made; bytes are sent by whoever holds the send lock.
"""

import asyncio
import os
import socket
import ssl
from concurrent.futures import Executor
from typing import Final

from api.trust.files import identity_of_peer
from api.trust.identity import Identity
from cacheruntime.worker.frame_socket import FrameSocket

HANDSHAKE_SECONDS: Final = 10.0
_ENCRYPTED_BYTES: Final = 128 << 10
"""Read from the socket at once; each connection has a buffer of it."""
_TURN_BYTES: Final = 256 << 10
"""Encrypted before others have a turn: a fraction of a millisecond."""


class TlsFrameSocket(FrameSocket):
    """Call `handshake` first."""

    def __init__(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext, *, is_server: bool
    ) -> None:
        super().__init__(sock, loop)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._encrypted = memoryview(bytearray(_ENCRYPTED_BYTES))

    async def handshake(self) -> Identity:
        """Return who is at the other end; OSError, NotAnIdentity."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                while True:
                    try:
                        self._tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        await self._send_records()
                        if not await self._take_records():
                            raise ConnectionResetError("the connection ended during the handshake") from None
                await self._send_records()
        except TimeoutError:
            raise ConnectionResetError(f"no handshake within {HANDSHAKE_SECONDS} s") from None
        except ssl.SSLError as error:
            await self._say_why()
            raise ConnectionResetError(f"the handshake failed: {error.reason or error.strerror}") from None
        return identity_of_peer(self._tls.getpeercert())

    async def _say_why(self) -> None:
        try:
            await self._send_records()  # the alert
        except OSError:
            return

    async def _take_records(self) -> bool:
        count = await self._loop.sock_recv_into(self._socket, self._encrypted)
        if count:
            self._incoming.write(self._encrypted[:count])
        else:
            self._incoming.write_eof()
        return count > 0

    async def _send_records(self) -> None:
        async with self._sending:
            if self._outgoing.pending:
                await super()._send([memoryview(self._outgoing.read())])

    async def _receive_some(self, view: memoryview) -> int:
        while True:
            try:
                return self._tls.read(len(view), view)  # type: ignore[return-value]  # with a buffer: how many
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return 0
            except ssl.SSLError as error:
                # An end without a goodbye is no danger: a frame says how long it is.
                if isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING":
                    return 0
                raise ConnectionResetError(f"TLS failed: {error.reason}") from None
            if self._outgoing.pending:
                await self._send_records()  # an answer TLS itself owes
            await self._take_records()

    async def _send(self, parts: list[memoryview], *, more: bool = False) -> None:
        """As FrameSocket; the caller holds the send lock."""
        for part in parts:
            view = part
            while view:
                self._write(view[:_TURN_BYTES])
                view = view[_TURN_BYTES:]
                if self._outgoing.pending >= _TURN_BYTES:
                    await super()._send([memoryview(self._outgoing.read())])
                    await asyncio.sleep(0)
        if self._outgoing.pending and not more:
            await super()._send([memoryview(self._outgoing.read())])

    def _write(self, view: memoryview) -> None:
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError as error:
            raise ConnectionResetError(f"TLS failed: {error.reason}") from None

    async def send_file(self, head: bytes, descriptor: int, offset: int, size_bytes: int, senders: Executor) -> None:
        """As FrameSocket."""
        async with self._sending, self._unbroken():
            await self._send([memoryview(head)], more=True)
            data = await self._loop.run_in_executor(senders, os.pread, descriptor, size_bytes, offset)
            if len(data) != size_bytes:
                raise ConnectionResetError("the cached file ended early")
            await self._send([memoryview(data)])
