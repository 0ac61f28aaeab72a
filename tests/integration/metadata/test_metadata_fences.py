"""Fences at the real service: both stores, over restarts, and as who mounts for pods lifts them."""

import asyncio
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from api.fence_lifting import FenceLifter
from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc

Connect = Callable[[Any], Any]
DENIED = grpc.StatusCode.PERMISSION_DENIED
WORDS = "may still run there"


@pytest.fixture(autouse=True)
def no_old_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here goes by any."""
    monkeypatch.setenv("HEADRACE_METADATA_FENCE_SETTLE_SECONDS", "0")


async def raise_fence(client: Any, *pods: str, node: str = "n1", path: str = "run") -> None:
    stub: Any = metadata_pb2_grpc.FencesStub(client.channel)
    fence = pb.Fence(node=node, path=path, pods=pods)
    await stub.Raise(pb.RaiseFencesRequest(namespace="ns", name="u1", fences=[fence]), timeout=10)


async def test_every_change_from_the_node_is_refused_until_its_pods_have_ended(
    process: Any, connect: Connect, tmp_path: Path, refused: Any
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tmp_path}")
    await client.put("u1", "run/step-1/w", node="n1")
    assert not (await client.get("u1")).fences
    await raise_fence(client, "p1", "p2")
    told = await client.get("u1")
    assert [(one.node, one.path, list(one.pods)) for one in told.fences] == [("n1", "run", ["p1", "p2"])]
    version = told.snapshot_version

    rename = pb.RenameRequest(uid="u1", source="run/step-1/w", target="elsewhere", target_etag="e", node="n1")
    into = pb.RenameRequest(uid="u1", source="other", target="run/other", target_etag="e", node="n1")
    await client.put("u1", "other", node="n1")
    with refused(DENIED, WORDS):
        await client.put("u1", "run/step-2/w", node="n1")
    with refused(DENIED, WORDS):
        await client.namespace.Remove(pb.RemoveRequest(uid="u1", path="run/step-1/w", node="n1"), timeout=5)
    with refused(DENIED, WORDS):
        await client.namespace.MakeDirectory(pb.MakeDirectoryRequest(uid="u1", path="run/d", node="n1"), timeout=5)
    with refused(DENIED, WORDS):
        await client.namespace.SetMode(
            pb.SetModeRequest(uid="u1", path="run/step-1/w", mode=0o600, node="n1"), timeout=5
        )
    for one in (rename, into):
        with refused(DENIED, WORDS):
            await client.namespace.Rename(one, timeout=5)
    assert (await client.get("u1")).snapshot_version == version + 1, "of all that only `other` came about"
    await client.put("u1", "run/step-2/w", node="n2")

    process.stop()
    process.start()
    client = connect(process)
    with refused(DENIED, WORDS):
        await client.put("u1", "run/step-3/w", node="n1")
    # A listing writes the record too.
    await client.sync("u1", f"file://{tmp_path}", force=True)
    lifter = FenceLifter(client.channel, "n1")
    assert await lifter.lift(lambda pod: pod == "p2") == 1
    with refused(DENIED, WORDS):
        await client.put("u1", "run/step-3/w", node="n1")
    assert await lifter.lift(lambda pod: False) == 1
    assert await lifter.lift(lambda pod: False) == 0
    await client.put("u1", "run/step-3/w", node="n1")
    assert not (await client.get("u1")).fences


async def test_a_node_lifts_what_is_its_own_only(process: Any, connect: Connect, tmp_path: Path) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tmp_path}")
    await raise_fence(client, "p1", node="n1")
    await raise_fence(client, "p1", node="n2", path="")
    assert await FenceLifter(client.channel, "n2").lift(lambda pod: False) == 1
    assert [one.node for one in (await client.get("u1")).fences] == ["n1"]


async def test_a_change_that_was_applied_before_the_fence_is_confirmed_after_it(
    process: Any, connect: Connect, tmp_path: Path
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tmp_path}")
    version = await client.put("u1", "run/w", request_id="r1", node="n1")
    await raise_fence(client, "p1")
    assert await client.put("u1", "run/w", request_id="r1", node="n1") == version


async def test_fences_are_counted(
    metadata_process: Callable[..., Any], connect: Connect, tmp_path: Path, unused_tcp_port: int
) -> None:
    client = connect(metadata_process("--metrics", f"127.0.0.1:{unused_tcp_port}"))
    await client.sync("u1", f"file://{tmp_path}")
    for pods in (("p1", "p2"), ("p1", "p2"), ("p3",)):
        await raise_fence(client, *pods)  # again, and for one more pod: the same place
    await raise_fence(client, "p1", path="other")
    lifter = FenceLifter(client.channel, "n1")
    await lifter.lift(lambda pod: pod == "p3")

    def counted() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}/metrics", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    text = await asyncio.to_thread(counted)
    assert 'headrace_metadata_fences_total{event="raised"} 2.0' in text
    assert 'headrace_metadata_fences_total{event="lifted"} 1.0' in text


async def test_what_cannot_be_is_refused(process: Any, connect: Connect, tmp_path: Path, refused: Any) -> None:
    client = connect(process)
    with refused(grpc.StatusCode.NOT_FOUND, "there is no dataset"):
        await raise_fence(client, "p1")
    await client.sync("u1", f"file://{tmp_path}")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "fences.pods"):
        await raise_fence(client)
    stub: Any = metadata_pb2_grpc.FencesStub(client.channel)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "fences is empty"):
        await stub.Raise(pb.RaiseFencesRequest(uid="u1"), timeout=5)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "node is empty"):
        await stub.List(pb.ListFencesRequest(), timeout=5)
