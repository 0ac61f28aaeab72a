"""The jobs benchmark works; how fast it is, is not a test. Nightly: it starts two control planes."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import jobs

pytestmark = [pytest.mark.nightly, pytest.mark.cluster]


def test_both_job_controllers_are_measured(
    control_plane_binaries: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.main(["--quick", "--jobs", "5", "--pods", "5"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    cases = {case["case"]: case for case in report["cases"]}
    assert all(case["ours"] > 0 for case in cases.values())
    assert {name for name, case in cases.items() if case["yardstick"] and case["yardstick"]["value"] > 0} == {
        "jobs-5-beside",
        "jobs-5-cpu",
        "one-job-of-5-pods-beside",
    }
