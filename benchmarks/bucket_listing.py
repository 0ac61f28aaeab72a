"""Objects a second from a bucket's pages to a snapshot, through the metadata process; and boto3's plain list of it.

Owns the processes: a `ListedBucket` and one `python -m metadata` a run. The bucket answers at once, so what is
measured is the work, not a store's distance.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import grpc

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc as services

DIRECTORY_FILES: Final = 1_000
CALL_SECONDS: Final = 30.0
LISTING_SECONDS: Final = 900.0


class BucketProcess:
    """The bucket on a loopback port, in a process of its own; a context manager that stops it."""

    def __init__(self, files: int) -> None:
        self._directories = files // DIRECTORY_FILES

    def __enter__(self) -> str:
        """Return the endpoint."""
        command = [sys.executable, "-m", "benchmarks.listed_bucket", str(self._directories), str(DIRECTORY_FILES)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def listed_by_us(endpoint: str, files: int) -> float:
    """Objects a second from the listing's start to the snapshot in SQLite."""
    with tempfile.TemporaryDirectory(prefix="headrace-listing-") as folder, _metadata(Path(folder)) as (address, log):
        with grpc.insecure_channel(address) as channel:
            request = pb.SyncRequest(
                uid="u",
                namespace="ns",
                name="data",
                mounts=[pb.Mount(mount_point="s3://bucket", options={"endpoint": endpoint})],
            )
            services.NamespaceStub(channel).Sync(request, timeout=CALL_SECONDS)
            event = _event(log, "metadata.listed", LISTING_SECONDS)
        if event["files"] != files:
            raise SystemExit(f"{event['files']} files were listed, the bucket has {files}")
        return files / float(event["seconds"])


def listed_by_boto3(endpoint: str, files: int) -> float:
    """Objects a second of boto3's paginator, each object looked at and none kept."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", config=Config(signature_version=UNSIGNED)
    )
    started = time.perf_counter()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket")
    listed = sum(1 for page in pages for item in page["Contents"] if item["Key"])
    rate = listed / (time.perf_counter() - started)
    client.close()
    if listed != files:
        raise SystemExit(f"boto3 listed {listed} files, the bucket has {files}")
    return rate


@contextmanager
def _metadata(folder: Path) -> Iterator[tuple[str, IO[str]]]:
    command = [
        sys.executable,
        "-m",
        "metadata",
        "--listen",
        "127.0.0.1:0",
        "--store",
        f"sqlite://{folder.resolve()}/m.db",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        ready = _event(process.stderr, "metadata.ready", CALL_SECONDS)
        yield str(ready["address"]), process.stderr
    finally:
        process.terminate()
        process.communicate()


def _event(log: IO[str], name: str, seconds: float) -> dict[str, Any]:
    """The next event of that name."""
    deadline = time.monotonic() + seconds
    for line in log:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == name:
            return event
        if event["event"] in ("metadata.listing_refused", "metadata.listing_failed") or time.monotonic() > deadline:
            raise SystemExit(f"the metadata process says {line.strip()}")
    raise SystemExit("the metadata process ended")
