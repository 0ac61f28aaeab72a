"""A real metadata process on a free port, and moto's S3 server."""

import json
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc as services
from tests.builders.postgres import PostgresServer

START_SECONDS = 30
DEADLINE_SECONDS = 30


@dataclass
class MetadataProcess:
    """One `python -m metadata` over a database that outlives it."""

    directory: Path
    arguments: list[str] = field(default_factory=list)
    address: str = ""
    logs: list[dict[str, Any]] = field(default_factory=list)

    def start(self) -> None:
        listen = self.address or "127.0.0.1:0"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "metadata", "--listen", listen),
                *("--store", f"sqlite://{self.directory}/meta.db"),
                *("--credentials-dir", str(self.directory), *self.arguments),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        assert self._ready.wait(START_SECONDS), f"not ready: {self.logs}"
        assert self.address, f"ended: {self.logs}"

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def kill(self) -> None:
        self._process.kill()
        self._end()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def _end(self) -> int:
        code = self._process.wait(START_SECONDS)
        self._reader.join(START_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code

    def _read_log(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": line}
            self.logs.append(event)
            if event["event"] == "metadata.ready":
                self.address = event["address"]
                self._ready.set()
        self._ready.set()


@pytest.fixture
def metadata_process(tmp_path: Path) -> Iterator[Callable[..., MetadataProcess]]:
    started: list[MetadataProcess] = []

    def start(*arguments: str) -> MetadataProcess:
        process = MetadataProcess(tmp_path / "state", list(arguments))
        process.directory.mkdir(exist_ok=True)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        if process.is_running:
            process.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def process(request: pytest.FixtureRequest, metadata_process: Callable[..., MetadataProcess]) -> MetadataProcess:
    if request.param == "sqlite":
        return metadata_process()
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return metadata_process("--store", server.new_database())


class Client:
    """The service's stubs, and what tests do with them again and again."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.namespace = services.NamespaceStub(self.channel)
        self.residency = services.ResidencyStub(self.channel)
        self.checkpoints = services.CheckpointsStub(self.channel)

    async def sync(self, uid: str, mount_point: str, *, wait: bool = True, **fields: Any) -> pb.DatasetInfo:
        mount = pb.Mount(mount_point=mount_point, options=fields.pop("options", {}))
        fields = {"namespace": "ns", "name": uid, "mounts": [mount], "writable": True, **fields}
        info = await self.namespace.Sync(pb.SyncRequest(uid=uid, **fields), timeout=10)
        return await self.settled(uid) if wait else info

    async def watch(self) -> AsyncGenerator[pb.DatasetState]:
        """What the watch tells, dataset by dataset."""
        stream = self.namespace.WatchDatasets(pb.WatchDatasetsRequest(), timeout=30)
        try:
            async for message in stream:
                for state in message.datasets:
                    yield state
        finally:
            stream.cancel()

    async def settled(self, uid: str) -> pb.DatasetInfo:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            info = await self.get(uid)
            if not info.syncing:
                return info
            assert time.monotonic() < deadline, f"still syncing: {info}"

    async def get(self, uid: str) -> pb.DatasetInfo:
        return await self.namespace.GetDataset(pb.DatasetRequest(uid=uid), timeout=10)

    async def put(
        self, uid: str, path: str, size: int = 1, etag: str = "e", request_id: str = "", node: str = ""
    ) -> int:
        request = pb.PutFileRequest(
            uid=uid, path=path, size_bytes=size, etag=etag, mtime_ns=5, mode=0o640, request_id=request_id, node=node
        )
        return (await self.namespace.PutFile(request, timeout=10)).snapshot_version

    async def lookup(self, uid: str, path: str) -> pb.Entry:
        return await self.namespace.Lookup(pb.LookupRequest(uid=uid, path=path), timeout=10)

    async def names(self, uid: str, path: str = "", limit: int = 0) -> list[str]:
        names: list[str] = []
        while True:
            page = await self.namespace.ReadDirectory(
                pb.ReadDirectoryRequest(uid=uid, path=path, after=names[-1] if names else "", limit=limit),
                timeout=10,
            )
            names += [entry.path.rpartition("/")[2] for entry in page.entries]
            if not page.more:
                return names

    async def manifest(self, uid: str, *paths: str) -> list[str]:
        call = self.namespace.Manifest(pb.ManifestRequest(uid=uid, paths=paths), timeout=20)
        return [entry.path async for batch in call for entry in batch.entries]


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[MetadataProcess], Client]]:
    clients: list[Client] = []

    def open_client(process: MetadataProcess) -> Client:
        clients.append(Client(process.address))
        return clients[-1]

    yield open_client
    for client in clients:
        await client.channel.close()


@contextmanager
def refused(code: grpc.StatusCode, words: str) -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        yield
    assert error.value.code() is code, error.value
    assert words in (error.value.details() or ""), error.value


@pytest.fixture(name="refused")
def refused_fixture() -> Any:
    return refused


@dataclass(frozen=True)
class S3Server:
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
        return {"endpoint": self.endpoint, "accessKeyId": "key", "accessKeySecret": "secret"}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moto's own libraries
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        yield S3Server(f"http://{host}:{port}", client)
        client.close()
        server.stop()
