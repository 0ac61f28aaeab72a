"""`spec.metadataSync` on a real API server: the controller, the metadata service, and directories that change."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import names
from api.conditions import parse_timestamp, timestamp
from api.gen import metadata_pb2 as pb
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import DATASETS, EVENTS, NAMESPACES
from tests.builders.cache_cluster import ROOT, CacheCluster, wait_for

CHANGED = (1, 1, 1)
"""What `Setting.change` does: files added, changed, removed."""


class Setting:
    """A controller that can be killed, and Datasets with a directory each."""

    def __init__(self, kubeconfig: Path, cluster: CacheCluster, folder: Path) -> None:
        self.kubeconfig, self.cluster, self.folder = kubeconfig, cluster, folder
        self.namespace = f"sync-{os.getpid()}-{time.time_ns() % 10**9}"
        self.with_client(lambda client: client.create(NAMESPACES, {"metadata": {"name": self.namespace}}))
        self.start_controller()

    def start_controller(self) -> None:
        words = ["--kubeconfig", str(self.kubeconfig), "--metadata", self.cluster.address, "--no-leader-elect"]
        words += ["--credentials-dir", str(self.folder / "secrets")]
        with (self.folder / "controller.log").open("ab") as log:
            self.controller = subprocess.Popen(
                [sys.executable, "-m", "cacheruntime", "controller", *words], cwd=ROOT, stdout=log, stderr=log
            )

    def kill_controller(self) -> None:
        self.controller.kill()
        self.controller.wait(20)

    def with_client(self, work: Any) -> Any:
        async def connected() -> Any:
            async with KubeClient(load_config(self.kubeconfig), user_agent="tests") as client:
                return await work(client)

        return asyncio.run(connected())

    def create(self, name: str, **sync: str) -> None:
        directory = self.folder / name
        directory.mkdir()
        for file in ("kept", "changed", "removed"):
            (directory / file).write_bytes(b"1")
        body = {
            "apiVersion": f"{names.DATA_GROUP}/{names.API_VERSION}",
            "kind": "Dataset",
            "metadata": {"name": name},
            "spec": {"mounts": [{"mountPoint": f"file://{directory}", "name": "data"}], "metadataSync": sync},
        }
        self.with_client(lambda client: client.create(DATASETS, body, self.namespace))

    def change(self, name: str) -> None:
        (self.folder / name / "added").write_bytes(b"1")
        (self.folder / name / "changed").write_bytes(b"22")
        (self.folder / name / "removed").unlink()

    def ask(self, name: str) -> float:
        """Ask for a listing; return the time it must not be older than."""
        since = int(time.time()) + 1
        patch = {"metadata": {"annotations": {names.DATASET_SYNC_ANNOTATION: timestamp(since)}}}
        self.with_client(lambda client: client.patch(DATASETS, name, patch, self.namespace))
        return since

    def status(self, name: str) -> dict[str, Any]:
        body = self.with_client(lambda client: client.get(DATASETS, name, self.namespace))
        return body.get("status") or {}

    def version(self, name: str) -> int:
        return int(self.status(name).get("snapshot", {}).get("version", 0))

    def synced(self, name: str) -> dict[str, Any] | None:
        """The condition."""
        conditions = self.status(name).get("conditions", [])
        return next((one for one in conditions if one["type"] == "Synced"), None)

    def listings(self, name: str) -> list[tuple[int, int, int]]:
        """Files added, changed and removed in each listing that went well, as metadata logged them."""
        lines = (self.cluster.folder / "metadata.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if '"metadata.listed"' in line]
        mine = [event for event in events if event["dataset"] == f"{self.namespace}/{name}"]
        return [(event["added"], event["changed"], event["removed"]) for event in mine]

    def changes(self, name: str) -> tuple[int, ...]:
        """The same of all listings after the first together: one may come in the middle of a change."""
        return tuple(sum(column) for column in zip(*self.listings(name)[1:], strict=True))

    def names(self, name: str) -> set[str]:
        request = pb.DatasetRequest(namespace=self.namespace, name=name)
        info = self.cluster.namespace.GetDataset(request, timeout=10)
        return set(self.cluster.entries(info.uid))


@pytest.fixture
def setting(api_server: Any, tmp_path: Path) -> Iterator[Setting]:
    cluster = CacheCluster(tmp_path / "cluster")
    try:
        made = Setting(api_server.kubeconfig, cluster, tmp_path)
        try:
            yield made
        finally:
            made.kill_controller()
    finally:
        cluster.stop()


def test_each_policy_lists_when_it_should_and_a_restart_lists_neither_twice_nor_never(setting: Setting) -> None:
    setting.create("once", policy="Once")
    setting.create("job", policy="OnJobStart")
    setting.create("hourly", policy="Interval", interval="1h")
    setting.create("interval", policy="Interval", interval="1s")
    setting.create("always", policy="Always")
    everyone = ("once", "job", "hourly", "interval", "always")
    for name in everyone:
        wait_for(f"{name} listed", lambda name=name: setting.version(name) == 1, 60)  # type: ignore[misc]
        assert setting.listings(name)[0] == (3, 0, 0)
        setting.change(name)
    for name in ("interval", "always"):
        wait_for(f"{name} listed anew", lambda name=name: setting.changes(name) == CHANGED, 60)  # type: ignore[misc]
        wait_for(f"{name} in the status", lambda name=name: setting.version(name) > 1, 60)  # type: ignore[misc]
        assert setting.names(name) == {"kept", "changed", "added"}
    for name in ("once", "job", "hourly"):
        assert setting.version(name) == 1
        assert "removed" in setting.names(name)

    # Asked for while no controller runs: done once by the next one, which lists nothing else that is not due.
    setting.kill_controller()
    since = setting.ask("job")
    before = len(setting.listings("interval"))
    setting.start_controller()
    wait_for("job listed anew", lambda: setting.version("job") == 2, 60)
    wait_for("interval goes on", lambda: len(setting.listings("interval")) > before + 1, 60)
    assert setting.listings("job") == [(3, 0, 0), CHANGED]
    assert setting.names("job") == {"kept", "changed", "added"}
    told = wait_for("the status", lambda: setting.status("job").get("metadataSync"))
    assert parse_timestamp(told["listedAt"]) >= since
    assert (told["added"], told["changed"], told["removed"], told["failures"]) == (1, 1, 1, 0)
    assert "nextAt" not in told
    for name in ("once", "hourly"):
        assert setting.listings(name) == [(3, 0, 0)]
    hourly = setting.status("hourly")["metadataSync"]
    pause = parse_timestamp(hourly["nextAt"]) - parse_timestamp(hourly["triedAt"])
    assert 3600 <= pause <= 3961


def test_a_failed_listing_is_told_keeps_the_snapshot_and_is_tried_again(setting: Setting) -> None:
    setting.create("data", policy="Interval", interval="1s")
    wait_for("listed", lambda: setting.version("data") == 1, 60)
    away = setting.folder / "away"
    (setting.folder / "data").rename(away)

    def refused() -> dict[str, Any] | None:
        condition = setting.synced("data")
        return condition if condition is not None and condition["status"] == "False" else None

    condition = wait_for("the failure is told", refused, 60)
    assert "snapshot 1 stays in use" in condition["message"]
    status = setting.status("data")
    assert (status["phase"] in ("Bound", "Updating"), status["snapshot"]["version"]) == (True, 1)
    assert status["metadataSync"]["failures"] >= 1
    assert setting.names("data") == {"kept", "changed", "removed"}

    def warned() -> bool:
        events = setting.with_client(lambda client: client.list(EVENTS, setting.namespace)).items
        return any(one["reason"] == "SyncFailed" and one["regarding"]["name"] == "data" for one in events)

    wait_for("an event", warned, 60)
    away.rename(setting.folder / "data")
    setting.change("data")
    wait_for("listed anew", lambda: setting.changes("data") == CHANGED, 60)
    wait_for("the recovery is told", lambda: (setting.synced("data") or {}).get("status") == "True", 60)
    assert setting.status("data")["metadataSync"]["failures"] == 0
