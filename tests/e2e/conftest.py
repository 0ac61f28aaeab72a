"""One cluster with real nodes, and an S3 server its nodes reach, for all tests of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import obstore
import pytest
from obstore.store import S3Store

from headrace.cluster import parts
from headrace.cluster.binaries import BINARIES, REAL_NODE, require
from headrace.cluster.local_cluster import LocalCluster
from headrace.cluster.options import ClusterOptions
from headrace.cluster.ports import pick_free
from headrace.errors import HeadraceError
from tests.builders.real_cluster import RealCluster, eventually

#: HEADRACE_E2E_NODES=2 has as many nodes.
NODES = int(os.environ.get("HEADRACE_E2E_NODES", "1"))
BUCKETS = ("corpus", "checkpoints")
FILES = 6
FILE_BYTES = 3 << 20


@dataclass(frozen=True)
class Bucket:
    """What is in the S3 server, and where it is."""

    endpoint: str
    files: dict[str, bytes]

    def client(self, name: str) -> S3Store:
        """A client that goes there without us."""
        return S3Store(
            name,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id="key",
            secret_access_key="secret",
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Real nodes, and all our parts on them as pods, as `headrace up --nodes real` installs them."""
    try:
        require([binary.name for binary in (*BINARIES, *REAL_NODE)])
    except HeadraceError as error:
        pytest.fail(str(error), pytrace=False)
    local = LocalCluster("e2e", tmp_path_factory.mktemp("e2e") / "c", lambda step: print(step, flush=True))
    try:
        local.up({"nodes": NODES, "real": True})
        yield RealCluster(local)
    finally:
        local.down(purge=True)


@pytest.fixture(scope="session")
def bucket(real_cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """An S3 server on the cluster's bridge: no node has our loopback."""
    host = parts.Layout("e2e", real_cluster.local.folder.root, ClusterOptions(real=True)).host
    port = pick_free()
    log = tmp_path_factory.mktemp("s3") / "s3.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        endpoint = f"http://{host}:{port}"
        eventually(f"the S3 server answers ({log})", lambda: _answers(endpoint), 60)
        found = Bucket(endpoint, {f"train/part-{n}": os.urandom(FILE_BYTES + n) for n in range(FILES)})
        for name in BUCKETS:
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=10).close()
        for key, data in found.files.items():
            obstore.put(found.client("corpus"), key, data)
        yield found
    finally:
        server.terminate()
        server.wait(timeout=30)


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=3):
            return True
    except OSError:
        time.sleep(0.2)
        return False
