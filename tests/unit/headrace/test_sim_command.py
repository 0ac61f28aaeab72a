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
    assert not any(word in done.stdout for word in ("Infinity", "NaN")), "no JSON"
    kept = tmp_path / "run.json"
    kept.write_text(done.stdout)
    again = runner.invoke(app, ["sim", "report", str(kept), "-o", "json"])
    assert again.stdout == done.stdout


def test_a_kept_run_has_the_tables_and_pictures_of_the_run(tmp_path: Path) -> None:
    words = ["sweep", "--nodes", "2", "--jobs", "4", "--seeds", "2", "--policies", "headrace"]
    kept = tmp_path / "run.json"
    kept.write_text(runner.invoke(app, ["sim", "run", *words, "-o", "json"]).stdout)
    done = runner.invoke(app, ["sim", "run", *words])
    again = runner.invoke(app, ["sim", "report", str(kept), "--plots", str(tmp_path / "of" / "it")])
    assert again.exit_code == 0, again.output
    text = (out.stdout.partition("wall seconds")[0] for out in (done, again))
    assert len(set(text)) == 1
    assert "±" in again.stdout and "1 GPU: queueing, p99" in again.stdout
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "of" / "it").iterdir()}
    assert len(drawn) == 6 and {name[-4:]: image[:5] for name, image in drawn.items()} == {
        ".png": b"\x89PNG\r",
        ".svg": b"<?xml",
    }


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"runs": {}}', '{"runs": {"a": []}, "scenario": {}}'])
def test_what_is_no_kept_run_is_refused(tmp_path: Path, text: str) -> None:
    kept = tmp_path / "run.json"
    kept.write_text(text)
    done = runner.invoke(app, ["sim", "report", str(kept)])
    assert isinstance(done.exception, UsageError)
    assert "is not what `headrace sim run … -o json` writes" in str(done.exception)


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
