"""A status is written as a merge patch: what goes away in it is taken away, at any depth."""

from __future__ import annotations

from typing import Any, cast

from api.data_v1alpha1 import Dataset, DatasetStatus
from api.dataload_v1alpha1 import DataLoad, DataLoadStatus
from cacheruntime.controller.objects import Objects
from kube.resources import Resource


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = merged(kept.get(key), value)
    return kept


class FakeClient:
    """An API server that merges; counts."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body, self.patches = body, 0

    async def patch(self, resource: Resource, name: str, patch: Any, namespace: str, *, subresource: str) -> Any:
        self.patches += 1
        self.body = merged(self.body, patch)
        return self.body


async def written(kind: Any, body: dict[str, Any], status: Any) -> tuple[Any, int]:
    """What the API server has, as the kind's status, after it was written twice; and how many patches that were."""
    client = FakeClient(body)
    objects = Objects(cast(Any, client))
    objects.see(kind, body, is_deleted=False)
    for _ in range(2):
        item = objects.get(kind, ("ns", "d"))
        assert item is not None
        await objects.write_status(item, status)
    return kind.model_validate(client.body).status, client.patches


META = {"namespace": "ns", "name": "d", "uid": "u", "resourceVersion": "1"}


async def test_directories_hit_ratios_and_times_that_are_no_more_go_away() -> None:
    old = {
        "phase": "Bound",
        "snapshot": {"version": 1, "files": 2, "bytes": 30, "groups": {"old": 10, "kept": 20}},
        "cacheStates": {"cached": "30 B", "cacheHitRatio": "50.0%"},
        "metadataSync": {"nextAt": "2026-01-01T00:00:00Z", "added": 2},
        "reclaimedAt": "2026-01-01T00:00:00Z",
    }
    spec = {"mounts": [{"mountPoint": "s3://b", "name": "d"}]}
    new = {
        "phase": "Updating",
        "snapshot": {"version": 2, "files": 1, "bytes": 20, "groups": {"kept": 20}},
        "cacheStates": {"cached": "20 B"},
        "metadataSync": {"added": 0},
    }
    status = DatasetStatus.model_validate(new)
    assert await written(Dataset, {"metadata": META, "spec": spec, "status": old}, status) == (status, 1)


async def test_a_load_that_has_ended_has_no_eta() -> None:
    old = {"phase": "Executing", "progress": {"bytesTotal": 10, "bytesLoaded": 5, "etaSeconds": 7}}
    new = {"phase": "Complete", "progress": {"bytesTotal": 10, "bytesLoaded": 10}}
    status = DataLoadStatus.model_validate(new)
    body = {"metadata": META, "spec": {"dataset": {"name": "d"}}, "status": old}
    assert await written(DataLoad, body, status) == (status, 1)
