"""Datasets of other namespaces: who may show and load them, and what follows when that ends."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from api import names
from api.data_v1alpha1 import Dataset, DatasetGrant
from api.dataload_v1alpha1 import DataLoad
from api.gen import metadata_pb2
from cacheruntime.controller import dataload, sharing
from cacheruntime.controller import dataset as datasets
from cacheruntime.controller.objects import Objects
from cacheruntime.controller.reconciler import Reconciler
from cacheruntime.controller.references import Pod, References
from fuse.csi.core.volumes import parse_volume
from kube.errors import AlreadyExists, NotFound
from kube.events import EventRecorder
from kube.resources import DATA_LOADS, DATASETS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Resource
from kube.storage_objects import PersistentVolume

OWNER, GUEST = ("owner", "corpus"), ("guest", "view")
THEIRS = {
    "phase": "Bound",
    "ufsTotal": "4.0 GiB",
    "fileNum": "9",
    "snapshot": {"version": 3, "files": 9, "bytes": 4 << 30},
    "conditions": [{"type": "Ready", "status": "True", "reason": "Listed", "message": "snapshot 3"}],
}


class FakeClient:
    """An API server of Datasets and volumes."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, str, str], dict[str, Any]] = {}

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any]:
        try:
            return self.bodies[resource.kind, namespace or "", name]
        except KeyError:
            raise NotFound(404, "NotFound", name) from None

    async def create(self, resource: Resource, body: Any, namespace: str | None = None, **_: Any) -> None:
        key = (resource.kind, namespace or "", body["metadata"]["name"])
        if key in self.bodies:
            raise AlreadyExists(409, "AlreadyExists", key[2])
        self.bodies[key] = {**body, "metadata": {**body["metadata"], "uid": "made"}}

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, **_: Any) -> None:
        del self.bodies[resource.kind, namespace or "", name]

    async def patch(self, resource: Resource, name: str, patch: Any, namespace: str, *, subresource: str = "") -> Any:
        body = self.bodies[resource.kind, namespace, name]
        assert subresource == "status"
        kept = {**(body.get("status") or {}), **patch["status"]}
        body["status"] = {key: value for key, value in kept.items() if value is not None}
        return body


class Bench:
    """One Dataset with a snapshot, and one of another namespace that shows it."""

    def __init__(self, mount_point: str = "dataset://owner/corpus/train") -> None:
        self.client = FakeClient()
        self.objects = Objects(cast(Any, self.client))
        doubles: Any = self.client, self.objects, None, None, None
        self.reconciler = Reconciler(*doubles, recorder=EventRecorder(doubles[0], "tests", "tests"), poll_seconds=1.0)
        self.put(DATASETS, OWNER, {"mounts": [{"mountPoint": "s3://b", "name": "d"}]}, THEIRS)
        self.put(DATASETS, GUEST, {"mounts": [{"mountPoint": mount_point, "name": "d"}]})

    def put(self, resource: Resource, key: tuple[str, str], spec: Any, status: Any = None) -> None:
        meta = {"namespace": key[0], "name": key[1], "uid": key[1], "resourceVersion": str(len(self.client.bodies))}
        meta["finalizers"] = [names.DATASET_FINALIZER]  # type: ignore[assignment]
        body = {"metadata": meta, "spec": spec} | ({"status": status} if status else {})
        self.client.bodies[resource.kind, *key] = body
        kinds: dict[str, Any] = {"Dataset": Dataset, "DataLoad": DataLoad}
        self.objects.see(kinds[resource.kind], body, is_deleted=False)

    def grant(self, *, is_deleted: bool = False, **spec: Any) -> None:
        meta = {"namespace": "owner", "name": "g", "resourceVersion": "1"}
        whole = {"datasets": ["corpus"], "namespaces": ["guest"], **spec}
        self.objects.see(DatasetGrant, {"metadata": meta, "spec": whole}, is_deleted=is_deleted)

    async def step(self) -> dict[str, Any]:
        """Reconcile what shows the other one; return its status."""
        await self.reconciler.datasets.reconcile(GUEST)
        status: dict[str, Any] = self.client.bodies["Dataset", *GUEST]["status"]
        return status

    def volume(self) -> dict[str, Any] | None:
        return self.client.bodies.get((PERSISTENT_VOLUMES.kind, "", "guest-view"))


async def test_a_grant_shows_the_owners_files_by_a_volume_of_the_same_cache_and_its_end_takes_it_away() -> None:
    bench = Bench()
    status = await bench.step()
    assert (status["phase"], status["conditions"][0]["reason"]) == ("Failed", "NotGranted")
    assert bench.volume() is None and "snapshot" not in status
    bench.grant()
    status = await bench.step()
    assert (status["phase"], status["ufsTotal"], status["snapshot"]["version"]) == ("Bound", "4.0 GiB", 3)
    assert "shows train of Dataset owner/corpus: snapshot 3" in status["conditions"][0]["message"]
    volume = bench.volume()
    assert volume is not None
    csi = volume["spec"]["csi"]
    request = parse_volume(csi["volumeHandle"], csi["volumeAttributes"])
    assert (str(request.dataset), request.sub_path, csi["readOnly"]) == ("owner/corpus", "train", True)
    assert volume["spec"]["claimRef"]["namespace"] == "guest"
    bench.grant(is_deleted=True)
    status = await bench.step()
    assert status["conditions"][0]["reason"] == "NotGranted" and bench.volume() is None
    assert (PERSISTENT_VOLUME_CLAIMS.kind, *GUEST) not in bench.client.bodies
    assert "snapshot" not in status and "ufsTotal" not in status, "nothing of it is left"
    bench.grant()
    assert (await bench.step())["phase"] == "Bound" and bench.volume() is not None


@pytest.mark.parametrize(
    "spec", [{"datasets": ["other"]}, {"namespaces": ["others"]}, {"datasets": []}, {"namespaces": "guest"}]
)
async def test_a_grant_reaches_no_further_than_it_says(spec: dict[str, Any]) -> None:
    bench = Bench()
    bench.grant(**spec)
    assert (await bench.step())["conditions"][0]["reason"] == "NotGranted"


async def test_without_a_grant_nobody_learns_what_is_there() -> None:
    there, absent = Bench(), Bench("dataset://owner/nothing")
    messages = [(await bench.step())["conditions"][0]["message"] for bench in (there, absent)]
    assert messages[0].replace("corpus", "nothing") == messages[1]


@pytest.mark.parametrize(
    "mount_point",
    ["dataset://owner", "dataset://owner/corpus/../x", "dataset://guest/view", "dataset://owner/corpus//a"],
)
async def test_what_names_no_dataset_is_refused(mount_point: str) -> None:
    bench = Bench(mount_point)
    bench.grant()
    assert (await bench.step())["conditions"][0]["reason"] == "InvalidMount"


async def test_what_shows_another_one_is_shown_by_nobody() -> None:
    bench = Bench()
    bench.grant()
    bench.put(DATASETS, OWNER, {"mounts": [{"mountPoint": "dataset://secret/x", "name": "d"}]}, THEIRS)
    assert (await bench.step())["conditions"][0]["reason"] == "InvalidMount"


def test_who_shows_a_dataset_is_known_and_forgotten() -> None:
    bench = Bench()
    assert bench.objects.that_show(OWNER) == bench.objects.that_show_of("owner") == [GUEST]
    assert bench.objects.that_show(GUEST) == bench.objects.that_show_of("guest") == []
    bench.put(DATASETS, ("guest", "other"), {"mounts": "none"})
    body = {**bench.client.bodies["Dataset", *GUEST]}
    bench.objects.see(Dataset, body, is_deleted=True)
    assert bench.objects.that_show(OWNER) == bench.objects.that_show_of("owner") == []


async def test_within_a_namespace_no_grant_is_needed() -> None:
    bench = Bench("dataset://guest/own")
    bench.put(DATASETS, ("guest", "own"), {"mounts": [{"mountPoint": "s3://b", "name": "d"}]}, THEIRS)
    assert (await bench.step())["phase"] == "Bound"


def test_writing_and_other_mounts_beside_it_are_refused() -> None:
    def made(**spec: Any) -> Dataset:
        mounts = [{"mountPoint": "dataset://a/b", "name": "d"}]
        return Dataset.model_validate(
            {"metadata": {"name": "v", "namespace": "ns"}, "spec": {"mounts": mounts, **spec}}
        )

    assert sharing.shown(made()) == sharing.Shown(("a", "b"), "")
    with pytest.raises(ValueError, match="for reading only"):
        sharing.shown(made(accessModes=["ReadWriteMany"]))
    with pytest.raises(ValueError, match="must be the only one"):
        sharing.shown(
            made(mounts=[{"mountPoint": "dataset://a/b", "name": "d"}, {"mountPoint": "s3://b", "name": "e"}])
        )


@pytest.mark.parametrize("of", [{"name": "view"}, {"name": "corpus", "namespace": "owner"}])
async def test_a_load_of_what_is_not_granted_waits_and_says_so(of: dict[str, str]) -> None:
    bench = Bench()
    key = ("guest", "warm")
    bench.put(DATA_LOADS, key, {"dataset": of})
    await bench.reconciler.loads.reconcile(key)
    status = bench.client.bodies["DataLoad", *key]["status"]
    assert [one["reason"] for one in status["conditions"] if one["type"] == "Complete"] == ["NotGranted"]


def test_a_load_of_a_part_loads_targets_inside_of_it() -> None:
    load = DataLoad.model_validate({"spec": {"dataset": {"name": "d"}, "target": [{"path": "/"}, {"path": "/a/"}]}})
    info = metadata_pb2.DatasetInfo(uid="u")
    paths = [list(request.paths) for request in dataload.requests(dataload.below(load, "train"), info, [])]
    assert paths == [["train"], ["train/a"]]


def test_its_pods_use_both_datasets() -> None:
    spec = {"mounts": [{"mountPoint": "dataset://owner/corpus", "name": "d"}]}
    item = Dataset.model_validate({"metadata": {"namespace": "guest", "name": "view", "uid": "u"}, "spec": spec})
    pv, _ = datasets.volumes(item, sharing.shown(item))
    references = References()
    references.see(msgspec.convert(pv, PersistentVolume))
    body = {"persistentVolumeClaim": {"claimName": "view"}, "name": "v"}
    pod = msgspec.convert({"metadata": {"namespace": "guest", "name": "p"}, "spec": {"volumes": [body]}}, Pod)
    assert references.see(pod) == {OWNER, GUEST}
    assert references.users(OWNER) == references.users(GUEST) != []


def test_a_pod_of_another_namespace_does_not_keep_a_dataset_by_naming_it() -> None:
    references = References()
    given = {"driver": names.CSI_DRIVER, "volumeAttributes": {"dataset": "corpus", "namespace": "owner"}}
    annotations = {names.DATASETS_ANNOTATION: '[{"name": "corpus", "namespace": "owner"}]'}
    meta = {"namespace": "guest", "name": "p", "annotations": annotations}
    references.see(msgspec.convert({"metadata": meta, "spec": {"volumes": [{"name": "v", "csi": given}]}}, Pod))
    assert references.users(OWNER) == []
