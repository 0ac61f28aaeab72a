"""The service of held files: lost answers, turns of the dead, what may be dropped and removed, and a restore."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.gen import metadata_pb2 as pb
from api.held import HeldName
from cacheruntime.errors import CacheError
from metadata.core.held import HeldTally
from metadata.shell import backup
from metadata.stores.registry import open_store
from tests.builders.held_cluster import UID, Plane

ETAG = HeldName("4" * 32, ("a", "b")).etag
OTHER = HeldName("5" * 32, ("a", "b")).etag


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    plane = Plane(tmp_path)
    await plane.begin("a", "b")
    yield plane
    await plane.close()


async def put(plane: Plane, path: str = "p", etag: str = ETAG, request_id: str = "") -> int:
    request = pb.PutFileRequest(uid=UID, path=path, size_bytes=3, etag=etag, mtime_ns=5, request_id=request_id)
    return int((await plane.call("PutHeld", request)).snapshot_version)


async def claim(plane: Plane, node: str = "a", etag: str = ETAG, turn: str = "t") -> pb.HeldState:
    epoch = plane.nodes[node].me.epoch
    found: pb.HeldState = await plane.call(
        "ClaimHeld", pb.ClaimHeldRequest(uid=UID, etag=etag, node=node, epoch=epoch, turn=turn)
    )
    return found


async def finish(plane: Plane, turn: str = "t", etag: str = ETAG) -> pb.HeldState:
    request = pb.FinishHeldRequest(uid=UID, etag=etag, turn=turn, object_etag="object", size_bytes=3)
    found: pb.HeldState = await plane.call("FinishHeld", request)
    return found


async def tally(plane: Plane) -> HeldTally:
    dataset = await plane.database.read(lambda reader: reader.dataset(UID))
    assert dataset is not None
    return dataset.held


async def test_answers_that_are_lost_may_be_asked_for_again(plane: Plane) -> None:
    version = await put(plane, request_id="r")
    assert await put(plane, request_id="r") == version and await tally(plane) == HeldTally(1, 3)
    assert (await claim(plane)).state == (await claim(plane)).state == pb.HeldState.WAITING
    before = (await plane.entries())["p"]
    for _ in range(2):
        found = await finish(plane)
        assert (found.state, found.path, found.object_etag) == (pb.HeldState.UPLOADED, "p", "object")
    after = (await plane.entries())["p"]
    # It is the version it was: what was written after what, a checkpoint's format goes by that.
    assert (after.etag, after.version, after.mtime_ns) == ("object", before.version, 5)
    assert await tally(plane) == HeldTally()
    assert await put(plane, request_id="r") == version
    with pytest.raises(CacheError, match="has been uploaded before"):
        await put(plane, request_id="another")
    assert (await claim(plane)).state == pb.HeldState.UPLOADED


async def test_one_upload_of_a_path_at_a_time(plane: Plane) -> None:
    await put(plane)
    await claim(plane)
    assert (await claim(plane, "b", turn="other")).state == pb.HeldState.BUSY
    await put(plane, etag=OTHER)
    assert (await claim(plane, "b", OTHER, "other")).state == pb.HeldState.BUSY
    assert (await finish(plane, "other", OTHER)).state == pb.HeldState.BUSY
    # The older one ends as what it is by now, and gives way.
    assert (await finish(plane)).state == pb.HeldState.GONE
    assert (await plane.entries())["p"].etag == OTHER
    assert (await claim(plane, "b", OTHER, "other")).state == pb.HeldState.WAITING
    await plane.nodes["b"].kill()
    assert (await claim(plane, "a", OTHER, "third")).state == pb.HeldState.WAITING
    assert (await finish(plane, "other", OTHER)).state == pb.HeldState.BUSY
    assert (await finish(plane, "third", OTHER)).state == pb.HeldState.UPLOADED


async def test_a_change_waits_for_the_turn_of_all_its_paths(plane: Plane) -> None:
    await put(plane)
    await claim(plane)
    epoch = plane.nodes["b"].me.epoch
    take = pb.TakeTurnRequest(uid=UID, paths=["q", "p"], node="b", epoch=epoch, turn="change")
    with pytest.raises(CacheError, match="'p' is being changed") as caught:
        await plane.call("TakeTurn", take)
    assert caught.value.is_retryable
    assert await plane.database.read(lambda reader: reader.turn(1, "q")) is None
    await plane.call("EndTurn", pb.EndTurnRequest(uid=UID, turn="t"))
    await plane.call("TakeTurn", take)
    with pytest.raises(CacheError, match="another worker"):
        await put(plane, "q", OTHER)
    removal = pb.RemoveRequest(uid=UID, path="p")
    with pytest.raises(CacheError, match="another worker"):
        await plane.call("Remove", removal)
    removal.turn = "change"
    await plane.call("Remove", removal)
    assert await tally(plane) == HeldTally() and (await claim(plane)).state == pb.HeldState.GONE


async def test_what_waits_is_neither_dropped_nor_forgotten(plane: Plane) -> None:
    await put(plane)
    forget = pb.ForgetHeldRequest(uid=UID, etag=ETAG, node="a")
    with pytest.raises(CacheError, match="may not drop it"):
        await plane.call("ForgetHeld", forget)
    with pytest.raises(CacheError, match=r"1 files \(3 bytes\) of dataset n/d are not in the under store yet"):
        await plane.call("RemoveDataset", pb.DatasetRequest(uid=UID))
    await claim(plane)
    await finish(plane)
    await plane.call("ForgetHeld", forget)
    row = await plane.database.read(lambda reader: reader.held(1, ETAG))
    assert row is not None and row.left == ("b",)
    await put(plane, "q", OTHER)
    await plane.call("RemoveDataset", pb.DatasetRequest(uid=UID, force=True))


async def test_requests_that_cannot_be_are_refused(plane: Plane) -> None:
    for etag in ("object", "held-x"):
        with pytest.raises(CacheError, match="not of a file two workers hold"):
            await put(plane, etag=etag)
    with pytest.raises(CacheError, match="PutHeld shows those"):
        await plane.call("PutFile", pb.PutFileRequest(uid=UID, path="p", etag=ETAG))
    await put(plane)
    await claim(plane)
    with pytest.raises(CacheError, match="size_bytes is 4"):
        await plane.call(
            "FinishHeld", pb.FinishHeldRequest(uid=UID, etag=ETAG, turn="t", object_etag="e", size_bytes=4)
        )
    with pytest.raises(CacheError, match="must be the under store's"):
        await plane.call("FinishHeld", pb.FinishHeldRequest(uid=UID, etag=ETAG, turn="t", object_etag=OTHER))


async def test_a_restored_database_knows_what_waited(plane: Plane, tmp_path: Path) -> None:
    await put(plane)
    await put(plane, "q", OTHER)
    file = tmp_path / "backup"
    backup.write(f"sqlite://{tmp_path}/meta.db", file, written_at_ns=1, progress=lambda *_: None)
    url = f"sqlite://{tmp_path}/restored.db"
    backup.restore(url, file, progress=lambda *_: None)
    store = open_store(url)
    dataset = store.read(lambda reader: reader.dataset(UID))
    assert dataset is not None and dataset.held == HeldTally(2, 6)
    row = store.read(lambda reader: reader.held(dataset.id, ETAG))
    assert row is not None and (row.path, row.size_bytes, row.leaves_object) == ("p", 3, True)
    store.close()
