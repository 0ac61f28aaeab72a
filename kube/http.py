"""What a kubelet and Prometheus ask a process: /healthz, /livez, /readyz and /metrics over plain HTTP; and listening.

Owns these paths. They are answered by the process's own event loop: a loop that does not turn answers nothing, which
is what a liveness probe is to find. Holds nothing secret and takes nothing in; needs no API server.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from kube.errors import ConfigError


def parse_address(text: str, option: str = "--metrics") -> tuple[str, int]:
    """HOST:PORT as a pair; no host means loopback. Raises ConfigError naming the option."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{option} {text!r} must be HOST:PORT, like 127.0.0.1:10359")
    return host.strip("[]") or "127.0.0.1", int(port)


def _always() -> bool:
    return True


@asynccontextmanager
async def serve(
    address: str | None,
    is_healthy: Callable[[], bool] = _always,
    is_ready: Callable[[], bool] = _always,
    registry: CollectorRegistry = REGISTRY,
) -> AsyncIterator[None]:
    """Serve while the context lasts; no address serves nothing. Raises ConfigError."""
    if not address:
        yield
        return

    def answer(check: Callable[[], bool]) -> Callable[[web.Request], object]:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(text="ok\n") if check() else web.Response(status=503, text="not ok\n")

        return handler

    async def metrics(_: web.Request) -> web.Response:
        # Thousands of series take tens of milliseconds to write down: not in the loop that does the work.
        text = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

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
    """Serve an application while the context lasts. Raises ConfigError naming the option."""
    host, port = parse_address(address, option)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, ssl_context=context).start()
        except socket.gaierror as error:
            raise ConfigError(f"{option} {address}: {error.strerror}; name an address of this machine") from None
        except OSError as error:
            raise ConfigError(f"{option} {address}: {error.strerror}; choose another port") from None
        yield
    finally:
        await runner.cleanup()
