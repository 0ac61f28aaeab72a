"""The simulations benchmark works in its quick form and its last line says what it found. Not how good that is."""

import json

import pytest

from benchmarks import simulations


def test_the_quick_form_gives_the_headline_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulations.main(["--quick"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    cases = {case["case"]: case for case in report["cases"]}
    assert {
        "remote-bytes-sweep-fluid",
        "remote-bytes-philly-fluid",
        "job-completion-sweep-fluid",
        "job-completion-philly-fluid-labels",
        "allocation-gangs-fragmented-kube-scheduler",
    } <= set(cases)
    assert all(case["ours"] > 0 for case in cases.values())
    assert cases["remote-bytes-sweep-fluid"]["goal"] == 5.0
