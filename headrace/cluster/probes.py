"""Asking a component whether it answers.

Owns one short HTTPS or HTTP request on this machine. Does not wait or retry."""

from __future__ import annotations

import http.client
import socket
import ssl

from headrace.cluster.pki import Pair
from headrace.cluster.ports import LOOPBACK

PROBE_SECONDS = 3.0


def https(port: int, path: str, *, authority: Pair, client: Pair | None = None, host: str = LOOPBACK) -> str | None:
    """None when the path answers 200 over TLS, else why not, in a few words."""
    try:
        context = ssl.create_default_context(cafile=str(authority.cert))
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        connection = http.client.HTTPSConnection(host, port, timeout=PROBE_SECONDS, context=context)
        return _ask(connection, path)
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port}: {error}"


def plain(port: int, path: str, host: str = LOOPBACK) -> str | None:
    """None when the path answers 200 over plain HTTP, else why not."""
    try:
        return _ask(http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS), path)
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port}: {error}"


def listening(port: int, host: str = LOOPBACK) -> str | None:
    """None when something accepts connections on the port, else why not."""
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        return f"{host}:{port}: {error}"
    return None


def _ask(connection: http.client.HTTPConnection, path: str) -> str | None:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(2000)
    finally:
        connection.close()
    if answer.status == 200:
        return None
    failed = [line for line in body.decode(errors="replace").splitlines() if line.startswith("[-]")]
    return f"{path} answers {answer.status}" + (f" ({'; '.join(failed)})" if failed else "")
