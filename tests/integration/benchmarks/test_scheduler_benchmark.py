"""The scheduler benchmark works; how fast it is, is not a test."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import gpu_allocation, scheduler

pytestmark = pytest.mark.cluster


def test_both_schedulers_are_measured_and_the_last_line_says_so(
    control_plane_binaries: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--only", "plain", "--nodes", "10", "--pods", "30"]
    assert scheduler.main(arguments) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    (case,) = report["cases"]
    assert case["case"] == "plain-10-nodes"
    assert case["ours"] > 0
    assert case["yardstick"]["value"] > 0


def test_the_core_is_measured_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert scheduler.main(["--quick", "--only", "core"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {case["unit"] for case in report["cases"]} == {"decisions/s", "ms"}


def test_gpu_allocation_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_allocation.main(["--quick", "--runs", "1"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert all(0 < case["ours"] <= 100 for case in report["cases"])


def test_gpu_allocation_reads_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\nn,8000,1024,2,T4\n")
    pods.write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1000,1,1,1000\nb,1000,1,1,460\n")
    assert gpu_allocation.main(["--runs", "1", "--nodes", str(nodes), "--pods", str(pods)]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [case["ours"] for case in report["cases"]] == [100.0, 100.0, 100.0]
    with pytest.raises(SystemExit):
        gpu_allocation.main(["--nodes", str(nodes)])
