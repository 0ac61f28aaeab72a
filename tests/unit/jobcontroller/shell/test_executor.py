"""What refusals of the API server mean, and what is done twice without harm; no server."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from api import names
from jobcontroller.core.actions import (
    Action,
    AnnotatePod,
    ApplyConfigMap,
    ApplySshKeys,
    CreatePod,
    DeletePod,
    DeletePodGroup,
    EmitEvent,
    RequestListing,
)
from jobcontroller.shell.caches import Caches
from jobcontroller.shell.executor import Executor
from kube.client import KubeClient
from kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, KubeError, NotFound, Unavailable
from kube.events import EventRecorder
from tests.builders.training_jobs import job

OURS = {"metadata": {"name": "p", "uid": "u", "ownerReferences": [{"uid": "job-uid", "controller": True}]}}
THEIRS = {"metadata": {"name": "p", "uid": "u", "ownerReferences": [{"uid": "x", "kind": "ReplicaSet", "name": "web"}]}}


class FakeClient:
    """Answers creations and deletions as told."""

    def __init__(self, *, create: KubeError | None = None, stored: Any = OURS, delete: KubeError | None = None) -> None:
        self._create, self._stored, self._delete = create, stored, delete
        self.created: list[str] = []
        self.bodies: list[Any] = []
        self.patched: list[Any] = []
        self.in_flight = self.most_in_flight = 0

    async def create(self, resource: Any, body: Any, namespace: str, **_: Any) -> Any:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        self.created.append(body["metadata"].get("name", ""))
        self.bodies.append(body)
        if self._create is not None:
            raise self._create
        return body

    async def get(self, resource: Any, name: str, namespace: str) -> Any:
        return self._stored

    async def delete(self, *_: Any, **__: Any) -> None:
        if self._delete is not None:
            raise self._delete

    async def patch(self, resource: Any, name: str, body: Any, namespace: str) -> Any:
        self.patched.append(body)
        if self._delete is not None:
            raise self._delete
        return body


class FakeRecorder:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def record(self, _: Any, reason: str, note: str, **__: Any) -> None:
        self.reasons.append(reason)


def executor(client: FakeClient, recorder: FakeRecorder | None = None) -> tuple[Executor, Caches]:
    kube = cast(KubeClient, client)
    caches = Caches(kube, lambda _: None, lambda: 0.0, Random(0))
    events = cast(EventRecorder, recorder or FakeRecorder())
    return Executor(kube, caches, events, creations=5, wall_clock=lambda: 100.0), caches


def pods(count: int = 1) -> list[CreatePod]:
    return [CreatePod(f"p{i}", {"metadata": {"name": f"p{i}", "uid": f"u{i}"}}) for i in range(count)]


async def test_creations_run_side_by_side_but_not_without_limit() -> None:
    client = FakeClient()
    one, _ = executor(client)
    assert await one.perform(job(), pods(40)) is None
    assert len(client.created) == 40
    assert client.most_in_flight == 5


async def test_a_pod_of_this_job_that_exists_is_fine() -> None:
    one, _ = executor(FakeClient(create=AlreadyExists(409, "AlreadyExists", "exists")))
    assert await one.perform(job(), pods()) is None


async def test_a_strangers_pod_of_that_name_is_a_problem_that_may_pass() -> None:
    one, _ = executor(FakeClient(create=AlreadyExists(409, "AlreadyExists", "exists"), stored=THEIRS))
    problem = await one.perform(job(), pods())
    assert problem is not None
    assert (problem.reason, problem.is_permanent, problem.retry_at) == ("NameTaken", False, 110.0)
    assert "it belongs to ReplicaSet web" in problem.message


@pytest.mark.parametrize(
    ("error", "reason", "is_permanent"),
    [
        (Invalid(422, "Invalid", "spec.containers[0].image: Required value"), "InvalidSpec", True),
        (Forbidden(403, "Forbidden", "exceeded quota: gpus"), "PodsRefused", False),
    ],
)
async def test_a_refusal_ends_the_creations(error: KubeError, reason: str, is_permanent: bool) -> None:
    client = FakeClient(create=error)
    one, _ = executor(client)
    problem = await one.perform(job(), pods(40))
    assert problem is not None
    assert (problem.reason, problem.is_permanent) == (reason, is_permanent)
    assert error.message in problem.message
    assert len(client.created) <= 5


async def test_an_unavailable_server_is_worth_a_retry() -> None:
    one, _ = executor(FakeClient(create=Unavailable(503, "", "later")))
    with pytest.raises(Unavailable):
        await one.perform(job(), pods(3))


@pytest.mark.parametrize("error", [NotFound(404, "NotFound", ""), Conflict(409, "Conflict", "uid")])
async def test_what_is_gone_needs_no_deletion(error: KubeError) -> None:
    one, _ = executor(FakeClient(delete=error))
    assert await one.perform(job(), [DeletePod("p", "u"), DeletePodGroup("g")]) is None


async def test_events_are_told_even_if_an_action_fails() -> None:
    recorder = FakeRecorder()
    one, _ = executor(FakeClient(delete=Unavailable(503, "", "later")), recorder)
    with pytest.raises(Unavailable):
        await one.perform(job(), [DeletePod("p", "u"), EmitEvent("Restarting", "why")])
    assert recorder.reasons == ["Restarting"]


@pytest.mark.parametrize("error", [None, NotFound(404, "NotFound", ""), Conflict(409, "Conflict", "uid")])
async def test_annotations_are_written_on_the_pod_that_was_meant(error: KubeError | None) -> None:
    client = FakeClient(delete=error)
    one, _ = executor(client)
    told = {names.CHECKPOINTED_AT_ANNOTATION: "2026-01-01T00:00:00Z"}
    assert await one.perform(job(), [AnnotatePod("p", "u", told)]) is None
    assert client.patched == [{"metadata": {"uid": "u", "annotations": told}}]


async def test_ssh_keys_are_fresh_in_the_secret_and_nowhere_else() -> None:
    client = FakeClient()
    one, _ = executor(client)
    bodies = [{"kind": "Secret", "metadata": {"name": "keys"}} for _ in range(2)]
    for body in bodies:
        assert await one.perform(job(), [ApplySshKeys("keys", body)]) is None
    first, second = (body["stringData"] for body in client.bodies)
    assert set(first) == {"id_rsa", "id_rsa.pub", "authorized_keys", "config"}
    assert first["authorized_keys"] == first["id_rsa.pub"] != second["id_rsa.pub"]
    private = load_ssh_private_key(first["id_rsa"].encode(), None)
    assert isinstance(private, EllipticCurvePrivateKey)
    assert private.curve.name == "secp521r1"
    assert load_ssh_public_key(first["id_rsa.pub"].encode()) == private.public_key()
    assert all("stringData" not in body for body in bodies)


async def test_what_is_named_by_the_jobs_uid_is_not_read_when_it_is_there() -> None:
    client = FakeClient(create=AlreadyExists(409, "AlreadyExists", "exists"), stored=THEIRS)
    one, _ = executor(client)
    actions: list[Action] = [
        ApplyConfigMap("hosts", {"metadata": {"name": "hosts"}}),
        ApplySshKeys("keys", {"metadata": {}}),
    ]
    assert await one.perform(job(), actions) is None
    problem = await one.perform(job(), pods())
    assert problem is not None and problem.reason == "NameTaken", "a pod of that name is looked at"


async def test_refused_keys_keep_the_pods_back_and_are_not_told() -> None:
    client = FakeClient(create=Forbidden(403, "Forbidden", "exceeded quota"))
    one, _ = executor(client)
    problem = await one.perform(job(), [ApplySshKeys("keys", {"metadata": {"name": "keys"}}), *pods()])
    assert problem is not None
    assert problem.message == "Secret keys was refused by the API server: exceeded quota"
    assert client.created == ["keys"]


@pytest.mark.parametrize("error", [None, NotFound(404, "NotFound", "gone")])
async def test_a_listing_is_asked_for_by_annotation(error: KubeError | None) -> None:
    client = FakeClient(delete=error)
    one, _ = executor(client)
    assert await one.perform(job(), [RequestListing("corpus", "2026-03-02T10:00:00Z")]) is None
    wanted = {"data.headrace.dev/sync-requested-at": "2026-03-02T10:00:00Z"}
    assert client.patched == [{"metadata": {"annotations": wanted}}]
