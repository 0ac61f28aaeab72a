"""What only a directory has: links, special files, temporary names, empty directories."""

import asyncio
import errno
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from understores import posix
from understores.credentials import SecretOptions
from understores.errors import (
    AlreadyExists,
    BucketNotFound,
    Changed,
    InvalidKey,
    InvalidMount,
    NotEmpty,
    NotFound,
    StoreFailed,
    UnderStoreError,
)
from understores.posix import SINK_PIECE_BYTES, PosixStore
from understores.posix_put import TEMPORARY_PREFIX
from understores.registry import open_store


@pytest.fixture
async def store(tmp_path: Path) -> Any:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").write_text("secret")
    opened = open_store(f"file://{tmp_path / 'root'}", {}, SecretOptions())
    yield opened
    await opened.close()


async def keys(store: Any, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key async for page in store.list(prefix, start_after=start_after) for info in page]


async def test_links_that_leave_the_root_are_refused_and_not_listed(store: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "absolute").symlink_to(tmp_path / "outside")
    (root / "relative").symlink_to("../outside")
    (root / "out").symlink_to("..")
    (root / "broken").symlink_to("nowhere")
    assert await keys(store) == []
    for key in ("absolute", "relative", "out/outside"):
        with pytest.raises(InvalidKey):
            await store.head(key)
    with pytest.raises(InvalidKey):
        await store.put("out/new", io.BytesIO(b"x"), 1)
    assert not (tmp_path / "new").exists()


async def test_a_put_replaces_a_link_instead_of_following_it(store: Any, tmp_path: Path) -> None:
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    await store.put("link", io.BytesIO(b"mine"), 4)
    assert (tmp_path / "outside").read_text() == "secret"
    assert (await store.head("link")).size_bytes == 4


async def test_links_inside_the_root_are_files(store: Any, tmp_path: Path) -> None:
    (tmp_path / "root" / "d").mkdir()
    (tmp_path / "root" / "d" / "file").write_text("12345")
    (tmp_path / "root" / "link").symlink_to("d/file")
    (tmp_path / "root" / "loop").symlink_to("d")
    assert await keys(store) == ["d/file", "link"]
    assert (await store.head("link")).size_bytes == 5


async def test_special_files_do_not_exist_and_do_not_block(store: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root" / "pipe")
    assert await keys(store) == []
    with pytest.raises(NotFound):
        await store.head("pipe")


async def test_temporary_names_are_not_listed_and_not_left_behind(store: Any, tmp_path: Path) -> None:
    (tmp_path / "root" / f"{TEMPORARY_PREFIX}x").write_text("torn")
    await store.put("k", io.BytesIO(b"x"), 1)
    assert await keys(store) == ["k"]
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [f"{TEMPORARY_PREFIX}x", "k"]


async def test_empty_directories_are_markers(store: Any, tmp_path: Path) -> None:
    await store.make_directory("a/empty")
    await store.put("a/file", io.BytesIO(b""), 0)
    assert await keys(store) == ["a/empty/", "a/file"]
    assert await keys(store, "a/e") == ["a/empty/"]
    assert await keys(store, start_after="a/empty/") == ["a/file"]
    with pytest.raises(NotEmpty):
        await store.remove_directory("a")
    await store.remove_directory("a/empty")
    assert await keys(store) == ["a/file"]


async def test_names_that_went_are_settled_together(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("a/one", "a/two", "b/three"):
        await store.put(key, io.BytesIO(b""), 0)
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
    )
    for key in ("a/one", "a/two", "b/three", "b/none"):
        await store.unlink(key)
    assert await keys(store) == ["a/", "b/"] and synced == []
    await store.remove_directory("b")
    await store.put("c", io.BytesIO(b""), 0)
    synced.clear()
    await store.settle(["a/one", "a/two", "b/three", "c/where a file is now"])
    assert synced == ["a"]


async def test_a_file_and_a_directory_do_not_take_each_others_place(store: Any) -> None:
    await store.put("a/b", io.BytesIO(b""), 0)
    with pytest.raises(AlreadyExists):
        await store.put("a", io.BytesIO(b""), 0)
    with pytest.raises(AlreadyExists):
        await store.put("a/b/c", io.BytesIO(b""), 0)
    with pytest.raises(AlreadyExists):
        await store.delete("a")


async def test_a_missing_directory_and_a_file_as_root_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, kind in (("none", BucketNotFound), ("file", InvalidMount)):
        store = open_store(f"file://{tmp_path / name}", {}, SecretOptions())
        with pytest.raises(kind, match=name):
            await keys(store)
        await store.close()


@pytest.mark.parametrize(
    ("fault", "expected", "words"),
    [
        ("rewritten", Changed, "changed: version"),
        ("cut", Changed, "changed: version"),
        ("failing disk", StoreFailed, "failed: Input/output error"),
        ("stale handle", StoreFailed, "failed: Stale file handle"),
    ],
)
async def test_a_file_that_breaks_while_it_is_read_is_never_mixed_or_short(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, expected: type[UnderStoreError], words: str
) -> None:
    file = tmp_path / "root" / "key"
    file.write_bytes(b"o" * 100_000)
    info = await store.head("key")
    preadv, calls = os.preadv, []

    def half_then_fault(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            return preadv(descriptor, buffers, offset)
        if fault in ("failing disk", "stale handle"):
            raise OSError(errno.EIO if fault == "failing disk" else errno.ESTALE, "injected")
        done = preadv(descriptor, [buffers[0][:50_000]], offset)
        if fault == "rewritten":
            file.write_bytes(b"n" * 100_000)
        else:
            os.truncate(file, 60_000)
        return done

    monkeypatch.setattr(os, "preadv", half_then_fault)
    with pytest.raises(expected, match=words):
        await store.get_range("key", 0, memoryview(bytearray(100_000)), etag=info.etag)
    assert calls


class Recording:
    """A sink that writes down what it is told."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        self.is_wanted = is_wanted
        self.data = bytearray()
        self.calls: list[str] = []

    def begin(self) -> bool:
        self.calls.append("begin")
        return self.is_wanted

    def take(self, at: int, data: memoryview) -> None:
        assert at == len(self.data)
        self.data += data

    def end(self) -> None:
        self.calls.append("end")

    def leave(self) -> None:
        self.calls.append("leave")


async def test_a_sink_is_given_every_byte_in_order(store: Any, tmp_path: Path) -> None:
    data = os.urandom(3 * SINK_PIECE_BYTES)
    (tmp_path / "root" / "key").write_bytes(data)
    info = await store.head("key")
    buffer, sink = bytearray(2 * SINK_PIECE_BYTES + 7), Recording()
    await store.sink_range("key", 11, memoryview(buffer), sink, etag=info.etag)
    assert sink.data == buffer == data[11 : 11 + len(buffer)]
    assert sink.calls == ["begin", "end", "leave"]


async def test_a_sink_is_not_told_the_end_of_what_is_not_the_version(store: Any, tmp_path: Path) -> None:
    (tmp_path / "root" / "key").write_bytes(b"o" * 100)
    info, sink = await store.head("key"), Recording()
    (tmp_path / "root" / "key").write_bytes(b"n" * 100)
    with pytest.raises(Changed):
        await store.sink_range("key", 0, memoryview(bytearray(100)), sink, etag=info.etag)
    assert sink.calls == ["begin", "leave"] and not sink.data


async def test_nothing_is_read_for_a_sink_that_wants_nothing(store: Any, tmp_path: Path) -> None:
    (tmp_path / "root" / "key").write_bytes(b"o" * 100)
    info, sink = await store.head("key"), Recording(is_wanted=False)
    with pytest.raises(StoreFailed):
        await store.sink_range("key", 0, memoryview(bytearray(100)), sink, etag=info.etag)
    assert sink.calls == ["begin"] and not sink.data


async def test_a_staged_file_is_nobodys_until_it_is_published(store: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    old = await store.put("deep/key", io.BytesIO(b"old"), 3)
    descriptor = await store.stage("deep/key")
    assert descriptor is not None
    os.write(descriptor, b"new bytes")
    assert await keys(store) == ["deep/key"] and await store.head("deep/key") == old
    assert [path.name for path in (root / "deep").iterdir()] == ["key"]
    info = await store.publish(descriptor, "deep/key")
    assert info == await store.head("deep/key") and info.size_bytes == 9
    assert (root / "deep" / "key").read_bytes() == b"new bytes"
    # Once more under the same name, and under another whose directory is not there yet.
    assert await store.publish(descriptor, "deep/key") == info
    assert (await store.publish(descriptor, "other/place/key")).etag == info.etag
    os.close(descriptor)
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["key", "key"]


async def test_a_staged_file_that_is_let_go_leaves_nothing(store: Any, tmp_path: Path) -> None:
    descriptor = await store.stage("not/there/key")
    assert descriptor is not None
    os.write(descriptor, b"x")
    os.close(descriptor)
    assert list((tmp_path / "root").iterdir()) == []


async def test_a_file_staged_for_somebody_who_is_gone_is_closed(tmp_path: Path) -> None:
    store = PosixStore(tmp_path)
    may_go_on, stage, staged = threading.Event(), store._stage, list[int | None]()

    def slow_stage(key: str) -> int | None:
        may_go_on.wait(10)
        staged.append(stage(key))
        return staged[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_stage", slow_stage)
        staging = asyncio.ensure_future(store.stage("key"))
        await asyncio.sleep(0)
        staging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await staging
        may_go_on.set()
        async with asyncio.timeout(10):
            while not staged:
                await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert staged[0] is not None
    assert not Path(f"/proc/self/fd/{staged[0]}").exists()
    await store.close()


@pytest.mark.parametrize(("number", "where"), [(errno.EOPNOTSUPP, "stage"), (errno.EXDEV, "publish")])
async def test_where_files_cannot_be_staged_they_are_put(
    store: Any, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    if where == "stage":
        monkeypatch.setattr(posix, "open_beneath", refuse)
        assert await store.stage("k") is None
        return
    descriptor = await store.stage("k")
    monkeypatch.setattr(os, "link", refuse)
    assert await store.publish(descriptor, "k") is None
    os.close(descriptor)
    assert await keys(store) == []


async def test_a_directory_in_the_way_of_a_staged_file_is_refused_and_stays(store: Any, tmp_path: Path) -> None:
    await store.make_directory("key")
    descriptor = await store.stage("key")
    with pytest.raises(AlreadyExists):
        await store.publish(descriptor, "key")
    os.close(descriptor)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["key"]
