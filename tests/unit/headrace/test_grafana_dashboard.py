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
MODULES = (
    "scheduler.shell.metrics",
    "jobcontroller.shell.metrics",
    "metadata.shell.metrics",
    "fuse.csi.shell.metrics",
    "kube.metrics",
    "headrace.node.shell.metrics",
    "cacheruntime.controller.main",
)
#: What has no panel, as it tells who looks into one process and not how the cluster fares. A new metric is drawn, or
#: comes here.
NOT_DRAWN = frozenset(
    """
    headrace_controller_listings headrace_controller_poll_errors headrace_controller_reclaimed_bytes
    headrace_csi_daemons headrace_csi_request_seconds headrace_fuse_ensured_bytes headrace_fuse_inline_bytes
    headrace_fuse_inodes headrace_fuse_journal_bytes headrace_fuse_keeper_unread_bytes
    headrace_fuse_passthrough_opens headrace_fuse_read_bytes
    headrace_fuse_requests headrace_fuse_resent_requests headrace_fuse_worker_retries
    headrace_fuse_written_bytes headrace_jobcontroller_actions headrace_jobcontroller_first_pod_launch_seconds
    headrace_jobcontroller_queue_depth headrace_jobcontroller_reconcile_seconds
    headrace_jobcontroller_reconciles headrace_jobcontroller_sign_readings headrace_kube_events
    headrace_kube_request_seconds headrace_kube_requests headrace_kube_retries
    headrace_kube_undecodable_objects headrace_kube_watch_restarts headrace_metadata_commit_seconds
    headrace_metadata_commit_works headrace_metadata_left_out_objects headrace_metadata_listed_objects
    headrace_metadata_listing_changes headrace_metadata_listing_seconds
    headrace_metadata_listings_not_parallel headrace_metadata_listings_resumed
    headrace_metadata_request_seconds headrace_metadata_requests headrace_metadata_tokens
    headrace_metadata_watches headrace_metadata_workers_alive headrace_node_container_starts
    headrace_node_pods headrace_node_rejections headrace_node_status_writes headrace_node_worker_errors
    headrace_reconcile_errors headrace_runtime_capacity_used_ratio headrace_runtime_workers
    headrace_scheduler_extender_requests headrace_scheduler_is_leader headrace_scheduler_publish
    headrace_scheduler_volume_binds headrace_trust_refused_files headrace_worker_ahead_uploads
    headrace_worker_failed_peer_reads headrace_worker_files headrace_worker_handed_over_bytes
    headrace_worker_hedges headrace_worker_hedges_won headrace_worker_held_files headrace_worker_hit_ratio
    headrace_worker_moved_bytes headrace_worker_open_handles headrace_worker_peer_read_bytes
    headrace_worker_peer_served_bytes headrace_worker_preheated_bytes headrace_worker_preheated_files
    headrace_worker_promoted_files headrace_worker_refused headrace_worker_scrub_passes
    headrace_worker_scrubbed_bytes headrace_worker_temporary_bytes headrace_worker_tier_full
    headrace_worker_tier_paused scheduler_cache_size scheduler_framework_extension_point_duration_seconds
    scheduler_pod_scheduling_attempts scheduler_pod_scheduling_sli_duration_seconds
    scheduler_podgroup_scheduling_attempt_duration_seconds scheduler_preemption_attempts
    scheduler_preemption_victims scheduler_queue_incoming_pods scheduler_scheduling_algorithm_duration_seconds
    scheduler_scheduling_attempt_duration_seconds scheduler_unschedulable_pods
""".split()  # noqa: SIM905  # a name a line would be longer than the tests
)


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


def test_every_metric_is_drawn_or_left_out_on_purpose(known: dict[str, set[str]]) -> None:
    text = " ".join(target["expr"] for panel in panels() for target in panel.get("targets", []))
    drawn = {_metric(name) for name in re.findall(r"\b((?:headrace|scheduler)_[a-z_]+)", text)}
    ours = {_metric(name) for name in known if name.startswith(("headrace_", "scheduler_"))}
    assert ours - drawn == NOT_DRAWN


def _metric(series: str) -> str:
    return re.sub(r"_(total|bucket|sum|count)$", "", series)


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
