"""`headrace dashboard`: a page and the picture behind it, over plain HTTP, read only.

Owns the paths: `/` and its two files, `/api/picture` once, `/api/events` as it changes, both of the nodes and datasets
with these parts of names in them (`?nodes=…&datasets=…`). Invariants: nothing can be
changed through it; a page in a browser is sent nothing but the picture; on a loopback address only requests for a
loopback host are answered, so that no web site can read it through a visitor's browser.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

import msgspec
from aiohttp import web

from headrace.board.picture import Picture, Wanted
from headrace.errors import UsageError

STATIC: Final = Path(__file__).parent / "static"
FILES: Final = {
    "/": ("board.html", "text/html"),
    "/board.css": ("board.css", "text/css"),
    "/board.js": ("board.js", "text/javascript"),
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
REST_SECONDS: Final = 1.0
"""Between two pictures, however much changes."""
RESTS: Final = 4.0
"""Times as long as a picture took is rested, so that a large cluster takes a fifth of a core at most."""
WANTED_CHARACTERS_MAX: Final = 253
HEARTBEAT_SECONDS: Final = 10.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Source(Protocol):
    """Where pictures come from: `feed.Feed`."""

    #: Grows with each change.
    version: int
    #: What the picture suffers from, in one sentence.
    trouble: str

    @property
    def missing(self) -> list[str]:
        """Kinds the API server does not show."""
        ...

    def picture(self, wanted: Wanted) -> Picture:
        """The picture now."""
        ...

    async def changed(self, at_most_seconds: float, since: int) -> bool:
        """Wait for a change after version `since`; False when there was none in time."""
        ...


class _Pictures:
    """Pictures as they are sent: each is made once for all who look for the same, and not all the time."""

    def __init__(self, feed: Source) -> None:
        self._feed = feed
        self._made: dict[Wanted, tuple[float, int, bytes]] = {}

    def now(self, wanted: Wanted) -> tuple[int, bytes]:
        """The picture, and which version of the feed it is of: whoever got an old one has to come again."""
        began = time.monotonic()
        self._made = {each: made for each, made in self._made.items() if made[0] > began}
        if wanted in self._made:
            return self._made[wanted][1:]
        feed = self._feed
        answer = {"picture": feed.picture(wanted), "missing": feed.missing, "trouble": feed.trouble}
        encoded = msgspec.json.encode(answer)
        ended = time.monotonic()
        self._made[wanted] = (ended + RESTS * (ended - began), feed.version, encoded)
        return self._made[wanted][1:]


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT as a pair. Raises UsageError."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen {text!r} must be HOST:PORT, like 127.0.0.1:8400 (port 0: any free one)")
    return host.strip("[]") or "127.0.0.1", int(port)


def application(feed: Source, *, only_loopback: bool) -> web.Application:
    """The pages of a feed."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if only_loopback and not is_loopback(request.url.host or ""):
            return web.Response(status=421, text="this dashboard answers requests for localhost only\n")
        return await handler(request)

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    pictures = _Pictures(feed)

    async def once(request: web.Request) -> web.Response:
        return web.Response(body=pictures.now(_wanted(request))[1], content_type="application/json")

    async def events(request: web.Request) -> web.StreamResponse:
        wanted = _wanted(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        last = b""
        while True:
            seen, now = pictures.now(wanted)
            # A comment line keeps proxies from closing the connection, and finds out that nobody listens.
            try:
                await response.write(b": nothing new\n\n" if now == last else b"data: " + now + b"\n\n")
            except ConnectionResetError:
                return response
            last = now
            await asyncio.sleep(REST_SECONDS)
            await feed.changed(HEARTBEAT_SECONDS, seen)

    app = web.Application(middlewares=[guarded])
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/api/picture", once)
    app.router.add_get("/api/events", events)
    app.router.add_get("/healthz", _healthy)
    for path, (name, kind) in FILES.items():
        app.router.add_get(path, _file(name, kind))
    return app


@asynccontextmanager
async def serving(feed: Source, listen: str) -> AsyncIterator[str]:
    """Serve while the context lasts; gives the page's address. Raises UsageError."""
    host, port = parse_listen(listen)
    runner = web.AppRunner(application(feed, only_loopback=is_loopback(host)), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(f"--listen {listen}: {error.strerror or error}; choose another address") from None
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}/"
    finally:
        await runner.cleanup()


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _wanted(request: web.Request) -> Wanted:
    nodes, datasets = (request.query.get(key, "")[:WANTED_CHARACTERS_MAX] for key in ("nodes", "datasets"))
    return Wanted(nodes, datasets)


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _file(name: str, kind: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=(STATIC / name).read_bytes(), content_type=kind, charset="utf-8")

    return handler
