"""The scheduler benchmark works; how fast it is, is not a test."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import scheduler

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
