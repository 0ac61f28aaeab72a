"""What a worker knows of datasets when lists say only what changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from api.gen import metadata_pb2 as pb
from cacheruntime.errors import CacheError, Missing
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.metadata_client import MetadataClient

FRESH_SECONDS = 2.0


class Metadata:
    """Says in a list what is put into `news`; single records come when `gate` is open."""

    def __init__(self) -> None:
        self.now = 0.0
        self.news = pb.ListDatasetsResponse()
        self.since: list[str] = []
        self.one = pb.DatasetInfo(uid="u1", snapshot_version=1)
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_away = False
        self.is_unknown = False

    async def datasets_since(self, revision: str) -> pb.ListDatasetsResponse:
        self.since.append(revision)
        return self.news

    async def dataset(self, uid: str) -> pb.DatasetInfo:
        self.asked += 1
        if self.is_away:
            raise CacheError("metadata is away", is_retryable=True)
        answer = pb.DatasetInfo()
        answer.CopyFrom(self.one)
        is_unknown = self.is_unknown
        await self.gate.wait()
        if is_unknown:
            raise Missing("no dataset u1")
        return answer

    confirmed_dataset = dataset


@pytest.fixture
def metadata() -> Metadata:
    return Metadata()


@pytest.fixture
def datasets(metadata: Metadata, tmp_path: Path) -> Datasets:
    client = cast(MetadataClient, metadata)
    return Datasets(client, tmp_path, node="n1", fresh_seconds=FRESH_SECONDS, clock=lambda: metadata.now)


def _news(revision: str, *infos: pb.DatasetInfo, partial: bool = True) -> pb.ListDatasetsResponse:
    return pb.ListDatasetsResponse(datasets=infos, revision=revision, partial=partial)


def _info(uid: str, version: int) -> pb.DatasetInfo:
    return pb.DatasetInfo(uid=uid, snapshot_version=version)


async def test_an_answer_without_news_keeps_and_confirms_what_is_known(metadata: Metadata, datasets: Datasets) -> None:
    metadata.news = _news("r1", _info("u1", 1), _info("u2", 1), partial=False)
    await datasets.read_all()
    metadata.news = _news("r2", _info("u2", 2))
    metadata.now = 10.0
    await datasets.read_all()
    assert metadata.since == ["", "r1"]
    assert [(await datasets.get(uid)).snapshot_version for uid in ("u1", "u2")] == [1, 2]
    assert metadata.asked == 0
    metadata.now = 13.0
    await datasets.get("u1")
    assert metadata.asked == 1


async def test_what_is_removed_is_not_known_and_a_whole_list_replaces_all(
    metadata: Metadata, datasets: Datasets
) -> None:
    metadata.news = _news("r1", _info("u1", 1), _info("u2", 1), partial=False)
    await datasets.read_all()
    metadata.news = _news("r2", pb.DatasetInfo(uid="u1", removed=True))
    await datasets.read_all()
    assert datasets.known("u1") == pb.DatasetInfo(uid="u1")
    metadata.news = _news("x1", _info("u3", 1), partial=False)
    await datasets.read_all()
    assert datasets.known("u2") == pb.DatasetInfo(uid="u2")
    assert datasets.known("u3") == _info("u3", 1)


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_record_asked_for_before_a_list_came_does_not_replace_what_the_list_said(
    metadata: Metadata, datasets: Datasets, is_removed: bool
) -> None:
    """The lists behind it would not name that dataset again, and the old record would stay for ever."""
    metadata.gate.clear()
    asked = asyncio.create_task(datasets.get("u1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert metadata.asked == 1
    metadata.now = 0.5
    newest = pb.DatasetInfo(uid="u1", removed=True) if is_removed else _info("u1", 2)
    metadata.news = _news("r1", newest, partial=False)
    await datasets.read_all()
    metadata.gate.set()
    await asked
    known = datasets.known("u1")
    assert known is not None
    assert known.snapshot_version == (0 if is_removed else 2)


async def test_that_it_is_not_known_does_not_undo_a_list_that_came_meanwhile(
    metadata: Metadata, datasets: Datasets
) -> None:
    metadata.is_unknown = True
    metadata.gate.clear()
    asked = asyncio.create_task(datasets.get("u1"))
    while not metadata.asked:
        await asyncio.sleep(0)
    metadata.now = 0.5
    metadata.news = _news("r1", _info("u1", 1), partial=False)
    await datasets.read_all()
    metadata.gate.set()
    with pytest.raises(Missing):
        await asked
    assert datasets.known("u1") == _info("u1", 1)
    metadata.now = 5.0
    with pytest.raises(Missing):
        await datasets.get("u1")
    assert datasets.known("u1") == pb.DatasetInfo(uid="u1"), "asked for since"


async def test_a_record_kept_while_metadata_was_away_is_as_good_as_any_once_a_list_came(
    metadata: Metadata, datasets: Datasets
) -> None:
    metadata.news = _news("r1", _info("u1", 1), partial=False)
    await datasets.read_all()
    metadata.is_away, metadata.now = True, 3.0
    assert (await datasets.get("u1")).snapshot_version == 1
    with pytest.raises(CacheError, match="away"):
        await datasets.locate_for_change("u1", "f")
    metadata.news, metadata.now = _news("r1"), 4.0
    await datasets.read_all()
    asked = metadata.asked
    with pytest.raises(Missing, match="none of the 0 mounts"):
        await datasets.locate_for_change("u1", "f")
    assert metadata.asked == asked
