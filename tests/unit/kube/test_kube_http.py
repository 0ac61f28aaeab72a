"""What a kubelet asks: yes, no, and a loop that does not turn."""

import asyncio
import time
from contextlib import suppress

import pytest
from aiohttp import ClientSession, ClientTimeout
from prometheus_client import CollectorRegistry, Gauge

from kube.errors import ConfigError
from kube.http import serve


async def _status(session: ClientSession, port: int, path: str) -> tuple[int, str]:
    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_healthy_and_ready_are_asked_each_time(unused_tcp_port: int) -> None:
    registry = CollectorRegistry()
    Gauge("headrace_tried", "Of this test.", registry=registry).set(7)
    says = {"healthy": True, "ready": False}
    address = f"127.0.0.1:{unused_tcp_port}"
    async with (
        serve(address, lambda: says["healthy"], lambda: says["ready"], registry),
        ClientSession(timeout=ClientTimeout(10)) as session,
    ):
        assert (await _status(session, unused_tcp_port, "/healthz"))[0] == 200
        assert (await _status(session, unused_tcp_port, "/readyz"))[0] == 503
        says |= {"healthy": False, "ready": True}
        assert (await _status(session, unused_tcp_port, "/livez"))[0] == 503
        assert (await _status(session, unused_tcp_port, "/readyz"))[0] == 200
        status, text = await _status(session, unused_tcp_port, "/metrics")
        assert status == 200 and "headrace_tried 7.0" in text
        assert (await _status(session, unused_tcp_port, "/"))[0] == 404
        with pytest.raises(ConfigError, match=f"--metrics {address}: .* choose another port"):
            async with serve(address):
                pass


async def test_a_loop_that_does_not_turn_does_not_answer(unused_tcp_port: int) -> None:
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return answer

    def from_outside() -> tuple[bytes, float]:
        return asyncio.run(ask()), time.monotonic()

    async with serve(f"127.0.0.1:{unused_tcp_port}"):
        asking = asyncio.create_task(asyncio.to_thread(from_outside))
        await asyncio.sleep(0)
        time.sleep(0.5)
        blocked_until = time.monotonic()
        answer, answered_at = await asking
    assert answer.startswith(b"HTTP/1.1 200")
    assert answered_at >= blocked_until


async def test_no_address_serves_nothing() -> None:
    async with serve(None), serve(""):
        pass
