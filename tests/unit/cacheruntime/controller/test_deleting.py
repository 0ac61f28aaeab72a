"""What a deleted Dataset waits for when the controller cannot tell, cannot clean up, or cannot read the object."""

from __future__ import annotations

from typing import Any, cast

import grpc
import msgspec
import pytest

from api import names
from api.data_v1alpha1 import Dataset
from api.gen import metadata_pb2
from cacheruntime.controller.dataset_reconciler import USERS_SECONDS
from cacheruntime.controller.objects import Objects
from cacheruntime.controller.reconciler import Reconciler
from cacheruntime.controller.references import Pod
from cacheruntime.controller.users import CONFIRM_SECONDS, Users
from kube.errors import Forbidden, NotFound
from kube.events import EventRecorder
from kube.resources import DATASETS, PODS, TRAINING_JOBS, Resource
from kube.storage_objects import PersistentVolume
from kube.watch import Listed

KEY = ("ns", "d")


class Refused(grpc.aio.AioRpcError):
    """A call that failed."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        super().__init__(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="nobody answers")


class FakeClient:
    """An API server with one Dataset; `pods` may be an error."""

    def __init__(self, body: dict[str, Any], pods: Any = ()) -> None:
        self.body = body
        self.pods = pods

    async def list(self, resource: Resource, namespace: str | None = None, *, decode: Any = None) -> Any:
        if resource is TRAINING_JOBS:
            raise NotFound(404, "NotFound", "no such kind")
        found = self.pods if resource is PODS else ()
        if isinstance(found, Exception):
            raise found
        return type("Listed", (), {"items": list(found)})

    async def patch(
        self, resource: Resource, name: str, patch: dict[str, Any], namespace: str, *, subresource: str = ""
    ) -> Any:
        assert resource is DATASETS
        if subresource:
            self.body["status"] = self.body.get("status", {}) | patch["status"]
        else:
            self.body["metadata"] |= patch["metadata"]
        return self.body

    async def create(self, resource: Resource, body: Any, namespace: str | None = None, **_: Any) -> None:
        raise AssertionError("a Dataset that was deleted gets no volumes")

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Any:
        raise NotFound(404, "NotFound", name)


class FakeServices:
    """Metadata and workers in one."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.synced = 0
        self.remove_fails = self.evict_fails = False

    async def workers(self) -> list[metadata_pb2.Worker]:
        return [metadata_pb2.Worker(node="n", alive=True)]

    async def evict(self, workers: Any, uid: str, paths: Any = ()) -> None:
        if self.evict_fails:
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED)

    async def remove(self, uid: str, *, force: bool) -> None:
        if self.remove_fails:
            raise Refused
        self.removed.append(uid)

    async def sync(self, request: metadata_pb2.SyncRequest) -> metadata_pb2.DatasetInfo:
        self.synced += 1
        return metadata_pb2.DatasetInfo(uid=request.uid, snapshot_version=1)


class NoCredentials:
    """No Dataset here names a Secret."""

    async def write(self, namespace: str, wanted: Any) -> None:
        assert not wanted


class Bench:
    """One deleted Dataset, and a controller that has seen nothing else."""

    def __init__(self, pods: Any = (), *, mounts: Any = None, **annotations: str) -> None:
        spec = {"mounts": [{"mountPoint": "s3://bucket", "name": "d"}] if mounts is None else mounts}
        meta: dict[str, Any] = {
            "name": "d",
            "namespace": "ns",
            "uid": "u",
            "resourceVersion": "1",
            "deletionTimestamp": "now",
        }
        meta |= {"finalizers": ["others/own", names.DATASET_FINALIZER], "annotations": annotations}
        self.services = FakeServices()
        self.client = FakeClient({"metadata": meta, "spec": spec}, pods)
        self._objects = Objects(cast(Any, self.client))
        self._objects.see(Dataset, self.client.body, is_deleted=False)
        doubles: Any = self.client, self._objects, NoCredentials(), self.services, self.services
        self._reconciler = Reconciler(*doubles, recorder=EventRecorder(doubles[0], "tests", "tests"), poll_seconds=1.0)

    async def step(self) -> float | None:
        """Reconcile it once."""
        return await self._reconciler.datasets.reconcile(KEY)

    @property
    def said(self) -> tuple[str, str]:
        """Reason and message of the condition Deleting."""
        (found,) = [one for one in self.client.body["status"]["conditions"] if one["type"] == "Deleting"]
        return found["reason"], found["message"]

    @property
    def is_let_go(self) -> bool:
        """Whether our finalizer is gone, and only ours."""
        return list(self.client.body["metadata"]["finalizers"]) == ["others/own"]


def a_user() -> Pod:
    text = '[{"name": "d"}]'
    return msgspec.convert(
        {"metadata": {"name": "p", "namespace": "ns", "annotations": {names.DATASETS_ANNOTATION: text}}}, Pod
    )


async def test_nobody_uses_it_and_it_goes() -> None:
    bench = Bench()
    assert await bench.step() is None
    assert bench.is_let_go and bench.services.removed == ["u"]


async def test_a_user_no_watch_told_of_holds_it_and_it_is_served_on() -> None:
    bench = Bench([a_user()])
    assert await bench.step() == USERS_SECONDS
    assert bench.said[0] == "InUse" and "Pod ns/p" in bench.said[1]
    assert not bench.is_let_go and not bench.services.removed and bench.services.synced == 1
    bench.client.pods = ()
    await bench.step()
    assert bench.is_let_go


async def test_users_that_cannot_be_read_hold_it_and_are_asked_for_again() -> None:
    bench = Bench(Forbidden(403, "Forbidden", "pods is forbidden"))
    assert await bench.step() == USERS_SECONDS
    assert bench.said[0] == "UsersUnknown" and "pods is forbidden" in bench.said[1]
    assert not bench.is_let_go and bench.services.synced == 1
    bench.client.pods = ()
    await bench.step()
    assert bench.is_let_go


@pytest.mark.parametrize("pods", [[a_user()], Forbidden(403, "Forbidden", "pods is forbidden")])
async def test_forced_it_waits_for_nobody(pods: Any) -> None:
    bench = Bench(pods, **{names.FORCE_DELETE_ANNOTATION: "true"})
    await bench.step()
    assert bench.is_let_go and bench.services.removed == ["u"]


async def test_another_value_of_the_annotation_forces_nothing() -> None:
    bench = Bench([a_user()], **{names.FORCE_DELETE_ANNOTATION: "false"})
    await bench.step()
    assert bench.said[0] == "InUse"


async def test_metadata_that_does_not_answer_is_named_and_asked_again() -> None:
    bench = Bench()
    bench.services.remove_fails = True
    with pytest.raises(Refused):  # the queue comes back with growing pauses
        await bench.step()
    assert bench.said == (
        "CleanupFailed",
        "its cached bytes and names cannot be given back, and it is tried again: nobody answers",
    )
    bench.services.remove_fails = False
    await bench.step()
    assert bench.is_let_go


async def test_a_worker_that_hangs_does_not_hold_it() -> None:
    bench = Bench()
    bench.services.evict_fails = True
    await bench.step()
    assert bench.is_let_go and bench.services.removed == ["u"]


@pytest.mark.parametrize("mounts", [[], "none", [{"mountPoint": 7}]])
async def test_a_malformed_one_waits_for_its_users_and_goes(mounts: Any) -> None:
    bench = Bench([a_user()], mounts=mounts)
    assert await bench.step() == USERS_SECONDS
    assert bench.said[0] == "InUse" and bench.services.synced == 0
    bench.client.pods = ()
    await bench.step()
    assert bench.is_let_go and bench.services.removed == ["u"]


async def test_a_watch_that_fails_does_not_hold_it_for_ever() -> None:
    """What was seen is asked for again after a minute: here the pod's end is never told."""
    client: Any = FakeClient({}, [a_user()])
    clock = [0.0]
    users = Users(client, lambda _: None, clock=lambda: clock[0])
    users._take_in(Pod, Listed([a_user()], "1"))
    users._take_in(PersistentVolume, Listed([], "1"))
    assert [one.name for one in await users.holding(KEY)] == ["p"]
    client.pods = ()
    clock[0] = CONFIRM_SECONDS - 1
    assert [one.name for one in await users.holding(KEY)] == ["p"], (
        "pods come and go by hundreds: not each is asked for"
    )
    clock[0] = CONFIRM_SECONDS
    assert await users.holding(KEY) == []
