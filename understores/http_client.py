"""HTTP requests as stores make them: bounded waits, bounded bodies, bytes exactly as many as announced.

Owns the connections and what a broken one means. Does not know what an answer's status means to a store. Invariants:
no exception of the HTTP library gets out, since its text holds URLs, and a URL may hold a token; redirects are never
followed unasked; a body that is shorter or longer than its range is an error.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from yarl import URL

from understores.errors import ShortBody, StoreFailed, UnderStoreError, Unreachable

CONNECT_SECONDS: Final = 5.0
STALL_SECONDS = 15.0
"""No byte for so long: the connection is given up."""
CONNECTIONS_MAX: Final = 64
PIECE_BYTES: Final = 256 << 10

Headers = Mapping[str, str]


class HttpClient:
    """Connections of one store. Every method raises `UnderStoreError`, and nothing else."""

    def __init__(self, server: str) -> None:
        """`server` is how messages name the other side: a host, without anything secret."""
        self._server = server
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        headers: Headers | None = None,
        body: AsyncIterable[bytes] | None = None,
        body_bytes: int = 0,
    ) -> AsyncGenerator["Answer", None]:
        """Send a request and yield the answer before its body; `body` must be of `body_bytes`. Unreachable."""
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if body is not None:
            sent["Content-Length"] = str(body_bytes)
        failure: UnderStoreError | None = None
        try:
            async with self._connected().request(
                method, url, headers=sent, data=body, allow_redirects=False
            ) as response:
                yield Answer(response, self._server)
        except TimeoutError:
            failure = Unreachable(f"{self._server} did not answer within {STALL_SECONDS:.0f} s.")
        except aiohttp.ClientPayloadError:
            failure = ShortBody(f"{self._server} ended the connection inside a body.")
        except aiohttp.ClientConnectorError:
            failure = Unreachable(f"{self._server} cannot be reached.")
        except (aiohttp.ClientError, OSError):
            failure = Unreachable(f"{self._server} ended the connection before it had answered.")
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS
                ),
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class Answer:
    """An answer whose body is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse, server: str) -> None:
        self._response = response
        self._server = server
        self.status = response.status
        self.headers: Headers = response.headers
        self.url = response.url

    async def text_bytes(self, limit_bytes: int) -> bytes:
        """The whole body; StoreFailed when it is longer than `limit_bytes`."""
        body = bytearray()
        async for piece in self._response.content.iter_chunked(PIECE_BYTES):
            body += piece
            if len(body) > limit_bytes:
                raise StoreFailed(f"{self._server} sent more than {limit_bytes} bytes where a listing was expected.")
        return bytes(body)

    async def start_of_body(self, limit_bytes: int) -> bytes:
        """At most `limit_bytes` of the body: an error's code is at its beginning."""
        body = bytearray()
        async for piece in self._response.content.iter_chunked(limit_bytes):
            body += piece
            if len(body) >= limit_bytes:
                break
        return bytes(body[:limit_bytes])

    async def fill(self, buffer: memoryview, *, skip_bytes: int = 0, what: str, is_to_end: bool = True) -> None:
        """Fill `buffer` with the body behind its first `skip_bytes`; ShortBody unless it has just so many.

        With `is_to_end` false the body may go on behind them.
        """
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise StoreFailed(f"{what} was sent compressed, though it was asked for as it is.")
        wanted = len(buffer)
        filled = -skip_bytes
        async for piece in self._response.content.iter_chunked(PIECE_BYTES):
            view = memoryview(piece)
            if filled < 0:
                ahead = min(-filled, len(view))
                filled += ahead
                view = view[ahead:]
                if not view:
                    continue
            room = wanted - filled
            if len(view) > room:
                if is_to_end:
                    raise ShortBody(f"{what} sent more bytes than the range has.")
                view = view[:room]
            buffer[filled : filled + len(view)] = view
            filled += len(view)
            if filled == wanted and not is_to_end:
                return
        if filled < wanted:
            raise ShortBody(f"{what} sent {max(filled, 0)} bytes of {wanted}.")


def retry_after_seconds(headers: Headers, now: datetime | None = None) -> float:
    """What Retry-After asks for, as seconds from `now`; 0 when it is missing or makes no sense."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(int(text[:9]))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        return 0.0
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def content_length(headers: Headers) -> int | None:
    """Content-Length, or None when it is missing or no number."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None
