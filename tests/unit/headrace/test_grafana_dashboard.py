"""The Grafana dashboard asks for metrics and labels that there are."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric

from cacheruntime.worker.metrics import Metrics as WorkerMetrics
from fuse.metrics import Metrics as MountMetrics

FILE = Path(__file__).resolve().parents[3] / "manifests" / "monitoring" / "grafana-dashboard.json"
MODULES = ("scheduler.shell.metrics", "jobcontroller.shell.metrics", "metadata.shell.metrics", "fuse.csi.shell.metrics")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILE.read_text())["panels"]
    return found


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """Every series name of every process, with the labels it may have."""
    for module in MODULES:
        importlib.import_module(module)
    found: dict[str, set[str]] = {}
    for collector in (*REGISTRY._collector_to_names, *WorkerMetrics().registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for metric in collector.describe() if hasattr(collector, "describe") else collector.collect():
            _add(found, metric, labels)
    mount = MountMetrics()
    mount.errors["open", "EIO"] = mount.takeovers["exit"] = mount.defects["open"] = mount.requests["open"] = 1
    for metric in mount.collect():
        _add(found, metric, {label for sample in metric.samples for label in sample.labels})
    return found


def _add(found: dict[str, set[str]], metric: Metric, labels: set[str]) -> None:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
    for suffix in suffixes:
        found[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())


def test_every_series_exists(known: dict[str, set[str]]) -> None:
    asked = 0
    for panel in panels():
        for target in panel.get("targets", []):
            for name in re.findall(r"\b((?:headrace|scheduler)_[a-z_]+)", target["expr"]):
                asked += 1
                assert name in known, f"{panel['title']}: {name} is no metric of ours"
    assert asked >= 20


def test_every_label_is_one_of_its_series(known: dict[str, set[str]]) -> None:
    for panel in panels():
        for target in panel.get("targets", []):
            names = re.findall(r"\b((?:headrace|scheduler)_[a-z_]+)", target["expr"])
            for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
                for label in (part.strip() for part in group.split(",")):
                    assert all(label in known[name] for name in names), f"{panel['title']}: {label} of {names}"


def test_panels_do_not_overlap_and_say_their_unit() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]
