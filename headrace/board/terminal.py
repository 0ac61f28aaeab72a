"""`headrace top`: the picture as tables for a terminal.

Owns layout and wording. Pure: picture in, something rich can print out.
"""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.quantities import format_bytes
from headrace.board.picture import CacheNode, JobRow, Picture

BAR_CELLS: Final = 20
JOBS_MAX: Final = 15
ROWS_MAX: Final = 10
DATASETS_A_NODE: Final = 3


def screen(picture: Picture, missing: list[str], trouble: str = "") -> RenderableType:
    """Everything of interest now, the most urgent last where the eye is."""
    parts: list[RenderableType] = [_summary(picture)]
    if trouble:
        parts.append(Text(trouble, style="red"))
    if missing:
        parts.append(Text(f"not shown by the API server: {', '.join(missing)}", style="yellow"))
    if picture.nodes:
        parts.append(_nodes(picture))
    if picture.held:
        parts.append(_held(picture))
    if picture.loads:
        parts.append(_loads(picture))
    if picture.jobs:
        parts.append(_jobs(picture))
    if picture.waiting:
        parts.append(_waiting(picture))
    return Group(*parts)


def _summary(picture: Picture) -> Text:
    totals = picture.totals
    arrived = picture.arrived
    text = (
        f"{totals.serving} of {totals.nodes} caches serve, {format_bytes(totals.used_bytes)} of "
        f"{format_bytes(totals.capacity_bytes)} used; {totals.jobs} jobs, {totals.waiting} waiting"
    )
    total = arrived.local_bytes + arrived.peer_bytes + arrived.origin_bytes
    if total:
        shares = (arrived.local_bytes, arrived.peer_bytes, arrived.origin_bytes)
        local, peers, origin = (f"{100 * share / total:.0f} %" for share in shares)
        text += f"; data of {arrived.pods} placed pods: {local} local, {peers} from peers, {origin} from under stores"
    return Text(text, style="bold")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    return table


def _nodes(picture: Picture) -> Table:
    table = _table("caches", "NODE", "TIER", "USED", "", "MOST OF IT")
    for node in picture.nodes:
        if not node.is_serving:
            table.add_row(node.name, "-", "no worker", "", "")
        for number, tier in enumerate(node.tiers):
            share = tier.used_bytes / tier.capacity_bytes if tier.capacity_bytes else 0.0
            said = f"{format_bytes(tier.used_bytes)} of {format_bytes(tier.capacity_bytes)}"
            table.add_row(node.name if not number else "", tier.medium, said, bar(share), _most(node, tier.medium))
    return table


def _held(picture: Picture) -> Table:
    table = _table("not uploaded yet", "DATASET", "FILES", "BYTES")
    for row in picture.held[:ROWS_MAX]:
        table.add_row(row.key, str(row.files), format_bytes(row.bytes))
    return table


def bar(share: float) -> str:
    """A bar of 20 cells; anything above nothing shows."""
    cells = min(BAR_CELLS, max(round(share * BAR_CELLS), 1 if share > 0 else 0))
    return "█" * cells + "·" * (BAR_CELLS - cells)


def _most(node: CacheNode, medium: str) -> str:
    sizes = sorted(((media.get(medium, 0), key) for key, media in node.resident.items()), reverse=True)
    said = [f"{key} {format_bytes(size)}" for size, key in sizes[:DATASETS_A_NODE] if size]
    rest = sum(size > 0 for size, _ in sizes[DATASETS_A_NODE:])
    return ", ".join(said) + (f", {rest} more" if rest else "")


def _loads(picture: Picture) -> Table:
    table = _table("loads", "LOAD", "DATASET", "PHASE", "LOADED", "", "ETA")
    for load in picture.loads[:ROWS_MAX]:
        share = load.loaded_bytes / load.total_bytes if load.total_bytes else 0.0
        said = f"{format_bytes(load.loaded_bytes)} of {format_bytes(load.total_bytes)}"
        eta = "" if load.eta_seconds is None else duration(load.eta_seconds)
        table.add_row(load.key, load.dataset, load.phase, said, bar(share), eta)
    return table


def _jobs(picture: Picture) -> Table:
    table = _table("jobs", "JOB", "STATE", "TRY", "RESUMED AT", "GOODPUT", "AGE", "WHY")
    for job in picture.jobs[:JOBS_MAX]:
        goodput = "-" if job.goodput is None else f"{100 * job.goodput:.0f} %"
        resumed = "-" if job.resume_step is None else str(job.resume_step)
        style = {"Failed": "red", "Succeeded": "green"}.get(job.state)
        why = job.message or job.reason
        table.add_row(job.key, Text(job.state, style=style or ""), str(job.attempt), resumed, goodput, _age(job), why)
    return table


def _age(job: JobRow) -> str:
    return duration(job.age_seconds)


def _waiting(picture: Picture) -> Table:
    table = _table("waiting", "WHO", "KIND", "SINCE", "WHY")
    for row in picture.waiting[:ROWS_MAX]:
        table.add_row(row.key, row.kind, duration(row.since_seconds), Text(row.why, overflow="fold", no_wrap=False))
    return table


def duration(seconds: float) -> str:
    """Two units at most: 45s, 3m20s, 5h10m, 2d3h."""
    whole = round(seconds)
    for size, letter, small, small_letter in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{letter}" + (f"{rest}{small_letter}" if rest else "")
    return f"{whole}s"
