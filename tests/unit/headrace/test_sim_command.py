"""`headrace sim`, through the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.__main__ import app
from headrace.errors import UsageError

runner = CliRunner()


def test_a_run_is_a_table_and_a_self_contained_report(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    done = runner.invoke(app, ["sim", "run", "partial-cache", "--seeds", "2", "--report", str(file)])
    assert done.exit_code == 0, done.output
    assert "read on the node" in done.stdout
    assert "fluid-labels" in done.stdout
    page = file.read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert "http" not in page.replace("http-equiv", "")
    assert "Nodes × datasets over time: headrace" in page


def test_json_can_be_read_back(tmp_path: Path) -> None:
    done = runner.invoke(app, ["sim", "run", "partial-cache", "--seeds", "1", "--policies", "headrace", "-o", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["runs"]["headrace"][0]["figures"]["local_bytes"] == pytest.approx(140e9, rel=1e-3)
    kept = tmp_path / "run.json"
    kept.write_text(done.stdout)
    shown = runner.invoke(app, ["sim", "report", str(kept)])
    assert shown.exit_code == 0
    assert "local_bytes" in shown.stdout


def test_list_names_scenarios_and_policies() -> None:
    done = runner.invoke(app, ["sim", "list"])
    assert "sweep" in done.stdout
    assert "gpu-best-fit" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sim", "run", "nowhere.yaml"], "nowhere.yaml"),
        (["sim", "run", "sweep", "--policies", "nobody"], "choose headrace"),
        (["sim", "run", "sweep", "-o", "xml"], "choose table, json or yaml"),
    ],
)
def test_wrong_values_are_refused_with_one_sentence(words: list[str], said: str) -> None:
    done = runner.invoke(app, words)
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)
