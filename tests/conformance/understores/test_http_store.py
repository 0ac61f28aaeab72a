"""What only a web server has: kinds of pages, validators that are missing, redirects, servers without ranges."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders.http_files import HttpFiles
from understores.base import ObjectInfo
from understores.credentials import SecretOptions
from understores.errors import AccessDenied, BucketNotFound, Changed, NotFound, StoreFailed
from understores.registry import open_store


@contextmanager
def served(**settings: Any) -> Iterator[tuple[HttpFiles, str]]:
    files = HttpFiles(**settings)
    with files.server() as server:
        yield files, server.url


async def listed(store: Any, prefix: str = "") -> list[ObjectInfo]:
    return [info async for page in store.list(prefix) for info in page]


async def read(store: Any, info: ObjectInfo, offset: int = 0) -> bytes:
    buffer = bytearray(info.size_bytes - offset)
    await store.get_range(info.key, offset, memoryview(buffer), etag=info.etag)
    return bytes(buffer)


@pytest.mark.parametrize("pages", ["nginx", "apache", "python", "json"])
@pytest.mark.parametrize("validators", [("ETag",), ("Last-Modified",), ("W/ETag", "Last-Modified")])
async def test_every_kind_of_page_and_validator(pages: str, validators: tuple[str, ...]) -> None:
    with served(pages=pages, validators=validators) as (files, url):
        files.write("d/a&b ü.bin", b"0123456789")
        files.write("d/e/f", b"x")
        store = open_store(f"{url}/d/", {}, SecretOptions())
        old, other = await listed(store)
        assert [old.key, other.key] == ["a&b ü.bin", "e/f"]
        assert await read(store, old, 3) == b"3456789"
        files.write("d/a&b ü.bin", b"abcdefghij")
        with pytest.raises(Changed):
            await read(store, old, 3)
        with pytest.raises(NotFound):
            await store.head("e")
        await store.close()


async def test_a_website_is_no_directory() -> None:
    with served(pages="website") as (files, url):
        files.write("d/a", b"x")
        store = open_store(f"{url}/d", {}, SecretOptions())
        with pytest.raises(StoreFailed, match="is not a directory page"):
            await listed(store)
        store_without = open_store(f"{url}/none", {}, SecretOptions())
        with pytest.raises(BucketNotFound, match="/none/ does not exist"):
            await listed(store_without)
        await store.close()
        await store_without.close()


async def test_an_index_file_takes_the_place_of_pages() -> None:
    with served(pages="website") as (files, url):
        files.write("d/b", b"1234")
        files.write("d/a/x", b"x")
        known = files.files["d/b"].etag
        files.write("d/files.txt", f"b\t4\t{known}\na/x\n".encode())
        store = open_store(f"{url}/d", {"index": "files.txt"}, SecretOptions())
        x, b = await listed(store)
        assert (x.key, x.size_bytes, b.key, b.size_bytes) == ("a/x", 1, "b", 4)
        assert files.calls["HEAD"] == 1
        assert await read(store, b) == b"1234"
        assert [info.key for info in await listed(store, "a/")] == ["a/x"]
        files.write("d/files.txt", b"gone\n")
        with pytest.raises(StoreFailed, match=r"the index names .*gone, which does not exist"):
            await listed(store)
        await store.close()


async def test_a_file_without_any_validator_is_refused() -> None:
    with served(validators=()) as (files, url):
        files.write("a", b"x")
        store = open_store(url, {}, SecretOptions())
        with pytest.raises(StoreFailed, match="neither ETag nor Last-Modified"):
            await listed(store)
        await store.close()


async def test_a_server_without_ranges_is_read_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    body = os.urandom(300_000)
    with served(has_ranges=False, head_status=405) as (files, url):
        files.write("a", body)
        store = open_store(url, {}, SecretOptions())
        info = await store.head("a")
        assert info.size_bytes == len(body)
        assert await read(store, info, 200_000) == body[200_000:]
        buffer = bytearray(10)
        await store.get_range("a", 5, memoryview(buffer), etag=info.etag)
        assert buffer == body[5:15]
        monkeypatch.setattr("understores.http.SKIP_BYTES_MAX", 1000)
        with pytest.raises(StoreFailed, match="serves no byte ranges"):
            await read(store, info, 2000)
        await store.close()


async def test_redirects_are_followed_without_handing_credentials_on(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary-token")
    secrets = SecretOptions(tmp_path, {"fs.http.bearerToken": "token"})
    with served() as (elsewhere, other_url), served(authorization="Bearer canary-token") as (files, url):
        elsewhere.write("store/object", b"bytes")
        files.redirects["d/a"] = f"{other_url}/store/object?signature=x"
        files.redirects["d/loop"] = f"{url}/d/loop"
        files.redirects["d/odd"] = "ftp://host/x"
        store = open_store(f"{url}/d", {}, secrets)
        info = await store.head("a")
        assert await read(store, info) == b"bytes"
        assert set(elsewhere.authorizations) == {""}
        for key, words in (("loop", "more than 5 redirects"), ("odd", "no http")):
            with pytest.raises(StoreFailed, match=words):
                await store.head(key)
        (tmp_path / "token").write_text("another")
        with pytest.raises(AccessDenied, match=r"refused \(HTTP 401\)") as error:
            await store.head("a")
        assert "another" not in error.value.message
        await store.close()


async def test_a_file_rewritten_while_it_is_sent_is_not_mixed() -> None:
    with served() as (files, url):
        files.write("a", b"o" * 100_000)
        store = open_store(url, {}, SecretOptions())
        info = await store.head("a")
        written = files.writes
        files.while_sending = lambda path: files.write(path, b"n" * 100_000)
        with pytest.raises(Changed):
            await read(store, info)
        assert files.writes == written + 1
        assert await read(store, await store.head("a")) == b"n" * 100_000
        await store.close()
