"""`headrace cache` with all that carries it out: API server, cache controller, metadata, worker."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
import yaml
from typer.testing import CliRunner

from api import names
from api.gen import metadata_pb2 as pb
from headrace.cli import cache
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import DATASETS, NAMESPACES, NODES
from tests.builders.cache_cluster import ROOT, CacheCluster, wait_for

pytestmark = pytest.mark.cluster

FILES = {f"{folder}/{name}.bin": folder.encode() * 1000 for folder in ("keep", "drop") for name in "ab"}
BYTES_A_FOLDER = 8000


class Cli:
    """The commands, on a Dataset in a namespace of its own."""

    def __init__(self, kubeconfig: Path, mount_point: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = f"cache-{uuid4().hex[:8]}"
        self._app = typer.Typer()
        cache.register(self._app)
        self.with_client(lambda client: client.create(NAMESPACES, {"metadata": {"name": self.namespace}}))
        body = {
            "apiVersion": f"{names.DATA_GROUP}/{names.API_VERSION}",
            "kind": "Dataset",
            "metadata": {"name": "data"},
            "spec": {"mounts": [{"mountPoint": mount_point, "name": "data"}]},
        }
        created = self.with_client(lambda client: client.create(DATASETS, body, self.namespace))
        self.uid: str = created["metadata"]["uid"]

    def __call__(self, *words: str, succeeds: bool = True) -> str:
        where = [] if words[0] == "drain" else ["-n", self.namespace]
        arguments = ["cache", *words, *where, "--kubeconfig", str(self.kubeconfig)]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(self._app, arguments)
        text = result.output + (str(result.exception) if result.exception else "")
        assert (result.exit_code == 0) is succeeds, text
        return text

    def with_client(self, work: Any) -> Any:
        async def connected() -> Any:
            async with KubeClient(load_config(self.kubeconfig), user_agent="tests") as client:
                return await work(client)

        return asyncio.run(connected())

    def annotations(self) -> dict[str, str]:
        body = self.with_client(lambda client: client.get(DATASETS, "data", self.namespace))
        return body["metadata"].get("annotations") or {}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path)
    try:
        made.put_origin(FILES)
        yield made
    finally:
        made.stop()


@pytest.fixture
def cli(api_server: Any, cluster: CacheCluster, tmp_path: Path) -> Iterator[Cli]:
    words = ["--kubeconfig", str(api_server.kubeconfig), "--metadata", cluster.address, "--no-leader-elect"]
    words += ["--credentials-dir", str(tmp_path / "secrets")]
    with (tmp_path / "controller.log").open("wb") as log:
        controller = subprocess.Popen(
            [sys.executable, "-m", "cacheruntime", "controller", *words],
            cwd=ROOT,
            env=dict(os.environ),
            stdout=log,
            stderr=log,
        )
        try:
            yield Cli(api_server.kubeconfig, f"file://{cluster.origin}")
        finally:
            controller.terminate()
            controller.wait(20)


def terms(cluster: CacheCluster, uid: str) -> pb.CacheTerms:
    return cluster.namespace.GetDataset(pb.DatasetRequest(uid=uid), timeout=10).terms


def resident(cluster: CacheCluster, uid: str, path: str) -> int:
    return sum(cluster.residency.Locate(pb.LocateRequest(uid=uid, paths=[path]), timeout=10).resident_bytes.values())


def is_listed(cluster: CacheCluster, uid: str) -> bool:
    infos = cluster.namespace.ListDatasets(pb.ListDatasetsRequest(), timeout=10, wait_for_ready=True).datasets
    return any(info.uid == uid and info.snapshot_version for info in infos)


def test_pin_evict_unpin_and_priority_reach_the_workers(cli: Cli, cluster: CacheCluster) -> None:
    worker = cluster.add_worker("a", is_ready=False)
    wait_for("the worker", lambda: '"worker_ready"' in worker.log, 120)
    wait_for("the listing", lambda: is_listed(cluster, cli.uid), 60)
    client = worker.client()
    for entry in cluster.entries(cli.uid).values():
        if not entry.is_directory:
            assert client.read(cli.uid, entry)[0] == FILES[entry.path]
    client.close()
    for folder in ("keep", "drop"):
        wait_for(f"{folder} in the cache", lambda path=folder: resident(cluster, cli.uid, path) == BYTES_A_FOLDER)  # type: ignore[misc]

    table = cli("pin", "data", "/keep/", "drop/a.bin")
    assert table.split()[:6] == ["NAME", "PRIORITY", "GUARANTEED", "MAXIMUM", "PINNED", "CACHED"]
    assert "drop/a.bin, keep" in table
    wait_for("pins in metadata", lambda: list(terms(cluster, cli.uid).pinned) == ["drop/a.bin", "keep"])
    assert "'keep' is pinned; unpin it first" in cli("evict", "data", "keep/a.bin", succeeds=False)
    assert "is pinned; unpin it first" in cli("evict", "data", succeeds=False)
    assert "'nothing' of data is not pinned" in cli("unpin", "data", "nothing", succeeds=False)
    assert "real names" in cli("pin", "data", "a/../b", succeeds=False)

    cli("unpin", "data", "drop/a.bin")
    cli("evict", "data", "drop")
    assert names.DATASET_EVICT_ANNOTATION not in cli.annotations()
    wait_for("drop gone", lambda: resident(cluster, cli.uid, "drop") == 0)
    assert resident(cluster, cli.uid, "keep") == BYTES_A_FOLDER

    (item,) = json.loads(cli("priority", "data", "7", "--guaranteed", "1Gi", "--maximum", "2Gi", "-o", "json"))["items"]
    assert item["spec"]["cache"] | {"priority": 7, "guaranteed": "1Gi", "maximum": "2Gi"} == item["spec"]["cache"]
    wait_for("shares in metadata", lambda: terms(cluster, cli.uid).maximum_bytes == 2 << 30)
    assert terms(cluster, cli.uid).priority == 7 and terms(cluster, cli.uid).guaranteed_bytes == 1 << 30
    assert "less than guaranteed" in cli("priority", "data", "--maximum", "1Mi", succeeds=False)
    assert "1000" in cli("priority", "data", "5000", succeeds=False)
    written = yaml.safe_load(cli("priority", "data", "--maximum", "0", "-o", "yaml"))
    assert "maximum" not in written["spec"]["cache"] and written["spec"]["cache"]["priority"] == 7
    cli("unpin", "data")
    wait_for("no pins in metadata", lambda: not terms(cluster, cli.uid).pinned)


def test_sync_waits_for_what_changed_and_says_what_it_was(cli: Cli, cluster: CacheCluster) -> None:
    wait_for("the listing", lambda: is_listed(cluster, cli.uid), 60)
    (cluster.origin / "keep" / "new.bin").write_bytes(b"new")
    (cluster.origin / "drop" / "a.bin").unlink()
    table = cli("sync", "data")
    assert table.split()[:7] == ["NAME", "SNAPSHOT", "FILES", "ADDED", "CHANGED", "REMOVED", "LISTED"]
    row = dict(zip(table.split()[:7], table.split()[7:14], strict=True))
    assert (row["NAME"], row["FILES"], row["ADDED"], row["REMOVED"]) == ("data", str(len(FILES)), "1", "1")
    assert "keep/new.bin" in cluster.entries(cli.uid) and "drop/a.bin" not in cluster.entries(cli.uid)
    cluster.origin.rename(cluster.origin.with_name("elsewhere"))
    assert "data could not be listed" in cli("sync", "data", succeeds=False)
    assert "keep/new.bin" in cluster.entries(cli.uid), "the last good list stays"


def test_a_drained_node_has_handed_over_when_the_command_ends(cli: Cli, cluster: CacheCluster) -> None:
    node = f"n-{uuid4().hex[:8]}"
    cli.with_client(lambda client: client.create(NODES, {"metadata": {"name": node}}))
    try:
        worker, other = (cluster.add_worker(name, is_ready=False) for name in (node, "other"))
        for one in (worker, other):
            wait_for("the worker", lambda one=one: '"worker_ready"' in one.log, 120)  # type: ignore[misc]
        wait_for("the listing", lambda: is_listed(cluster, cli.uid), 60)
        client = worker.client()
        for entry in cluster.entries(cli.uid).values():
            if not entry.is_directory:
                client.read(cli.uid, entry)
        client.close()
        whole = sum(map(len, FILES.values()))
        wait_for("all of it", lambda: resident(cluster, cli.uid, "") >= whole)
        table = cli("drain", node)
        assert table.split()[:6] == ["NAME", "DONE", "MOVED", "REFUSED", node, "True"]
        wait_for("all of it elsewhere", lambda: cluster.resident(cli.uid).get("other") == whole)
        assert cluster.live()[node].leaving
        cli("drain", node, "--undo")
        wait_for("its return", lambda: not cluster.live()[node].leaving)
    finally:
        cli.with_client(lambda client: client.delete(NODES, node))
