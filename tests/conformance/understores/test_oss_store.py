"""What only OSS has: signature V4, STS tokens, copies in parts, markers, its error codes, what is left behind."""

import gc
import io
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.builders.loopback_server import LoopbackServer
from tests.builders.oss_server import REGION, OssServer, OssUser, signature
from understores.credentials import SecretOptions
from understores.errors import (
    AccessDenied,
    BucketNotFound,
    Changed,
    InvalidKey,
    InvalidMount,
    ShortBody,
    UnderStoreError,
    Unreachable,
)
from understores.oss_settings import OssKeys, parse_keys, parse_mount
from understores.registry import open_store


@pytest.mark.parametrize(
    ("stamp", "token", "additional", "expected"),
    [
        ("20231216T162057Z", "", [], "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"),
        ("20231217T034736Z", "token", [], "b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea"),
        ("20231216T172512Z", "", ["abc", "zabc"], "4a4183c187c07c8947db7620deb0a6b38d9fbdd34187b6dbaccb316fa251212f"),
    ],
)
def test_the_servers_own_signatures_are_those_of_alibabas_sdk_tests(
    stamp: str, token: str, additional: list[str], expected: str
) -> None:
    """Inputs and signatures: SignerV4Tests of Alibaba's OSS SDKs."""
    query = {"param1": "value1", "+param1": "value3", "|param1": "value4", "+param2": "", "|param2": "", "param2": ""}
    headers = {"x-oss-head1": "value", "abc": "value", "zabc": "value", "xyz": "value", "content-type": "text/plain"}
    headers |= {"x-oss-content-sha256": "UNSIGNED-PAYLOAD", "x-oss-date": stamp}
    if token:
        headers["x-oss-security-token"] = token
    found = signature(
        "sk", "PUT", "/bucket/1234+-/123/1.txt", query, headers, additional, stamp=stamp, region="cn-hangzhou"
    )
    assert found == expected


@pytest.fixture
def oss() -> OssServer:
    return OssServer(users={"id": OssUser("secret")}, buckets={"a-bucket": {}})


@pytest.fixture
def served(oss: OssServer) -> Iterator[LoopbackServer]:
    with oss.server() as server:
        yield server


def options(server: LoopbackServer, **changes: str) -> dict[str, str]:
    return {
        "fs.oss.endpoint": server.url,
        "fs.oss.region": REGION,
        "fs.oss.accessKeyId": "id",
        "fs.oss.accessKeySecret": "secret",
        **{f"fs.oss.{name}": value for name, value in changes.items()},
    }


async def put(store: Any, key: str, body: bytes) -> Any:
    return await store.put(key, io.BytesIO(body), len(body))


async def listed(store: Any) -> list[str]:
    return [info.key async for page in store.list() for info in page]


async def test_markers_and_keys_that_are_no_paths_do_not_stop_a_listing(oss: OssServer, served: LoopbackServer) -> None:
    for name in ["p/", "p/empty-dir/", "p/a//b", "p/../q", "p/x", "p-other/y", "p", "p/%2F+ <&>"]:
        oss.write("a-bucket", name, b"")
    store = open_store("oss://a-bucket/p/", options(served), SecretOptions())
    assert await listed(store) == ["%2F+ <&>", "../q", "a//b", "empty-dir/", "x"]
    await store.close()


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"accessKeyId": "nobody"}, AccessDenied, "the access key id is not known"),
        ({"accessKeySecret": "canary"}, AccessDenied, "the access key secret is wrong"),
        ({"securityToken": "canary"}, AccessDenied, "the session token is not valid"),
        ({"accessKeySecret": "canary\nx"}, AccessDenied, "the access key secret is wrong"),
        ({"securityToken": "canary\nx"}, AccessDenied, "characters that no credentials have"),
    ],
)
async def test_refusals_say_what_is_wrong(
    oss: OssServer, served: LoopbackServer, changes: dict[str, str], kind: type[UnderStoreError], words: str
) -> None:
    store = open_store("oss://a-bucket", options(served, **changes), SecretOptions())
    for act in (lambda: listed(store), lambda: put(store, "k", b"x")):
        with pytest.raises(kind, match=words) as error:
            await act()
        assert "canary" not in str(error.value) + repr(error.value.__cause__)
    await store.close()


async def test_missing_buckets_endpoints_and_odd_keys_have_one_sentence(served: LoopbackServer) -> None:
    store = open_store("oss://other-bucket", options(served), SecretOptions())
    with pytest.raises(BucketNotFound, match="the bucket 'other-bucket' does not exist at http"):
        await listed(store)
    await store.close()
    store = open_store("oss://a-bucket", options(served), SecretOptions())
    with pytest.raises(InvalidKey):
        await put(store, "x" * 1100, b"x")
    with pytest.raises(InvalidKey):
        await store.head("\udcff")
    await store.close()
    wrong = {**options(served), "fs.oss.endpoint": "http://127.0.0.1:9"}
    store = open_store("oss://a-bucket", wrong, SecretOptions())
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9 of bucket 'a-bucket' cannot be reached"):
        await store.head("k")
    await store.close()


async def test_an_expired_token_is_said_and_a_new_one_used(
    oss: OssServer, served: LoopbackServer, tmp_path: Path
) -> None:
    oss.users["sts"] = OssUser("s1", "token-1", datetime(2026, 1, 1, tzinfo=UTC))
    names = ("accessKeyId", "accessKeySecret", "securityToken")
    for name, value in zip(names, ("sts", "s1", "token-1"), strict=True):
        (tmp_path / name).write_text(f"{value}\n")
    secrets = SecretOptions(tmp_path, {f"fs.oss.{name}": name for name in names})
    store = open_store("oss://a-bucket", {"fs.oss.endpoint": served.url, "fs.oss.region": REGION}, secrets)
    with pytest.raises(AccessDenied, match="the session token has expired"):
        await put(store, "k", b"x")
    oss.users["sts-2"] = OssUser("s2", "token-2")
    for name, value in zip(names, ("sts-2", "s2", "token-2"), strict=True):
        (tmp_path / name).write_text(value)
    assert (await put(store, "k", b"x")).size_bytes == 1
    assert await listed(store) == ["k"]
    await store.close()


async def test_a_public_bucket_needs_no_signature(oss: OssServer, served: LoopbackServer) -> None:
    oss.public.add("a-bucket")
    oss.write("a-bucket", "k", b"x")
    store = open_store("oss://a-bucket", {"fs.oss.endpoint": served.url, "fs.oss.region": REGION}, SecretOptions())
    assert await listed(store) == ["k"]
    await store.close()


async def test_parts_are_uploaded_copied_and_not_left_behind(
    oss: OssServer, served: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understores.oss.MULTIPART_ABOVE_BYTES", 1 << 20)
    monkeypatch.setattr("understores.oss.PART_BYTES", 1 << 20)
    monkeypatch.setattr("understores.oss.SERVER_COPY_BYTES_MAX", 1 << 20)
    monkeypatch.setattr("understores.oss.COPY_PART_BYTES", 1 << 20)
    store = open_store("oss://a-bucket/p", options(served), SecretOptions())
    body = os.urandom((6 << 20) + 5)
    info = await put(store, "big", body)
    assert (oss.calls["part"], oss.calls["complete"], info.etag[-2:]) == (7, 1, "-7")
    await store.copy("big", "copied")
    assert oss.calls["part-copy"] == 7
    assert oss.buckets["a-bucket"]["p/copied"].body == body
    with pytest.raises(ShortBody):
        await store.put("big", io.BytesIO(b"too short"), 5 << 20)
    assert oss.uploads == {}
    assert oss.buckets["a-bucket"]["p/big"].body == body
    await store.close()


async def test_bytes_that_change_on_the_way_are_refused(
    oss: OssServer, served: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store("oss://a-bucket", options(served), SecretOptions())
    monkeypatch.setattr("understores.oss._digest", lambda body: {"Content-MD5": "ICy5YqxZB1uWSwcVLSNLcA=="})
    with pytest.raises(UnderStoreError, match="InvalidDigest"):
        await put(store, "k", b"not 123")
    assert oss.buckets["a-bucket"] == {}
    await store.close()


async def test_a_redirect_is_not_followed_with_credentials(oss: OssServer, served: LoopbackServer) -> None:
    async def redirect(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{served.url}{request.raw_path}"})

    with LoopbackServer(redirect) as other:
        store = open_store("oss://a-bucket", {**options(served), "fs.oss.endpoint": other.url}, SecretOptions())
        with pytest.raises(InvalidMount, match="redirects bucket 'a-bucket': check the endpoint"):
            await store.head("k")
        await store.close()
    assert not oss.keys_seen


# oss2 drops the answer it could not read, and its connection with it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("headers", [{"Last-Modified": "yesterday"}, {"ETag": ""}])
async def test_headers_that_make_no_sense_are_an_error_of_the_store(headers: dict[str, str]) -> None:
    """Never one of oss2: a task that only knows our errors would end with it."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        good = {"Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT", "ETag": '"e"', "Content-Range": "bytes 0-0/1"}
        return web.Response(status=200 if request.method == "HEAD" else 206, body=b"x", headers={**good, **headers})

    fields = {"fs.oss.region": REGION, "fs.oss.accessKeyId": "id", "fs.oss.accessKeySecret": "secret"}
    with LoopbackServer(answer) as lying:
        store: Any = open_store("oss://a-bucket", {**fields, "fs.oss.endpoint": lying.url}, SecretOptions())
        try:
            for ask in (store._store.head("k"), store._store.get_range("k", 0, memoryview(bytearray(1)), etag="x")):
                with pytest.raises(UnderStoreError) as error:
                    await ask
                assert error.value.retryable or isinstance(error.value, Changed)
        finally:
            await store.close()
            gc.collect()


async def test_a_read_that_was_given_up_writes_to_nobodys_memory(oss: OssServer, served: LoopbackServer) -> None:
    """The deadline of a read ends while its thread still gets bytes."""
    from understores.oss import _Call

    store = open_store("oss://a-bucket", options(served), SecretOptions())
    info = await put(store, "k", b"x" * 100_000)
    call, buffer = _Call(), bytearray(100_000)
    inner: Any = store
    call.abandon()
    with pytest.raises(ShortBody, match="nobody waits"):
        inner._store._get_range(call, "k", 0, memoryview(buffer), info.etag)
    assert buffer == bytes(100_000)
    with pytest.raises(Changed):
        await store.get_range("k", 0, memoryview(buffer), etag="0")
    await store.close()


def test_mounts_as_fluid_and_jindofs_write_them() -> None:
    internal = {"fs.oss.endpoint": "oss-cn-hangzhou-internal.aliyuncs.com"}
    mount = parse_mount("oss://my-bucket/a/b/", internal)
    assert (mount.bucket, mount.prefix, mount.region, mount.endpoint) == (
        "my-bucket",
        "a/b/",
        "cn-hangzhou",
        "https://oss-cn-hangzhou-internal.aliyuncs.com",
    )
    assert parse_mount("oss://my-bucket.oss-us-east-1.aliyuncs.com/x", {}).region == "us-east-1"
    assert parse_mount("oss://my-bucket", {**internal, "region": "oss-ap-southeast-5"}).region == "ap-southeast-5"
    keys = parse_keys({"fs.oss.accessKeyId": "id", "accessKeySecret": "canary", "fs.oss.securityToken": "canary"})
    assert keys == OssKeys("id", "canary", "canary")
    assert "canary" not in repr(keys)
