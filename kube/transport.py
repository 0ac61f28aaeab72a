"""One HTTP session to one API server: deadlines, retries, authentication, request budget.

Owns connections and the retry loop; speaks of paths and bytes only (kube/client.py adds the
verbs). Invariants: every request has a deadline that covers all its tries; a write that may
have taken effect is repeated only when that is harmless (kube/retries.py); tokens go to the
configured server only, as redirects are not followed.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from random import Random
from typing import Final, Self
from weakref import WeakSet

import aiohttp
from aiohttp.connector import AddrInfoType
from prometheus_client import Counter, Histogram
from yarl import URL

from kube import metrics
from kube.budget import RequestBudget
from kube.config import ClusterConfig
from kube.errors import KubeError, Unauthorized, Unavailable, error_from_response
from kube.retries import retry_cause, retry_delay_seconds
from kube.tls import tls_context

# client-go re-reads bound service-account tokens once a minute; they rotate hourly.
TOKEN_MAX_AGE_SECONDS = 60.0
# Binds in flight plus one connection a watch; above this requests queue in the client.
MAX_CONNECTIONS = 256
CONNECT_SECONDS = 10.0
# What a watch may hold undecoded before the socket is no longer read; also the largest batch.
STREAM_BUFFER_BYTES = 1 << 20
# How long leaving the client may wait for its own sockets to be closed; they are, within two turns of the loop.
LEAVE_SECONDS: Final = 2.0


class ByteStream:
    """The body of an open `stream`."""

    def __init__(self, response: aiohttp.ClientResponse, path: str) -> None:
        self._response = response
        self._path = path

    async def read(self, silence_seconds: float) -> bytes | None:
        """All bytes that have come in; b"" at the end, None after `silence_seconds` without any.

        Raises Unavailable when the connection breaks.
        """
        try:
            async with asyncio.timeout(silence_seconds):
                return await self._response.content.readany()
        except TimeoutError:
            return None
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer("GET", self._path, error, silence_seconds) from error


class Transport:
    """Async context manager; safe for many tasks of one event loop. Methods raise kube.errors."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        user_agent: str,
        qps: float | None = None,
        burst: int = 200,
        timeout_seconds: float = 30,
        retries: int = 4,
        jitter: Random | None = None,
    ) -> None:
        self._config = config
        self._user_agent = user_agent
        self._budget = RequestBudget(qps, burst) if qps is not None else None
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._jitter = jitter or Random()
        self._server = config.server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._token = config.token
        self._token_read_at = float("-inf")

    @property
    def config(self) -> ClusterConfig:
        """Where this client is connected to."""
        return self._config

    async def __aenter__(self) -> Self:
        context = tls_context(self._config)
        connector = aiohttp.TCPConnector(
            limit=MAX_CONNECTIONS,
            ssl=context if context is not None else True,
            ttl_dns_cache=30,
            socket_factory=self._new_socket,
        )
        headers = {"User-Agent": self._user_agent, "Accept": "application/json"}
        if URL(self._server, encoded=True).host in {"127.0.0.1", "::1", "localhost"}:
            # Compressing for a peer on the same machine only costs CPU.
            headers["Accept-Encoding"] = "identity"
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
            await self._close_sockets()

    def _new_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    async def _close_sockets(self) -> None:
        """End the connections of requests that were cancelled: aiohttp forgets them while TLS waits for the goodbye."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while (left := [one for one in self._sockets if one.fileno() != -1]) and time.monotonic() < deadline:
            for one in left:
                with suppress(OSError):  # not connected, or gone meanwhile
                    one.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(0)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        idempotent: bool | None = None,
    ) -> bytes:
        """Send one request, with retries, and return the body of its success.

        `timeout_seconds` covers all tries together (default: the client's). `idempotent` says that
        repeating it cannot do harm; by default only GET and HEAD are taken to be. Raises KubeError.
        """
        repeatable = idempotent if idempotent is not None else method in {"GET", "HEAD"}
        total = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + total
        failures = 0
        while True:
            remaining = deadline - time.monotonic()
            # A connection that died silently must not eat the whole deadline of a repeatable request.
            patience = remaining / 2 if repeatable and failures < self._retries else remaining
            try:
                return await self._try_once(
                    method, path, body=body, content_type=content_type, params=params, seconds=patience
                )
            except KubeError as error:
                failures += 1
                delay = self._delay_before_retry(error, repeatable, failures)
                if delay is None or time.monotonic() + delay >= deadline:
                    raise
                await asyncio.sleep(delay)
                metrics.RETRIES.labels(method, retry_cause(error)).inc()

    @asynccontextmanager
    async def stream(self, path: str, *, params: Mapping[str, str] | None = None) -> AsyncIterator["ByteStream"]:
        """Open a GET whose body has no end: a watch, or a log that is followed. No retries.

        Opening has the client's deadline, reading has the one of each `read`. Raises KubeError.
        """
        await self._spend_budget(self._timeout_seconds)
        code = "0"
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._open_session.get(
                    self._url(path),
                    params=params,
                    headers=self._auth_headers(),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                    allow_redirects=False,
                    read_bufsize=STREAM_BUFFER_BYTES,
                )
            code = str(response.status)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _no_answer("GET", path, error, self._timeout_seconds) from error
        finally:
            metrics.REQUESTS.labels("GET", code).inc()
        try:
            stream = ByteStream(response, path)
            if response.status != 200:
                refusal = await stream.read(self._timeout_seconds)
                if response.status == 401:
                    self._reread_token()
                raise self._refused(response.status, response.headers, refusal or b"")
            yield stream
        finally:
            # Not `close`: TLS would wait half a minute for the goodbye of a peer that may be dead.
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    async def _try_once(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None,
        content_type: str,
        params: Mapping[str, str] | None,
        seconds: float,
    ) -> bytes:
        started = time.monotonic()
        await self._spend_budget(seconds)
        headers = self._auth_headers()
        if body is not None:
            headers["Content-Type"] = content_type
        timeout = aiohttp.ClientTimeout(
            total=max(seconds - (time.monotonic() - started), 0.001), sock_connect=CONNECT_SECONDS
        )
        sent_at = time.monotonic()
        code = "0"
        try:
            async with self._open_session.request(
                method,
                self._url(path),
                params=params,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                code = str(response.status)
                answer = await response.read()
                if 200 <= response.status < 300:
                    return answer
                raise self._refused(response.status, response.headers, answer)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            code = "0"
            raise _no_answer(method, path, error, seconds) from error
        finally:
            _requests(method, code).inc()
            _request_seconds(method).observe(time.monotonic() - sent_at)

    @property
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("KubeClient is used outside `async with`")
        return self._session

    def _url(self, path: str) -> URL:
        return URL(self._server + path, encoded=True)

    def _delay_before_retry(self, error: KubeError, repeatable: bool, failures: int) -> float | None:
        if isinstance(error, Unauthorized):
            # The file may hold a newer token than the one just refused; that is worth one try.
            return 0.0 if failures == 1 and self._reread_token() else None
        if failures > self._retries:
            return None
        return retry_delay_seconds(error, idempotent=repeatable, failures=failures, jitter=self._jitter)

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> KubeError:
        if 300 <= status < 400:
            return Unavailable(status, "Redirect", f"{self._config.server} answers with a redirect")
        return error_from_response(status, headers, body)

    async def _spend_budget(self, patience_seconds: float) -> None:
        if self._budget is None:
            return
        wait_seconds = self._budget.reserve_seconds(time.monotonic())
        if wait_seconds > patience_seconds:
            raise Unavailable(
                0, "ClientThrottled", "the client's own request budget (qps) is spent", reached_server=False
            )
        if wait_seconds > 0:
            await asyncio.sleep(wait_seconds)

    def _auth_headers(self) -> dict[str, str]:
        if self._config.token_file is not None and time.monotonic() - self._token_read_at > TOKEN_MAX_AGE_SECONDS:
            self._reread_token()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _reread_token(self) -> bool:
        """Read the token file again; True when it holds another token than before."""
        if self._config.token_file is None:
            return False
        before = self._token
        try:
            self._token = self._config.token_file.read_text().strip()
        except OSError as error:
            if before is None:
                raise Unauthorized(
                    0, "TokenUnreadable", f"token file {self._config.token_file}: {error.strerror}"
                ) from None
        self._token_read_at = time.monotonic()
        return self._token != before


# Looked up with every request otherwise, which costs more than the counting.
@cache
def _requests(method: str, code: str) -> Counter:
    return metrics.REQUESTS.labels(method, code)


@cache
def _request_seconds(method: str) -> Histogram:
    return metrics.REQUEST_SECONDS.labels(method)


def _no_answer(method: str, path: str, error: BaseException, seconds: float) -> Unavailable:
    if isinstance(error, TimeoutError):
        text = f"no answer within {seconds:.3g} s"
    else:
        text = f"{type(error).__name__}: {error}"
    # Only a connection that never came about proves that nothing was sent.
    never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return Unavailable(0, "NoAnswer", f"{method} {path}: {text}", reached_server=not never_sent)
