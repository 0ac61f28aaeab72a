"""The cache's benchmarks run, in their quick form, and leave nothing behind. Not how fast."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "byte-plane": {"large-4MiB", "small-4KiB-files", "small-4KiB-ranges"},
    "checkpoint-reload": {"reload-same-node", "reload-other-node"},
    "cold-readers": {"cold-copies-stay", "cold-one-copy-a-cluster"},
    "preload": {"preload-large-files", "preload-small-files"},
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_the_quick_form_runs_every_case_and_cleans_up(name: str, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--runs", "1", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path / "scratch")},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert {case["case"] for case in report["cases"]} == CASES[name]
    assert all(case["ours"] >= 0 for case in report["cases"])
    assert list((tmp_path / "scratch").iterdir()) == []
