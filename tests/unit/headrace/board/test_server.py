"""The dashboard's HTTP side: real sockets, pictures of objects made here."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from headrace.board.picture import Objects, Picture, Wanted, picture
from headrace.board.server import is_loopback, parse_listen, serving
from headrace.errors import UsageError
from tests.builders.board_objects import a_cluster, a_dataset


class Fixed:
    """Pictures that change when a test says so."""

    def __init__(self) -> None:
        self.objects = a_cluster(nodes=2)
        self.missing = ["podgroups"]
        self.trouble = ""
        self.version = self.made = 0
        self._changed = asyncio.Event()

    def picture(self, wanted: Wanted) -> Picture:
        self.made += 1
        return picture(self.objects, 0.0, wanted)

    async def changed(self, at_most_seconds: float, since: int) -> bool:
        while self.version == since:
            await asyncio.wait_for(self._changed.wait(), at_most_seconds)
        return True

    def change(self, objects: Objects) -> None:
        self.objects = objects
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()


@pytest.fixture
async def site() -> AsyncIterator[tuple[Fixed, str, aiohttp.ClientSession]]:
    source = Fixed()
    async with serving(source, "127.0.0.1:0") as address, aiohttp.ClientSession() as session:
        yield source, address, session


async def test_the_page_is_whole_and_asks_nobody_else(site: tuple[Fixed, str, aiohttp.ClientSession]) -> None:
    _, address, session = site
    for path in ("", "board.css", "board.js"):
        async with session.get(address + path) as answer:
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            text = await answer.text()
            assert "//" not in text.replace("// ", "").replace("http://www.w3.org", ""), "nothing from another server"
    async with session.post(address) as answer:
        assert answer.status == 405


async def test_pictures_come_as_they_change(site: tuple[Fixed, str, aiohttp.ClientSession]) -> None:
    source, address, session = site
    async with session.get(address + "api/events") as stream:
        first = await _next(stream)
        assert len(first["picture"]["nodes"]) == 2
        assert first["missing"] == ["podgroups"]
        source.change(a_cluster(nodes=3))
        assert len((await _next(stream))["picture"]["nodes"]) == 3
    async with session.get(address + "api/picture") as answer:
        assert len((await answer.json())["picture"]["nodes"]) == 3


async def _next(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not (line := await stream.content.readline()).startswith(b"data: "):
            pass
    found: dict[str, Any] = json.loads(line[6:])
    return found


async def test_all_who_look_are_told_of_every_change(site: tuple[Fixed, str, aiohttp.ClientSession]) -> None:
    source, address, session = site
    async with session.get(address + "api/events") as one, session.get(address + "api/events") as other:
        assert [len((await _next(stream))["picture"]["nodes"]) for stream in (one, other)] == [2, 2]
        for nodes in (3, 4):
            source.change(a_cluster(nodes=nodes))
            assert [len((await _next(stream))["picture"]["nodes"]) for stream in (one, other)] == [nodes, nodes]


async def test_names_are_looked_for_among_all_there_are(site: tuple[Fixed, str, aiohttp.ClientSession]) -> None:
    source, address, session = site
    source.objects = Objects(datasets=[a_dataset(f"d-{index:05}", 1) for index in range(10_000)])
    source.trouble = "the API server does not answer"
    async with session.get(address + "api/picture", params={"datasets": " D-0999"}) as answer:
        seen = await answer.json()
    assert [row["key"] for row in seen["picture"]["datasets"]] == [f"ml/d-0999{last}" for last in range(10)]
    assert seen["picture"]["more"] == {} and seen["trouble"] == source.trouble


async def test_other_hosts_get_nothing_from_a_loopback_dashboard(
    site: tuple[Fixed, str, aiohttp.ClientSession],
) -> None:
    _, address, session = site
    async with session.get(address + "api/picture", headers={"Host": "attacker.example"}) as answer:
        assert answer.status == 421
        assert "images" not in await answer.text()


async def test_a_taken_address_says_so(site: tuple[Fixed, str, aiohttp.ClientSession]) -> None:
    taken = site[1].removeprefix("http://").rstrip("/")
    with pytest.raises(UsageError, match=f"--listen {taken}: .*; choose another"):
        async with serving(site[0], taken):
            pass


def test_addresses() -> None:
    assert parse_listen("[::1]:80") == ("::1", 80)
    with pytest.raises(UsageError, match="must be HOST:PORT"):
        parse_listen("8400")
    assert is_loopback("localhost") and is_loopback("127.9.0.1") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("localhost.example.com")
