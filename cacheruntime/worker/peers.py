"""Blocks from other workers: pooled, pipelined connections of the byte plane.

Owns the client side: connections a peer, requests in flight, deadlines, the checksum of what arrives. Does not
choose whom to ask (filler.py). Invariants: bytes are handed on only when they have the checksum the peer sent; a
peer that is silent for too long or breaks the protocol loses its connection, and every request on it ends with
PeerFailed.
"""

import asyncio
import errno
import socket
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog

from api.byteplane import (
    TOKEN_ERRNOS,
    AskHeld,
    Authorize,
    Authorized,
    DropHeld,
    Empty,
    Failure,
    Flag,
    FrameError,
    Header,
    HeldKnown,
    Hello,
    HelloReply,
    Hold,
    Op,
    Read,
    ReadHeld,
    ReadReply,
    Struct,
    decode_meta,
    encode,
)
from api.trust.files import TrustFiles
from api.trust.identity import Identity, NotAnIdentity, Role
from api.trust.source import Shown, TokenSource
from cacheruntime.core.checksums import crc32c
from cacheruntime.errors import CacheError, Denied, Missing, NotResident, PeerFailed, VersionChanged, from_rpc
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.frame_socket import FrameSocket
from cacheruntime.worker.tls_socket import TlsFrameSocket
from cacheruntime.worker.workers import Peer

log = structlog.get_logger()

CONNECTIONS_PER_PEER: Final = 2
"""One stream of 4 MiB blocks fills a core; a second keeps small ones from waiting behind large ones."""
RESIDENT_ONLY_SECONDS: Final = 5.0
_FINAL: Final[dict[int, type[CacheError]]] = {
    errno.ESTALE: VersionChanged,
    errno.ENOENT: Missing,
    errno.EACCES: Denied,
    errno.ENODATA: NotResident,
}
"""What a peer says of the object itself: asking another one would not help."""


class PeerRefused(PeerFailed):
    """The peer lives and says that it could not."""


class PeerWantsToken(PeerRefused):
    """The peer does not take the token it was shown."""


class CorruptAnswer(PeerFailed):
    """The bytes did not have the checksum that came with them."""


@dataclass(frozen=True, slots=True)
class PeerBytes:
    """A block from a peer, checked."""

    data: memoryview
    checksum: int
    from_origin: bool


_Reply = ReadReply | Authorized | Empty | HeldKnown
_Kind = type[ReadReply] | type[Authorized] | type[Empty] | type[HeldKnown]
_Request = Read | ReadHeld | Hold | DropHeld | AskHeld
_OPS: Final[dict[type[_Request], tuple[Op, _Kind]]] = {
    Read: (Op.READ, ReadReply),
    ReadHeld: (Op.READ_HELD, ReadReply),
    Hold: (Op.HOLD, Empty),
    DropHeld: (Op.DROP_HELD, Empty),
    AskHeld: (Op.ASK_HELD, HeldKnown),
}


@dataclass(slots=True)
class _Waiting:
    reply: asyncio.Future[_Reply]
    buffer: memoryview
    kind: _Kind = ReadReply


@dataclass(slots=True)
class _Link:
    """One connection; `receiving` delivers replies in whatever order they come."""

    socket: FrameSocket
    waiting: dict[int, _Waiting] = field(default_factory=dict)
    receiving: asyncio.Task[None] | None = None
    next_id: int = 1
    is_broken: bool = False
    shown: Shown | None = None
    """None: the peer wants no tokens."""

    def fail(self, reason: str) -> None:
        """No request on it will be answered any more."""
        self.is_broken = True
        self.socket.hang_up()
        for waiting in self.waiting.values():
            if not waiting.reply.done():
                waiting.reply.set_exception(PeerFailed(reason))
        self.waiting.clear()


class Peers:
    """Connections to all peers, by incarnation."""

    def __init__(
        self,
        node: str,
        *,
        connect_seconds: float,
        read_seconds: float,
        buffers: Buffers,
        trust: TrustFiles | None = None,
        tokens: TokenSource | None = None,
    ) -> None:
        """With `trust` both sides show certificates; `tokens` are shown to peers that want them."""
        self._node = node
        self._trust = trust
        self._tokens = tokens
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._buffers = buffers
        self._links: dict[Peer, list[_Link]] = {}
        self._connecting: dict[Peer, asyncio.Lock] = {}

    async def read(self, peer: Peer, request: Read) -> PeerBytes:
        """Return the range from that peer. PeerFailed (CorruptAnswer), or what the peer says of the object."""
        seconds = RESIDENT_ONLY_SECONDS if request.resident_only else self._read_seconds
        buffer = self._buffers.take(request.length_bytes)
        reply = await self._exchange(peer, request, buffer, seconds)
        assert isinstance(reply, ReadReply)
        if crc32c(buffer) != reply.crc32c:
            raise CorruptAnswer(f"{peer.node} sent bytes that do not have their checksum")
        return PeerBytes(buffer, reply.crc32c, reply.from_origin)

    async def read_held(self, peer: Peer, request: ReadHeld, buffer: memoryview) -> int:
        """Fill the buffer with a range of a version the peer holds; return its checksum. PeerFailed, NotResident."""
        reply = await self._exchange(peer, request, buffer, self._read_seconds)
        assert isinstance(reply, ReadReply)
        if crc32c(buffer) != reply.crc32c:
            raise CorruptAnswer(f"{peer.node} sent bytes that do not have their checksum")
        return reply.crc32c

    async def hold(self, peer: Peer, request: Hold, seconds: float) -> None:
        """Return when the peer holds the file durably. PeerFailed."""
        await self._exchange(peer, request, memoryview(bytearray()), seconds)

    async def drop_held(self, peer: Peer, request: DropHeld) -> None:
        """Tell the peer that it need not hold a version any more. PeerFailed."""
        await self._exchange(peer, request, memoryview(bytearray()), RESIDENT_ONLY_SECONDS)

    async def ask_held(self, peer: Peer, request: AskHeld) -> bool:
        """Return whether the first holder of a version may have shown it. PeerFailed."""
        reply = await self._exchange(peer, request, memoryview(bytearray()), RESIDENT_ONLY_SECONDS)
        assert isinstance(reply, HeldKnown)
        return reply.is_known

    async def _exchange(self, peer: Peer, request: _Request, buffer: memoryview, seconds: float) -> _Reply:
        before = self.received_bytes(peer)
        try:
            link = await self._link(peer)
            before = self.received_bytes(peer)
            async with asyncio.timeout(seconds):
                return await self._ask_with_token(link, peer, request, buffer)
        except TimeoutError:
            if self.received_bytes(peer) != before:
                # What else was asked of it comes: those who wait for that must not pay for this one.
                raise PeerRefused(f"{peer.node} was too busy to answer within {seconds} s") from None
            self._drop(peer, f"{peer.node} did not answer within {seconds} s")
            raise PeerFailed(f"{peer.node} did not answer within {seconds} s") from None
        except OSError as error:
            self._drop(peer, str(error))
            raise PeerFailed(f"{peer.node} at {peer.endpoint}: {error}") from error

    def received_bytes(self, peer: Peer) -> int:
        """What a peer has sent so far, parts of frames too; a peer that sends anything is busy, not stalled. Differs
        after any byte, and may shrink when connections end."""
        return sum(link.socket.received_bytes for link in self._links.get(peer, ()))

    def keep_only(self, peers: frozenset[Peer]) -> None:
        """Hang up on incarnations that are gone: whoever waits for them asks others."""
        for peer in self._links.keys() - peers:
            self._drop(peer, f"{peer.node} is gone")

    async def close(self) -> None:
        """Hang up on all."""
        self.keep_only(frozenset())
        await asyncio.sleep(0)

    async def _ask_with_token(self, link: _Link, peer: Peer, request: _Request, buffer: memoryview) -> _Reply:
        op, kind = _OPS[type(request)]
        if link.shown is None:
            return await self._request(link, op, request, buffer, kind)
        for is_last in (False, True):
            try:
                if not link.shown.is_good(request.uid, write=False):
                    await link.shown.ensure(request.uid, write=False)
                return await self._request(link, op, request, buffer, kind)
            except grpc.aio.AioRpcError as error:
                why = from_rpc(error, "IssueToken").message
                raise PeerRefused(f"no token to show to {peer.node} is to be had: {why}") from error
            except PeerWantsToken:
                # A key was taken away, or the clocks are apart by more than we allow.
                link.shown.forget(request.uid)
                if is_last:
                    raise
        raise AssertionError("returned or raised")

    async def _show(self, link: _Link, token: str) -> None:
        await self._request(link, Op.AUTHORIZE, Authorize(token=token), memoryview(bytearray()), Authorized)

    async def _request(self, link: _Link, op: Op, meta: Struct, buffer: memoryview, kind: _Kind) -> _Reply:
        future: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        request_id, link.next_id = link.next_id, link.next_id + 1
        link.waiting[request_id] = _Waiting(future, buffer, kind)
        try:
            await link.socket.send(encode(op, request_id, meta))
            return await future
        except asyncio.CancelledError:
            # The request goes out whole even if it has not yet. The answer would still be written into the buffer; the
            # connection skips it.
            if request_id in link.waiting:
                link.waiting[request_id] = _Waiting(future, memoryview(bytearray()), kind)
            raise

    async def _link(self, peer: Peer) -> _Link:
        links = self._links.setdefault(peer, [])
        links[:] = [link for link in links if not link.is_broken]
        idle = min(links, key=lambda link: len(link.waiting), default=None)
        if idle is not None and (not idle.waiting or len(links) >= CONNECTIONS_PER_PEER):
            return idle
        async with self._connecting.setdefault(peer, asyncio.Lock()):
            links = self._links.setdefault(peer, [])
            if len(links) >= CONNECTIONS_PER_PEER:
                return min(links, key=lambda link: len(link.waiting))
            link = await self._connect(peer)
            links.append(link)
            return link

    async def _connect(self, peer: Peer) -> _Link:
        host, _, port = peer.endpoint.rpartition(":")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_seconds):
            found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
                link = _Link(await self._secured(sock, peer))
                await self._greet(link, peer)
            except NotAnIdentity as error:
                sock.close()
                raise ConnectionResetError(str(error)) from error
            except BaseException:
                sock.close()
                raise
        link.socket.received_bytes = 0  # a greeting says that it lives, not that it moves anything
        link.receiving = loop.create_task(self._receive(link, peer))
        return link

    async def _secured(self, sock: socket.socket, peer: Peer) -> FrameSocket:
        loop = asyncio.get_running_loop()
        if self._trust is None:
            return FrameSocket(sock, loop)
        link = TlsFrameSocket(sock, loop, self._trust.client_context(), is_server=False)
        who = await link.handshake()
        if who != Identity(Role.WORKER, peer.node):
            raise ConnectionResetError(f"{peer.endpoint} is {who}, not the worker of {peer.node}")
        return link

    async def _greet(self, link: _Link, peer: Peer) -> None:
        await link.socket.send(encode(Op.HELLO, 0, Hello(client="worker", node=self._node)))
        header = await link.socket.receive_header()
        if header is None or header.op is not Op.HELLO or header.status:
            raise ConnectionResetError(f"{peer.node} did not greet")
        hello = decode_meta(await link.socket.receive(header.meta_bytes), HelloReply)
        if hello.node != peer.node or hello.epoch != peer.epoch:
            raise ConnectionResetError(f"{peer.endpoint} is {hello.node} epoch {hello.epoch}, not {peer}")
        if hello.needs_tokens:
            if self._tokens is None:
                raise ConnectionResetError(f"{peer.node} wants tokens, and this worker has none: trust is off here")
            link.shown = Shown(self._tokens, lambda token: self._show(link, token))

    async def _receive(self, link: _Link, peer: Peer) -> None:
        reason = f"{peer.node} hung up"
        try:
            while (header := await link.socket.receive_header()) is not None:
                await self._deliver(link, header)
        except (OSError, FrameError) as error:
            reason = f"{peer.node}: {error}"
        finally:
            link.fail(reason)
            await link.socket.close()

    async def _deliver(self, link: _Link, header: Header) -> None:
        meta = await link.socket.receive(header.meta_bytes)
        waiting = link.waiting.get(header.request_id)
        if waiting is None or not header.flags & Flag.REPLY:
            raise FrameError(f"{header.op.name} reply {header.request_id} to nothing that was asked")
        if header.status:
            message = decode_meta(meta, Failure).message
            kind = PeerWantsToken if header.status in TOKEN_ERRNOS else _FINAL.get(header.status, PeerRefused)
            _settle(link, header.request_id, kind(message))
            return
        reply = decode_meta(meta, waiting.kind)
        if len(waiting.buffer) == header.data_bytes:
            # Stays among the waiting while its bytes arrive, so that a cancelled one is seen.
            await link.socket.receive_into(waiting.buffer)
        else:
            await link.socket.receive(header.data_bytes)
            if not waiting.reply.cancelled() and not waiting.reply.done() and len(waiting.buffer):
                _settle(link, header.request_id, PeerFailed(f"{header.data_bytes} bytes came, not what was asked"))
                return
        _settle(link, header.request_id, reply)

    def _drop(self, peer: Peer, reason: str) -> None:
        for link in self._links.pop(peer, []):
            link.fail(reason)
        self._connecting.pop(peer, None)


def _settle(link: _Link, request_id: int, outcome: Struct | CacheError) -> None:
    waiting = link.waiting.pop(request_id, None)
    if waiting is None or waiting.reply.done():
        return
    if isinstance(outcome, CacheError):
        waiting.reply.set_exception(outcome)
    else:
        assert isinstance(outcome, ReadReply | Authorized | Empty | HeldKnown)
        waiting.reply.set_result(outcome)
