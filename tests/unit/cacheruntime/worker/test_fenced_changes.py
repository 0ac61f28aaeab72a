"""What a worker knows of fences: how old a record it goes by may be, and what a change may begin on."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from api.gen import metadata_pb2 as pb
from cacheruntime.errors import CacheError, Denied
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.metadata_client import MetadataClient

FRESH_SECONDS = 2.0
FENCE = pb.Fence(node="n1", path="run", pods=["p1"])


class Metadata:
    """Answers from the moment it was asked, after `answer_seconds`."""

    def __init__(self, folder: Path) -> None:
        mount = pb.Mount(mount_point=f"file://{folder}")
        self.info = pb.DatasetInfo(uid="u1", namespace="ns", name="d", writable=True, mounts=[mount])
        self.is_away = False
        self.answer_seconds = self.now = 0.0
        self.asked = 0

    async def confirmed_dataset(self, uid: str) -> pb.DatasetInfo:
        if self.is_away:
            raise CacheError("metadata is away", is_retryable=True)
        self.asked += 1
        info = pb.DatasetInfo()
        info.CopyFrom(self.info)
        self.now += self.answer_seconds
        return info

    dataset = confirmed_dataset

    async def datasets_since(self, revision: str) -> pb.ListDatasetsResponse:
        return pb.ListDatasetsResponse(datasets=[await self.confirmed_dataset("u1")])


@pytest.fixture
def metadata(tmp_path: Path) -> Metadata:
    return Metadata(tmp_path)


@pytest.fixture
def datasets(metadata: Metadata, tmp_path: Path) -> Datasets:
    client = cast(MetadataClient, metadata)
    return Datasets(client, tmp_path, node="n1", fresh_seconds=FRESH_SECONDS, clock=lambda: metadata.now)


async def _read(datasets: Datasets, how: str) -> None:
    if how == "all":
        await datasets.read_all()
    elif how == "one":
        await datasets.get("u1")
    else:
        await datasets.locate_for_change("u1", "run/w")


@pytest.mark.parametrize("how", ["all", "one", "for a change"])
async def test_a_record_is_as_old_as_the_question_not_the_answer(
    metadata: Metadata, datasets: Datasets, how: str
) -> None:
    """A fence that went up while the answer was on its way is seen when the record is due."""
    metadata.answer_seconds = FRESH_SECONDS - 0.5
    await _read(datasets, how)
    metadata.info.fences.append(FENCE)
    metadata.answer_seconds = 0.0
    metadata.now += 1.0
    for is_begun in (False, True):
        with pytest.raises(Denied, match="'run/w' is not changed from node n1"):
            await datasets.locate_for_change("u1", "run/w", is_begun=is_begun)


async def test_a_change_begins_on_a_record_that_metadata_confirmed(metadata: Metadata, datasets: Datasets) -> None:
    await datasets.locate_for_change("u1", "run/w")
    assert metadata.asked == 1
    metadata.is_away = True
    metadata.now += FRESH_SECONDS
    await datasets.locate_for_change("u1", "run/w", is_begun=False)
    with pytest.raises(CacheError, match="metadata is away"):
        await datasets.locate_for_change("u1", "run/w")
