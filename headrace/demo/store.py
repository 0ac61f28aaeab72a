"""The demo's distant store: started, filled with the standard library, stopped.

Owns its process and its content. The store itself is `distant.py`. Filling goes to the S3 server directly, as the
data has been there before Headrace is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
from obstore.store import S3Store

from headrace.cluster.ports import LOOPBACK, pick_free
from headrace.cluster.processes import log_tail
from headrace.demo.objects import CHECKPOINT_BUCKET, DATA_BUCKET
from headrace.errors import HeadraceError

START_SECONDS = 30.0
UPLOADS = 4
SKIPPED = ("site-packages", "dist-packages", "__pycache__", "config-")


def library_files() -> Iterator[tuple[str, Path]]:
    """Every regular file of this interpreter's standard library: (key, path)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith(SKIPPED))
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and path.suffix == ".py":
                yield str(path.relative_to(root)), path


class DistantStore:
    """A running store; a context manager that stops it."""

    def __init__(self, log: Path, bytes_per_second: int, latency_seconds: float) -> None:
        self._log = log
        self._store_port = pick_free()
        self._port = pick_free({self._store_port})
        self._arguments = [
            *("--port", str(self._port)),
            *("--store-port", str(self._store_port)),
            *("--bytes-per-second", str(bytes_per_second)),
            *("--latency-seconds", str(latency_seconds)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """What clients use: the slow way in."""
        return f"http://{LOOPBACK}:{self._port}"

    def __enter__(self) -> DistantStore:
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "headrace.demo.distant", *self._arguments]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while b"ready" not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log_tail(self._log))
                self.__exit__()
                raise HeadraceError(f"the demo's object store did not start:\n{tail}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def fill(self, progress: Callable[[int, int], None]) -> tuple[int, int]:
        """Make both buckets and copy the library into one; (files, bytes). `progress` is told (done, all)."""
        for bucket in (DATA_BUCKET, CHECKPOINT_BUCKET):
            self._make_bucket(bucket)
        target = self._client(DATA_BUCKET)
        files = list(library_files())

        def copy(one: tuple[str, Path]) -> int:
            data = one[1].read_bytes()
            obstore.put(target, one[0], data)
            return len(data)

        total = 0
        with ThreadPoolExecutor(UPLOADS) as pool:
            for done, size in enumerate(pool.map(copy, files), start=1):
                total += size
                progress(done, len(files))
        return len(files), total

    def _client(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=f"http://{LOOPBACK}:{self._store_port}",
            region="us-east-1",
            access_key_id="demo-key-id",
            secret_access_key="demo-key-secret",
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )

    def _make_bucket(self, bucket: str) -> None:
        import urllib.request

        request = urllib.request.Request(f"http://{LOOPBACK}:{self._store_port}/{bucket}", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            return
