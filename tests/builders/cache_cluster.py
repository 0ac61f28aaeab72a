"""A small real cache for tests: the metadata process, worker processes, a directory as under store.

Owns processes and their folders; `CacheCluster.stop` ends what it started, by process id. `LocalClient` is a reader
of the node: the unix socket with plain blocking calls, and descriptors that are really read.
"""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from api import byteplane as bp
from api.byteplane import HEADER, Failure, Flag, Op, Struct
from api.gen import metadata_pb2, metadata_pb2_grpc, worker_pb2, worker_pb2_grpc
from api.trust.channels import open_blocking_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, Role
from headrace.trust.authority import TrustAuthority

ADMIN = Identity(Role.ADMIN, "tests")
ROOT = Path(__file__).resolve().parents[2]
# A smaller probe and quicker news than in production, where a second is soon enough; and nothing that nobody asked for,
# so that bytes can be counted.
TUNABLES = {
    "HEADRACE_WORKER_PROBE_BYTES": "1048576",
    "HEADRACE_WORKER_WORKERS_SECONDS": "0.2",
    "HEADRACE_WORKER_PREHEAT_BYTES": "0",
}
T = TypeVar("T")
M = TypeVar("M", bound=Struct)


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 30.0) -> T:
    """Return the first answer of `look` that is not None or False; AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class WorkerRefused(Exception):
    """The worker answered an errno."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"{os.strerror(number)}: {message}")
        self.errno = number


class LocalClient:
    """Blocking client of a worker's unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._id = 0

    def close(self) -> None:
        self._socket.close()

    def authorize(self, token: str) -> bp.Authorized:
        """Show a token; WorkerRefused."""
        return self.call(Op.AUTHORIZE, bp.Authorize(token=token), bp.Authorized)[0]

    def call(self, op: Op, meta: Struct, kind: type[M]) -> tuple[M, bytes, int | None]:
        """Return the reply's meta, its data and its descriptor; WorkerRefused."""
        self._id += 1
        self._socket.sendall(bp.encode(op, self._id, meta))
        raw, descriptor = self._first(HEADER.size)
        header = bp.decode_header(raw)
        assert header.request_id == self._id and header.flags & Flag.REPLY
        body = self._exactly(header.meta_bytes)
        data = self._exactly(header.data_bytes)
        if header.status:
            raise WorkerRefused(header.status, bp.decode_meta(body, Failure).message)
        assert bool(header.flags & Flag.FD) == (descriptor is not None)
        return bp.decode_meta(body, kind), data, descriptor

    def tell(self, op: Op, meta: Struct) -> None:
        """Send a request that has no reply."""
        self._id += 1
        self._socket.sendall(bp.encode(op, self._id, meta))

    def _first(self, size: int) -> tuple[bytes, int | None]:
        data, ancillary, _, _ = self._socket.recvmsg(size, socket.CMSG_SPACE(4))
        numbers = array.array("i")
        for _, _, payload in ancillary:
            numbers.frombytes(payload[: len(payload) - len(payload) % 4])
        return data + self._exactly(size - len(data)), numbers[0] if numbers else None

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._socket.recv(min(size, 1 << 20))
            if not part:
                raise ConnectionResetError("the worker hung up")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    @contextmanager
    def opened(self, uid: str, entry: metadata_pb2.Entry) -> Iterator[tuple[bp.Opened, int]]:
        """OPEN … CLOSE."""
        meta = bp.Open(uid=uid, path=entry.path, etag=entry.etag, size_bytes=entry.size_bytes)
        opened, _, descriptor = self.call(Op.OPEN, meta, bp.Opened)
        assert descriptor is not None
        try:
            yield opened, descriptor
        finally:
            os.close(descriptor)
            self.call(Op.CLOSE, bp.Handle(handle=opened.handle), bp.Empty)

    def read(self, uid: str, entry: metadata_pb2.Entry) -> tuple[bytes, bp.Ensured]:
        """Read a whole file as the mount does: ENSURE, then the descriptor."""
        with self.opened(uid, entry) as (opened, descriptor):
            ensure = bp.Ensure(handle=opened.handle, offset_bytes=0, length_bytes=entry.size_bytes)
            ensured, _, _ = self.call(Op.ENSURE, ensure, bp.Ensured)
            return os.pread(descriptor, entry.size_bytes, 0), ensured

    def write(self, uid: str, path: str, data: bytes, *, mode: int = 0o644, may_seal: bool = False) -> bp.Committed:
        """CREATE, write, COMMIT, CLOSE; `may_seal` as the mount does."""
        create = bp.Create(uid=uid, path=path, may_seal=may_seal)
        created, _, descriptor = self.call(Op.CREATE, create, bp.Created)
        assert descriptor is not None
        os.write(descriptor, data)
        os.close(descriptor)
        commit = bp.Commit(handle=created.handle, mode=mode, mtime_ns=time.time_ns())
        committed, _, _ = self.call(Op.COMMIT, commit, bp.Committed)
        self.call(Op.CLOSE, bp.Handle(handle=created.handle), bp.Empty)
        return committed


@dataclass
class WorkerProcess:
    """One worker and where it is."""

    node: str
    folder: Path
    tiers: list[str]
    metadata: str
    credentials: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    metrics_port: int = 0
    trust: Path | None = None
    arguments: tuple[str, ...] = ()

    @property
    def socket(self) -> Path:
        return self.folder / "worker.sock"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics_port = free_port()
        tiers = [word for tier in self.tiers for word in ("--tier", tier)]
        with (self.folder / "log").open("ab") as log:
            options = {
                "--node": self.node,
                "--metadata": self.metadata,
                "--listen": "127.0.0.1:0",
                "--control": "127.0.0.1:0",
                "--socket": str(self.socket),
                "--credentials-dir": str(self.credentials),
                "--metrics": f"127.0.0.1:{self.metrics_port}",
            }
            if self.trust is not None:
                options["--trust"] = str(self.trust)
            words = [word for option in options.items() for word in option]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cacheruntime", "worker", *words, *tiers, *self.arguments],
                cwd=ROOT,
                env={**os.environ, **TUNABLES, **self.environment},
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        wait_for(f"{self.node} ready\n{self.log}", lambda: self._is_ready() or None)

    def _is_ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log
        return self.log.rpartition("worker_starts")[2].count('"worker_ready"') > 0

    def serving_pids(self) -> list[int]:
        """Processes that were ready to serve, in their order: of a keeper's worker, another than its own."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line["pid"] for line in lines if line["event"] == "worker_ready"]

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)

    def client(self) -> LocalClient:
        return LocalClient(self.socket)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that have these labels."""
        text = self.metrics_text()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == f"headrace_worker_{name}" and all(label in head for label in wanted):
                total += float(value)
        return total

    def metrics_text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def data_files(self) -> list[Path]:
        """Sparse files in every tier."""
        folders = [Path(tier.split(":")[1]) for tier in self.tiers]
        return sorted(map_file.with_suffix("") for folder in folders for map_file in folder.glob("*/*/*.map"))


@dataclass
class CacheCluster:
    """Metadata and workers over one directory."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    workers: dict[str, WorkerProcess] = field(default_factory=dict)
    is_trusting: bool = False
    """Certificates and tokens; `channel` is an administrator's."""
    metadata_environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.admin: TrustFiles | None = None
        if self.is_trusting:
            self.authority = TrustAuthority(self.folder / "authority")
        self.origin = self.folder / "origin"
        self.origin.mkdir(parents=True)
        self.credentials = self.folder / "credentials"
        self.credentials.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        self.metadata: subprocess.Popen[bytes] | None = None
        self.start_metadata()
        self.connect()

    def connect(self) -> None:
        """Open `channel` to metadata; again after the administrator's certificate changed."""
        if self.is_trusting:
            self.admin = self.trust(ADMIN)
        self.channel = open_blocking_channel(self.address, self.admin, METADATA_SERVER)
        self.namespace = metadata_pb2_grpc.NamespaceStub(self.channel)
        self.residency = metadata_pb2_grpc.ResidencyStub(self.channel)

    def trust_folder(self, identity: Identity) -> Path:
        """Where the certificate of an identity is, made if it is not there."""
        folder = self.folder / "trust" / identity.role / identity.name
        self.authority.issue(identity, folder)
        return folder

    def trust(self, identity: Identity) -> TrustFiles:
        """The certificate of an identity."""
        return TrustFiles(self.trust_folder(identity))

    def token(self, node: str, uid: str = "u-1", *, write: bool = False, seconds: int = 0) -> str:
        """A token for the unix socket of a node, by the administrator."""
        request = metadata_pb2.IssueTokenRequest(
            uid=uid, write=write, audience=Identity(Role.NODE, node).uri, lifetime_seconds=seconds
        )
        return metadata_pb2_grpc.TrustStub(self.channel).IssueToken(request, timeout=20, wait_for_ready=True).token

    def start_metadata(self) -> None:
        with (self.folder / "metadata.log").open("ab") as log:
            store = f"sqlite:///{self.folder}/metadata.db"
            options = ["--listen", self.address, "--store", store, "--credentials-dir", str(self.credentials)]
            if self.is_trusting:
                options += ["--trust", str(self.trust_folder(METADATA_SERVER))]
                options += ["--token-keys", str(self.authority.token_keys)]
            self.metadata = subprocess.Popen(
                [sys.executable, "-m", "metadata", *options],
                cwd=ROOT,
                env={**os.environ, **self.metadata_environment},
                stdout=log,
                stderr=log,
            )

    def add_workers(self, *nodes: str) -> list[WorkerProcess]:
        """Start several at once, with the usual tiers."""
        workers = [self.add_worker(node, is_ready=False) for node in nodes]
        for worker in workers:
            worker.wait_ready()
        everyone = f'"workers": {json.dumps(sorted(self.live()))}'
        for worker in workers if len(workers) > 1 else ():
            wait_for(f"{worker.node} knows all others", lambda one=worker: everyone in one.log or None)  # type: ignore[misc]
        return workers

    def add_worker(
        self,
        node: str,
        *,
        tiers: list[str] | None = None,
        is_ready: bool = True,
        environment: dict[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> WorkerProcess:
        folder = self.folder / node
        default = [f"MEM:{folder}/mem:64Mi", f"SSD:{folder}/ssd:256Mi"]
        worker = WorkerProcess(
            node, folder, tiers or default, self.address, self.credentials, {**self.environment, **(environment or {})}
        )
        worker.arguments = tuple(arguments)
        if self.is_trusting:
            worker.trust = self.trust_folder(Identity(Role.WORKER, node))
        self.workers[node] = worker
        worker.start()
        if is_ready:
            worker.wait_ready()
        return worker

    def put_origin(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            path = self.origin / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def sync(self, uid: str = "u-1", **fields: object) -> metadata_pb2.DatasetInfo:
        """Sync the dataset over the origin directory and wait for its snapshot."""
        request = metadata_pb2.SyncRequest(
            uid=uid,
            replicas=1,
            **{  # type: ignore[arg-type]
                "namespace": "default",
                "name": uid,
                "mounts": [metadata_pb2.Mount(mount_point=f"file://{self.origin}", name="data", path="")],
                "local_copies": True,
                "force": True,
                **fields,
            },
        )
        before = self.namespace.Sync(request, timeout=10, wait_for_ready=True)

        def done() -> metadata_pb2.DatasetInfo | None:
            info = self.namespace.GetDataset(metadata_pb2.DatasetRequest(uid=uid), timeout=10)
            assert not info.error, info.error
            is_new = info.synced_at_ns > before.synced_at_ns
            return info if is_new and info.snapshot_version and not info.syncing else None

        return wait_for(f"sync of {uid}", done)

    def entries(self, uid: str = "u-1") -> dict[str, metadata_pb2.Entry]:
        batches = self.namespace.Manifest(metadata_pb2.ManifestRequest(uid=uid), timeout=30)
        return {entry.path: entry for batch in batches for entry in batch.entries}

    def live(self) -> dict[str, metadata_pb2.Worker]:
        listed = self.residency.ListWorkers(metadata_pb2.ListWorkersRequest(), timeout=10)
        return {worker.node: worker for worker in listed.workers if worker.alive}

    def resident(self, uid: str = "u-1") -> dict[str, int]:
        """Bytes of the dataset on each node."""
        nodes = self.residency.ByNode(metadata_pb2.ByNodeRequest(), timeout=10).nodes
        return {
            node.worker.node: sum(dataset.resident_bytes.values())
            for node in nodes
            for dataset in node.datasets
            if dataset.uid == uid
        }

    def control(self, node: str, call: Callable[[worker_pb2_grpc.WorkerControlStub], T]) -> T:
        endpoint = self.live()[node].control_endpoint
        with open_blocking_channel(endpoint, self.admin, Identity(Role.WORKER, node)) as channel:
            return call(worker_pb2_grpc.WorkerControlStub(channel))

    def load(
        self, load_id: str, *, uid: str = "u-1", replicas: int = 1, nodes: tuple[str, ...] = (), seconds: float = 60.0
    ) -> dict[str, worker_pb2.LoadProgress]:
        """Start a load everywhere and wait until every live worker's share is done."""
        request = worker_pb2.StartLoadRequest(load_id=load_id, uid=uid, replicas=replicas, nodes=nodes)
        for node in self.live():
            self.control(node, lambda stub: stub.StartLoad(request, timeout=10))
        return self.wait_load(load_id, seconds)

    def wait_load(self, load_id: str, seconds: float = 60.0) -> dict[str, worker_pb2.LoadProgress]:
        def done() -> dict[str, worker_pb2.LoadProgress] | None:
            request = worker_pb2.LoadRequest(load_id=load_id)
            found = {node: self.control(node, lambda stub: stub.GetLoad(request, timeout=10)) for node in self.live()}
            return found if all(progress.done for progress in found.values()) else None

        return wait_for(f"load {load_id}", done, seconds)

    def metric(self, name: str, **labels: str) -> float:
        """Sum over the running workers."""
        running = [w for w in self.workers.values() if w.process is not None and w.process.poll() is None]
        return sum(worker.metric(name, **labels) for worker in running)

    def stop(self) -> None:
        self.channel.close()
        processes = [worker.process for worker in self.workers.values()] + [self.metadata]
        for process in processes:
            if process is not None and process.poll() is None:
                process.terminate()
        for process in processes:
            if process is not None:
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)
