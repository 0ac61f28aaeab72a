"""NodeCaches as objects: whose they are."""

from __future__ import annotations

from typing import Any, cast

from api.nodecache_v1alpha1 import NodeCacheStatus
from cacheruntime.controller.objects import Objects
from kube.errors import NotFound
from kube.resources import Resource


class FakeClient:
    """An API server that keeps what is made."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}

    async def get(self, resource: Resource, name: str) -> Any:
        if name not in self.made:
            raise NotFound(404, "NotFound", name)
        return self.made[name]

    async def create(self, resource: Resource, body: Any) -> Any:
        return self.made.setdefault(body["metadata"]["name"], body)

    async def replace(self, resource: Resource, name: str, body: Any, *, subresource: str) -> None:
        self.made[name] = body


async def test_a_node_cache_goes_with_its_node_and_one_of_no_node_belongs_to_nobody() -> None:
    client = FakeClient()
    objects = Objects(cast(Any, client))
    objects.node_uids["n1"] = "uid-1"
    for node in ("n1", "elsewhere"):
        await objects.write_node_cache(node, NodeCacheStatus())
    (owner,) = client.made["n1"]["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-1"}
    assert "ownerReferences" not in client.made["elsewhere"]["metadata"]
