"""The stores that every rule of the contract is held against, each over a server that speaks its protocol."""

import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.builders.fault_proxy import FaultProxy, Matches
from tests.builders.http_files import HttpFiles
from tests.builders.oss_server import REGION, OssServer, OssUser
from tests.builders.real_hadoop import RealHadoop
from tests.builders.real_seaweedfs import RealSeaweedFS
from tests.builders.webhdfs_server import WebHdfsServer
from understores.base import UnderStore
from understores.credentials import SecretOptions
from understores.registry import open_store
from understores.retrying import RetryingStore


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


PAGE_ENTRIES: Final = 100
"""Of every store here: a listing of several pages needs few objects."""
_PAGE_SIZES: Final = (
    "http.PAGE_ENTRIES",
    "oss.PAGE_KEYS",
    "posix.PAGE_ENTRIES",
    "s3_listing.PAGE_KEYS",
    "webhdfs.PAGE_ENTRIES",
)


@dataclass(frozen=True)
class Mounted:
    """A store under test, and a second way in to put bytes there."""

    store: UnderStore
    write: Callable[[str, bytes], None]
    scheme: str
    page_entries: int = PAGE_ENTRIES
    leftovers: Callable[[], list[str]] = list
    """Names of what is there and no object: temporary files, uploads nobody ended."""


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _PAGE_SIZES:
        monkeypatch.setattr(f"understores.{name}", PAGE_ENTRIES)


Through = Callable[[int], int]
"""The port at which clients reach a server's port: its own, or a proxy's."""


def directly(port: int) -> int:
    return port


@contextmanager
def _file(request: pytest.FixtureRequest, through: Through) -> Iterator[Mounted]:
    root: Path = request.getfixturevalue("tmp_path") / "store"
    root.mkdir()

    def write(key: str, body: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def leftovers() -> list[str]:
        return [path.name for path in root.rglob("*") if path.name.startswith(".headrace-tmp-")]

    yield Mounted(open_store(f"file://{root}", {}, SecretOptions()), write, "file", leftovers=leftovers)


@contextmanager
def _s3(request: pytest.FixtureRequest, through: Through) -> Iterator[Mounted]:
    server: S3Server = request.getfixturevalue("s3_server")
    bucket = server.new_bucket()

    def write(key: str, body: bytes) -> None:
        server.put(bucket, f"some/prefix/{key}", body)

    options = {**server.options(), "endpoint": f"http://127.0.0.1:{through(int(server.endpoint.rpartition(':')[2]))}"}

    def leftovers() -> list[str]:
        listed = server.client.list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in listed.get("Uploads", [])]

    yield Mounted(open_store(f"s3://{bucket}/some/prefix", options, SecretOptions()), write, "s3", leftovers=leftovers)


@contextmanager
def _http(request: pytest.FixtureRequest, through: Through) -> Iterator[Mounted]:
    files = HttpFiles(root="some prefix/")
    with files.server() as server:
        store = open_store(f"http://127.0.0.1:{through(server.port)}/some%20prefix", {}, SecretOptions())
        yield Mounted(store, lambda key, body: files.write(f"some prefix/{key}", body), "http")


OSS_OPTIONS = {
    "fs.oss.region": REGION,
    "fs.oss.accessKeyId": "id",
    "fs.oss.accessKeySecret": "secret",
    "fs.oss.securityToken": "token",
}


@contextmanager
def _oss(request: pytest.FixtureRequest, through: Through) -> Iterator[Mounted]:
    oss = OssServer(users={"id": OssUser("secret", "token")}, buckets={"a-bucket": {}})

    def write(key: str, body: bytes) -> None:
        oss.write("a-bucket", f"some prefix/{key}", body)

    with oss.server() as server:
        store = open_store(
            "oss://a-bucket/some%20prefix",
            {**OSS_OPTIONS, "fs.oss.endpoint": f"http://127.0.0.1:{through(server.port)}"},
            SecretOptions(),
        )
        yield Mounted(store, write, "oss", leftovers=lambda: list(oss.uploads))


@contextmanager
def _webhdfs(request: pytest.FixtureRequest, through: Through) -> Iterator[Mounted]:
    hdfs = WebHdfsServer(batch=PAGE_ENTRIES, tokens={"token"})
    hdfs.make_directory("/some prefix")
    with hdfs.server() as server:
        store = open_store(
            f"webhdfs://127.0.0.1:{through(server.port)}/some%20prefix", {"delegationToken": "token"}, SecretOptions()
        )
        yield Mounted(store, lambda key, body: hdfs.write(f"/some prefix/{key}", body), "webhdfs")


Server = TypeVar("Server", RealHadoop, RealSeaweedFS)


def _real(kind: type[Server], folder: Path) -> Iterator[Server]:
    if missing := kind.missing():
        pytest.skip(missing)
    with kind(folder) as server:
        yield server


@pytest.fixture(scope="session")
def real_hadoop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHadoop]:
    yield from _real(RealHadoop, tmp_path_factory.mktemp("hadoop"))


@contextmanager
def _hadoop(request: pytest.FixtureRequest, through: Through) -> Iterator[Mounted]:
    hadoop: RealHadoop = request.getfixturevalue("real_hadoop")
    root = f"/{uuid4().hex}/some prefix"
    hadoop.make_directory(root)
    options = {"dfs.namenode.http-address": hadoop.address, "hadoop.user.name": hadoop.user}
    store = open_store(f"hdfs://namenode{quote(root)}", options, SecretOptions())
    yield Mounted(store, lambda key, body: hadoop.write(f"{root}/{key}", body), "hadoop")


@pytest.fixture(scope="session")
def real_seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSeaweedFS]:
    yield from _real(RealSeaweedFS, tmp_path_factory.mktemp("seaweedfs"))


@contextmanager
def _seaweedfs(request: pytest.FixtureRequest, through: Through) -> Iterator[Mounted]:
    server: RealSeaweedFS = request.getfixturevalue("real_seaweedfs")
    prefix = f"{uuid4().hex}/some/prefix"
    options = {**server.options(), "endpoint": f"http://127.0.0.1:{through(server.port)}"}
    store = open_store(f"s3://{server.bucket}/{prefix}", options, SecretOptions())
    yield Mounted(
        store,
        lambda key, body: server.write(f"{prefix}/{key}", body),
        "s3",
        leftovers=lambda: server.uploads(prefix),
    )


STORES: dict[str, Callable[[pytest.FixtureRequest, Through], AbstractContextManager[Mounted]]] = {
    "file": _file,
    "s3": _s3,
    "http": _http,
    "oss": _oss,
    "webhdfs": _webhdfs,
    "hadoop": _hadoop,
    "seaweedfs": _seaweedfs,
}
READ_ONLY = frozenset({"http"})
NIGHTLY = frozenset({"hadoop", "seaweedfs"})


def parameters(*names: str) -> list[Any]:
    """Stores by name, real servers for the nightly suite."""
    return [pytest.param(name, marks=[pytest.mark.nightly] if name in NIGHTLY else []) for name in names]


ALL = parameters(*STORES)
WRITABLE = parameters(*(name for name in STORES if name not in READ_ONLY))


@pytest.fixture(params=ALL)
async def mounted(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    """Every store."""
    with STORES[request.param](request, directly) as opened:
        yield opened
        await opened.store.close()


@pytest.fixture(params=parameters("http", "oss", "webhdfs", "seaweedfs"))
async def cuttable(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    """Stores with small pages that can be listed in parts; moto's S3 is in tests/integration/metadata."""
    with STORES[request.param](request, directly) as opened:
        yield opened
        await opened.store.close()


@pytest.fixture(params=WRITABLE)
async def writable(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    """Every store that can be written."""
    with STORES[request.param](request, directly) as opened:
        yield opened
        await opened.store.close()


@pytest.fixture(params=READ_ONLY)
async def read_only(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    """Every store that cannot."""
    with STORES[request.param](request, directly) as opened:
        yield opened
        await opened.store.close()


@dataclass(frozen=True)
class Proxied:
    """A store that reaches its server through a proxy; `waits` are the pauses between its tries, which take no time."""

    mounted: Mounted
    proxy: FaultProxy
    waits: list[float]

    def reads(self, key: str) -> Matches:
        """Requests for bytes of `key`."""
        step = "namenoderpcaddress" if self.mounted.scheme == "webhdfs" else ""
        return lambda method, target: method == "GET" and f"/{key}" in target and step in target

    def writes(self) -> Matches:
        """Requests that carry an object's bytes."""
        step = "namenoderpcaddress" if self.mounted.scheme == "webhdfs" else ""
        return lambda method, target: method in ("PUT", "POST") and step in target and "uploads" not in target

    def lists(self) -> Matches:
        """Requests for names."""
        named = {"http": "prefix/", "webhdfs": "LISTSTATUS"}.get(self.mounted.scheme, "list-type=2")
        return lambda method, target: method == "GET" and named in target


@asynccontextmanager
async def _proxied(request: pytest.FixtureRequest) -> AsyncIterator[Proxied]:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for module in ("http_client", "oss_client", "s3"):
            patch.setattr(f"understores.{module}.STALL_SECONDS", 0.5)
        proxies: list[FaultProxy] = []

        def through(port: int) -> int:
            proxies.append(stack.enter_context(FaultProxy(port)))
            return proxies[0].port

        opened = stack.enter_context(STORES[request.param](request, through))
        assert isinstance(opened.store, RetryingStore)
        opened.store._sleep = wait
        yield Proxied(opened, proxies[0], waits)
        await opened.store.close()


@pytest.fixture(params=parameters("http", "oss", "s3", "webhdfs", "seaweedfs"))
async def proxied(request: pytest.FixtureRequest) -> AsyncIterator[Proxied]:
    """Every store that is reached over the network."""
    async with _proxied(request) as opened:
        yield opened


@pytest.fixture(params=parameters("oss", "s3", "webhdfs", "seaweedfs"))
async def writable_proxied(request: pytest.FixtureRequest) -> AsyncIterator[Proxied]:
    """Every store that is written over the network."""
    async with _proxied(request) as opened:
        yield opened
