"""The scheduler extender: POST /filter and /prioritize, for an unmodified kube-scheduler.

Owns the wire format (k8s.io/kube-scheduler/extender/v1). Does not decide (core/extender.py does). Invariants: a
request never waits, since the answer is in memory; before the state is synced the answer is 503, which
kube-scheduler ignores or not as its `ignorable` says; what cannot be understood is answered in the result's
`Error`, so that it reaches the pod's events. Whole nodes are passed through as the bytes they came in, and named a few
at a time: the loop that also binds is not held for seconds by objects that nobody looks into. Bodies have a deadline,
and all that are being read have a limit together.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
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
# Being read at once, bodies of an unknown length as the longest.
MAX_BYTES_AT_ONCE = 4 * MAX_REQUEST_BYTES
# As long as kube-scheduler waits for an answer, unless its httpTimeout says otherwise, and much more.
READ_SECONDS = 30.0
# Nodes named between two looks of the loop at something else.
NODES_A_TURN = 256
RELOAD_SECONDS = 60.0


class _Meta(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    metadata: _Meta


class _NodeList(msgspec.Struct, omit_defaults=True):
    kind: str = ""
    api_version: str = msgspec.field(default="", name="apiVersion")
    metadata: msgspec.Raw = msgspec.Raw()
    items: list[msgspec.Raw] | None = None


class _Arguments(msgspec.Struct, rename="pascal"):
    pod: Pod
    nodes: _NodeList | None = None
    node_names: list[str] | None = None


class _Result(msgspec.Struct, rename="pascal", omit_defaults=True):
    nodes: _NodeList | None = None
    node_names: list[str] | None = None
    failed_nodes: dict[str, str] = {}
    error: str = ""


_decoder = msgspec.json.Decoder(_Arguments)
_node_decoder = msgspec.json.Decoder(_Named)


@asynccontextmanager
async def serve_extender(
    address: str,
    extender: DataExtender,
    is_ready: Callable[[], bool],
    certificate: Path | None,
    key: Path | None,
    *,
    read_seconds: float = READ_SECONDS,
    max_bytes_at_once: int = MAX_BYTES_AT_ONCE,
) -> AsyncIterator[None]:
    """Serve while the context lasts, by TLS when a certificate is given; an empty address serves nothing.

    The certificate is read again when its files change. Raises ConfigurationError.
    """
    if not address:
        yield
        return
    context = _context(certificate, key)
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    bodies = _Bodies(read_seconds, max_bytes_at_once)
    for verb, answer in (("filter", _filter), ("prioritize", _prioritize)):
        app.router.add_post(f"/{verb}", _handler(verb, is_ready, bodies, partial(answer, extender)))
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


class _Bodies:
    """Reads requests, each within a deadline and all within a number of bytes."""

    def __init__(self, read_seconds: float, max_bytes: int) -> None:
        self._read_seconds = read_seconds
        self._max_bytes = max_bytes
        self._reading_bytes = 0

    async def read(self, request: web.Request) -> bytes:
        """The body. Raises HTTPException with what is wrong with the request."""
        length = request.content_length
        expected_bytes = MAX_REQUEST_BYTES if length is None else min(length, MAX_REQUEST_BYTES)
        if self._reading_bytes and self._reading_bytes + expected_bytes > self._max_bytes:
            raise web.HTTPServiceUnavailable(text="too many bytes are being asked about at once; ask again\n")
        self._reading_bytes += expected_bytes
        try:
            async with asyncio.timeout(self._read_seconds):
                return await request.read()
        except TimeoutError:
            text = f"the request was not there as a whole after {self._read_seconds:g} s\n"
            raise web.HTTPRequestTimeout(text=text) from None
        except web.RequestPayloadError as error:
            why = " ".join(str(error).split())
            raise web.HTTPBadRequest(text=f"the request's body cannot be read: {why}\n") from None
        finally:
            self._reading_bytes -= expected_bytes


def _handler(
    verb: str, is_ready: Callable[[], bool], bodies: _Bodies, answer: Callable[[_Arguments, list[str]], Any]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        if not is_ready():
            metrics.EXTENDER.labels(verb, "not_ready").inc()
            return web.Response(status=503, text="the scheduler's state is not synced yet\n")
        try:
            asked = _decoder.decode(await bodies.read(request))
            answered = answer(asked, await _names(asked))
        except web.HTTPException:
            metrics.EXTENDER.labels(verb, "not_read").inc()
            raise
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            metrics.EXTENDER.labels(verb, "bad_request").inc()
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            return web.Response(status=400, text=f"not the arguments of a scheduler extender (v1): {why}\n")
        metrics.EXTENDER.labels(verb, "answered").inc()
        return web.Response(body=msgspec.json.encode(answered), content_type="application/json")

    return handle


async def _names(asked: _Arguments) -> list[str]:
    """The nodes that are asked about. Raises msgspec.ValidationError."""
    if asked.node_names is not None:
        return asked.node_names
    items = asked.nodes.items or [] if asked.nodes is not None else []
    names: list[str] = []
    for start in range(0, len(items), NODES_A_TURN):
        if start:
            await asyncio.sleep(0)
        names += [_node_decoder.decode(item).metadata.name for item in items[start : start + NODES_A_TURN]]
    return names


def _filter(extender: DataExtender, asked: _Arguments, names: list[str]) -> _Result:
    try:
        found = extender.filter(asked.pod, names)
    except BadDataRequest as error:
        return _Result(error=str(error))
    if asked.node_names is not None:
        return _Result(node_names=list(found.kept), failed_nodes=found.failed)
    kept = set(found.kept)
    given = asked.nodes or _NodeList()
    items = [item for item, name in zip(given.items or [], names, strict=True) if name in kept]
    nodes = _NodeList(kind=given.kind, api_version=given.api_version, metadata=given.metadata, items=items)
    return _Result(nodes=nodes, failed_nodes=found.failed)


def _prioritize(extender: DataExtender, asked: _Arguments, names: list[str]) -> list[dict[str, Any]]:
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
