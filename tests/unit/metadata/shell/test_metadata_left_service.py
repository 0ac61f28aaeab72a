"""The service of left objects: what a rename leaves is told until it is gone, and known while a listing may show it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.gen import metadata_pb2 as pb
from metadata.core.left import LeftObject
from metadata.core.listing_progress import ListingOrigin
from tests.builders.held_cluster import UID, Plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    plane = Plane(tmp_path)
    await plane.begin("a", "b")
    yield plane
    await plane.close()


async def put(plane: Plane, path: str, etag: str = "e") -> None:
    await plane.call("PutFile", pb.PutFileRequest(uid=UID, path=path, size_bytes=3, etag=etag))


async def rename(plane: Plane, source: str = "old", target: str = "new") -> int:
    request = pb.RenameRequest(uid=UID, source=source, target=target, target_etag="e", node="a", leaves_source=True)
    return int((await plane.call("Rename", request)).snapshot_version)


async def asked(plane: Plane, node: str = "a") -> list[tuple[str, str, int]]:
    found = await plane.call("ListLeft", pb.ListLeftRequest(node=node))
    return [(one.path, one.etag, one.version) for one in found.objects]


async def forget(plane: Plane, path: str, version: int) -> None:
    objects = [pb.LeftObject(uid=UID, path=path, version=version), pb.LeftObject(uid="another", path="x", version=1)]
    await plane.call("ForgetLeft", pb.LeftObjects(objects=objects))


async def test_what_a_rename_leaves_is_told_to_its_worker_until_it_is_gone(plane: Plane) -> None:
    await put(plane, "old")
    version = await rename(plane)
    assert await asked(plane) == [("old", "e", version)] and await asked(plane, "b") == []
    await forget(plane, "old", version + 1)
    assert await asked(plane) == [("old", "e", version)], "that was about another rename"
    await forget(plane, "old", version)
    assert await asked(plane) == []


async def test_a_name_that_is_written_again_has_nothing_left(plane: Plane) -> None:
    await put(plane, "old")
    version = await rename(plane)
    await put(plane, "old", "another")
    assert await asked(plane) == []
    again = await rename(plane)
    await forget(plane, "old", version)
    assert await asked(plane) == [("old", "another", again)]


async def test_what_is_gone_is_remembered_while_the_dataset_is_listed(plane: Plane) -> None:
    await put(plane, "old")
    version = await rename(plane)
    dataset = await plane.database.read(lambda reader: reader.dataset(UID))
    assert dataset is not None
    origin = ListingOrigin(UID, dataset.id, dataset.version, dataset.specification.mounts, 1)
    listing = await plane.database.write(lambda transaction: transaction.begin_listing(origin))
    await forget(plane, "old", version)
    assert await asked(plane) == []
    left = await plane.database.read(lambda reader: reader.left(dataset.id))
    assert left == [LeftObject("old", "e", "a", version, is_gone=True)]
    await plane.database.write(lambda transaction: transaction.drop_listing(listing))
    await forget(plane, "old", version)
    assert await plane.database.read(lambda reader: reader.left(dataset.id)) == []
