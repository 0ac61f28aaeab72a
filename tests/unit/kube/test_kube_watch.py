"""Decoding a watch and following it over restarts: kube/watch.py, without sockets."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any, cast

import msgspec
import pytest

from kube import metrics
from kube.client import KubeClient, ListResult
from kube.errors import Gone, Invalid, Unavailable
from kube.identity import JsonObject
from kube.objects import Pod
from kube.resources import PODS
from kube.watch import ChangeKind, Changes, Listed, WatchBatch, WatchDecoder, list_watch


def line(kind: str, name: str = "p", version: int | str = 1, **extra: Any) -> bytes:
    body = {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}, **extra}}
    return msgspec.json.encode(body) + b"\n"


def error_line(code: int, reason: str) -> bytes:
    status = {"kind": "Status", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": "m"}
    return msgspec.json.encode({"type": "ERROR", "object": status}) + b"\n"


def test_one_chunk_is_one_batch_and_bookmarks_only_move_the_position() -> None:
    decoder: WatchDecoder[Pod] = WatchDecoder(Pod, "pods", "1")
    chunk = line("ADDED", "a", 5) + line("MODIFIED", "a", 6) + line("BOOKMARK", "", 9) + line("DELETED", "a", 11)
    changes, error = decoder.feed(chunk)
    assert error is None
    assert [change.kind for change in changes] == [ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED]
    assert isinstance(changes[0].object, Pod)
    assert decoder.resource_version == "11"
    assert decoder.feed(line("BOOKMARK", "", 20)) == ([], None)
    assert decoder.resource_version == "20"


def test_a_bookmark_after_changes_wins() -> None:
    decoder: WatchDecoder[Pod] = WatchDecoder(Pod, "pods", "1")
    decoder.feed(line("ADDED", "a", 5) + line("BOOKMARK", "", 9))
    assert decoder.resource_version == "9"


def test_an_error_event_comes_after_the_changes_before_it() -> None:
    decoder: WatchDecoder[Pod] = WatchDecoder(Pod, "pods", "1")
    changes, error = decoder.feed(line("ADDED", "a", 5) + error_line(410, "Expired"))
    assert len(changes) == 1
    assert isinstance(error, Gone)
    assert decoder.resource_version == "5"


def test_an_object_that_does_not_fit_is_left_out_and_counted() -> None:
    counter = metrics.UNDECODABLE_OBJECTS.labels("pods")
    before = counter._value.get()
    decoder: WatchDecoder[Pod] = WatchDecoder(Pod, "pods", "1")
    changes, error = decoder.feed(line("ADDED", "good", 5) + line("ADDED", "bad", 6, spec={"priority": "high"}))
    assert error is None
    assert [change.object.metadata.name for change in changes] == ["good"]
    assert decoder.resource_version == "6"
    assert counter._value.get() == before + 1


def test_bytes_that_are_no_watch_are_an_error() -> None:
    decoder: WatchDecoder[Pod] = WatchDecoder(Pod, "pods", "1")
    with pytest.raises(Unavailable, match="watch of pods"):
        decoder.feed(b"<html>\n")


class ScriptedStream:
    def __init__(self, chunks: list[bytes | None]) -> None:
        self._chunks = chunks

    async def read(self, silence_seconds: float) -> bytes | None:
        assert silence_seconds > 0
        return self._chunks.pop(0) if self._chunks else b""


class ScriptedClient:
    """Answers lists and watches from a script; notes from where each watch was asked to start."""

    def __init__(self, lists: list[tuple[list[JsonObject], str]], watches: list[list[bytes | None]]) -> None:
        self._lists = lists
        self._watches = watches
        self.watched_from: list[str] = []
        self.params: list[Mapping[str, str]] = []

    async def list(self, *_: Any, **__: Any) -> ListResult[JsonObject]:
        items, version = self._lists.pop(0)
        return ListResult(items, version)

    @asynccontextmanager
    async def stream(self, path: str, *, params: Mapping[str, str]) -> AsyncIterator[ScriptedStream]:
        assert path == "/api/v1/namespaces/ns/pods"
        self.watched_from.append(params["resourceVersion"])
        self.params.append(params)
        if not self._watches:
            raise Invalid(400, "Scripted", "the script is over")
        yield ScriptedStream(self._watches.pop(0))


async def follow(client: ScriptedClient) -> list[WatchBatch[JsonObject]]:
    batches: list[WatchBatch[JsonObject]] = []
    source = list_watch(
        cast(KubeClient, client), PODS, dict, namespace="ns", label_selector="a=b", silence_seconds=70, jitter=Random(1)
    )
    async with aclosing(cast(Any, source)) as following:
        with pytest.raises(Invalid):
            async for batch in following:
                batches.append(batch)
    return batches


async def test_a_watch_resumes_where_it_ended() -> None:
    client = ScriptedClient([([], "5")], [[line("ADDED", "a", 6) + line("ADDED", "b", 7)[:10]]])
    batches = await follow(client)
    assert batches[0] == Listed([], "5")
    assert isinstance(batches[1], Changes)
    assert len(batches) == 2
    # The half line was not counted as seen.
    assert client.watched_from == ["5", "6"]
    assert client.params[0]["allowWatchBookmarks"] == "true"
    assert client.params[0]["labelSelector"] == "a=b"
    assert 300 <= int(client.params[0]["timeoutSeconds"]) <= 600


async def test_silence_reconnects_from_the_last_bookmark() -> None:
    client = ScriptedClient([([], "5")], [[line("BOOKMARK", "", 8), None]])
    assert await follow(client) == [Listed([], "5")]
    assert client.watched_from == ["5", "8"]


async def test_gone_lists_again() -> None:
    client = ScriptedClient([([], "5"), ([], "50")], [[error_line(410, "Expired")]])
    assert await follow(client) == [Listed([], "5"), Listed([], "50")]
    assert client.watched_from == ["5", "50"]
