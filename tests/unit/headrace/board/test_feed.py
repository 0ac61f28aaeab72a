"""What the dashboard says while the API server is away."""

import asyncio
from typing import Any

import pytest

from headrace.board import feed as feeds
from headrace.board.feed import Feed
from kube.errors import Unavailable


class Server:
    """Shows nothing; answers or not."""

    is_there = True

    async def request(self, *_: Any, **__: Any) -> bytes:
        if not self.is_there:
            raise Unavailable(0, "Refused", "connection refused")
        return b"{}"

    async def list(self, *_: Any, **__: Any) -> Any:
        raise Unavailable(0, "Refused", "connection refused")


async def test_a_lost_api_server_is_told_and_forgotten_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "ASK_SECONDS", 0.001)
    server = Server()
    feed = Feed(server, None)  # type: ignore[arg-type]
    async with feed.running(), asyncio.timeout(30):
        assert feed.trouble == ""
        server.is_there = False
        assert await feed.changed(30, feed.version)
        first = feed.trouble
        assert first.startswith("the API server does not answer; what is shown is as of ")
        assert not await feed.changed(0.02, feed.version), "it is told once, with the first time"
        assert feed.trouble == first
        server.is_there = True
        assert await feed.changed(30, feed.version)
        assert feed.trouble == ""


async def test_a_change_that_came_before_is_not_waited_for() -> None:
    feed = Feed(Server(), None)  # type: ignore[arg-type]
    seen = feed.version
    feed._tell()
    assert await feed.changed(0, seen) and await feed.changed(0, seen)
    assert not await feed.changed(0, feed.version)
