"""Retries, deadlines and authentication against a scripted HTTP server on loopback."""

import asyncio
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from headrace.cluster.pki import key_pem, self_signed
from kube import metrics
from kube.client import KubeClient, PatchKind
from kube.config import ClusterConfig
from kube.errors import Forbidden, TooManyRequests, Unauthorized, Unavailable
from kube.resources import CONFIG_MAPS, PODS

Answer = web.Response | Callable[[web.Request], Any]


class ScriptedServer:
    """Gives its answers one after another, then 200; keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.url = ""
        self.is_over = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        self.tokens.append(request.headers.get("Authorization", ""))
        answer = self.answers.pop(0) if self.answers else ok()
        if callable(answer):
            answer = await answer(request)
        assert isinstance(answer, web.StreamResponse)
        return answer

    async def no_answer(self, _: web.Request) -> web.Response:
        await self.is_over.wait()
        return ok()


def ok(**body: Any) -> web.Response:
    return web.json_response(body)


def refusal(status: int, reason: str = "", **headers: str) -> web.Response:
    body = {"kind": "Status", "code": status, "reason": reason, "message": "scripted"}
    return web.json_response(
        body, status=status, headers={key.replace("_", "-"): value for key, value in headers.items()}
    )


async def lost_reply(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return ok()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield scripted
    finally:
        scripted.is_over.set()
        await runner.cleanup()


@asynccontextmanager
async def connect(server: ScriptedServer, **options: Any) -> AsyncIterator[KubeClient]:
    config = ClusterConfig(server=f"{server.url}/prefix", **options.pop("config", {}))
    async with KubeClient(config, user_agent="headrace-tests", **options) as client:
        yield client


def retries(verb: str, cause: str) -> float:
    value: float = metrics.RETRIES.labels(verb, cause)._value.get()
    return value


async def test_a_write_comes_back_when_the_server_asked_for_it(server: ScriptedServer) -> None:
    server.answers = [refusal(429, "TooManyRequests", Retry_After="0"), refusal(503, Retry_After="0"), ok(a=1)]
    before = retries("POST", "throttled"), retries("POST", "unavailable")
    async with connect(server) as client:
        assert await client.create(CONFIG_MAPS, {}, "ns") == {"a": 1}
    assert server.requests == [("POST", "/prefix/api/v1/namespaces/ns/configmaps")] * 3
    assert (retries("POST", "throttled"), retries("POST", "unavailable")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("failure", [refusal(500, "InternalError"), lost_reply])
async def test_a_write_of_unknown_outcome_is_not_repeated(server: ScriptedServer, failure: Answer) -> None:
    server.answers = [failure]
    async with connect(server) as client:
        with pytest.raises(Unavailable):
            await client.create(CONFIG_MAPS, {}, "ns")
    assert len(server.requests) == 1


async def test_what_is_harmless_to_repeat_is_repeated(server: ScriptedServer) -> None:
    async with connect(server) as client:
        calls = (
            lambda: client.get(PODS, "p", "ns"),
            lambda: client.delete(PODS, "p", "ns", uid="u"),
            lambda: client.patch(PODS, "p", {}, "ns", kind=PatchKind.APPLY, field_manager="m"),
        )
        for call in calls:
            server.requests.clear()
            server.answers = [lost_reply, refusal(500, "InternalError")]
            await call()
            assert len(server.requests) == 3
        server.requests.clear()
        server.answers = [refusal(500)]
        with pytest.raises(Unavailable):
            await client.delete(PODS, "p", "ns")
        assert len(server.requests) == 1


async def test_retries_end(server: ScriptedServer) -> None:
    server.answers = [refusal(429, "TooManyRequests", Retry_After="0") for _ in range(10)]
    async with connect(server, retries=2) as client:
        with pytest.raises(TooManyRequests) as caught:
            await client.get(PODS, "p", "ns")
    assert caught.value.retry_after_seconds == 0
    assert len(server.requests) == 3


async def test_a_wait_longer_than_the_deadline_is_not_begun(server: ScriptedServer) -> None:
    server.answers = [refusal(429, "TooManyRequests", Retry_After="3600")]
    async with connect(server) as client:
        with pytest.raises(TooManyRequests):
            await client.get(PODS, "p", "ns")
    assert len(server.requests) == 1


async def test_a_silent_server_ends_at_the_deadline_over_all_tries(server: ScriptedServer) -> None:
    server.answers = [server.no_answer] * 10
    async with connect(server) as client:
        with pytest.raises(Unavailable, match="no answer within"):
            await client.request("GET", "/api", timeout_seconds=0.3)
        with pytest.raises(Unavailable, match="no answer within"):
            await client.request("POST", "/api", timeout_seconds=0.1)
    assert [method for method, _ in server.requests].count("POST") == 1
    assert [method for method, _ in server.requests].count("GET") >= 2


async def test_nobody_listening_is_told(server: ScriptedServer, unused_tcp_port: int) -> None:
    config = ClusterConfig(server=f"http://127.0.0.1:{unused_tcp_port}")
    async with KubeClient(config, user_agent="headrace-tests", retries=1) as client:
        with pytest.raises(Unavailable, match=r"GET /api/v1/namespaces/ns/pods/p: .*Cannot connect") as caught:
            await client.get(PODS, "p", "ns")
    assert not caught.value.reached_server


async def test_a_rotated_token_is_read_again_when_the_old_one_is_refused(
    server: ScriptedServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    async with connect(server, config={"token_file": token}) as client:
        await client.get(PODS, "p", "ns")
        token.write_text("new\n")
        server.answers = [refusal(401, "Unauthorized")]
        await client.create(CONFIG_MAPS, {}, "ns")
        assert server.tokens == ["Bearer old", "Bearer old", "Bearer new"]
        server.answers = [refusal(401, "Unauthorized")]
        with pytest.raises(Unauthorized):
            await client.get(PODS, "p", "ns")
    assert len(server.tokens) == 4


async def test_a_missing_token_file_is_named(server: ScriptedServer, tmp_path: Path) -> None:
    async with connect(server, config={"token_file": tmp_path / "absent"}) as client:
        with pytest.raises(Unauthorized, match="absent: No such file"):
            await client.get(PODS, "p", "ns")
    assert server.requests == []


async def test_redirects_are_not_followed(server: ScriptedServer) -> None:
    server.answers = [web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})] * 5
    async with connect(server, config={"token": "t"}, retries=1) as client:
        with pytest.raises(Unavailable, match="redirect"):
            await client.create(CONFIG_MAPS, {}, "ns")
    assert len(server.requests) == 1


async def test_answers_that_are_no_json_are_an_error(server: ScriptedServer) -> None:
    server.answers = [web.Response(text="<html>"), web.Response(text="[]")]
    async with connect(server) as client:
        with pytest.raises(Unavailable, match="not a JSON object"):
            await client.get(PODS, "p", "ns")
        with pytest.raises(Unavailable, match="list of pods cannot be read"):
            await client.list(PODS)


async def test_a_continue_token_that_expired_begins_the_list_again(server: ScriptedServer) -> None:
    def page(name: str, version: str, more: str = "") -> web.Response:
        return ok(metadata={"resourceVersion": version, "continue": more}, items=[{"metadata": {"name": name}}])

    server.answers = [page("old", "1", "token"), refusal(410, "Expired"), page("a", "9", "token"), page("b", "9")]
    async with connect(server) as client:
        listed = await client.list(PODS, limit=1)
    assert [item["metadata"]["name"] for item in listed.items] == ["a", "b"]
    assert listed.resource_version == "9"


async def test_the_request_budget_is_kept_and_an_overdraft_refused(server: ScriptedServer) -> None:
    async with connect(server, qps=0.001, burst=2, retries=0) as client:
        await client.get(PODS, "p", "ns")
        await client.get(PODS, "p", "ns")
        with pytest.raises(Unavailable, match="own request budget"):
            await client.get(PODS, "p", "ns")
    assert len(server.requests) == 2


async def test_a_refused_stream_is_an_error(server: ScriptedServer) -> None:
    server.answers = [refusal(403, "Forbidden")]
    async with connect(server) as client:
        with pytest.raises(Forbidden, match="scripted"):
            async with client.stream("/api"):
                pass


async def test_a_stream_gives_bytes_silence_and_the_end(server: ScriptedServer) -> None:
    resume = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await resume.wait()
        await response.write(b"two")
        return response

    server.answers = [answer]
    async with connect(server) as client, client.stream("/api", params={"watch": "true"}) as stream:
        assert await stream.read(5) == b"one"
        assert await stream.read(0.05) is None
        resume.set()
        rest = b""
        while chunk := await stream.read(5):
            rest += chunk
    assert rest == b"two"
    assert server.requests == [("GET", "/prefix/api?watch=true")]


def test_a_request_that_was_cancelled_leaves_no_connection_behind(tmp_path: Path) -> None:
    """The server is silent, and never answers TLS's goodbye."""
    certificate, key = self_signed("silent")
    (tmp_path / "pair.pem").write_bytes(key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    asked, is_over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            connection, _ = listening.accept()
            with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as served:
                if served.recv(1 << 16):
                    asked.set()
                is_over.wait(30)

        async def work() -> None:
            config = ClusterConfig(server=f"https://127.0.0.1:{port}", insecure_skip_tls_verify=True)
            async with KubeClient(config, user_agent="tests") as client:
                request = asyncio.create_task(client.get(PODS, "one", "here"))
                assert await asyncio.to_thread(asked.wait, 20)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)

        gc.collect()  # what other tests left
        server = threading.Thread(target=serve)
        server.start()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                asyncio.run(work())
                gc.collect()
        finally:
            is_over.set()
            server.join(30)
    unclosed = [str(one.message) for one in said if issubclass(one.category, ResourceWarning)]
    assert [one for one in unclosed if str(port) in one] == []
