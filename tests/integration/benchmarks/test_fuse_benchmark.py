"""The fuse benchmark runs, in its quick form, and leaves nothing behind. Not how fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]


def test_the_quick_form_runs_every_case_and_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-m", "benchmarks", "fuse", "--quick", "--runs", "1"]
    options = ["--json", str(tmp_path / "out.json"), "--yardstick", f"place={tmp_path / 'place'}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "out.json").read_text())
    cases = [case["case"] for case in report["cases"]]
    assert {"resident-sequential-1MiB", "resident-random-4KiB", "small-open-read-close"} <= set(cases)
    assert {"metadata-stat", "metadata-list", "cold-sequential", "write-checkpoint"} <= set(cases)
    assert {case["yardstick"]["name"] for case in report["cases"] if case["yardstick"]} >= {"ext4", "cp", "place"}
    assert list((tmp_path / "place").iterdir()) == []
    assert "headrace-bench-fuse-" not in Path("/proc/self/mountinfo").read_text()
