"""The shape of a benchmark's result: medians, ratios that mean "more is better", goals, the JSON object."""

import json
from pathlib import Path

import pytest

from benchmarks import frame
from benchmarks.__main__ import main
from benchmarks.frame import Case, interleave


def test_medians_are_quoted_and_all_pairs_kept() -> None:
    case = Case("c", "MB/s", [(1.0, 4.0), (3.0, 2.0), (2.0, 2.0)], "ext4", goal=0.9)
    assert (case.ours, case.yardstick_value, case.ratio, case.met) == (2.0, 2.0, 1.0, True)
    assert case.as_json()["runs"] == [[1.0, 4.0], [3.0, 2.0], [2.0, 2.0]]


def test_a_ratio_above_one_is_better_for_times_too() -> None:
    case = Case("c", "s", [(1.0, 2.0)], "other", higher_is_better=False, goal=1.5)
    assert case.ratio == 2.0
    assert case.met


def test_without_a_yardstick_the_goal_is_in_units() -> None:
    assert Case("c", "files/s", [(20.0,)], goal=10.0).met
    assert not Case("c", "ms", [(20.0,)], higher_is_better=False, goal=10.0).met
    assert Case("c", "files/s", [(20.0,)], goal=10.0).as_json()["ratio"] is None


def test_turns_alternate() -> None:
    order: list[str] = []

    def turn(name: str, figure: float) -> float:
        order.append(name)
        return figure

    runs = interleave(2, lambda: turn("ours", 1.0), lambda: turn("other", 2.0))
    assert runs == [(1.0, 2.0), (1.0, 2.0)]
    assert order == ["ours", "other", "other", "ours"]


def test_the_last_line_is_the_json_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cases = [Case("read-10-files", "MB/s", [(1.0, 2.0)], "ext4"), Case("read-100-files", "MB/s", [(1.0, 2.0)], "ext4")]
    frame.report(
        "name", [*cases, Case("list", "names/s", [(5.0,)], goal=4.0)], tmp_path / "out.json", tmp_path / "p.png"
    )
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["case"] for each in last["cases"]] == ["read-10-files", "read-100-files", "list"]
    assert set(last["machine"]) == {"cpus", "memory_bytes", "kernel", "python"}
    assert json.loads((tmp_path / "out.json").read_text()) == last
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_an_unknown_benchmark_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "fuse" in capsys.readouterr().err
    assert main(["list"]) == 0


def test_a_yardstick_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        frame.parser("name", "").parse_args(["--yardstick", "ext4"])
    assert "NAME=VALUE" in capsys.readouterr().err
