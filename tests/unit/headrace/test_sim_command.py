"""`headrace sim`, through the command line."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from headrace.__main__ import app, main
from headrace.cli.progress import Bar
from headrace.errors import UsageError
from simulations.engine.core_driver import CoreDriver
from simulations.run import Step
from simulations.run import run as run_event
from tests.unit.simulations.test_whatif import a_cluster

runner = CliRunner()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every step that a bar is told."""
    steps: list[Step] = []
    monkeypatch.setattr(Bar, "tell", lambda _, step: steps.append(step))
    return steps


def test_a_bar_says_what_is_done_how_far_it_is_and_the_time_left() -> None:
    file = io.StringIO()
    with Bar(Console(file=file, force_terminal=True, width=100)) as bar:
        bar.part("event")(Step("headrace, seed 0", 0.25, 1234.4))
    text = file.getvalue()
    assert "event: headrace, seed 0" in text
    assert "25%" in text
    assert "1,234 s left" in text


def test_pieces_of_work_are_counted_and_the_pace_gives_the_time_left(told: list[Step]) -> None:
    next_is = Bar().counted(4)
    for label in ("a", "b", "c"):
        next_is(label)
    assert [(step.label, step.share) for step in told] == [("a", 0.0), ("b", 0.25), ("c", 0.5)]
    assert told[0].seconds_left == float("inf")
    assert 0 < told[2].seconds_left < 60


def test_nothing_is_drawn_where_no_terminal_is() -> None:
    file = io.StringIO()
    with Bar(Console(file=file)) as bar:
        bar.tell(Step("headrace, seed 0", 0.25, 1234.4))
    assert file.getvalue() == ""


def test_calibrate_tells_how_far_both_engines_are(told: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    def in_kwok(scenario: Any, schedulers: Any, start: Any, **more: Any) -> Any:
        return run_event(scenario, policies=[item.name for item in schedulers], **more)

    monkeypatch.setattr("simulations.kwok.runs.run", in_kwok)
    done = runner.invoke(app, ["sim", "calibrate", "--nodes", "8", "--jobs", "6"])
    assert done.exit_code == 0, done.output
    labels = list(dict.fromkeys(step.label for step in told))
    assert labels == ["event: headrace, seed 0", "kwok: headrace, seed 0"]


def test_whatif_tells_how_far_its_answers_are(told: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.cli.whatif.run", lambda *_: a_cluster())
    done = runner.invoke(app, ["sim", "whatif", "--ssd", "2"])
    assert done.exit_code == 0, done.output
    assert list(dict.fromkeys(step.label for step in told)) == ["as it is", "SSD × 2"]
    assert told[-1].share >= 0.5


def test_drawing_tells_which_picture_it_is_at(told: list[Step], tmp_path: Path) -> None:
    words = ["sim", "run", "partial-cache", "--seeds", "1", "--policies", "headrace"]
    done = runner.invoke(app, [*words, "--report", str(tmp_path / "a.html"), "--plots", str(tmp_path / "pictures")])
    assert done.exit_code == 0, done.output
    drawn = [step.label for step in told if step.label != "headrace, seed 0"]
    assert drawn == ["Bytes by source", "Completion times", "Nodes × datasets over time: headrace"] * 2


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


def test_what_leaves_the_origin_costs_the_price_given() -> None:
    words = ["sim", "run", "sweep", "--nodes", "2", "--jobs", "4", "--seeds", "1", "--policies", "headrace"]
    done = runner.invoke(app, [*words, "--origin-price", "0.25", "-o", "json"])
    assert done.exit_code == 0, done.output
    runs = json.loads(done.stdout)["runs"]
    for name in ("headrace", "bound"):
        figures = runs[name][0]["figures"]
        assert figures["origin_egress_bytes"] > 0
        assert figures["origin_egress_cost"] == pytest.approx(figures["origin_egress_bytes"] / 2**30 * 0.25)
    for price in ("-1", "nan", "inf"):
        refused = runner.invoke(app, [*words, "--origin-price", price])
        assert refused.exit_code == 2 or isinstance(refused.exception, UsageError), price


def test_a_report_says_what_its_figures_mean_and_how_much_its_pictures_show(tmp_path: Path) -> None:
    page, plots = tmp_path / "page.html", tmp_path / "pictures"
    words = ["automl-zipf", "--nodes", "2", "--jobs", "5", "--seeds", "1", "--policies", "headrace"]
    done = runner.invoke(app, ["sim", "run", *words, "--report", str(page), "--plots", str(plots)])
    assert done.exit_code == 0, done.output
    for word in ("GAR", "SOR", "GFR", "goodput", "fairness", "GPUs waiting for data"):
        assert f"<dt>{word}" in page.read_text(), word
    # Text of an SVG is drawn as paths, with the words beside them.
    assert "12 of 300 datasets, 2 of 2 nodes" in (plots / "automl-zipf-nodes-headrace.svg").read_text()


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"runs": {}}', '{"runs": {"a": []}, "scenario": {}}'])
def test_what_is_no_kept_run_is_refused(tmp_path: Path, text: str) -> None:
    kept = tmp_path / "run.json"
    kept.write_text(text)
    done = runner.invoke(app, ["sim", "report", str(kept)])
    assert isinstance(done.exception, UsageError)
    assert "is not what `headrace sim run … -o json` writes" in str(done.exception)


def test_a_run_that_breaks_an_invariant_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turn = CoreDriver.turn
    monkeypatch.setattr(CoreDriver, "turn", lambda self, now: [(uid, 0, job) for uid, _, job in turn(self, now)])
    monkeypatch.setattr("sys.argv", ["headrace", "sim", "run", "spot-storm", "--nodes", "4", "--jobs", "9"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "headrace: scenario spot-storm: over-committed node at" in capsys.readouterr().err


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
