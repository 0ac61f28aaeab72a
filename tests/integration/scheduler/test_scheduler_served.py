"""What the scheduler serves and logs, over real sockets and processes, without a cluster: probes, metrics, first lines.

That figures follow what happens: tests/unit/scheduler/shell/test_scheduler_figures.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.cluster import ports
from kube.errors import ConfigError
from kube.http import serve
from scheduler.shell import metrics

# kube-scheduler 1.36's (pkg/scheduler/metrics): type and labels of each that dashboards of it read.
KUBES = {
    "scheduler_schedule_attempts": ("counter", {"result", "profile"}),
    "scheduler_scheduling_attempt_duration_seconds": ("histogram", {"result", "profile"}),
    "scheduler_scheduling_algorithm_duration_seconds": ("histogram", set()),
    "scheduler_pod_scheduling_sli_duration_seconds": ("histogram", {"attempts"}),
    "scheduler_pod_scheduling_attempts": ("histogram", set()),
    "scheduler_pending_pods": ("gauge", {"queue"}),
    "scheduler_queue_incoming_pods": ("counter", {"queue", "event"}),
    "scheduler_preemption_victims": ("histogram", set()),
    "scheduler_preemption_attempts": ("counter", set()),
    "scheduler_framework_extension_point_duration_seconds": ("histogram", {"extension_point", "status", "profile"}),
    "scheduler_unschedulable_pods": ("gauge", {"plugin", "profile"}),
    "scheduler_cache_size": ("gauge", {"type"}),
    "scheduler_podgroup_schedule_attempts": ("counter", {"result", "profile"}),
    "scheduler_podgroup_scheduling_attempt_duration_seconds": ("histogram", {"result", "profile"}),
}
OURS = (
    "headrace_scheduler_stage_in_seconds",
    "headrace_scheduler_data_bytes",
    "headrace_scheduler_gang_members_undone",
)


class _Switch:
    is_healthy = True
    is_ready = False


@pytest.fixture
async def served() -> AsyncIterator[tuple[str, _Switch]]:
    switch = _Switch()
    address = f"127.0.0.1:{ports.pick_free(())}"
    async with serve(address, lambda: switch.is_healthy, lambda: switch.is_ready):
        yield f"http://{address}", switch


async def _statuses(url: str) -> dict[str, int]:
    found = {}
    async with aiohttp.ClientSession() as session:
        for path in ("healthz", "livez", "readyz"):
            async with session.get(f"{url}/{path}") as answer:
                found[path] = answer.status
    return found


async def test_probes_say_what_is_so_now(served: tuple[str, _Switch]) -> None:
    url, switch = served
    assert await _statuses(url) == {"healthz": 200, "livez": 200, "readyz": 503}
    switch.is_ready = True
    assert await _statuses(url) == {"healthz": 200, "livez": 200, "readyz": 200}
    switch.is_healthy = False
    assert await _statuses(url) == {"healthz": 503, "livez": 503, "readyz": 200}


async def test_metrics_have_kube_schedulers_names_and_labels(served: tuple[str, _Switch]) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{served[0]}/metrics") as answer:
        assert answer.content_type == "text/plain"
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    declared = {
        metric._name: set(metric._labelnames) for metric in vars(metrics).values() if hasattr(metric, "_labelnames")
    }
    for name, (kind, labels) in KUBES.items():
        assert families[name].type == kind, name
        assert declared[name] == labels, name
    assert set(OURS) <= set(families)


async def test_an_address_that_is_taken_is_named(served: tuple[str, _Switch]) -> None:
    address = served[0].removeprefix("http://")
    with pytest.raises(ConfigError, match=f"--metrics {address}: .*choose another port"):
        async with serve(address, lambda: True, lambda: True):
            pass


def _start(tmp_path: Path, config: bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "settings.yaml"
    file.write_bytes(config)
    argv = [sys.executable, "-m", "scheduler", "--config", str(file), "--kubeconfig", str(tmp_path / "absent")]
    return subprocess.run(argv, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False)


def test_logs_are_json_when_asked_and_begin_with_the_settings(tmp_path: Path) -> None:
    done = _start(
        tmp_path,
        b"log_format: json\nprofiles: [{scheduler_name: packing, weights: {gpu_fit: 100}}]\n",
        HEADRACE_SCHEDULER_WEIGHTS__BALANCE="3",
    )
    first, last = done.stderr.splitlines()
    line = json.loads(first)
    assert (line["event"], line["level"]) == ("starting", "info")
    assert line["profiles"][0] == {"scheduler_name": "packing"} | {"weights": line["profiles"][0]["weights"]}
    assert (line["profiles"][0]["weights"]["gpu_fit"], line["weights"]["balance"]) == (100, 3)
    assert last == f"scheduler: kubeconfig {tmp_path / 'absent'} cannot be read: No such file or directory"
    assert done.returncode == 2


def test_a_file_that_is_no_settings_ends_it_with_one_line(tmp_path: Path) -> None:
    done = _start(tmp_path, b"\xff")
    assert done.returncode == 2
    assert done.stderr == f"scheduler: --config {tmp_path / 'settings.yaml'} is not UTF-8 (byte 0); name a YAML file\n"
