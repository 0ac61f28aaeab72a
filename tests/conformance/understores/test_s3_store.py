"""What only S3 has: markers, odd keys, reasons for refusals, rotation of credentials."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from understores.credentials import SecretOptions
from understores.errors import AccessDenied, BucketNotFound, UnderStoreError, Unreachable
from understores.registry import open_store
from understores.s3 import open_s3

pytestmark = pytest.mark.filterwarnings("default")


async def list_all(store: Any) -> list[str]:
    try:
        return [info.key async for page in store.list() for info in page]
    finally:
        await store.close()


async def test_markers_and_keys_that_are_no_paths_do_not_stop_a_listing(s3_server: Any) -> None:
    bucket = s3_server.new_bucket()
    names = ["p/", "p/empty-dir/", "p/a//b", "p/../q", "p/x", "p-other/y", "p"]
    for name in names:
        s3_server.client.put_object(Bucket=bucket, Key=name, Body=b"")
    store = open_store(f"s3://{bucket}/p/", s3_server.options(), SecretOptions())
    assert await list_all(store) == ["../q", "a//b", "empty-dir/", "x"]


async def test_a_missing_bucket_has_one_clear_sentence(s3_server: Any) -> None:
    store = open_store("s3://no-such-bucket", s3_server.options(), SecretOptions())
    with pytest.raises(BucketNotFound, match=r"^the bucket 'no-such-bucket' does not exist at http://"):
        await list_all(store)
    with pytest.raises(BucketNotFound):
        await store.put("k", io.BytesIO(b"x"), 1)


async def test_an_unreachable_endpoint_names_itself() -> None:
    options = {"endpoint": "http://127.0.0.1:9", "accessKeyId": "k", "accessKeySecret": "canary"}
    store = open_s3("s3://bucket", options, SecretOptions())
    for act in (lambda: list_all(store), lambda: store.head("k")):
        with pytest.raises(Unreachable, match=r"http://127.0.0.1:9 of bucket 'bucket' cannot be reached") as error:
            await act()
        assert "canary" not in str(error.value)


@pytest.fixture
def checked_keys(s3_server: Any) -> Iterator[dict[str, str]]:
    """Make the server check signatures; yields options of a user it knows."""
    import boto3

    iam = boto3.client(
        "iam",
        endpoint_url=s3_server.endpoint,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    user = f"trainer-{uuid4().hex[:8]}"
    iam.create_user(UserName=user)
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
    iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    reset = f"{s3_server.endpoint}/moto-api/reset-auth"
    requests.post(reset, data=b"0", timeout=5).raise_for_status()
    yield {
        "endpoint": s3_server.endpoint,
        "accessKeyId": key["AccessKeyId"],
        "accessKeySecret": key["SecretAccessKey"],
    }
    requests.post(reset, data=b"Infinity", timeout=5).raise_for_status()
    iam.close()


async def test_our_signature_is_accepted_and_wrong_credentials_say_what_is_wrong(
    s3_server: Any, checked_keys: dict[str, str]
) -> None:
    bucket = f"s3://{_bucket_before(s3_server)}/some prefix/ü"
    store = open_store(bucket, checked_keys, SecretOptions())
    await store.put("a b+c", io.BytesIO(b"x"), 1)
    assert await list_all(store) == ["a b+c"]
    for wrong in ({"accessKeyId": "nobody"}, {"accessKeySecret": "canary-secret"}):
        store = open_store(bucket, {**checked_keys, **wrong}, SecretOptions())
        for act in (lambda store=store: list_all(store), lambda store=store: store.put("k", io.BytesIO(b"x"), 1)):
            with pytest.raises(AccessDenied) as error:
                await act()
            assert "refused access" in error.value.message
            assert "canary" not in error.value.message


def _bucket_before(s3_server: Any) -> str:
    requests.post(f"{s3_server.endpoint}/moto-api/reset-auth", data=b"1", timeout=5).raise_for_status()
    return str(s3_server.new_bucket())


async def test_rotated_credential_files_are_used_by_the_next_request(
    s3_server: Any, checked_keys: dict[str, str], tmp_path: Path
) -> None:
    bucket = _bucket_before(s3_server)
    folder = tmp_path / "ns" / "secret"
    folder.mkdir(parents=True)
    (folder / "id").write_text("nobody\n")
    (folder / "key").write_text("nothing\n")
    secrets = SecretOptions(tmp_path, {"fs.s3.accessKeyId": "ns/secret/id", "fs.s3.accessKeySecret": "ns/secret/key"})
    store = open_store(f"s3://{bucket}", {"fs.s3.endpoint": s3_server.endpoint}, secrets)
    with pytest.raises(AccessDenied):
        await store.put("k", io.BytesIO(b"x"), 1)
    (folder / "id").write_text(checked_keys["accessKeyId"])
    (folder / "key").write_text(checked_keys["accessKeySecret"])
    assert (await store.put("k", io.BytesIO(b"x"), 1)).size_bytes == 1
    assert await list_all(store) == ["k"]


async def test_without_credentials_requests_are_not_signed(s3_server: Any) -> None:
    bucket = s3_server.new_bucket()
    s3_server.client.put_object(Bucket=bucket, Key="public", Body=b"x", ACL="public-read")
    store = open_store(f"s3://{bucket}", {"endpoint": s3_server.endpoint}, SecretOptions())
    assert (await store.head("public")).size_bytes == 1
    await store.close()


async def test_every_error_is_an_under_store_error(s3_server: Any) -> None:
    store = open_store(f"s3://{s3_server.new_bucket()}", s3_server.options(), SecretOptions())
    with pytest.raises(UnderStoreError):
        await store.head("x" * 2000)
    await store.close()
