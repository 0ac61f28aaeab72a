"""kubelet's read-only log endpoint, for the API server and nobody else.

Owns HTTPS on loopback with a client certificate that is required. Does not read files
itself (shell/log_files.py). Invariant: no request is answered without a certificate signed
by the client CA; without the three TLS flags nothing listens."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from aiohttp import web

from api.conditions import parse_timestamp
from headrace.node.core.log_lines import LogOptions
from headrace.node.core.node_object import HOST_IP
from headrace.node.shell import log_files
from headrace.node.shell.log_files import LogNotFound
from headrace.node.shell.pod_worker import PodWorker

_log = structlog.get_logger(__name__)

FindWorker = Callable[[str, str], PodWorker | None]


class LogsServer:
    """Serves `GET /containerLogs/{namespace}/{pod}/{container}`."""

    def __init__(self, find: FindWorker, *, cert: Path, key: Path, client_ca: Path) -> None:
        self._find = find
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(client_ca))
        self._context.load_cert_chain(cert, key)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._runner: web.AppRunner | None = None
        self.port: int | None = None

    async def start(self) -> int:
        """Listen on a free loopback port and return it."""
        application = web.Application()
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        application.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST_IP, 0, ssl_context=self._context)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self.port

    async def stop(self) -> None:
        """Stop listening; followers are cut off."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        namespace, pod, name = (request.match_info[part] for part in ("namespace", "pod", "container"))
        worker = self._find(namespace, pod)
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{pod}" not found in namespace "{namespace}" on this node')
        if name not in worker.state.containers:
            raise web.HTTPNotFound(text=f'container "{name}" not found in pod "{pod}"')
        try:
            options = _options(request.query)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"bad query: {error}") from error
        folder = worker.folder.container(name)
        try:
            attempt = log_files.attempt_to_read(folder, name, pod, previous=_flag(request.query, "previous"))
        except LogNotFound as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        follow = _flag(request.query, "follow")
        lines = log_files.read(folder, attempt, options, follow=follow, is_over=lambda: worker.is_over)
        async for data in lines:
            await response.write(data)
        await response.write_eof()
        return response


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    return str(value).lower() in ("true", "1")


def _options(query: Mapping[str, str]) -> LogOptions:
    def number(name: str) -> int | None:
        value = query.get(name)
        return None if value is None else int(value)

    since_seconds = number("sinceSeconds")
    since = None if since_seconds is None else time.time() - since_seconds
    since_time = query.get("sinceTime")
    if since_time:
        since = parse_timestamp(since_time)
    return LogOptions(
        timestamps=_flag(query, "timestamps"),
        tail_lines=number("tailLines"),
        since=since,
        limit_bytes=number("limitBytes"),
    )
