"""Every rule of `understores/base.py`, on every store."""

import io
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from understores.base import ObjectInfo, Piece, UnderStore
from understores.errors import Changed, InvalidKey, NotFound, ReadOnly, ShortBody, StoreFailed

pytestmark = pytest.mark.filterwarnings("default")  # moto's server warns of its own libraries


async def keys(store: UnderStore, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key async for page in store.list(prefix, start_after=start_after) for info in page]


async def read(store: UnderStore, info: ObjectInfo, offset: int = 0, length: int | None = None) -> bytes:
    buffer = bytearray(info.size_bytes - offset if length is None else length)
    await store.get_range(info.key, offset, memoryview(buffer), etag=info.etag)
    return bytes(buffer)


async def put(store: UnderStore, key: str, body: bytes) -> ObjectInfo:
    return await store.put(key, io.BytesIO(body), len(body))


async def written(mounted: Any, key: str, body: bytes) -> ObjectInfo:
    """Put bytes there behind the store's back."""
    mounted.write(key, body)
    info: ObjectInfo = await mounted.store.head(key)
    return info


async def test_an_empty_store_lists_nothing(mounted: Any) -> None:
    assert await keys(mounted.store) == []


async def test_listing_is_in_key_order_and_relative_to_the_mount(mounted: Any) -> None:
    names = ["b", "a/c", "a-b", "a/b/d", "ab", "ä/ö", "z z+%41", "a#b?c", "x~*'(1)"]
    for name in names:
        mounted.write(name, name.encode())
    assert await keys(mounted.store) == sorted(names)


async def test_listing_tells_size_etag_and_mtime_as_head_does(mounted: Any) -> None:
    mounted.write("d/x", b"hello")
    pages = [page async for page in mounted.store.list()]
    (info,) = pages[0]
    head = await mounted.store.head("d/x")
    assert (info.size_bytes, info.etag) == (head.size_bytes, head.etag) == (5, head.etag)
    assert info.etag
    # S3's HEAD has whole seconds, its listing milliseconds.
    assert abs(info.mtime_ns - head.mtime_ns) < 1_000_000_000
    assert head.mtime_ns > 1_600_000_000_000_000_000


async def test_listing_spans_pages_and_resumes_behind_a_key(mounted: Any) -> None:
    count = 23 * mounted.page_entries // 10
    names = [f"d{i % 3}/f{i:04}" for i in range(count)]
    for name in names:
        mounted.write(name, b"")
    expected = sorted(names)
    pages = [page async for page in mounted.store.list()]
    assert len(pages) >= 3
    assert all(pages)
    assert [info.key for page in pages for info in page] == expected
    half = count // 2
    assert await keys(mounted.store, start_after=expected[half]) == expected[half + 1 :]
    assert await keys(mounted.store, start_after="d1/") == [n for n in expected if n > "d1/"]
    assert await keys(mounted.store, "d1/f00") == [n for n in expected if n.startswith("d1/f00")]
    assert await keys(mounted.store, "d1/", start_after="d1/f0130") == [
        n for n in expected if n.startswith("d1/") and n > "d1/f0130"
    ]
    assert await keys(mounted.store, "nothing/here") == []


async def test_parts_between_split_points_make_the_whole_listing(mounted: Any) -> None:
    for name in [*(f"top/d{i % 7}/e{i % 3}/f{i:03}" for i in range(200)), "a", "top/x", "zzz/1"]:
        mounted.write(name, b"")
    expected = await keys(mounted.store)
    for after, until in [("", ""), ("top/", ""), ("top/d0/e1/f001", ""), ("top/d1/", "top/d5/"), ("zzz/1", "")]:
        points = await mounted.store.split_points(after, until)
        assert all(after < point and (not until or point < until) and point.endswith("/") for point in points)
        bounds = [after, *sorted(points), until or "\U0010ffff"]
        parts = [
            [key for key in await keys(mounted.store, start_after=low) if key <= high]
            for low, high in itertools.pairwise(bounds)
        ]
        assert [key for part in parts for key in part] == [key for key in expected if after < key <= bounds[-1]]
    if mounted.scheme != "file":
        assert sorted(await mounted.store.split_points("", "")) == ["top/", "zzz/"]
        assert sorted(await mounted.store.split_points("top/d1/", "top/d5/")) == ["top/d2/", "top/d3/", "top/d4/"]
        assert sorted(await mounted.store.split_points("top/d1/e0/f", "top/d2/")) == ["top/d1/e1/", "top/d1/e2/"]


async def test_put_reads_back_from_a_file_and_from_a_descriptor(writable: Any) -> None:
    body = os.urandom(300_000)
    info = await put(writable.store, "deep/er/file", body)
    assert info == await writable.store.head("deep/er/file")
    assert await read(writable.store, info) == body
    with tempfile.TemporaryFile() as file:
        file.write(body[:1000])
        file.flush()
        info = await writable.store.put("deep/er/file", file.fileno(), 1000)
        assert file.tell() == 1000
    assert await read(writable.store, info) == body[:1000]


async def test_put_above_the_multipart_limit(writable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s3.PART_BYTES", "s3.MULTIPART_ABOVE_BYTES", "oss.PART_BYTES", "oss.MULTIPART_ABOVE_BYTES"):
        monkeypatch.setattr(f"understores.{name}", 5 << 20)
    monkeypatch.setattr("understores.webhdfs.PART_BYTES", 5 << 20)
    body = os.urandom(1 << 20) * 12
    info = await put(writable.store, "big", body)
    assert info.size_bytes == len(body)
    assert await read(writable.store, info) == body


async def test_an_empty_object(mounted: Any) -> None:
    info = await written(mounted, "empty", b"")
    assert info.size_bytes == 0
    assert await read(mounted.store, info) == b""
    with pytest.raises(Changed):
        await mounted.store.get_range("empty", 0, memoryview(bytearray()), etag="other")


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (1, 3), (9, 1), (0, 10)])
async def test_ranges(mounted: Any, offset: int, length: int) -> None:
    info = await written(mounted, "ten", b"0123456789")
    assert await read(mounted.store, info, offset, length) == b"0123456789"[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(5, 6), (0, 11)])
async def test_a_range_past_the_end_is_an_error(mounted: Any, offset: int, length: int) -> None:
    info = await written(mounted, "ten", b"0123456789")
    with pytest.raises(ShortBody):
        await read(mounted.store, info, offset, length)


async def test_a_rewritten_object_is_not_read_under_its_old_etag(mounted: Any) -> None:
    old = await written(mounted, "k", b"old bytes")
    new = await written(mounted, "k", b"new bytes")
    assert new.etag != old.etag
    with pytest.raises(Changed):
        await read(mounted.store, old)
    assert await read(mounted.store, new) == b"new bytes"


async def test_a_source_shorter_than_promised_leaves_the_old_object(writable: Any) -> None:
    old = await put(writable.store, "k", b"old")
    for promised in (10, 20 << 20):
        with pytest.raises(ShortBody):
            await writable.store.put("k", io.BytesIO(b"12345"), promised)
    assert await writable.store.head("k") == old
    assert await keys(writable.store) == ["k"]


async def pieces(*sizes: int, then: BaseException | None = None) -> AsyncIterator[Piece]:
    for number, size in enumerate(sizes):
        piece = bytes([65 + number]) * size
        yield memoryview(piece) if number % 2 else piece
    if then is not None:
        raise then


@pytest.mark.parametrize("sizes", [(), (3,), (20 << 20, 20 << 20, 5)])
async def test_an_object_may_be_sent_in_pieces(writable: Any, sizes: tuple[int, ...]) -> None:
    if not writable.store.can_stream:
        pytest.skip("this store takes whole objects only")
    info = await writable.store.put_pieces("a/k", pieces(*sizes))
    assert info == await writable.store.head("a/k")
    assert await read(writable.store, info) == b"".join([piece async for piece in pieces(*sizes)])


async def test_what_was_sent_in_part_is_neither_visible_nor_left(writable: Any) -> None:
    if not writable.store.can_stream:
        pytest.skip("this store takes whole objects only")
    old = await put(writable.store, "k", b"old")
    with pytest.raises((OSError, StoreFailed)):
        await writable.store.put_pieces("k", pieces(20 << 20, 20 << 20, 5, then=OSError("given up")))
    assert await writable.store.head("k") == old
    assert await keys(writable.store) == ["k"]
    assert writable.leftovers() == []


async def test_copy_makes_a_version_of_its_own_and_keeps_the_source(writable: Any) -> None:
    await put(writable.store, "a/source", b"bytes")
    await put(writable.store, "b/target", b"in the way")
    info = await writable.store.copy("a/source", "b/target")
    assert info == await writable.store.head("b/target")
    assert await read(writable.store, info) == b"bytes"
    assert await keys(writable.store) == ["a/source", "b/target"]
    await put(writable.store, "a/source", b"other bytes")
    assert await read(writable.store, info) == b"bytes"
    await writable.store.delete("a/source")
    assert await read(writable.store, info) == b"bytes"


async def test_delete_is_idempotent(writable: Any) -> None:
    await put(writable.store, "a/b", b"x")
    await writable.store.delete("a/b")
    await writable.store.delete("a/b")
    await writable.store.delete("never/was")
    with pytest.raises(NotFound):
        await writable.store.head("a/b")


async def test_missing_objects_are_not_found(mounted: Any) -> None:
    with pytest.raises(NotFound):
        await mounted.store.head("none")
    with pytest.raises(NotFound):
        await mounted.store.get_range("none", 0, memoryview(bytearray(1)), etag="x")


async def test_what_is_missing_cannot_be_copied(writable: Any) -> None:
    with pytest.raises(NotFound):
        await writable.store.copy("none", "target")


@pytest.mark.parametrize("key", ["", "..", "a/../b", "../x", "a//b", "/a", "a/", "./a"])
async def test_keys_that_are_no_paths_are_refused(mounted: Any, key: str) -> None:
    actions: list[Callable[[], Any]] = [
        lambda: mounted.store.head(key),
        lambda: mounted.store.get_range(key, 0, memoryview(bytearray(1)), etag="x"),
    ]
    for act in actions:
        with pytest.raises(InvalidKey):
            await act()


@pytest.mark.parametrize("key", ["", "..", "a/../b", "/a", "a/"])
async def test_keys_that_are_no_paths_cannot_be_written(writable: Any, key: str) -> None:
    with pytest.raises(InvalidKey):
        await writable.store.put(key, io.BytesIO(b""), 0)
    with pytest.raises(InvalidKey):
        await writable.store.delete(key)


async def test_a_read_only_store_refuses_every_write_and_keeps_what_it_has(read_only: Any) -> None:
    info = await written(read_only, "a/b", b"bytes")
    store = read_only.store
    for act in (
        lambda: put(store, "a/b", b"new"),
        lambda: store.copy("a/b", "c"),
        lambda: store.delete("a/b"),
        lambda: store.make_directory("d"),
        lambda: store.remove_directory("a"),
    ):
        with pytest.raises(ReadOnly, match="cannot be written"):
            await act()
    assert await read(store, info) == b"bytes"
    assert await keys(store) == ["a/b"]


async def test_directories_may_be_made_and_removed_twice(writable: Any) -> None:
    for _ in range(2):
        await writable.store.make_directory("x/y/z")
    for _ in range(2):
        await writable.store.remove_directory("x/y/z")


async def test_close_may_be_called_twice(mounted: Any) -> None:
    await keys(mounted.store)
    await mounted.store.close()
