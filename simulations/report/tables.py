"""Side-by-side tables: one column a policy, one row a figure.

Owns names and units of rows. Values are means over seeds, with half the width of the 95 % interval.
"""

from dataclasses import dataclass
from typing import Final

from rich.table import Table

from simulations.engine.outcome import PERCENTILES
from simulations.run import Result


@dataclass(frozen=True, slots=True)
class Row:
    """A figure as people read it: `figure / scale` in `unit`."""

    title: str
    figure: str
    unit: str
    scale: float = 1.0
    digits: int = 2


TB, HOUR, PERCENT = 1e12, 3600.0, 0.01
ROWS: Final[tuple[Row, ...]] = (
    Row("read on the node", "local_bytes", "TB", TB),
    Row("read from peers in the rack", "near_peer_bytes", "TB", TB),
    Row("read from peers across racks", "far_peer_bytes", "TB", TB),
    Row("read from the origin", "origin_bytes", "TB", TB),
    Row("origin or across racks", "origin_or_far_bytes", "TB", TB),
    Row("origin egress, restores too", "origin_egress_bytes", "TB", TB),
    Row("its cost", "origin_egress_cost", "", 1.0, 0),
    Row("checkpoints read back", "restored_bytes", "TB", TB),
    Row("of those not on the node", "restored_remote_bytes", "TB", TB),
    Row("stall of a job, mean", "stage_in_seconds_mean", "s", 1.0, 0),
    Row("GPUs waiting for data", "gpu_hours_waiting_for_data", "GPU h", 1.0, 1),
    Row("GPUs held by partial gangs", "gpu_hours_in_partial_gangs", "GPU h", 1.0, 1),
    Row("work lost", "gpu_hours_lost", "GPU h", 1.0, 1),
    Row("jobs finished", "jobs_finished", "", 1.0, 0),
    Row("restarts", "restarts", "", 1.0, 0),
    Row("completion, mean", "completion_seconds_mean", "s", 1.0, 0),
    Row("completion, p50", "completion_seconds_p50", "s", 1.0, 0),
    Row("completion, p90", "completion_seconds_p90", "s", 1.0, 0),
    Row("completion, p99", "completion_seconds_p99", "s", 1.0, 0),
    Row("queueing, mean", "queue_seconds_mean", "s", 1.0, 0),
    Row("queueing, p90", "queue_seconds_p90", "s", 1.0, 0),
    Row("makespan", "makespan_seconds", "h", HOUR),
    Row("GAR, all the time", "gar", "%", PERCENT, 1),
    Row("GAR, while jobs come", "gar_loaded", "%", PERCENT, 1),
    Row("GAR, while jobs wait", "gar_pressed", "%", PERCENT, 1),
    Row("SOR", "sor", "%", PERCENT, 1),
    Row("GFR", "gfr", "%", PERCENT, 1),
    Row("goodput", "goodput", "%", PERCENT, 1),
    Row("fairness (Jain)", "fairness", "", 1.0, 3),
    # Of the engine kwok only.
    Row("binds seen", "binds_seen", "", 1.0, 0),
    Row("wall time", "wall_seconds", "s", 1.0, 1),
    Row("time skipped", "skipped_seconds", "h", HOUR),
)


ABOUT: Final = {
    "origin_or_far_bytes": "bytes that the origin or nodes of other racks sent to readers",
    "origin_egress_cost": "bytes that left the origin, at the scenario's price of a GiB (or --origin-price)",
    "stage_in_seconds_mean": "seconds by which waiting for data, checkpoints too, made a job longer",
    "gpu_hours_waiting_for_data": "a job's GPUs times its stall, all jobs",
    "gpu_hours_in_partial_gangs": "GPUs that placed pods hold while the rest of their gang has no node",
    "gpu_hours_lost": "a job's GPUs times the work since its last checkpoint, when a fault stops it",
    "makespan_seconds": "until the last job ended",
    "gar": "GPU allocation ratio: GPUs bound to pods, of those on nodes that are up, mean over time",
    "gar_loaded": "the same until the last job is submitted",
    "gar_pressed": "the same while a job waits",
    "sor": "scheduling occupancy ratio: GPU time of work that counted (not stalled, not lost), of all there was",
    "gfr": "GPU fragmentation ratio: GPU nodes with some but not all GPUs taken, of all, mean over time",
    "goodput": "GPU time of work that counted, of what was allocated",
    "fairness": "Jain's index, (sum x)² / (n · sum x²) over users; x: completion by run time, mean of their jobs",
}
"""What figures are whose titles do not say it."""

BY_SIZE: Final = (
    ("completion, mean", "completion_seconds_mean"),
    *((f"completion, p{share}", f"completion_seconds_p{share}") for share in PERCENTILES),
    *((f"queueing, p{share}", f"queue_seconds_p{share}") for share in PERCENTILES),
)


def side_by_side(result: Result) -> Table:
    """The table of a result for a terminal."""
    seeds = max(len(runs) for runs in result.runs.values())
    table = Table(title=f"{result.scenario.name}: mean of {seeds} seeds, ± half of the 95 % interval", box=None)
    table.add_column("figure")
    for name in result.runs:
        table.add_column(name, justify="right")
    for title, cells in cells_of(result):
        table.add_row(title, *cells)
    return table


def cells_of(result: Result) -> list[tuple[str, list[str]]]:
    """Rows that say something about any policy, as text."""
    found = []
    for row in ROWS:
        cells = [_cell(result.statistic(name, row.figure), row) for name in result.runs]
        if any(cell.strip("0.- ") for cell in cells):
            found.append((_title(row), cells))
    return found


def meanings(result: Result) -> list[tuple[str, str]]:
    """What the rows that `cells_of` gives are, where their titles do not say."""
    shown = {title for title, _ in cells_of(result)}
    return [(_title(row), ABOUT[row.figure]) for row in ROWS if row.figure in ABOUT and _title(row) in shown]


def by_size(result: Result) -> list[tuple[str, list[str]]]:
    """Completion and queueing by job size: mean over seeds, in seconds."""
    sizes = list(dict.fromkeys(size for runs in result.runs.values() for run in runs for size in run.by_size))
    found = []
    for size in sizes:
        for title, figure in BY_SIZE:
            cells = []
            for runs in result.runs.values():
                values = [run.by_size[size][figure] for run in runs if size in run.by_size]
                cells.append(f"{sum(values) / len(values):,.0f}" if values else "-")
            found.append((f"{size}: {title} [s]", cells))
    return found


def _title(row: Row) -> str:
    return f"{row.title} [{row.unit}]" if row.unit else row.title


def _cell(statistic: tuple[float, float] | None, row: Row) -> str:
    if statistic is None:
        return "-"
    mean, half = (value / row.scale for value in statistic)
    text = f"{mean:,.{row.digits}f}"
    return f"{text} ± {half:,.{row.digits}f}" if half >= 0.5 * 10**-row.digits else text
