"""What only HDFS has: two steps, batches, standby namenodes, tokens, appends, directories in a file's place."""

import io
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.builders.webhdfs_server import WebHdfsServer
from understores.credentials import SecretOptions
from understores.errors import (
    AccessDenied,
    AlreadyExists,
    BucketNotFound,
    Changed,
    NotEmpty,
    NotFound,
    ShortBody,
    StoreFailed,
    Unreachable,
)
from understores.posix_put import TEMPORARY_PREFIX
from understores.registry import open_store


@dataclass
class Mount:
    hdfs: WebHdfsServer
    address: str
    store: Any


@pytest.fixture
async def mount() -> AsyncIterator[Mount]:
    hdfs = WebHdfsServer(batch=3)
    hdfs.make_directory("/data")
    with hdfs.server() as server:
        store = open_store(
            "hdfs://namenode:8020/data",
            {"dfs.namenode.http-address": server.address, "hadoop.user.name": "alice"},
            SecretOptions(),
        )
        yield Mount(hdfs, server.address, store)
        await store.close()


async def put(store: Any, key: str, body: bytes) -> Any:
    return await store.put(key, io.BytesIO(body), len(body))


async def keys(store: Any, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key async for page in store.list(prefix, start_after=start_after) for info in page]


@pytest.mark.parametrize("has_batches", [True, False])
async def test_listing_with_and_without_batches(mount: Mount, has_batches: bool) -> None:
    mount.hdfs.has_batches = has_batches
    names = [*(f"d/f{i}" for i in range(7)), "d-a", "d.b/x", "d/g/h", "e/", "é", "\U0001f600", "\uffff"]
    for name in names:
        if name.endswith("/"):
            mount.hdfs.make_directory(f"/data/{name[:-1]}")
        else:
            mount.hdfs.write(f"/data/{name}", b"x")
    mount.hdfs.write(f"/data/{TEMPORARY_PREFIX}left", b"torn")
    assert await keys(mount.store) == sorted(names)
    for start in sorted(names):
        assert await keys(mount.store, start_after=start) == [name for name in sorted(names) if name > start]
    assert await keys(mount.store, "d/f") == [f"d/f{i}" for i in range(7)]
    assert await keys(mount.store, "d-a/") == []
    assert mount.hdfs.users_seen.keys() == {"alice"}


async def test_a_resumed_listing_reads_no_batch_again(mount: Mount) -> None:
    for i in range(30):
        mount.hdfs.write(f"/data/part-{i:05}.bin", b"")
    await keys(mount.store)
    assert mount.hdfs.calls["LISTSTATUS_BATCH"] == 10
    mount.hdfs.calls.clear()
    assert len(await keys(mount.store, start_after="part-00023.bin")) == 6
    assert mount.hdfs.calls["LISTSTATUS_BATCH"] == 2


async def test_a_put_is_appended_in_parts_synced_and_renamed(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understores.webhdfs.PART_BYTES", 2 << 20)
    body = os.urandom((5 << 20) + 7)
    info = await put(mount.store, "a/b/big", body)
    assert mount.hdfs.nodes["/data/a/b/big"].body == body
    assert (mount.hdfs.calls["CREATE bytes"], mount.hdfs.calls["APPEND bytes"], mount.hdfs.calls["RENAME"]) == (1, 2, 1)
    assert mount.hdfs.flags_seen.keys() == {"CREATE,SYNC_BLOCK"}
    assert (await mount.store.copy("a/b/big", "copied")).size_bytes == info.size_bytes
    assert mount.hdfs.nodes["/data/copied"].body == body
    with pytest.raises(ShortBody):
        await mount.store.put("a/b/big", io.BytesIO(b"x" * (3 << 20)), 5 << 20)
    assert mount.hdfs.nodes["/data/a/b/big"].body == body
    assert not any(TEMPORARY_PREFIX in path for path in mount.hdfs.nodes)


async def test_a_file_replaced_while_it_is_read_is_said(mount: Mount) -> None:
    info = await put(mount.store, "k", b"o" * 100_000)
    seen: list[str] = []

    def replace(path: str) -> None:
        seen.append(path)
        mount.hdfs.write(path, b"n" * 100_000)

    mount.hdfs.while_sending = replace
    with pytest.raises(Changed):
        await mount.store.get_range("k", 0, memoryview(bytearray(100_000)), etag=info.etag)
    assert seen == ["/data/k"]


async def test_the_active_namenode_is_found_and_kept_to(mount: Mount) -> None:
    standby = WebHdfsServer(is_standby=True)
    with standby.server() as other:
        addresses = f"127.0.0.1:9,{other.address},{mount.address}"
        store = open_store("hdfs://ns/data", {"dfs.namenode.http-address": addresses}, SecretOptions())
        for _ in range(3):
            assert (await put(store, "k", b"x")).size_bytes == 1
        assert standby.refused["StandbyException"] == 1
        await store.close()
        store = open_store("hdfs://ns/data", {"dfs.namenode.http-address": "127.0.0.1:9"}, SecretOptions())
        with pytest.raises(Unreachable, match="hdfs://ns/data/ cannot be reached"):
            await store.head("k")
        await store.close()


async def test_refusals_have_one_sentence_without_the_servers_words(mount: Mount) -> None:
    mount.hdfs.tokens = {"good"}
    for options in ({}, {"delegationToken": "canary-token"}):
        store = open_store(f"webhdfs://{mount.address}/data", options, SecretOptions())
        for act in (lambda store=store: keys(store), lambda store=store: put(store, "k", b"x")):
            with pytest.raises(AccessDenied, match="delegation token is missing, wrong or lacks the right") as error:
                await act()
            assert "canary" not in error.value.message
        await store.close()
    mount.hdfs.tokens = set()
    store = open_store(f"webhdfs://{mount.address}/none", {}, SecretOptions())
    with pytest.raises(BucketNotFound, match=r"/none/ of the mount does not exist"):
        await keys(store)
    await store.close()


async def test_a_server_that_is_no_webhdfs_says_so() -> None:
    from tests.builders.http_files import HttpFiles

    with HttpFiles().server() as server:
        store = open_store(f"webhdfs://{server.address}", {}, SecretOptions())
        with pytest.raises(StoreFailed, match=r"HTTP 405|not JSON"):
            await store.make_directory("d")
        await store.close()


async def test_files_and_directories_do_not_take_each_others_place(mount: Mount) -> None:
    await put(mount.store, "a/b", b"")
    for act in (
        lambda: put(mount.store, "a", b""),
        lambda: put(mount.store, "a/b/c", b""),
        lambda: mount.store.delete("a"),
        lambda: mount.store.remove_directory("a/b"),
        lambda: mount.store.make_directory("a/b/c"),
    ):
        with pytest.raises(AlreadyExists):
            await act()
    with pytest.raises(NotEmpty):
        await mount.store.remove_directory("a")
    with pytest.raises(NotFound):
        await mount.store.head("a")
    await mount.store.delete("a/b")
    assert await keys(mount.store) == ["a/"]
    await mount.store.remove_directory("a")
    assert await keys(mount.store) == []
