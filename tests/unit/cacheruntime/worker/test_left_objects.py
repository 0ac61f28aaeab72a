"""Objects renames leave: settled before metadata forgets them, tried again when they cannot be deleted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from api.gen import metadata_pb2 as pb
from cacheruntime.errors import Missing
from cacheruntime.worker import left_objects
from cacheruntime.worker.datasets import Location
from cacheruntime.worker.left_objects import LeftObjects
from cacheruntime.worker.path_order import PathOrder
from understores.base import ObjectInfo
from understores.errors import AlreadyExists, NotFound, StoreFailed

UID = "u"


class Site:
    """A store, metadata and turns at once; writes down what it is asked to do."""

    can_settle = True

    def __init__(self) -> None:
        self.objects = {"old": "e"}
        self.shown: set[str] = set()
        self.left = [pb.LeftObject(uid=UID, path="old", etag="e", version=3)]
        self.done: list[str] = []
        self.failures = 0
        self.objects_left = LeftObjects(
            node="n1",
            datasets=cast(Any, self),
            metadata=cast(Any, self),
            order=PathOrder(),
            turns=cast(Any, self),
        )

    @property
    def origin(self) -> Location:
        return Location(cast(Any, self), "old", is_read_only=False)

    async def locate_for_change(self, uid: str, path: str) -> Location:
        return self.origin

    @asynccontextmanager
    async def turn(self, uid: str, *paths: str) -> AsyncIterator[str]:
        yield ""

    async def lookup(self, uid: str, path: str) -> pb.Entry:
        if path not in self.shown:
            raise Missing(f"no {path}")
        return pb.Entry(path=path)

    async def left_objects(self, node: str) -> list[pb.LeftObject]:
        return list(self.left)

    async def forget_left(self, objects: list[pb.LeftObject]) -> None:
        gone = {(one.path, one.version) for one in objects}
        self.done += [f"forget {path} {version}" for path, version in sorted(gone)]
        self.left = [one for one in self.left if (one.path, one.version) not in gone]

    async def head(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound(f"no {key}")
        if not self.objects[key]:
            raise AlreadyExists(f"{key} meets a file in its place")
        return ObjectInfo(key, 1, self.objects[key], 0)

    async def delete(self, key: str) -> None:
        await self._remove(key, "delete")

    async def unlink(self, key: str) -> None:
        await self._remove(key, "unlink")

    async def _remove(self, key: str, how: str) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreFailed("broken")
        self.objects.pop(key, None)
        self.done.append(f"{how} {key}")

    async def settle(self, keys: Sequence[str]) -> None:
        self.done.append(f"settle {' '.join(keys)}")

    async def forgotten(self) -> list[str]:
        """Let it run until metadata knows of nothing that is left; return what was done."""
        running = asyncio.create_task(self.objects_left.run())
        async with asyncio.timeout(10):
            while self.left:
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return self.done


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(left_objects, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(left_objects, "AGAIN_SECONDS", 0.0)
    return Site()


async def test_what_a_rename_leaves_is_durably_gone_before_it_is_forgotten(site: Site) -> None:
    left, site.left = site.left, []
    await site.objects_left.begin()
    site.left = left
    await site.objects_left.take_away(UID, "old", 3, site.origin)
    assert site.done == ["unlink old"], "the rename waits for no more"
    assert await site.forgotten() == ["unlink old", "settle old", "forget old 3"]


async def test_what_the_worker_before_left_is_taken_away(site: Site) -> None:
    await site.objects_left.begin()
    assert site.done == ["delete old"] and not site.objects
    assert await site.forgotten() == ["delete old", "settle old", "forget old 3"]


async def test_what_the_worker_before_had_removed_is_settled_too(site: Site) -> None:
    site.objects.clear()
    await site.objects_left.begin()
    assert await site.forgotten() == ["settle old", "forget old 3"]


async def test_a_file_where_its_directory_was_has_nothing_of_it(site: Site) -> None:
    site.objects["old"] = ""
    await site.objects_left.begin()
    assert await site.forgotten() == ["settle old", "forget old 3"]


async def test_another_object_of_that_name_stays(site: Site) -> None:
    site.objects["old"] = "of somebody else"
    await site.objects_left.begin()
    assert await site.forgotten() == ["settle old", "forget old 3"]
    assert site.objects == {"old": "of somebody else"}


async def test_a_name_that_is_shown_again_stays(site: Site) -> None:
    site.shown.add("old")
    await site.objects_left.begin()
    assert site.done == [] and site.objects == {"old": "e"}


async def test_a_deletion_that_fails_is_tried_again_and_no_failure_of_the_rename(site: Site) -> None:
    site.failures = 2
    await site.objects_left.take_away(UID, "old", 3, site.origin)
    assert site.objects == {"old": "e"}
    done = await site.forgotten()
    assert not site.objects and done == ["delete old", "settle old", "forget old 3"]
