"""`headrace dashboard`: a page and the picture behind it, over plain HTTP, read only.

Owns the paths: `/` and its two files, `/api/picture` once, `/api/events` as it changes. Invariants: nothing can be
changed through it; a page in a browser is sent nothing but the picture; on a loopback address only requests for a
loopback host are answered, so that no web site can read it through a visitor's browser.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

import msgspec
from aiohttp import web

from headrace.board.picture import Picture
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
HEARTBEAT_SECONDS: Final = 10.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Source(Protocol):
    """Where pictures come from: `feed.Feed`."""

    @property
    def missing(self) -> list[str]:
        """Kinds the API server does not show."""
        ...

    def picture(self) -> Picture:
        """The picture now."""
        ...

    async def changed(self, at_most_seconds: float) -> bool:
        """Wait for a change; False when there was none in time."""
        ...


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

    async def once(_: web.Request) -> web.Response:
        return web.Response(body=_encoded(feed), content_type="application/json")

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        last = b""
        while True:
            now = _encoded(feed)
            # A comment line keeps proxies from closing the connection, and finds out that nobody listens.
            try:
                await response.write(b": nothing new\n\n" if now == last else b"data: " + now + b"\n\n")
            except ConnectionResetError:
                return response
            last = now
            await asyncio.sleep(REST_SECONDS)
            await feed.changed(HEARTBEAT_SECONDS)

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


def _encoded(feed: Source) -> bytes:
    return msgspec.json.encode({"picture": feed.picture(), "missing": feed.missing})


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _file(name: str, kind: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=(STATIC / name).read_bytes(), content_type=kind, charset="utf-8")

    return handler
