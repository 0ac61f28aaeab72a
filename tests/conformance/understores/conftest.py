"""The two stores every rule of the contract is held against: a directory, and moto's S3 server."""

import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from understores.base import UnderStore
from understores.credentials import SecretOptions
from understores.registry import open_store


@dataclass(frozen=True)
class S3Server:
    """A running S3 server and a client with which a test can look behind the store's back."""

    endpoint: str
    client: Any

    def new_bucket(self) -> str:
        name = f"bucket-{uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Write behind HTTP's back: thousands of objects in a moment."""
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, body)

    def options(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "accessKeyId": "key", "accessKeySecret": "secret", "region": "us-east-1"}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        yield S3Server(endpoint, client)
        client.close()
        server.stop()


@dataclass(frozen=True)
class Mounted:
    """A store under test, and a second way in to put bytes there."""

    store: UnderStore
    write: Callable[[str, bytes], None]
    scheme: str
    leftovers: Callable[[], list[str]]
    """Names of what is there and no object: temporary files, uploads nobody ended."""


@pytest.fixture(params=["file", "s3"])
async def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mounted]:
    if request.param == "file":
        root = tmp_path / "store"
        root.mkdir()

        def write_file(key: str, body: bytes) -> None:
            path = root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)

        store = open_store(f"file://{root}", {}, SecretOptions())
        write = write_file

        def leftovers() -> list[str]:
            return [path.name for path in root.rglob("*") if path.name.startswith(".headrace-tmp-")]

    else:
        server: S3Server = request.getfixturevalue("s3_server")
        bucket = server.new_bucket()

        def write_object(key: str, body: bytes) -> None:
            server.put(bucket, f"some/prefix/{key}", body)

        store = open_store(f"s3://{bucket}/some/prefix", server.options(), SecretOptions())
        write = write_object

        def leftovers() -> list[str]:
            listed = server.client.list_multipart_uploads(Bucket=bucket)
            return [upload["Key"] for upload in listed.get("Uploads", [])]

    yield Mounted(store, write, request.param, leftovers)
    await store.close()
