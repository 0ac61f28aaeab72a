"""Rules of our kinds that the API server keeps: what it takes and what it says when it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from kube.client import KubeClient
from kube.config import load_config
from kube.errors import Invalid
from kube.resources import CACHE_RUNTIMES, DATASET_GRANTS, DATASETS
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


async def test_a_pool_is_scaled_through_its_scale_subresource(client: KubeClient) -> None:
    name = f"rules-{uuid4().hex[:8]}"
    body = {"apiVersion": CACHE_RUNTIMES.api_version, "kind": "CacheRuntime", "metadata": {"name": name}}
    await client.create(CACHE_RUNTIMES, body | {"spec": {"replicas": 3}}, "default")
    status = {"currentWorkerNumberScheduled": 2, "selector": "app.kubernetes.io/name=headrace-worker"}
    await client.patch(CACHE_RUNTIMES, name, {"status": status}, "default", subresource="status")
    scale = await client.patch(CACHE_RUNTIMES, name, {"spec": {"replicas": 5}}, "default", subresource="scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 5)
    assert scale["status"] == {"replicas": 2, "selector": status["selector"]}
    assert (await client.get(CACHE_RUNTIMES, name, "default"))["spec"]["replicas"] == 5
    await client.delete(CACHE_RUNTIMES, name, "default")


async def test_another_dataset_is_the_only_mount_of_what_shows_it(client: KubeClient) -> None:
    body = dataset()
    body["spec"]["mounts"] = [{"mountPoint": "dataset://owner/corpus/train", "name": "theirs"}]
    await client.create(DATASETS, body, "default")
    name = body["metadata"]["name"]
    for other in ("dataset://owner/other", "s3://bucket"):
        changed = {"spec": {"mounts": [{"mountPoint": other, "name": "theirs"}]}}
        with pytest.raises(Invalid, match="cannot be changed"):
            await client.patch(DATASETS, name, changed, "default")
    await client.delete(DATASETS, name, "default")
    body["spec"]["mounts"].append({"mountPoint": "s3://bucket", "name": "data"})
    with pytest.raises(Invalid, match="must be the only one"):
        await client.create(DATASETS, body, "default")


@pytest.mark.parametrize("placement", ["Exclusive", "Shared", ""])
async def test_fluids_placement_is_taken_as_it_stands(client: KubeClient, placement: str) -> None:
    body = dataset()
    body["spec"]["placement"] = placement
    made = await client.create(DATASETS, body, "default")
    assert made["spec"]["placement"] == placement
    await client.delete(DATASETS, body["metadata"]["name"], "default")


@pytest.mark.parametrize("spec", [{}, {"datasets": ["d"]}, {"datasets": [], "namespaces": ["ns"]}])
async def test_a_grant_names_datasets_and_namespaces(client: KubeClient, spec: dict[str, Any]) -> None:
    name = f"rules-{uuid4().hex[:8]}"
    body = {"apiVersion": DATASET_GRANTS.api_version, "kind": "DatasetGrant", "metadata": {"name": name}}
    with pytest.raises(Invalid):
        await client.create(DATASET_GRANTS, body | {"spec": spec}, "default")
    await client.create(DATASET_GRANTS, body | {"spec": {"datasets": ["d"], "namespaces": ["ns"]}}, "default")
    await client.delete(DATASET_GRANTS, name, "default")
