"""The shape every benchmark has: cases, runs in pairs, one table for people, one JSON object for machines.

Owns result types, interleaving, medians, goals, output. Does not know what is measured.

Rules: ours and the yardstick run in turn, first one then the other, so that a slow minute of the machine hits
both; medians are quoted and all pairs are kept; a ratio above 1 always means that ours is better.
"""

import argparse
import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from rich.console import Console
from rich.table import Table

TABLE_COLUMNS: Final = 160
"""Width of the table when it goes to a file."""
_SIZE: Final = re.compile(r"^(?P<before>.*?)(?P<size>\d+)(?P<after>.*)$")

Run = tuple[float, ...]
"""One run: ours, and the yardstick right beside it if the case has one."""


@dataclass(frozen=True, slots=True)
class Case:
    """One measured case. Without a yardstick `goal` is in `unit`s, else it is the ratio to reach; None = no
    figure was set."""

    case: str
    unit: str
    runs: Sequence[Run]
    yardstick: str | None = None
    higher_is_better: bool = True
    goal: float | None = None
    note: str = ""

    @property
    def ours(self) -> float:
        """Median of our runs."""
        return statistics.median(run[0] for run in self.runs)

    @property
    def yardstick_value(self) -> float | None:
        """Median of the yardstick's runs."""
        values = [run[1] for run in self.runs if len(run) > 1]
        return statistics.median(values) if values else None

    @property
    def ratio(self) -> float | None:
        """Ours against the yardstick, more is better."""
        other = self.yardstick_value
        if self.yardstick is None or other is None or not other or not self.ours:
            return None
        return self.ours / other if self.higher_is_better else other / self.ours

    @property
    def met(self) -> bool:
        """Whether the goal was reached; without a goal there is nothing to miss."""
        if self.goal is None:
            return True
        if self.yardstick is not None:
            return self.ratio is not None and self.ratio >= self.goal
        return self.ours >= self.goal if self.higher_is_better else self.ours <= self.goal

    def as_json(self) -> dict[str, Any]:
        """Return the object of benchmarks.md."""
        value = self.yardstick_value
        yardstick = {"name": self.yardstick, "value": value} if self.yardstick is not None else None
        return {
            "case": self.case,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "ours": self.ours,
            "yardstick": yardstick,
            "ratio": self.ratio,
            "goal": self.goal,
            "met": self.met,
            "runs": [list(run) for run in self.runs],
            "note": self.note,
        }


class Benchmark(Protocol):
    """What a benchmark's module offers."""

    def main(self, arguments: list[str]) -> int:
        """Parse (`parser`), set up, measure, clean up, `report`; 0 when it ran, whatever the figures."""
        ...


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options every benchmark has; a benchmark adds its own."""
    own = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("--quick", action="store_true", help="small sizes: that it works, within 5 minutes")
    own.add_argument("--runs", type=_positive, default=3, metavar="N", help="pairs of each case (3)")
    own.add_argument("--json", type=Path, metavar="FILE", help="write the JSON object there too")
    own.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the cases")
    own.add_argument(
        "--yardstick",
        type=_yardstick,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more yardstick: a command (scheduler) or a mounted directory (fuse)",
    )
    return own


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs; it must be 1 or more")
    return int(text)


def _yardstick(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is no yardstick; write it like NAME=VALUE")
    return name, value


def progress(text: str) -> None:
    """Say what is being done, on standard error."""
    print(text, file=sys.stderr, flush=True)


def interleave(count: int, ours: Callable[[], float], yardstick: Callable[[], float] | None = None) -> list[Run]:
    """Run both in turn, `count` times; whose turn is first alternates."""
    runs: list[Run] = []
    for index in range(count):
        if yardstick is None:
            runs.append((ours(),))
        elif index % 2:
            other = yardstick()
            runs.append((ours(), other))
        else:
            own = ours()
            runs.append((own, yardstick()))
    return runs


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def result(name: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the object that is printed as the last line."""
    return {"name": name, "machine": machine(), "cases": [case.as_json() for case in cases]}


def show(name: str, cases: Sequence[Case], console: Console) -> None:
    """Print the table."""
    info = machine()
    title = f"{name}: {info['cpus']} CPUs, {info['memory_bytes'] >> 30} GiB, Linux {info['kernel']}"
    table = Table(title=title, title_justify="left")
    for column, justify in (
        ("case", "left"), ("unit", "left"), ("ours", "right"), ("yardstick", "right"), ("ratio", "right"),
        ("goal", "right"), ("met", "left"), ("note", "left"),
    ):  # fmt: skip
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for case in cases:
        other = case.yardstick_value
        table.add_row(
            case.case,
            case.unit,
            _figure(case.ours),
            f"{_figure(other)} ({case.yardstick})" if other is not None and case.yardstick else "–",
            f"{case.ratio:.2f}" if case.ratio is not None else "–",
            _figure(case.goal) if case.goal is not None else "–",
            "–" if case.goal is None else "yes" if case.met else "no",
            case.note,
        )
    console.print(table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def plot(name: str, cases: Sequence[Case], path: Path) -> None:
    """Draw cases that differ in one number as curves over it, the rest as bars of their ratio or value."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves, single = _families(cases)
    count = len(curves) + bool(single)
    figure, axes = pyplot.subplots(1, max(1, count), figsize=(6 * max(1, count), 4), squeeze=False)
    for axis, (family, members) in zip(axes[0], curves.items(), strict=False):
        sizes = [size for size, _ in members]
        axis.plot(sizes, [case.ours for _, case in members], marker="o", label="headrace")
        if all(case.yardstick_value is not None for _, case in members):
            axis.plot(sizes, [case.yardstick_value for _, case in members], marker="o", label=members[0][1].yardstick)
        axis.set(title=family, xlabel="size", ylabel=members[0][1].unit, xscale="log")
        axis.legend()
    if single:
        axis = axes[0][-1]
        names = [case.case if case.ratio is not None else f"{case.case} ({case.unit})" for case in single]
        values = [
            case.ratio if case.ratio is not None else case.ours / (case.goal or case.ours or 1) for case in single
        ]
        axis.barh(names, values)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set(title=f"{name}: ratio to the yardstick, or to the goal where there is none")
        axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _families(cases: Sequence[Case]) -> tuple[dict[str, list[tuple[int, Case]]], list[Case]]:
    families: dict[str, list[tuple[int, Case]]] = {}
    single: list[Case] = []
    for case in cases:
        match = _SIZE.match(case.case)
        if match is None:
            single.append(case)
        else:
            families.setdefault(match["before"] + "N" + match["after"], []).append((int(match["size"]), case))
    for family in [name for name, members in families.items() if len(members) < 2]:
        single.append(families.pop(family)[0][1])
    return {name: sorted(members, key=lambda member: member[0]) for name, members in families.items()}, single


def report(name: str, cases: Sequence[Case], json_file: Path | None = None, plot_file: Path | None = None) -> None:
    """Print the table and, as the last line, the JSON object; write both files if given."""
    show(name, cases, Console(width=None if sys.stdout.isatty() else TABLE_COLUMNS))
    if plot_file is not None:
        plot(name, cases, plot_file)
    line = json.dumps(result(name, cases))
    if json_file is not None:
        json_file.write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)
