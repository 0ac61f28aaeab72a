"""Do both engines say the same of one world? Pure: two outcomes in, a table with a verdict out.

Owns what is compared and what counts as equal: bytes by source and completion times within `tolerance` of the larger
value. What is less than a thousandth of all bytes read is equal: a source hardly used has no meaningful ratio. How far
the means may be apart by chance is said beside, from the seeds, and excuses nothing: a scheduler that draws among equal
nodes takes as many seeds as make it small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from simulations.engine.outcome import Outcome
from simulations.run import half_interval

TOLERANCE = 0.05
HARDLY = 0.001
TB = 1e12
SOURCES = {
    "read on the node": "local_bytes",
    "read from peers in the rack": "near_peer_bytes",
    "read from peers across racks": "far_peer_bytes",
    "read from the origin": "origin_bytes",
    "checkpoints read back": "restored_bytes",
}
TIMES = {
    "completion, mean": "completion_seconds_mean",
    "completion, p50": "completion_seconds_p50",
    "completion, p90": "completion_seconds_p90",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure in both engines, as means over seeds. `difference`: share of the larger; None: hardly any. `chance`:
    half of the 95 % interval of the difference, as such a share; 0.0 with one seed."""

    title: str
    unit: str
    event: float
    kwok: float
    difference: float | None
    chance: float
    is_equal: bool


def compare(event: Sequence[Outcome], kwok: Sequence[Outcome], tolerance: float = TOLERANCE) -> list[Line]:
    """Every figure, means over the same seeds; equal only if all lines are."""
    lines = [_line("jobs finished", "", (_figures(event, "jobs_finished"), _figures(kwok, "jobs_finished")), 0.0)]
    read = max(sum(fmean(_figures(runs, figure)) for figure in SOURCES.values()) for runs in (event, kwok))
    for title, figure in SOURCES.items():
        values = _figures(event, figure, TB), _figures(kwok, figure, TB)
        is_hardly = max(map(fmean, values)) * TB <= HARDLY * read
        lines.append(_line(title, "TB", values, inf if is_hardly else tolerance))
    for title, figure in TIMES.items():
        lines.append(_line(title, "s", (_figures(event, figure), _figures(kwok, figure)), tolerance))
    return lines


def jobs_alike(event: Sequence[Outcome], kwok: Sequence[Outcome], tolerance: float = TOLERANCE) -> float:
    """Share of single jobs whose completion times are within the tolerance of each other."""
    pairs = [
        (one.finished - one.submitted, other.finished - other.submitted)
        for first, second in zip(event, kwok, strict=True)
        for one, other in zip(first.jobs, second.jobs, strict=True)
        if one.finished is not None and other.finished is not None
    ]
    return sum(_difference(*pair) <= tolerance for pair in pairs) / max(1, len(pairs))


def _line(title: str, unit: str, values: tuple[list[float], list[float]], tolerance: float) -> Line:
    """`values`: by seed in either engine; `tolerance`: inf when there is hardly any of it."""
    pair = fmean(values[0]), fmean(values[1])
    largest = max(map(abs, pair))
    apart = half_interval([one - other for one, other in zip(*values, strict=True)])
    chance = apart / largest if largest else 0.0
    difference = _difference(*pair)
    return Line(title, unit, *pair, difference if tolerance < inf else None, chance, difference <= tolerance)


def _figures(runs: Sequence[Outcome], figure: str, scale: float = 1.0) -> list[float]:
    return [(run.figures.get(figure) or 0.0) / scale for run in runs]


def _difference(one: float, other: float) -> float:
    largest = max(abs(one), abs(other))
    return abs(one - other) / largest if largest else 0.0
