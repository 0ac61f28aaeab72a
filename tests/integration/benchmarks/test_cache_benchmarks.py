"""The cache's benchmarks run, in their quick form, and leave nothing behind. Not how fast."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

CASES = {
    "trust": {"tokens-4KiB", "tls-4KiB", "tls-4MiB"},
    "byte-plane": {"large-4MiB", "small-4KiB-files", "small-4KiB-ranges"},
    "checkpoint-reload": {"reload-67MB-same-node", "reload-67MB-other-node"},
    "cold-readers": {"cold-copies-stay", "cold-one-copy-a-cluster"},
    "epochs": {f"{name}-c0.5{kind}" for name in ("unet3d", "resnet50", "cosmoflow") for kind in ("", "-hit-error")},
    "preheat": {"preheat-declared-epoch", "preheat-declared-no-room", "preheat-shards-in-turn"},
    "io-model": {f"1-nodes-c0.5-{which}-{what}" for which in ("first", "later") for what in ("bytes", "seconds")},
    "preload": {"preload-large-files", "preload-small-files"},
}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files with a short name: the socket of a worker lies in it."""
    with TemporaryDirectory(prefix="hr-") as name:
        yield Path(name)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_the_quick_form_runs_every_case_and_cleans_up(name: str, scratch: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--runs", "1", "--json", str(tmp_path / "out.json")]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert {case["case"] for case in report["cases"]} == CASES[name]
    assert list(scratch.iterdir()) == []
