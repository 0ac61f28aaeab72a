"""The capped object store as a process, what it sent, and reads that go to it directly."""

import http.client
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Self

BUCKET: Final = "bench"
MOUNT: Final = f"s3://{BUCKET}"
PIECE_BYTES: Final = 1 << 20


def cap_text(bytes_per_second: float) -> str:
    """Return the cap of an origin for people."""
    return f"origin capped at {bytes_per_second / 1e6:.0f} MB/s"


class OriginProcess:
    """A running origin over a directory; a context manager that stops it."""

    def __init__(self, directory: Path, bytes_per_second: float, latency_seconds: float = 0.0) -> None:
        self.files = directory / BUCKET
        """What the bucket holds."""
        self.files.mkdir(parents=True, exist_ok=True)
        self.bytes_per_second = bytes_per_second
        self._directory = directory
        self._latency_seconds = latency_seconds
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self._local = threading.local()

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.origin", str(self._directory), str(self.bytes_per_second)]
        command.append(str(self._latency_seconds))
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._connection().close()  # the other threads' end with them
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    @property
    def options(self) -> dict[str, str]:
        """Options of a mount of MOUNT."""
        return {"endpoint": f"http://127.0.0.1:{self._port}"}

    @property
    def cap(self) -> str:
        """The cap for people."""
        return cap_text(self.bytes_per_second)

    def sent_bytes(self) -> int:
        """Bytes of objects sent so far."""
        return self.counters()["bytes"]

    def counters(self) -> dict[str, int]:
        """What was asked for so far: requests for objects, heads, lists, and bytes of objects sent."""
        found: dict[str, int] = json.loads(self._get("/-/counters", {}))
        return found

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Read a range directly, on a connection of the calling thread's own."""
        return self._get(f"/{BUCKET}/{key}", {"Range": f"bytes={offset}-{offset + length - 1}"})

    def read_through(self, key: str) -> int:
        """Read an object from beginning to end with one request, as a plain client does; return its bytes."""
        connection = self._connection()
        connection.request("GET", f"/{BUCKET}/{key}")
        answer = connection.getresponse()
        buffer = bytearray(PIECE_BYTES)
        total = 0
        while count := answer.readinto(buffer):
            total += count
        return total

    def _get(self, path: str, headers: dict[str, str]) -> bytes:
        connection = self._connection()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 206):
            raise RuntimeError(f"the origin answered {answer.status} to {path}")
        return body

    def _connection(self) -> http.client.HTTPConnection:
        known: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if known is None:
            known = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        return known
