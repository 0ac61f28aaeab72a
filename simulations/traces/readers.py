"""Real traces, read where the user keeps them; nothing of them is part of Headrace.

| trace | file | what is taken |
| --- | --- | --- |
| openb (Alibaba cluster-trace-gpu-v2023) | node list with `sn,cpu_milli,memory_mib,gpu` | nodes |
| openb | pod list with `name,cpu_milli,memory_mib,num_gpu` | one job a pod; a share of a GPU counts as one |
| Philly (msr-fiddle, as `timestamp,duration,num_gpus,…,cluster`) | job list | arrival, run time, GPUs, team |

Owns the columns. Raises ScenarioError naming file, line and column. Neither has dataset names: scenarios assign them.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from simulations.errors import ScenarioError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TraceNode:
    """A node of a trace."""

    gpus: int
    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A job of a trace; None: the trace does not say."""

    at: float | None
    seconds: float | None
    gpus: int
    team: str = ""
    cpu_milli: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Traces:
    """What the files given hold."""

    nodes: tuple[TraceNode, ...] = ()
    openb: tuple[TraceJob, ...] = ()
    philly: tuple[TraceJob, ...] = ()
    files: tuple[str, ...] = field(default=())


def read(files: Sequence[Path]) -> Traces:
    """Read trace files, each recognised by its columns."""
    nodes: list[TraceNode] = []
    openb: list[TraceJob] = []
    philly: list[TraceJob] = []
    for file in files:
        try:
            with file.open(encoding="utf-8", newline="") as opened:
                rows = csv.DictReader(opened)
                columns = set(rows.fieldnames or ())
                if {"sn", "cpu_milli", "memory_mib", "gpu"} <= columns:
                    nodes += [_node(file, number, row) for number, row in enumerate(rows, 2)]
                elif {"name", "cpu_milli", "memory_mib", "num_gpu"} <= columns:
                    openb += [_pod(file, number, row) for number, row in enumerate(rows, 2)]
                elif {"timestamp", "duration", "num_gpus", "cluster"} <= columns:
                    philly += [job for number, row in enumerate(rows, 2) if (job := _philly(file, number, row))]
                else:
                    raise ScenarioError(
                        f"trace {file} has columns {sorted(columns)}; known are openb's node and pod lists "
                        "and Philly's job list"
                    )
        except (UnicodeDecodeError, csv.Error) as error:
            raise ScenarioError(f"trace {file} is not a CSV of UTF-8 text: {error}") from None
        except OSError as error:
            raise ScenarioError(f"trace {file}: {error.strerror}; give a CSV file") from None
    philly.sort(key=lambda job: job.at or 0.0)
    return Traces(tuple(nodes), tuple(openb), tuple(philly), tuple(file.name for file in files))


def _number(file: Path, line: int, row: dict[str, str], column: str) -> float:
    try:
        found = float(row[column])
    except (TypeError, ValueError):
        raise ScenarioError(f"trace {file}, line {line}: {column} is {row[column]!r}, not a number") from None
    if not 0 <= found < float("inf"):
        raise ScenarioError(f"trace {file}, line {line}: {column} is {row[column]}, which is no number from 0 on")
    return found


def _node(file: Path, line: int, row: dict[str, str]) -> TraceNode:
    cpu, memory, gpus = (_number(file, line, row, column) for column in ("cpu_milli", "memory_mib", "gpu"))
    return TraceNode(int(gpus), int(cpu), int(memory) << 20)


def _pod(file: Path, line: int, row: dict[str, str]) -> TraceJob:
    gpus, cpu, memory = (_number(file, line, row, column) for column in ("num_gpu", "cpu_milli", "memory_mib"))
    at = seconds = None
    if row.get("creation_time") and row.get("deletion_time"):
        at = _number(file, line, row, "creation_time")
        seconds = max(1.0, _number(file, line, row, "deletion_time") - at)
    return TraceJob(at, seconds, int(gpus), row.get("qos") or "", int(cpu), int(memory) << 20)


def _philly(file: Path, line: int, row: dict[str, str]) -> TraceJob | None:
    """None for rows without a time, which the trace has some of."""
    if not row["timestamp"] or not row["duration"]:
        return None
    seconds = _number(file, line, row, "duration")
    try:
        at = datetime.fromisoformat(row["timestamp"]).timestamp()
    except ValueError:
        raise ScenarioError(f"trace {file}, line {line}: timestamp is {row['timestamp']!r}, not a time") from None
    return TraceJob(at, max(1.0, seconds), int(_number(file, line, row, "num_gpus")), row["cluster"])
