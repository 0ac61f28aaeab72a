"""The scheduler extender: POST /filter and /prioritize, for an unmodified kube-scheduler.

Owns the wire format (k8s.io/kube-scheduler/extender/v1). Does not decide (core/extender.py does). Invariants: a
request never waits, since the answer is in memory; before the state is synced the answer is 503, which
kube-scheduler ignores or not as its `ignorable` says; what cannot be understood is answered in the result's
`Error`, so that it reaches the pod's events.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from kube.http import listening
from kube.objects import Pod
from scheduler.core.data_request import BadDataRequest
from scheduler.core.extender import DataExtender
from scheduler.errors import ConfigurationError
from scheduler.shell import metrics

# 5,000 nodes as whole objects, when nodeCacheCapable is off: about 20 KiB each.
MAX_REQUEST_BYTES = 128 << 20
RELOAD_SECONDS = 60.0


class _Meta(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    metadata: _Meta


class _Arguments(msgspec.Struct, rename="pascal"):
    pod: Pod
    nodes: dict[str, Any] | None = None
    node_names: list[str] | None = None


class _Result(msgspec.Struct, rename="pascal", omit_defaults=True):
    nodes: dict[str, Any] | None = None
    node_names: list[str] | None = None
    failed_nodes: dict[str, str] = {}
    error: str = ""


_decoder = msgspec.json.Decoder(_Arguments)


@asynccontextmanager
async def serve_extender(
    address: str, extender: DataExtender, is_ready: Callable[[], bool], certificate: Path | None, key: Path | None
) -> AsyncIterator[None]:
    """Serve while the context lasts, by TLS when a certificate is given; an empty address serves nothing.

    The certificate is read again when its files change. Raises ConfigurationError.
    """
    if not address:
        yield
        return
    context = _context(certificate, key)
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.router.add_post("/filter", _handler("filter", is_ready, lambda asked: _filter(extender, asked)))
    app.router.add_post("/prioritize", _handler("prioritize", is_ready, lambda asked: _prioritize(extender, asked)))
    async with listening(app, address, "--extender", context):
        if context is None or certificate is None or key is None:
            yield
            return
        reloading = asyncio.create_task(_reload(context, certificate, key))
        try:
            yield
        finally:
            reloading.cancel()
            await asyncio.wait({reloading})


def _handler(
    verb: str, is_ready: Callable[[], bool], answer: Callable[[_Arguments], Any]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        if not is_ready():
            metrics.EXTENDER.labels(verb, "not_ready").inc()
            return web.Response(status=503, text="the scheduler's state is not synced yet\n")
        try:
            answered = answer(_decoder.decode(await request.read()))
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            metrics.EXTENDER.labels(verb, "bad_request").inc()
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            return web.Response(status=400, text=f"not the arguments of a scheduler extender (v1): {why}\n")
        metrics.EXTENDER.labels(verb, "answered").inc()
        return web.Response(body=msgspec.json.encode(answered), content_type="application/json")

    return handle


def _names(asked: _Arguments) -> list[str]:
    """The nodes that are asked about. Raises msgspec.ValidationError."""
    if asked.node_names is not None:
        return asked.node_names
    items = (asked.nodes or {}).get("items") or []
    return [item.metadata.name for item in msgspec.convert(items, list[_Named])]


def _filter(extender: DataExtender, asked: _Arguments) -> _Result:
    try:
        found = extender.filter(asked.pod, _names(asked))
    except BadDataRequest as error:
        return _Result(error=str(error))
    if asked.node_names is not None:
        return _Result(node_names=list(found.kept), failed_nodes=found.failed)
    kept = set(found.kept)
    items = [item for item in (asked.nodes or {}).get("items") or () if item["metadata"]["name"] in kept]
    return _Result(nodes={**(asked.nodes or {}), "items": items}, failed_nodes=found.failed)


def _prioritize(extender: DataExtender, asked: _Arguments) -> list[dict[str, Any]]:
    names = _names(asked)
    try:
        scores = extender.prioritize(asked.pod, names)
    except BadDataRequest:
        # The filter has told the user; a score cannot.
        scores = [0] * len(names)
    return [{"Host": name, "Score": score} for name, score in zip(names, scores, strict=True)]


def _context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError("extender_certificate and extender_key must be given together")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(context, certificate, key)
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"extender_certificate {certificate}, extender_key {key}: {error}") from None


async def _reload(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def stamp() -> tuple[int, int]:
        return certificate.stat().st_mtime_ns, key.stat().st_mtime_ns

    seen = stamp()
    while True:
        await asyncio.sleep(RELOAD_SECONDS)
        try:
            if (now := stamp()) != seen:
                _load(context, certificate, key)
                seen = now
        except (OSError, ConfigurationError):
            # Half-written files: the old certificate serves on, and the next look reads them whole.
            metrics.EXTENDER.labels("certificate", "not_read").inc()
