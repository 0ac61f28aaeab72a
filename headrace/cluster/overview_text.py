"""An overview of a cluster as tables for people, or JSON or YAML for programs."""

from __future__ import annotations

import dataclasses
import json

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.quantities import format_bytes
from headrace.cluster.overview import Overview
from headrace.errors import UsageError


def render(overview: Overview, output: str, console: Console) -> None:
    """Print it. Raises UsageError for a format we do not have."""
    if output == "json":
        print(json.dumps(dataclasses.asdict(overview), indent=2))
    elif output == "yaml":
        print(yaml.safe_dump(dataclasses.asdict(overview), sort_keys=False), end="")
    elif output == "table":
        _tables(overview, console)
    else:
        raise UsageError(f"--output {output!r} is not known; use table, json or yaml")


def _tables(overview: Overview, console: Console) -> None:
    if overview.processes:
        console.print(_process_table(overview))
    if overview.nodes:
        nodes = Table("node", "state", "GPUs used", "pods", "cached")
        for node in overview.nodes:
            ready = "[green]Ready[/]" if node.is_ready else "[red]NotReady[/]"
            gpus = f"{node.gpus_used} of {node.gpus_total}"
            nodes.add_row(node.name, ready, gpus, str(node.pods), format_bytes(node.cached_bytes))
        console.print(nodes)
    if overview.problem:
        console.print(f"[red]cluster {overview.name}: {escape(overview.problem)}[/]")


def _process_table(overview: Overview) -> Table:
    table = Table(title=f"cluster {overview.name}")
    table.add_column("component", no_wrap=True)
    for heading in ("pid", "state", "restarts", "memory"):
        table.add_column(heading)
    table.add_column("address", overflow="fold")
    for one in overview.processes:
        # A log line may hold what rich would read as markup.
        state = "[green]running[/]" if one.is_running else f"[red]down[/] {escape(one.last_log[:160])}"
        memory = format_bytes(one.memory_bytes) if one.memory_bytes is not None else "-"
        table.add_row(one.name, str(one.pid), state, str(one.restarts), memory, one.address)
    return table
