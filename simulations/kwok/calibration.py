"""Do both engines say the same of one world? Pure: two outcomes in, a table with a verdict out.

Owns what is compared and what counts as equal: bytes by source and completion times within `tolerance` of the larger
value. What is less than a thousandth of all bytes read is equal: a source hardly used has no meaningful ratio.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from simulations.engine.outcome import Outcome

TOLERANCE = 0.05
HARDLY = 0.001
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
    """One figure in both engines, as means over seeds. `difference`: share of the larger; None: hardly any."""

    title: str
    unit: str
    event: float
    kwok: float
    difference: float | None
    is_equal: bool


def compare(event: Sequence[Outcome], kwok: Sequence[Outcome], tolerance: float = TOLERANCE) -> list[Line]:
    """Every figure, means over the same seeds; equal only if all lines are."""
    lines = []
    finished = _mean(event, "jobs_finished"), _mean(kwok, "jobs_finished")
    lines.append(Line("jobs finished", "", *finished, _difference(*finished), finished[0] == finished[1]))
    read = max(sum(_mean(runs, figure) for figure in SOURCES.values()) for runs in (event, kwok))
    for title, figure in SOURCES.items():
        pair = _mean(event, figure) / 1e12, _mean(kwok, figure) / 1e12
        is_hardly = max(pair) * 1e12 <= HARDLY * read
        difference = None if is_hardly else _difference(*pair)
        lines.append(Line(title, "TB", *pair, difference, difference is None or difference <= tolerance))
    for title, figure in TIMES.items():
        pair = _mean(event, figure), _mean(kwok, figure)
        lines.append(Line(title, "s", *pair, _difference(*pair), _difference(*pair) <= tolerance))
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


def _mean(runs: Sequence[Outcome], figure: str) -> float:
    values = [run.figures.get(figure) or 0.0 for run in runs]
    return sum(values) / len(values)


def _difference(one: float, other: float) -> float:
    largest = max(abs(one), abs(other))
    return abs(one - other) / largest if largest else 0.0
