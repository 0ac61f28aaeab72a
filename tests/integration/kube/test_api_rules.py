"""Rules of our kinds that the API server keeps: what it takes and what it says when it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from kube.client import KubeClient
from kube.config import load_config
from kube.errors import Invalid
from kube.resources import DATASETS
from tests.conftest import ApiServer

pytestmark = pytest.mark.cluster


@pytest.fixture
async def client(api_server: ApiServer) -> AsyncIterator[KubeClient]:
    async with KubeClient(load_config(api_server.kubeconfig), user_agent="tests") as client:
        yield client


def dataset(**cache: Any) -> dict[str, Any]:
    spec = {"mounts": [{"mountPoint": "s3://bucket", "name": "data"}], "cache": cache}
    name = f"rules-{uuid4().hex[:8]}"
    return {"apiVersion": DATASETS.api_version, "kind": "Dataset", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    "cache",
    [
        {"guaranteed": "1Gi"},
        {"maximum": "1Gi"},
        {"guaranteed": "1Gi", "maximum": "1Gi"},
        {"guaranteed": "1024Mi", "maximum": 1 << 30},
        {"guaranteed": 5, "maximum": "1.5Ki"},
        {"guaranteed": "1Gi", "maximum": 0},
        {"guaranteed": 0, "maximum": "0"},
    ],
)
async def test_a_dataset_may_be_guaranteed_up_to_its_maximum(client: KubeClient, cache: dict[str, Any]) -> None:
    body = dataset(**cache)
    await client.create(DATASETS, body, "default")
    await client.delete(DATASETS, body["metadata"]["name"], "default")


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"guaranteed": "2Gi", "maximum": "1Gi"}, "guaranteed must not be above maximum"),
        ({"guaranteed": (1 << 30) + 1, "maximum": "1Gi"}, "guaranteed must not be above maximum"),
        ({"guaranteed": "1Gi", "maximum": 7}, "guaranteed must not be above maximum"),
        ({"guaranteed": "much"}, "guaranteed must be bytes, 0 or more"),
        ({"maximum": "-1Gi", "guaranteed": "1"}, "maximum must be bytes, 0 or more"),
    ],
)
async def test_more_guaranteed_than_it_may_have_is_refused(
    client: KubeClient, cache: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        await client.create(DATASETS, dataset(**cache), "default")


async def test_a_maximum_cannot_be_lowered_below_what_is_guaranteed_but_be_taken_away(client: KubeClient) -> None:
    body = dataset(guaranteed="2Gi", maximum="3Gi")
    name = body["metadata"]["name"]
    await client.create(DATASETS, body, "default")
    with pytest.raises(Invalid, match="raise maximum, lower guaranteed"):
        await client.patch(DATASETS, name, {"spec": {"cache": {"maximum": "1Gi"}}}, "default")
    await client.patch(DATASETS, name, {"spec": {"cache": {"maximum": None}}}, "default")
    await client.delete(DATASETS, name, "default")
