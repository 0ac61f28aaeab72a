"""Staging files in a directory store: who may write them, what seals them, what is kept of them. No sockets."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from api.gen import metadata_pb2 as pb
from cacheruntime.core.blocks import Version, version_name
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import CacheError
from cacheruntime.worker import tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Location
from cacheruntime.worker.fetched import Keep
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.writes import KEPT_AT_ONCE, Staging, Writes
from understores.posix import PosixStore

BLOCK = 4096
DATA = bytes(range(256)) * 40


class Datasets:
    """One dataset over one store."""

    def __init__(self, store: PosixStore) -> None:
        self._store = store
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.asked = 0

    async def locate_for_change(self, uid: str, path: str, *, is_begun: bool = True) -> Location:
        self.asked += 1
        await self.may_go_on.wait()
        return Location(cast(Any, self._store), path, False)

    async def get(self, uid: str) -> pb.DatasetInfo:
        return pb.DatasetInfo(uid=uid)


class Metadata:
    """Keeps what is committed; may be out of order."""

    def __init__(self) -> None:
        self.etags: dict[str, str] = {}
        self.is_away = False
        self.puts = 0
        self.was_asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def put_file(self, uid: str, path: str, *, etag: str, **_: object) -> int:
        self.puts += 1
        self.was_asked.set()
        await self.may_answer.wait()
        if self.is_away:
            raise CacheError("metadata is away", number=errno.EAGAIN, is_retryable=True)
        self.etags[path] = etag
        return len(self.etags)


class Filler:
    """This node is everything's home."""

    def may_be_home(self, info: pb.DatasetInfo) -> bool:
        return True

    def keep(self, info: pb.DatasetInfo, version: Version, index: int) -> Keep:
        return Keep.HOME


class Site:
    """Writes over a directory, and a cache."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        for name in ("origin", "tier"):
            (folder / name).mkdir()
        self.origin = folder / "origin"
        self.under = PosixStore(self.origin)
        self.datasets, self.metadata = Datasets(self.under), Metadata()
        self.cache = BlockStore(
            [TierFolder(Tier("SSD", 1 << 20, 0), folder / "tier")],
            block_size_bytes=BLOCK,
            threads=threads,
            clock=lambda: 0.0,
            metrics=Metrics(),
            changed=lambda _: None,
        )
        self.writes = Writes(
            store=self.cache,
            reader=cast(Any, None),
            filler=cast(Any, Filler()),
            datasets=cast(Any, self.datasets),
            metadata=cast(Any, self.metadata),
            metrics=Metrics(),
        )

    async def create(self, path: str = "a", owner: object = "one") -> Staging:
        return await self.writes.create("u", path, base_etag="", base_size_bytes=0, owner=owner, may_seal=True)

    async def commit(self, staging: Staging, owner: object = "one", mode: int = 0o644) -> str:
        return (await self.writes.commit(staging, mode=mode, mtime_ns=1, owner=owner)).etag

    async def adopt(self, staging: Staging, owner: object, *, may_be_object: bool = False) -> Staging | None:
        status = os.fstat(staging.descriptor)
        return await self.writes.adopt("u", status.st_dev, status.st_ino, owner, may_be_object=may_be_object)

    def cached(self) -> list[str]:
        return [file.version.etag for file in self.cache.files_of("u")]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    with ThreadPoolExecutor(4) as threads:
        site = Site(tmp_path, threads)
        yield site
        site.datasets.may_go_on.set()
        await site.writes.close()
        site.cache.close()
        await site.under.close()


async def _until_asked(site: Site, times: int) -> None:
    async with asyncio.timeout(10):
        while site.datasets.asked < times:
            await asyncio.sleep(0)


async def test_a_commit_of_a_dead_client_does_not_seal_what_its_successor_writes_on(site: Site) -> None:
    """The commit was sent, and waited for its turn, when the client died."""
    staging = await site.create()
    os.write(staging.descriptor, b"one")
    await site.writes.leave(staging, "one")
    assert await site.adopt(staging, "two") is staging
    with pytest.raises(CacheError, match="another client"):
        await site.commit(staging, "one")
    os.write(staging.descriptor, b"two")
    assert not list(site.origin.iterdir())
    etag = await site.commit(staging, "two")
    assert (site.origin / "a").read_bytes() == b"onetwo" and site.metadata.etags == {"a": etag}


async def test_what_a_client_that_left_had_asked_for_is_done(site: Site) -> None:
    staging = await site.create()
    os.write(staging.descriptor, b"one")
    await site.writes.leave(staging, "one")
    await site.commit(staging, "one")
    assert (site.origin / "a").read_bytes() == b"one"


async def test_what_becomes_an_object_while_it_is_looked_at_is_not_adopted(site: Site) -> None:
    staging = await site.create()
    os.write(staging.descriptor, b"one")
    site.datasets.may_go_on.clear()
    asked = site.datasets.asked
    adopting = asyncio.ensure_future(site.adopt(staging, "two"))
    await _until_asked(site, asked + 1)
    committing = asyncio.ensure_future(site.commit(staging))
    await _until_asked(site, asked + 2)
    site.datasets.may_go_on.set()
    assert await adopting is None
    await committing


async def test_a_successor_joins_the_commit_under_way(site: Site) -> None:
    """Its bytes go to the medium once, and the namespace hears of it once."""
    staging = await site.create()
    os.write(staging.descriptor, b"one")
    site.metadata.may_answer.clear()
    asked = asyncio.ensure_future(site.commit(staging, "one", mode=0o600))
    await asyncio.wait_for(site.metadata.was_asked.wait(), 10)
    await site.writes.leave(staging, "one")
    assert await site.adopt(staging, "two") is None
    assert await site.adopt(staging, "two", may_be_object=True) is staging
    assert staging.asked == (0o600, 1)
    joined = asyncio.ensure_future(site.commit(staging, "two", mode=0o600))
    site.metadata.may_answer.set()
    assert await joined == await asked == site.metadata.etags["a"]
    assert site.metadata.puts == 1
    assert await site.commit(staging, "two", mode=0o600) == site.metadata.etags["a"]
    assert site.metadata.puts == 1


async def test_what_may_be_an_object_is_not_adopted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name was made, and then the directory could not be synced."""
    staging = await site.create()
    os.write(staging.descriptor, b"one")
    synced = os.fsync

    def fsync(descriptor: int) -> None:
        if (site.origin / "a").exists():
            raise OSError(errno.EIO, "Input/output error")
        synced(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(CacheError):
            await site.commit(staging)
    assert (site.origin / "a").exists()
    assert await site.adopt(staging, "two") is None
    assert await site.commit(staging) == site.metadata.etags["a"]


async def test_what_the_medium_did_not_take_is_never_committed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so once; another fsync would succeed."""
    staging = await site.create()
    os.write(staging.descriptor, b"one")

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(CacheError, match="did not reach the medium"):
            await site.commit(staging)
    with pytest.raises(CacheError, match="write it again") as error:
        await site.commit(staging)
    assert error.value.errno == errno.EIO
    assert not list(site.origin.iterdir()) and not site.metadata.etags


async def test_a_commit_the_namespace_did_not_hear_of_is_done_again(site: Site) -> None:
    staging = await site.create()
    os.write(staging.descriptor, b"one")
    site.metadata.is_away = True
    with pytest.raises(CacheError, match="away"):
        await site.commit(staging)
    assert await site.adopt(staging, "two") is None
    site.metadata.is_away = False
    inode = os.fstat(staging.descriptor).st_ino
    assert await site.commit(staging) == site.metadata.etags["a"]
    assert (site.origin / "a").stat().st_ino == inode
    assert [each.name for each in site.origin.iterdir()] == ["a"]


async def test_a_file_that_cannot_become_the_object_is_written_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = await site.create()
    os.pwrite(staging.descriptor, b"one", 0)

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    etags = [await site.commit(staging)]
    for letter in b"abc":
        # The same length at once: only the stamp tells, if the file system has one for every write.
        os.pwrite(staging.descriptor, bytes([letter]) * 3, 0)
        etags.append(await site.commit(staging))
        assert (site.origin / "a").read_bytes() == bytes([letter]) * 3
    assert len(set(etags)) == 4
    assert await site.adopt(staging, "two") is staging


async def test_a_file_renamed_while_its_staging_file_is_made_is_written_under_its_new_name(site: Site) -> None:
    site.datasets.may_go_on.clear()
    creating = asyncio.ensure_future(site.create("old"))
    await _until_asked(site, 1)
    site.writes.renamed("u", "old", "new", old_etag="e", new_etag="f")
    site.datasets.may_go_on.set()
    staging = await creating
    os.write(staging.descriptor, b"one")
    await site.commit(staging)
    assert [each.name for each in site.origin.iterdir()] == ["new"]


async def test_a_version_is_kept_here_unless_its_path_is_written_on(site: Site) -> None:
    staging = await site.create()
    os.write(staging.descriptor, DATA)
    await site.commit(staging)
    following = await site.create()
    os.write(following.descriptor, DATA + b"more")
    await site.writes.end(staging)
    assert site.cached() == []
    etag = await site.commit(following)
    await site.writes.end(following)
    assert site.cached() == [etag]


async def test_a_version_that_is_replaced_while_it_is_copied_into_the_cache_leaves_nothing_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = await site.create()
    os.write(staging.descriptor, DATA)
    etag = await site.commit(staging)
    version = Version("u", "a", etag, len(DATA))
    stored: list[int] = []
    store_block = site.cache.store_block

    async def store_and_replace(file: Any, index: int, *rest: Any, **more: Any) -> bool:
        stored.append(index)
        site.cache.drop_path("u", "a", keep="another")
        return await store_block(file, index, *rest, **more)

    monkeypatch.setattr(site.cache, "store_block", store_and_replace)
    await site.writes.end(staging)
    assert site.cached() == [] and site.cache.tiers[0].used_bytes == 0
    assert len(stored) <= 2 and version_name(version) not in site.cache.index.names()


async def test_what_the_cache_has_no_room_for_is_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, read, inner = (4 << 20) // BLOCK, [], tier_files.read_checked

    def spied(descriptor: int, data: memoryview, offset_bytes: int) -> int:
        read.append(offset_bytes)
        return inner(descriptor, data, offset_bytes)

    monkeypatch.setattr(tier_files, "read_checked", spied)
    staging = await site.create()
    os.write(staging.descriptor, bytes(blocks * BLOCK))
    await site.commit(staging)
    await site.writes.end(staging)
    kept = site.cache.tiers[0].used_bytes // BLOCK
    assert kept < blocks
    assert len(read) <= kept + KEPT_AT_ONCE


async def test_a_copy_where_others_are_the_home_makes_no_room_as_a_home_would(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Filler, "keep", lambda *_: Keep.COPY)
    asked, inner = [], site.cache.acquire

    async def spied(version: Version, *, wanted_bytes: int, as_home: bool) -> CachedFile:
        asked.append(as_home)
        return await inner(version, wanted_bytes=wanted_bytes, as_home=as_home)

    monkeypatch.setattr(site.cache, "acquire", spied)
    staging = await site.create()
    os.write(staging.descriptor, b"x")
    await site.commit(staging)
    await site.writes.end(staging)
    assert asked == [False]
