"""Accepts connections and turns each frame into one call of a session.

Owns listening, the limit of requests in flight, and the only translation of errors to a Failure reply. Does not
know any operation. Invariants: a connection that breaks the protocol is closed; a session is closed exactly once,
after its last request ended; an exception nobody expected costs one request, is logged and counted; with trust on
nothing is read of a connection before its certificate was checked.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import structlog

from api.byteplane import Failure, Flag, FrameError, Header, encode
from api.trust.files import TrustFiles
from api.trust.identity import Identity, NotAnIdentity
from cacheruntime.errors import CacheError
from cacheruntime.worker.frame_socket import FrameSocket
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.tls_socket import TlsFrameSocket

log = structlog.get_logger()

REQUESTS_MAX: Final = 128
"""In flight a connection; then the connection is not read any further, and TCP slows the peer."""
REPLIES_MAX: Final = 64
"""That are ready and not sent yet, a connection; they go out in one system call."""
CONNECTIONS_MAX: Final = 4096
Ready = tuple[bytes, memoryview]
"""Header and meta of a reply, and its data."""
NO_REPLY: Final[Ready] = (b"", memoryview(b""))
"""The request was carried out, and who asked does not want to be told."""
ABORT_SECONDS: Final = 5.0


class Session(Protocol):
    """What one connection can ask."""

    def answer_now(self, header: Header, meta: bytes) -> Ready | None:
        """Return the reply to a request that needs no waiting and little data; None = `handle` it."""
        ...

    async def handle(self, header: Header, meta: bytes) -> None:
        """Do one request and send its reply; CacheError becomes a Failure."""
        ...

    async def close(self) -> None:
        """The connection is gone."""
        ...


class FrameServer:
    """Serves one listening socket until cancelled."""

    def __init__(
        self,
        listener: socket.socket,
        open_session: Callable[[FrameSocket, Identity | None], Session],
        metrics: Metrics,
        trust: TrustFiles | None = None,
    ) -> None:
        """With `trust` others must show a certificate; `open_session` is told whose it is."""
        listener.setblocking(False)
        self._trust = trust
        self._listener = listener
        self._open_session = open_session
        self._metrics = metrics
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Accept and serve; on cancellation every connection is closed."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    await self._somebody_comes(loop)
                    sock, _ = self._listener.accept()
                except BlockingIOError:
                    continue  # left before we came
                except OSError as error:
                    # Out of descriptors, or the client left before we came: others are still served.
                    log.warning("accept_failed", error=error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                if len(self._connections) >= CONNECTIONS_MAX:
                    log.warning("connection_refused", connections=len(self._connections))
                    sock.close()
                    continue
                sock.setblocking(False)
                task = loop.create_task(self._welcome(sock, loop))
                self._connections.add(task)
                task.add_done_callback(partial(self._ended, sock))
        finally:
            self._listener.close()
            for task in list(self._connections):
                task.cancel()
            if self._connections:
                await asyncio.wait(list(self._connections), timeout=ABORT_SECONDS)

    async def _somebody_comes(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not `sock_accept`: who is cancelled while that has somebody already leaves them open.
        come = asyncio.Event()
        loop.add_reader(self._listener, come.set)
        try:
            await come.wait()
        finally:
            loop.remove_reader(self._listener)

    def _ended(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        sock.close()  # also of a task that was cancelled before it began

    async def _welcome(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        if self._trust is None:
            await self._serve(FrameSocket(sock, loop), None)
            return
        link = TlsFrameSocket(sock, loop, self._trust.server_context(), is_server=True)
        try:
            peer = await link.handshake()
        except (OSError, NotAnIdentity) as error:
            self._metrics.refused.labels("handshake").inc()
            log.warning("connection_refused", error=str(error))
            await link.close()
            return
        except BaseException:
            await link.close()
            raise
        await self._serve(link, peer)

    async def _serve(self, link: FrameSocket, peer: Identity | None) -> None:
        session = self._open_session(link, peer)
        requests: set[asyncio.Task[None]] = set()
        try:
            while (request := link.received() or await link.receive_request()) is not None:
                header, meta = request
                if header.data_bytes or (header.flags and header.flags & Flag.REPLY):
                    raise FrameError(f"{header.op.name} request came as a reply or with data")
                if (ready := self._answer_now(session, header, meta)) is not None:
                    if ready is NO_REPLY:
                        continue
                    # A task for each would cost more than the answers. Nothing is read on before they are out.
                    if link.send_soon(*ready) >= REPLIES_MAX:
                        await link.sent()
                    continue
                task = asyncio.create_task(self._answer(session, link, header, meta))
                requests.add(task)
                task.add_done_callback(requests.discard)
                if len(requests) >= REQUESTS_MAX:
                    await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        except FrameError as error:
            log.warning("protocol_error", error=str(error))
        except OSError as error:
            log.debug("connection_lost", error=str(error))
        finally:
            link.hang_up()
            for task in requests:
                task.cancel()
            if requests:
                await asyncio.wait(requests)
            await session.close()
            await link.close()

    def _answer_now(self, session: Session, header: Header, meta: bytes) -> Ready | None:
        try:
            return session.answer_now(header, meta)
        except Exception:
            self._metrics.bugs.labels(header.op.name).inc()
            log.exception("bug", op=header.op.name)
            return None  # `handle` may know what to say of it

    async def _answer(self, session: Session, link: FrameSocket, header: Header, meta: bytes) -> None:
        try:
            await session.handle(header, meta)
        except CacheError as error:
            name = errno.errorcode.get(error.errno, str(error.errno))
            self._metrics.failed_requests.labels(header.op.name, name).inc()
            log.info("request_failed", op=header.op.name, errno=name, error=error.message)
            await _fail(link, header, error.errno, error.message)
        except FrameError as error:
            log.warning("protocol_error", op=header.op.name, error=str(error))
            link.hang_up()
        except ConnectionError as error:
            log.debug("reply_lost", op=header.op.name, error=str(error))
            link.hang_up()
        except Exception:
            self._metrics.bugs.labels(header.op.name).inc()
            log.exception("bug", op=header.op.name)
            await _fail(link, header, errno.EIO, f"{header.op.name} hit a bug in the worker; its log has the trace")


async def _fail(link: FrameSocket, header: Header, number: int, message: str) -> None:
    frame = encode(header.op, header.request_id, Failure(message=message), flags=Flag.REPLY, status=number)
    try:
        await link.send(frame)
    except OSError:
        link.hang_up()
