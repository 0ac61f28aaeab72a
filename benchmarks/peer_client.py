"""A reader of a worker's byte plane over TCP, with plain blocking calls: what a peer costs at the least.

Owns one connection. Does not check checksums: that is the reader's work and not the plane's. Replies may come in any
order; requests in flight are bounded by the caller's `depth`.
"""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from api.byteplane import (
    HEADER,
    Authorize,
    Failure,
    Header,
    Hello,
    HelloReply,
    Op,
    Read,
    decode_header,
    decode_meta,
    encode,
)
from api.trust.files import TrustFiles

BUFFER_BYTES: Final = 1 << 20


class PeerError(Exception):
    """The worker refused, or hung up."""


class PeerClient:
    """A greeted connection; a context manager that closes it."""

    def __init__(self, endpoint: str | Path, *, trust: TrustFiles | None = None, token: str = "") -> None:
        """`endpoint`: HOST:PORT, or the unix socket of a node's own clients. With `trust` under TLS."""
        if isinstance(endpoint, Path):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(60)
            self._socket.connect(str(endpoint))
        else:
            host, _, port = endpoint.rpartition(":")
            self._socket = socket.create_connection((host, int(port)), timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if trust is not None:
            self._socket = trust.client_context().wrap_socket(self._socket)
        self._socket.sendall(encode(Op.HELLO, 0, Hello(client="bench", node="bench")))
        _, meta = self._head()
        self.block_size_bytes = decode_meta(meta, HelloReply).block_size_bytes
        if token:
            self._socket.sendall(encode(Op.AUTHORIZE, 0, Authorize(token=token)))
            self._head()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read_large(self, reads: Sequence[Read], depth: int) -> int:
        """Do all, `depth` in flight, into one buffer; return the bytes that came."""
        buffer = memoryview(bytearray(max(read.length_bytes for read in reads)))
        frames = self._frames(reads)
        for _, frame in zip(range(depth), frames, strict=False):
            self._socket.sendall(frame)
        total = 0
        for _ in reads:
            header, _ = self._head()
            receive_whole(self._socket, buffer[: header.data_bytes])
            total += header.data_bytes
            self._socket.sendall(next(frames, b""))
        return total

    def read_small(self, reads: Sequence[Read], batch: int) -> int:
        """Do all, at most two batches in flight, one system call for many replies; return the bytes that came."""
        frames = list(self._frames(reads))
        batches = iter([b"".join(frames[at : at + batch]) for at in range(0, len(frames), batch)])
        buffer = bytearray(BUFFER_BYTES)
        view = memoryview(buffer)
        start = end = done = total = 0
        for _ in range(2):
            self._socket.sendall(next(batches, b""))
        while done < len(frames):
            if start:
                view[: end - start] = bytes(view[start:end])
                start, end = 0, end - start
            count = self._socket.recv_into(view[end:])
            if not count:
                raise PeerError("the worker hung up")
            end += count
            while end - start >= HEADER.size:
                _, _, _, status, _, _, meta_bytes, data_bytes = HEADER.unpack_from(buffer, start)
                after = start + HEADER.size + meta_bytes + data_bytes
                if after > end:
                    break
                if status:
                    raise PeerError(decode_meta(buffer[start + HEADER.size : after], Failure).message)
                start, done, total = after, done + 1, total + data_bytes
                if done % batch == 0:
                    self._socket.sendall(next(batches, b""))
        return total

    @staticmethod
    def _frames(reads: Sequence[Read]) -> Iterator[bytes]:
        return (encode(Op.READ, number, read) for number, read in enumerate(reads, start=1))

    def _head(self) -> tuple[Header, bytearray]:
        raw = bytearray(HEADER.size)
        receive_whole(self._socket, memoryview(raw))
        header = decode_header(raw)
        meta = bytearray(header.meta_bytes)
        receive_whole(self._socket, memoryview(meta))
        if header.status:
            raise PeerError(decode_meta(meta, Failure).message)
        return header, meta


def receive_whole(sock: socket.socket, view: memoryview) -> None:
    """Fill `view`; PeerError when the other side hangs up."""
    while view:
        count = sock.recv_into(view)
        if not count:
            raise PeerError("the other side hung up")
        view = view[count:]
