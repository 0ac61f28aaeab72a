"""The extender over a socket, asked what no kube-scheduler would ask: always an answer that says what is wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from headrace.cluster import ports
from scheduler.core.extender import DataExtender
from scheduler.plugins.stage_in import StageIn
from scheduler.shell.extender import serve_extender
from tests.builders.scheduler_objects import MIB, World, a_cache, a_dataset, a_node

READS = {"data.headrace.dev/datasets": '[{"name":"d","required":true}]'}


@pytest.fixture
def world() -> World:
    world = World()
    world.nodes(a_node("cold"), a_node("warm.with.dots"))
    world.datasets(a_dataset("d", 1000 * MIB))
    world.caches(a_cache("warm.with.dots", ssd={"d": 1000 * MIB}))
    return world


@asynccontextmanager
async def _served(world: World, **limits: Any) -> AsyncIterator[str]:
    address = f"127.0.0.1:{ports.pick_free(())}"
    extender = DataExtender(world.engine.state, StageIn(1.0))
    async with serve_extender(address, extender, lambda: True, None, None, **limits):
        yield f"http://{address}"


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with _served(world) as address:
        yield address


async def _ask(url: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        is_json = answer.content_type == "application/json"
        return answer.status, await answer.json() if is_json else await answer.text()


def _pod(**annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "default", "annotations": annotations}}


def _whole(*names: str) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": name}, "spec": {"podCIDR": name}} for name in names]}


async def test_names_and_whole_nodes_get_the_same_answer(url: str) -> None:
    names = ["cold", "warm.with.dots", "unseen"]
    by_name = {"Pod": _pod(**READS), "NodeNames": names}
    whole = {"Pod": _pod(**READS), "Nodes": _whole(*names)}
    _, kept = await _ask(f"{url}/filter", by_name)
    _, kept_whole = await _ask(f"{url}/filter", whole)
    assert kept["NodeNames"] == ["warm.with.dots"]
    assert kept_whole["Nodes"]["items"] == _whole("warm.with.dots")["items"]
    assert set(kept["FailedNodes"]) == set(kept_whole["FailedNodes"]) == {"cold", "unseen"}
    _, scores = await _ask(f"{url}/prioritize", by_name)
    # `cold` reads from `warm`, which is nearly as good; of a node nobody knows nothing is expected.
    assert scores == [{"Host": name, "Score": score} for name, score in zip(names, (10, 10, 0), strict=True)]
    assert await _ask(f"{url}/prioritize", whole) == (200, scores)
    two = {"Pod": _pod(**READS), "NodeNames": names[:2]}
    assert await _ask(f"{url}/prioritize", two) == (
        200,
        [{"Host": "cold", "Score": 0}, {"Host": names[1], "Score": 10}],
    )


@pytest.mark.parametrize("verb", ["filter", "prioritize"])
@pytest.mark.parametrize(
    "body",
    [
        {"Pod": {}, "Nodes": {"items": [3]}},
        {"Pod": {}, "Nodes": {"items": [{}]}},
        {"Pod": {}, "Nodes": {"items": "x"}},
        {"Pod": {}, "NodeNames": [3]},
        {"Pod": {"metadata": []}},
        [],
    ],
)
async def test_arguments_of_another_form_are_refused(url: str, verb: str, body: Any) -> None:
    status, text = await _ask(f"{url}/{verb}", body)
    assert status == 400
    assert text.startswith("not the arguments of a scheduler extender (v1): ")


async def test_arguments_nested_too_deeply_are_refused_like_others(url: str) -> None:
    body = b'{"Pod": {}, "Nodes": {"items": ' + b"[" * 100_000
    async with aiohttp.ClientSession() as session, session.post(f"{url}/filter", data=body) as answer:
        assert (answer.status, await answer.text()) == (
            400,
            "not the arguments of a scheduler extender (v1): nested too deeply\n",
        )


@pytest.mark.parametrize("body", [{"Pod": {}}, {"Pod": {}, "Nodes": {"items": None}}, {"Pod": {}, "NodeNames": []}])
async def test_no_nodes_are_no_nodes(url: str, body: Any) -> None:
    assert await _ask(f"{url}/prioritize", body) == (200, [])
    assert (await _ask(f"{url}/filter", body))[0] == 200


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 50_000, f'[{{"name":"d","maxWaitSeconds":{"9" * 400}}}]', '[{"name":"\\ud800","required":true}]'],
)
async def test_an_annotation_that_cannot_be_read_reaches_the_pod(url: str, text: str) -> None:
    body = {"Pod": _pod(**{"data.headrace.dev/datasets": text}), "NodeNames": ["cold"]}
    status, found = await _ask(f"{url}/filter", body)
    assert status == 200
    assert "annotation data.headrace.dev/datasets" in found.get("Error", "") or set(found["FailedNodes"]) == {"cold"}
    assert await _ask(f"{url}/prioritize", body) == (200, [{"Host": "cold", "Score": 0}])


async def test_whole_nodes_come_back_as_the_bytes_they_were(url: str) -> None:
    # An integer that no float holds, and a field that nobody knows.
    warm = b'{"metadata":{"name":"warm.with.dots"},"status":{"x":12345678901234567890123,"y":1.0}}'
    head = b'"Nodes":{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":['
    body = b'{"Pod":{},' + head + warm + b"]}}"
    async with aiohttp.ClientSession() as session, session.post(f"{url}/filter", data=body) as answer:
        found = await answer.read()
    assert found == b"{" + head + warm + b"]}}"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"])
async def test_the_body_counts_whatever_it_is_called(url: str, kind: str) -> None:
    body = b'{"Pod":{},"NodeNames":["cold"]}'
    headers = {"Content-Type": kind}
    address = f"{url}/prioritize"
    async with aiohttp.ClientSession() as session, session.post(address, data=body, headers=headers) as answer:
        assert (answer.status, await answer.json()) == (200, [{"Host": "cold", "Score": 0}])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/filter", {}, 405),
        ("POST", "/bind", {}, 404),
        ("POST", "/filter", {"Content-Encoding": "gzip"}, 400),
    ],
)
async def test_what_is_no_such_request(url: str, method: str, path: str, headers: dict[str, str], status: int) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url + path, data=b"{}", headers=headers) as answer,
    ):
        assert answer.status == status


async def _send(url: str, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head)
    await writer.drain()
    return reader, writer


async def test_a_client_that_never_ends_its_request_is_told_so_and_keeps_nobody(world: World) -> None:
    async with _served(world, read_seconds=0.2) as url:
        reader, writer = await _send(url, b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(30):
            assert await _ask(f"{url}/filter", {"Pod": {}, "NodeNames": ["cold"]}) == (200, {"NodeNames": ["cold"]})
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
            assert b"the request was not there as a whole after 0.2 s" in await reader.read()
        writer.close()


async def test_more_bytes_at_once_than_there_is_room_for_are_asked_to_come_again(world: World) -> None:
    async with _served(world, max_bytes_at_once=1000) as url:
        _, writer = await _send(url, b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 990\r\n\r\n{")
        asked = {"Pod": {}, "NodeNames": ["cold"]}
        async with asyncio.timeout(30):
            # The other one's head may not have been read yet.
            while (found := await _ask(f"{url}/filter", asked))[0] == 200:
                await asyncio.sleep(0)
            assert found == (503, "too many bytes are being asked about at once; ask again\n")
            writer.close()
            while (await _ask(f"{url}/filter", asked))[0] == 503:
                await asyncio.sleep(0)


async def test_many_at_once_each_get_their_own_answer(url: str) -> None:
    async def one(index: int) -> None:
        names = [f"unseen-{index}-{number}" for number in range(1000)] + ["warm.with.dots"]
        status, found = await _ask(f"{url}/filter", {"Pod": _pod(**READS), "NodeNames": names})
        assert (status, found["NodeNames"], len(found["FailedNodes"])) == (200, ["warm.with.dots"], 1000)
        assert f"unseen-{index}-0" in found["FailedNodes"]

    await asyncio.gather(*(one(index) for index in range(32)))
