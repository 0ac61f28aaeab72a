"""Metadata, workers and FUSE mounts as real processes in one directory, for as long as a benchmark or test runs.

Owns the processes and their ports. Invariant: leaving the context unmounts everything and ends every process
that was started here, whatever happened inside.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc, worker_pb2, worker_pb2_grpc
from api.trust.channels import open_blocking_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, Role
from headrace.trust.authority import TrustAuthority

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.02


class DataPlaneError(Exception):
    """A process did not start, or a dataset was not listed; the message holds the end of its log."""


@dataclass
class Process:
    """One process and its log."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(errors="replace")[-2000:]

    def events(self) -> list[dict[str, Any]]:
        """Return the log's JSON events."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal and wait; SIGKILL past the deadline. Returns the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            try:
                self.popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(STOP_SECONDS)
        return self.popen.returncode


class DataPlane:
    """A context: metadata at `metadata_address`, workers and mounts by node name."""

    def __init__(self, directory: Path, *, tier_bytes: int = 8 << 30, is_trusting: bool = False) -> None:
        """`is_trusting`: with certificates and tokens; `admin` is then an administrator's."""
        self.directory = directory
        self._authority = TrustAuthority(directory / "authority") if is_trusting else None
        self.admin = TrustFiles(self._trust_folder(Identity(Role.ADMIN, "bench"))) if is_trusting else None
        self._tier_bytes = tier_bytes
        self.processes: list[Process] = []
        self.metadata_address = "127.0.0.1:0"
        self.metadata: Process | None = None
        self.workers: dict[str, Process] = {}
        self._metrics_ports: dict[str, int] = {}
        self.mounts: dict[str, Path] = {}
        self.daemons: dict[str, Process] = {}

    def _trust_folder(self, identity: Identity) -> Path:
        assert self._authority is not None
        folder = self.directory / "trust" / identity.role / identity.name
        self._authority.issue(identity, folder)
        return folder

    def _trust_flags(self, identity: Identity) -> list[str]:
        return [] if self._authority is None else ["--trust", str(self._trust_folder(identity).absolute())]

    def metadata_channel(self) -> grpc.Channel:
        """A channel to the metadata service, for a short time."""
        return open_blocking_channel(self.metadata_address, self.admin, METADATA_SERVER)

    def token(self, uid: str, audience: Identity) -> str:
        """Return a token to read a dataset."""
        with self.metadata_channel() as channel:
            request = pb.IssueTokenRequest(uid=uid, audience=audience.uri)
            return metadata_pb2_grpc.TrustStub(channel).IssueToken(request, timeout=START_SECONDS).token

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "credentials").mkdir(exist_ok=True)
        try:
            self.start_metadata()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop mounts first, then workers, then metadata. May be called twice."""
        for process in reversed(self.processes):
            process.stop()
        for mount in self.mounts.values():
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True, timeout=STOP_SECONDS)
        self.processes.clear()

    def spawn(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """Start `python arguments…` with its output in a log of its own; `environment` is added to ours."""
        path = self.directory / f"{name}.log"
        with path.open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )
        process = Process(name, popen, path)
        self.processes.append(process)
        return process

    def _await(self, process: Process, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if process.popen.poll() is not None:
                raise DataPlaneError(f"{process.name} ended with {process.popen.returncode}:\n{process.tail()}")
            if time.monotonic() > deadline:
                raise DataPlaneError(f"{process.name}: no {what} in {START_SECONDS} s:\n{process.tail()}")
            time.sleep(POLL_SECONDS)

    def start_metadata(self) -> None:
        """Start metadata, or start it again where it was."""
        store = f"sqlite:///{(self.directory / 'metadata.db').absolute()}"
        credentials = str(self.directory / "credentials")
        arguments = ["--listen", self.metadata_address, "--store", store, "--credentials-dir", credentials]
        arguments += self._trust_flags(METADATA_SERVER)
        if self._authority is not None:
            arguments += ["--token-keys", str(self._authority.token_keys.absolute())]
        process = self.spawn(f"metadata-{len(self.processes)}", ["-m", "metadata", *arguments])
        self._await(process, "ready event", lambda: self._ready(process) is not None)
        self.metadata_address = self._ready(process) or ""
        self.metadata = process

    @staticmethod
    def _ready(process: Process) -> str | None:
        return next((each["address"] for each in process.events() if each["event"] == "metadata.ready"), None)

    def socket(self, node: str) -> Path:
        """Return the unix socket of a node's worker."""
        return self.directory / f"{node}.sock"

    def start_workers(self, nodes: Sequence[str]) -> None:
        """Start several; returns when each knows all others."""
        for node in nodes:
            self.start_worker(node)
        self.await_workers(nodes)

    def await_workers(self, nodes: Sequence[str]) -> None:
        """Return when each of the started workers knows all of them."""
        for node in nodes:
            process = self.workers[node]

            def knows_all(process: Process = process) -> bool:
                listed = [each["workers"] for each in process.events() if each["event"] == "workers_changed"]
                return len(nodes) == 1 or (bool(listed) and listed[-1] == sorted(nodes))

            self._await(process, "list of all workers", knows_all)

    def start_worker(
        self,
        node: str,
        environment: Mapping[str, str] | None = None,
        *,
        tiers: Sequence[str] = (),
        more: Sequence[str] = (),
    ) -> Process:
        """Start (or start again) a node's worker, with these `--tier` options or one SSD tier, and `more` arguments;
        returns when its socket answers."""
        tier = self.directory / f"{node}-tier"
        tier.mkdir(exist_ok=True)
        path = self.socket(node)
        path.unlink(missing_ok=True)
        self._metrics_ports[node] = _free_port()
        process = self.spawn(
            f"worker-{node}-{len(self.processes)}",
            [
                *["-m", "cacheruntime", "worker", "--node", node, "--metadata", self.metadata_address],
                *["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--socket", str(path)],
                *(word for one in tiers or [f"SSD:{tier.absolute()}:{self._tier_bytes}"] for word in ("--tier", one)),
                *["--credentials-dir", str(self.directory / "credentials")],
                *["--metrics", f"127.0.0.1:{self._metrics_ports[node]}"],
                *self._trust_flags(Identity(Role.WORKER, node)),
                *more,
            ],
            environment,
        )
        self._await(process, "socket", path.exists)
        self.workers[node] = process
        return process

    def counts(self, node: str, metric: str) -> dict[str, int]:
        """Return a metric of a node's worker by the value of its one label; without a label, by ""."""
        url = f"http://127.0.0.1:{self._metrics_ports[node]}/metrics"
        with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
            text: str = answer.read().decode()
        pattern = rf'^headrace_worker_{metric}(?:{{\w+="([^"]*)"}})? (\S+)$'
        found = re.findall(pattern, text, re.MULTILINE)
        return {label: int(float(value)) for label, value in found}

    def start_mount(self, node: str, *more: str, name: str = "") -> Path:
        """Mount on a node with further arguments; returns the mount point once it serves. `name` tells further
        mounts of a node apart."""
        mount = (self.directory / f"{node}-{name or 'mount'}").absolute()
        process = self.spawn(
            f"fuse-{node}-{len(self.processes)}",
            [
                *["-m", "fuse", "--node", node, "--metadata", self.metadata_address],
                *["--worker-socket", str(self.socket(node)), "--mount", str(mount), *more],
                *self._trust_flags(Identity(Role.NODE, node)),
            ],
        )
        self._await(process, "mount", lambda: any(each["event"] == "ready" for each in process.events()))
        self.mounts[name or node] = mount
        self.daemons[name or node] = process
        return mount

    def live(self) -> dict[str, pb.Worker]:
        """Return the live workers by node."""
        with self.metadata_channel() as channel:
            stub = metadata_pb2_grpc.ResidencyStub(channel)
            listed = stub.ListWorkers(pb.ListWorkersRequest(), timeout=START_SECONDS)
            return {worker.node: worker for worker in listed.workers if worker.alive}

    def entries(self, uid: str) -> dict[str, pb.Entry]:
        """Return the files of a dataset by path."""
        with self.metadata_channel() as channel:
            batches = metadata_pb2_grpc.NamespaceStub(channel).Manifest(pb.ManifestRequest(uid=uid), timeout=600)
            return {entry.path: entry for batch in batches for entry in batch.entries if not entry.is_directory}

    def sync(
        self,
        name: str,
        origin: str,
        *,
        writable: bool = False,
        namespace: str = "bench",
        options: Mapping[str, str] | None = None,
        local_copies: bool = True,
        eligible_nodes: Sequence[str] = (),
        write_back: bool = False,
    ) -> pb.DatasetInfo:
        """Make a dataset of one mount, list it (again), and return its record once the listing is done."""
        with self.metadata_channel() as channel:
            stub = metadata_pb2_grpc.NamespaceStub(channel)
            request = pb.SyncRequest(
                uid=f"uid-{namespace}-{name}",
                namespace=namespace,
                name=name,
                mounts=[pb.Mount(mount_point=origin, name="data", path="", read_only=not writable, options=options)],
                writable=writable,
                local_copies=local_copies,
                eligible_nodes=eligible_nodes,
                replicas=1,
                force=True,
                write_back=write_back,
            )
            info = stub.Sync(request, timeout=START_SECONDS)
            deadline = time.monotonic() + START_SECONDS
            while info.syncing or not info.snapshot_version:
                if info.error or time.monotonic() > deadline:
                    raise DataPlaneError(f"dataset {name} of {origin} was not listed: {info.error or 'timeout'}")
                time.sleep(POLL_SECONDS)
                info = stub.GetDataset(pb.DatasetRequest(uid=request.uid), timeout=START_SECONDS)
            return info

    def remove(self, uid: str) -> None:
        """Forget a dataset, as the cache controller does when it is deleted: in the caches, then in metadata."""
        with self.metadata_channel() as channel:
            for worker in self.live().values():
                with grpc.insecure_channel(worker.control_endpoint) as control:
                    request = worker_pb2.EvictRequest(uid=uid)
                    worker_pb2_grpc.WorkerControlStub(control).Evict(request, timeout=START_SECONDS)
            stub = metadata_pb2_grpc.NamespaceStub(channel)
            stub.RemoveDataset(pb.DatasetRequest(uid=uid), timeout=START_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def drop_page_cache() -> bool:
    """Empty the kernel's page cache; False when not permitted (not root)."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True
