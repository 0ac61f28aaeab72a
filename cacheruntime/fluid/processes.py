"""The processes of Fluid's pods: the master is our metadata service, a worker our cache worker, a client a mount of
ours with a small worker beside it. Shell: starts, watches and ends them.

Owns command lines and the client's two processes. Secrets are files that Fluid mounted, and on no command line."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cacheruntime.fluid.core import plan
from cacheruntime.fluid.errors import FluidError
from cacheruntime.fluid.settings import Runtime

START_SECONDS = 120.0
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.25


def run_master(one: Runtime) -> int:
    """Become the metadata service."""
    plan.check_master(one.config, one.who)
    settings = one.settings
    command = [
        *("metadata", "--listen", f"0.0.0.0:{settings.metadata_port}"),
        *("--metrics", f"0.0.0.0:{settings.metadata_metrics_port}"),
        *("--credentials-dir", str(one.settings.secrets.absolute())),
    ]
    if "HEADRACE_METADATA_STORE" not in os.environ:
        settings.state.mkdir(parents=True, exist_ok=True)
        store = ["--store", f"sqlite://{settings.state.absolute()}/metadata.db"]
        _introduce(one, store)
        command += store
    return _become(command)


def _introduce(one: Runtime, store: Sequence[str]) -> None:
    """Have a database that is new know the dataset before anybody can ask for it.

    Workers drop what no dataset has. Those of a master before this one, whose pod and database are gone, keep what they
    hold when they find the dataset, be it not listed yet; so it is told to a service that nobody knows of."""
    from cacheruntime.fluid import calls

    done = one.settings.state / "introduced"
    if done.exists():
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["metadata", "--listen", listen, *store, "--credentials-dir", str(one.settings.secrets.absolute())]
    service = subprocess.Popen([sys.executable, "-m", *words])
    try:
        _wait_for(service, listen)
        asyncio.run(calls.introduce(replace(one, address=listen)))
        done.touch()
    except FluidError as error:
        # What is wrong with the mounts is Fluid's to hear, when it runs mount-ufs; the service is needed for that.
        print(f"master: {error.message}", file=sys.stderr, flush=True)
    finally:
        _end(service)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(service: subprocess.Popen[bytes], address: str) -> None:
    """Until it listens: gRPC would wait longer and longer between its tries. FluidError."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    while service.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(LOOK_SECONDS)
    raise FluidError("the metadata service did not start; its log says why")


def run_worker(one: Runtime) -> int:
    """Become the cache worker of this pod."""
    tiers = plan.tier_arguments(one.config.worker, one.who, one.settings.pod_name)
    if not tiers:
        raise FluidError(
            f"CacheRuntime {one.who} has no spec.worker.tieredStore.levels; a worker needs one to keep bytes in"
        )
    metrics = ["--metrics", f"0.0.0.0:{one.settings.worker_metrics_port}"]
    return _become([*_worker_command(one, one.settings.pod_name, tiers), *metrics])


def run_client(one: Runtime, target: Path) -> int:
    """Serve the dataset at `target` until SIGTERM; 1 when a process of it ended before."""
    settings = one.settings
    settings.run.mkdir(parents=True, exist_ok=True)
    # A worker of its own, so that pods read on nodes that have none of Fluid's; its name is no pod's.
    name = f"client.{settings.node_name}"
    tiers = plan.tier_arguments(one.config.client, one.who, name)
    tiers = tiers or [f"MEM:{settings.run.absolute()}/memory/tier:{settings.client_memory}"]
    mount = settings.run.absolute() / "mount"
    fuse = [
        *("fuse", "--node", name, "--metadata", one.address, "--mount", str(mount)),
        *("--worker-socket", str(_socket(one))),
    ]
    with _Client([_worker_command(one, name, tiers), fuse], mount / one.who.namespace / one.who.name, target) as client:
        return client.serve(_socket(one))


def _worker_command(one: Runtime, node: str, tiers: Sequence[str]) -> list[str]:
    settings = one.settings
    settings.run.mkdir(parents=True, exist_ok=True)
    # What a tier may have beside its quota is part of what Fluid gave the volume.
    os.environ["HEADRACE_WORKER_TEMPORARY_PERCENT"] = str(plan.TEMPORARY_PERCENT)
    os.environ["HEADRACE_WORKER_TEMPORARY_BYTES_MIN"] = str(plan.TEMPORARY_BYTES)
    # /dev/shm is either a tier of Fluid's or the 64 MiB every container has: no room to lend.
    os.environ.setdefault("HEADRACE_WORKER_SPARE_DIRECTORY", "")
    return [
        *("cacheruntime", "worker", "--keeper", "--node", node, "--metadata", one.address),
        *("--listen", f"{settings.address}:{settings.byte_port}"),
        *("--control", f"{settings.address}:{settings.control_port}"),
        *("--socket", str(_socket(one)), "--credentials-dir", str(one.settings.secrets.absolute())),
        *(word for tier in tiers for word in ("--tier", tier)),
    ]


def _socket(one: Runtime) -> Path:
    return one.settings.run.absolute() / "worker.sock"


def _become(words: Sequence[str]) -> int:
    """Replace this process, so that the kubelet's signals reach the service itself."""
    os.execv(sys.executable, [sys.executable, "-m", *words])


class _Client:
    """A worker, the mount of all datasets of its metadata service (there is one), and that one bound to a target."""

    def __init__(self, commands: Sequence[Sequence[str]], source: Path, target: Path) -> None:
        self._commands = commands
        self._source = source
        self._target = target
        self._processes: list[subprocess.Popen[bytes]] = []
        self._is_told = False

    def __enter__(self) -> _Client:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_is_told", True))
        return self

    def __exit__(self, *_: object) -> None:
        _clear(self._target)
        for process in reversed(self._processes):
            _end(process)

    def serve(self, worker: Path) -> int:
        """Start all, bind, and wait; 0 = told to end. `worker`: the socket of the first of them."""
        self._target.mkdir(parents=True, exist_ok=True)
        _clear(self._target)
        # The folder outlives the container: of the one before there may be a socket nobody listens at.
        worker.unlink(missing_ok=True)
        for command in self._commands:
            self._processes.append(subprocess.Popen([sys.executable, "-m", *command]))
            if len(self._processes) == 1 and not self._until(worker.exists, START_SECONDS):
                return self._ended("the worker did not start")
        # No deadline: the dataset is there once Fluid has run mount-ufs.
        if not self._until(self._has_source, None):
            return self._ended("the dataset was not mounted")
        _run(["mount", "--bind", str(self._source), str(self._target)])
        print(f"{self._source} is at {self._target}", file=sys.stderr, flush=True)
        self._until(lambda: False, None)
        return self._ended("a process of this client ended")

    def _has_source(self) -> bool:
        try:
            return self._source.is_dir()
        except OSError:
            return False  # the mount is being made

    def _until(self, is_so: Callable[[], bool], seconds: float | None) -> bool:
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._is_told and all(process.poll() is None for process in self._processes):
            if is_so():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return False

    def _ended(self, why: str) -> int:
        if self._is_told:
            return 0
        print(f"{why}; the kubelet starts this container again", file=sys.stderr, flush=True)
        return 1


def _clear(target: Path) -> None:
    """Take away mounts of ours at a path, also those whose process is gone; what else is there stays."""
    while plan.is_ours(Path("/proc/self/mountinfo").read_text(), str(target)):
        # Lazily: pods may have files open, and what is dead answers nothing.
        _run(["umount", "--lazy", str(target)])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FluidError(f"{' '.join(command)} failed: {done.stderr.strip()}")
