"""What a refused bind means: kube/bind.py, without sockets."""

from typing import Any, cast

import msgspec
import pytest

from kube.bind import BindResult, bind_pod
from kube.client import KubeClient
from kube.errors import Conflict, KubeError, NotFound, Unavailable
from kube.identity import JsonObject
from kube.resources import Resource


class FakeClient:
    def __init__(self, refusal: KubeError | None, pod: JsonObject | None = None) -> None:
        self._refusal = refusal
        self._pod = pod
        self.sent: list[tuple[str, str, JsonObject, bool]] = []

    async def request(self, method: str, path: str, *, body: bytes, idempotent: bool) -> bytes:
        self.sent.append((method, path, msgspec.json.decode(body), idempotent))
        if self._refusal is not None:
            raise self._refusal
        return b"{}"

    async def get(self, resource: Resource, name: str, namespace: str) -> JsonObject:
        if self._pod is None:
            raise NotFound(404, "NotFound", "")
        return self._pod


async def bind(client: FakeClient, **options: Any) -> BindResult:
    return await bind_pod(cast(KubeClient, client), "ns", "p", "uid-1", "node-1", **options)


CONFLICT = Conflict(409, "Conflict", "no")


def pod(uid: str = "uid-1", node: str = "") -> JsonObject:
    return {"metadata": {"uid": uid}, "spec": {"nodeName": node} if node else {}}


async def test_the_binding_carries_uid_and_annotations() -> None:
    client = FakeClient(None)
    assert await bind(client, annotations={"a": "b"}) is BindResult.BOUND
    method, path, body, idempotent = client.sent[0]
    assert (method, path, idempotent) == ("POST", "/api/v1/namespaces/ns/pods/p/binding", True)
    assert body["metadata"] == {"name": "p", "namespace": "ns", "uid": "uid-1", "annotations": {"a": "b"}}
    assert body["target"]["name"] == "node-1"


@pytest.mark.parametrize(
    ("refusal", "now", "expected"),
    [
        (CONFLICT, pod(node="node-1"), BindResult.BOUND),
        (CONFLICT, pod(node="node-2"), BindResult.BOUND_ELSEWHERE),
        (CONFLICT, pod(), BindResult.REFUSED),
        (CONFLICT, pod(uid="uid-2", node="node-1"), BindResult.POD_GONE),
        (CONFLICT, None, BindResult.POD_GONE),
        (NotFound(404, "NotFound", ""), None, BindResult.POD_GONE),
    ],
)
async def test_a_refusal_is_read_back(refusal: KubeError, now: JsonObject | None, expected: BindResult) -> None:
    assert await bind(FakeClient(refusal, now)) is expected


async def test_no_answer_is_no_result() -> None:
    with pytest.raises(Unavailable):
        await bind(FakeClient(Unavailable(0, "NoAnswer", "")))
