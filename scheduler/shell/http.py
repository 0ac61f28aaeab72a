"""/healthz, /readyz and /metrics over plain HTTP, on the address the settings name; and listening as such.

Owns the three paths. /healthz fails when the loop has not turned for a while; /readyz until the state was
synced (a standby is ready too).
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from scheduler.errors import ConfigurationError


def parse_address(text: str, option: str = "--metrics") -> tuple[str, int]:
    """HOST:PORT as a pair; raises ConfigurationError naming the option."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"{option} {text!r} must be HOST:PORT, like 127.0.0.1:10359")
    return host.strip("[]") or "127.0.0.1", int(port)


@asynccontextmanager
async def serve(address: str, is_healthy: Callable[[], bool], is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Serve while the context lasts; an empty address serves nothing. Raises ConfigurationError."""
    if not address:
        yield
        return

    def answer(check: Callable[[], bool]) -> Callable[[web.Request], object]:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(text="ok\n") if check() else web.Response(status=503, text="not ok\n")

        return handler

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", answer(is_healthy))  # type: ignore[arg-type]
    app.router.add_get("/livez", answer(is_healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", answer(is_ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    async with listening(app, address, "--metrics"):
        yield


@asynccontextmanager
async def listening(
    app: web.Application, address: str, option: str, context: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Serve an application while the context lasts. Raises ConfigurationError naming the option."""
    host, port = parse_address(address, option)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, ssl_context=context).start()
        except OSError as error:
            raise ConfigurationError(f"{option} {address}: {error.strerror}; choose another port") from None
        yield
    finally:
        await runner.cleanup()
