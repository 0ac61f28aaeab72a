"""Credentials of every store come from files, rotate while readers read, and show nowhere."""

import asyncio
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from tests.builders.fault_proxy import Fault, FaultProxy, Kind
from tests.builders.http_files import HttpFiles
from tests.builders.oss_server import REGION, OssServer, OssUser
from tests.builders.webhdfs_server import WebHdfsServer
from understores.credentials import SecretOptions
from understores.errors import UnderStoreError
from understores.registry import open_store

pytestmark = pytest.mark.filterwarnings("default")  # moto's server warns of its own libraries

BODY = b"x" * 50_000
OF_THE_TEST = ("aiohttp.access", "aiohttp.server", "boto", "moto", "werkzeug")
"""Loggers of the servers and of what sets them up."""


@dataclass
class Secured:
    """A mount whose credentials are files: `issue` makes new ones, `revoke` makes the server refuse all others."""

    mount_point: str
    options: dict[str, str]
    issue: Callable[[], dict[str, str]]
    revoke: Callable[[dict[str, str]], None]
    write: Callable[[str, bytes], None]
    proxy: FaultProxy
    folder: Path

    def store_files(self, values: dict[str, str]) -> None:
        """As kubelet does: a new folder, and a link swapped by a rename."""
        version = self.folder / f"..{uuid4().hex}"
        version.mkdir()
        for name, value in values.items():
            (version / name).write_text(f"{value}\n")
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")

    def open(self, values: dict[str, str]) -> Any:
        self.store_files(values)
        files = {name: f"..data/{name}" for name in values}
        return open_store(self.mount_point, self.options, SecretOptions(self.folder, files))


def canary() -> str:
    return f"canary{uuid4().hex}"


def _http(request: pytest.FixtureRequest, stack: ExitStack, folder: Path) -> Secured:
    files = HttpFiles()
    proxy = stack.enter_context(FaultProxy(stack.enter_context(files.server()).port))

    def revoke(values: dict[str, str]) -> None:
        files.authorization = f"Bearer {values['fs.http.bearerToken']}"

    def write(key: str, body: bytes) -> None:
        files.write(f"d/{key}", body)

    return Secured(f"{proxy.url}/d", {}, lambda: {"fs.http.bearerToken": canary()}, revoke, write, proxy, folder)


def _oss(request: pytest.FixtureRequest, stack: ExitStack, folder: Path) -> Secured:
    oss = OssServer(buckets={"a-bucket": {}})
    proxy = stack.enter_context(FaultProxy(stack.enter_context(oss.server()).port))

    def issue() -> dict[str, str]:
        key_id, secret, token = canary(), canary(), canary()
        oss.users[key_id] = OssUser(secret, token)
        return {"fs.oss.accessKeyId": key_id, "fs.oss.accessKeySecret": secret, "fs.oss.securityToken": token}

    def revoke(values: dict[str, str]) -> None:
        oss.users = {values["fs.oss.accessKeyId"]: oss.users[values["fs.oss.accessKeyId"]]}

    def write(key: str, body: bytes) -> None:
        oss.write("a-bucket", key, body)

    options = {"fs.oss.endpoint": proxy.url, "fs.oss.region": REGION}
    return Secured("oss://a-bucket", options, issue, revoke, write, proxy, folder)


def _webhdfs(request: pytest.FixtureRequest, stack: ExitStack, folder: Path) -> Secured:
    hdfs = WebHdfsServer(tokens={"none"})
    proxy = stack.enter_context(FaultProxy(stack.enter_context(hdfs.server()).port))

    def issue() -> dict[str, str]:
        token = canary()
        hdfs.tokens.add(token)
        return {"delegationToken": token}

    def revoke(values: dict[str, str]) -> None:
        hdfs.tokens = {values["delegationToken"]}

    def write(key: str, body: bytes) -> None:
        hdfs.write(f"/{key}", body)

    return Secured(f"webhdfs://{proxy.address}", {}, issue, revoke, write, proxy, folder)


def _s3(request: pytest.FixtureRequest, stack: ExitStack, folder: Path) -> Secured:
    import boto3

    server = request.getfixturevalue("s3_server")
    bucket = server.new_bucket()
    proxy = stack.enter_context(FaultProxy(int(server.endpoint.rpartition(":")[2])))
    iam = boto3.client(
        "iam",
        endpoint_url=server.endpoint,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    stack.callback(iam.close)
    user = f"trainer-{uuid4().hex[:8]}"
    iam.create_user(UserName=user)
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
    iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=policy)
    reset = f"{server.endpoint}/moto-api/reset-auth"

    def checks(on: bool) -> None:
        requests.post(reset, data=b"0" if on else b"Infinity", timeout=5).raise_for_status()

    def issue() -> dict[str, str]:
        checks(False)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        checks(True)
        return {"fs.s3.accessKeyId": key["AccessKeyId"], "fs.s3.accessKeySecret": key["SecretAccessKey"]}

    def revoke(values: dict[str, str]) -> None:
        checks(False)
        for one in iam.list_access_keys(UserName=user)["AccessKeyMetadata"]:
            if one["AccessKeyId"] != values["fs.s3.accessKeyId"]:
                iam.delete_access_key(UserName=user, AccessKeyId=one["AccessKeyId"])
        checks(True)

    stack.callback(checks, False)
    write = lambda key, body: server.put(bucket, key, body)  # noqa: E731
    return Secured(f"s3://{bucket}", {"endpoint": proxy.url}, issue, revoke, write, proxy, folder)


@pytest.fixture(params=[_http, _oss, _s3, _webhdfs], ids=["http", "oss", "s3", "webhdfs"])
def secured(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Secured]:
    with ExitStack() as stack:
        yield request.param(request, stack, tmp_path)


async def test_keys_rotate_without_a_failed_read(secured: Secured) -> None:
    """Readers read all the time; a key is refused by the server as soon as its successor is in the files."""
    values = secured.issue()
    secured.write("key", BODY)
    secured.revoke(values)
    store = secured.open(values)
    info = await store.head("key")
    reads, stopping = 0, False

    async def read_on() -> None:
        nonlocal reads
        while not stopping:
            buffer = bytearray(len(BODY))
            await store.get_range("key", 0, memoryview(buffer), etag=info.etag)
            assert buffer == BODY
            reads += 1

    readers = [asyncio.create_task(read_on()) for _ in range(4)]
    for _ in range(5):
        before = reads
        values = await asyncio.to_thread(secured.issue)
        secured.store_files(values)
        await asyncio.to_thread(secured.revoke, values)
        while reads < before + 10 and not any(reader.done() for reader in readers):
            await asyncio.sleep(0.001)
    stopping = True
    await asyncio.gather(*readers)
    old = secured.open(secured.issue())
    secured.revoke(values)
    with pytest.raises(UnderStoreError) as refused:
        await old.head("key")
    assert refused.value.reason == "AccessDenied"
    await store.close()
    await old.close()


async def test_credentials_show_in_no_message_log_or_repr(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    values = secured.issue()
    secured.write("key", BODY)
    secured.revoke(values)
    store = secured.open(values)
    info = await store.head("key")
    said = [repr(store), repr(info)]
    faults = [
        *((Kind.STATUS, status) for status in (301, 400, 401, 403, 404, 409, 412, 416, 429, 500)),
        (Kind.RESET, 0),
        (Kind.SHORT_BODY, 0),
    ]
    secret = "".join(values.values()).encode()
    acts: list[Callable[[], Any]] = [
        lambda: store.get_range("key", 0, memoryview(bytearray(len(BODY))), etag=info.etag),
        lambda: store.put("new", io.BytesIO(BODY), len(BODY)),
        lambda: store.head("key"),
        lambda: anext(store.list()),
    ]

    async def at_once(_seconds: float) -> None:
        return None

    store._sleep = at_once
    injected = 0
    for kind, status in faults:
        for act in acts:
            headers = {"Location": f"http://{values[next(iter(values))]}/", "x-echo": secret.decode()}
            fault = Fault(kind, lambda *_: True, times=9, status=status, headers=headers, body=secret)
            secured.proxy.faults[:] = [fault]
            try:
                await act()
            except UnderStoreError as error:
                said += [str(error), repr(error), error.message, repr(error.__cause__)]
            injected += fault.injected > 0
    secured.proxy.faults.clear()
    await store.close()
    assert injected >= 30
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith(OF_THE_TEST)]
    written = "\n".join([*said, *logged])
    assert not [name for name, value in values.items() if value in written and "KeyId" not in name]
