"""`headrace describe job`, `dataset`, `load`, `runtime`, `node`: all that a person asks about one, on one screen.

Owns the layout. Does not fetch (jobs.py does)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from api import names
from api.quantities import format_bytes
from headrace.cli.tables import age, console, state_of

Body = dict[str, Any]
MAX_EVENTS = 15
_ACTIVITIES = ("queued", "placing", "staging", "starting", "training", "lost")


def print_job(job: Body, pods: Sequence[Body], events: Sequence[Body]) -> None:
    """Print a job, its pods and what happened to it."""
    out = console()
    status = job.get("status", {})
    state, reason = state_of(job)
    out.print(f"[bold]TrainingJob {job['metadata']['namespace']}/{job['metadata']['name']}[/]  ({age(job)} old)")
    out.print(f"State      {state} ({reason})", markup=False)
    out.print(f"           {status.get('message', '')}", markup=False)
    out.print(f"Framework  {job['spec'].get('framework', 'Custom')}")
    restarts = ", ".join(f"{kind} {times}" for kind, times in status.get("restarts", {}).items() if times)
    resumed = f", resumed from step {status['resumeStep']}" if "resumeStep" in status else ""
    out.print(f"Attempt    {status.get('attempt', 0)}{resumed}; restarts: {restarts or 'none'}")
    _print(out, "Conditions", ("TYPE", "STATUS", "REASON", "MESSAGE"), _conditions(status))
    _print(out, "Pods", ("POD", "ROLE", "PHASE", "NODE", "NOTE"), [_pod(pod) for pod in pods])
    _print(out, "Checkpoints", ("STEP", "COMPLETE", "SIZE", "PATH", "ON NODES"), _checkpoints(status))
    _print(out, "Seconds by activity", ("ATTEMPT", *(name.upper() for name in _ACTIVITIES)), _goodput(status))
    _print(out, "Events", ("AGE", "TYPE", "REASON", "NOTE"), [_event(event) for event in events[-MAX_EVENTS:]])


def print_dataset(dataset: Body, events: Sequence[Body]) -> None:
    """Print a dataset, what the cache has of it, and what it may have."""
    out = console()
    spec, status = dataset["spec"], dataset.get("status", {})
    states, cache = status.get("cacheStates", {}), spec.get("cache", {})
    out.print(
        f"[bold]Dataset {dataset['metadata']['namespace']}/{dataset['metadata']['name']}[/]  ({age(dataset)} old)"
    )
    out.print(f"Phase      {status.get('phase', 'New')}", markup=False)
    out.print(f"Size       {status.get('ufsTotal', '-')} in {status.get('fileNum', '-')} files", markup=False)
    copies = f", copies {states['cachedCopies']}" if "cachedCopies" in states else ""
    out.print(f"Cached     {states.get('cached', '-')} ({states.get('cachedPercentage', '-')}){copies}", markup=False)
    expected = states.get("expectedHitRatio", "-")
    out.print(f"Hit ratio  {_hits(states)}; expected {expected} of an epoch's bytes", markup=False)
    shares = f"guaranteed {cache.get('guaranteed', '-')}, maximum {cache.get('maximum', '-')}"
    out.print(f"Room       priority {cache.get('priority', 0)}, {shares}", markup=False)
    out.print(f"Pinned     {', '.join(cache.get('pinned') or []) or '-'}", markup=False)
    mounts = [(mount.get("name", "-"), mount["mountPoint"], mount.get("path", "-")) for mount in spec["mounts"]]
    _print(out, "Mounts", ("NAME", "MOUNT POINT", "PATH"), mounts)
    _print(out, "Conditions", ("TYPE", "STATUS", "REASON", "MESSAGE"), _conditions(status))
    _print(out, "Events", ("AGE", "TYPE", "REASON", "NOTE"), [_event(event) for event in events[-MAX_EVENTS:]])


def print_load(load: Body, events: Sequence[Body]) -> None:
    """Print a load, how far it is, and what could not be loaded."""
    out = console()
    spec, status = load["spec"], load.get("status", {})
    progress, meta = status.get("progress", {}), load["metadata"]
    out.print(f"[bold]DataLoad {meta['namespace']}/{meta['name']}[/]  ({age(load)} old)")
    out.print(f"Phase      {status.get('phase', 'New')}", markup=False)
    of = spec["dataset"]
    out.print(f"Dataset    {of.get('namespace') or meta['namespace']}/{of['name']}", markup=False)
    loaded, total = progress.get("bytesLoaded", 0), progress.get("bytesTotal", 0)
    files = f"{progress.get('filesLoaded', 0)} of {progress.get('filesTotal', 0)} files"
    out.print(f"Loaded     {format_bytes(loaded)} of {format_bytes(total)}, {files}", markup=False)
    eta = f", {progress['etaSeconds']} s left" if "etaSeconds" in progress else ""
    out.print(f"Speed      {format_bytes(progress.get('bytesPerSecond', 0))}/s{eta}", markup=False)
    first = spec.get("runAfter")
    runs = f"{spec.get('policy', 'Once')} {spec.get('schedule', '')}".strip()
    after = f", after {first.get('namespace') or meta['namespace']}/{first['name']}" if first else ""
    due = f", next {status['nextScheduleTime']}" if "nextScheduleTime" in status else ""
    out.print(f"Runs       {runs}{after}{due}", markup=False)
    targets = [
        (
            one.get("path", "/"),
            str(one.get("replicas", 1)),
            str(one.get("priority", 0)),
            ", ".join(one.get("nodes", [])),
        )
        for one in spec.get("target", [])
    ]
    _print(out, "Targets", ("PATH", "REPLICAS", "PRIORITY", "WHOLE ON"), targets)
    _print(out, "Failed", ("PATH", "ERROR"), [(one["path"], one["error"]) for one in progress.get("failed", [])])
    _print(out, "Conditions", ("TYPE", "STATUS", "REASON", "MESSAGE"), _conditions(status))
    _print(out, "Events", ("AGE", "TYPE", "REASON", "NOTE"), [_event(event) for event in events[-MAX_EVENTS:]])


def print_runtime(runtime: Body, events: Sequence[Body]) -> None:
    """Print a pool: how many of its workers live, how full they are, and which nodes they are on."""
    out = console()
    status, meta = runtime.get("status", {}), runtime["metadata"]
    states = status.get("cacheStates", {})
    out.print(f"[bold]CacheRuntime {meta['namespace']}/{meta['name']}[/]  ({age(runtime)} old)")
    ready, wanted = status.get("workerNumberReady", 0), status.get("desiredWorkerNumberScheduled", 0)
    out.print(f"Workers    {ready} of {wanted} ready ({status.get('workerPhase', 'New')})", markup=False)
    out.print(f"Cached     {states.get('cached', '-')} of {states.get('cacheCapacity', '-')}", markup=False)
    _print(out, "Conditions", ("TYPE", "STATUS", "REASON", "MESSAGE"), _conditions(status))
    _print(out, "Events", ("AGE", "TYPE", "REASON", "NOTE"), [_event(event) for event in events[-MAX_EVENTS:]])


def print_node(node: Body) -> None:
    """Print what one node has cached, by tier and by dataset."""
    out = console()
    status = node.get("status", {})
    worker = status.get("worker") or {}
    out.print(f"[bold]NodeCache {node['metadata']['name']}[/]  ({age(node)} old)")
    out.print(f"Worker     {worker.get('endpoint', 'none is alive')}", markup=False)
    network, origin = (status.get(key, {}).get("readBytesPerSecond", 0) for key in ("network", "origin"))
    out.print(f"Reads      {_rate(network)} from peers, {_rate(origin)} from under stores", markup=False)
    tiers = [
        (
            one["medium"],
            format_bytes(one["used"]),
            format_bytes(one["capacity"]),
            _rate(one.get("readBytesPerSecond", 0)),
        )
        for one in status.get("tiers", [])
    ]
    _print(out, "Tiers", ("MEDIUM", "USED", "CAPACITY", "READS"), tiers)
    media = ("MEM", "SSD", "HDD")
    datasets = [
        (
            f"{one['namespace']}/{one['name']}",
            str(one["snapshot"]),
            *(format_bytes(one["residentBytes"].get(medium, 0)) for medium in media),
        )
        for one in status.get("datasets", [])
    ]
    _print(out, "Datasets", ("DATASET", "SNAPSHOT", *media), datasets)


def print_fences(rows: Sequence[Sequence[str]]) -> None:
    """Print what a node may not write to, and whose pods are waited for."""
    out = console()
    if not rows:
        out.print("Fences     none: it may write wherever its pods may")
    _print(
        out,
        "Fences: changed from here no more until these pods are known to have ended",
        ("DATASET", "DIRECTORY", "SINCE", "PODS"),
        rows,
    )


def _rate(bytes_per_second: int) -> str:
    return f"{format_bytes(bytes_per_second)}/s" if bytes_per_second else "not measured"


def _hits(states: Body) -> str:
    if "cacheHitRatio" not in states:
        return "not measured: nothing was read"
    parts = f"{states.get('localHitRatio', '-')} on the node, {states.get('remoteHitRatio', '-')} from peers"
    return f"{states['cacheHitRatio']} measured ({parts})"


def _print(out: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(value.replace("[", "\\[") for value in row))
    out.print(f"\n[bold]{title}[/]")
    out.print(table)


def _conditions(status: Body) -> list[tuple[str, ...]]:
    return [
        (one["type"], one["status"], one.get("reason", ""), one.get("message", ""))
        for one in status.get("conditions") or []
    ]


def _pod(pod: Body) -> tuple[str, ...]:
    status, labels = pod.get("status", {}), pod["metadata"].get("labels", {})
    role = f"{labels.get(names.JOB_ROLE_LABEL, '')} {labels.get(names.JOB_INDEX_LABEL, '')}"
    phase = "Terminating" if pod["metadata"].get("deletionTimestamp") else status.get("phase", "")
    return pod["metadata"]["name"], role, phase, pod.get("spec", {}).get("nodeName", "-"), _pod_note(status)


def _pod_note(status: Body) -> str:
    for container in status.get("containerStatuses") or []:
        ended = container.get("state", {}).get("terminated")
        if ended:
            return f"exit code {ended.get('exitCode')} ({ended.get('reason', '')})"
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    return str(status.get("reason", ""))


def _checkpoints(status: Body) -> list[tuple[str, ...]]:
    return [
        (
            str(one["step"]),
            "yes" if one["complete"] else "no",
            format_bytes(one["bytes"]),
            one["path"],
            ", ".join(one.get("nodes", {})) or "-",
        )
        for one in status.get("checkpoints") or []
    ]


def _goodput(status: Body) -> list[tuple[str, ...]]:
    return [
        (str(one["attempt"]), *(f"{one.get(name, 0):.1f}" for name in _ACTIVITIES))
        for one in status.get("goodput") or []
    ]


def _event(event: Body) -> tuple[str, ...]:
    when = event.get("series", {}).get("lastObservedTime") or event.get("eventTime")
    body = {"metadata": {"creationTimestamp": when}}
    return age(body), event.get("type", ""), event.get("reason", ""), event.get("note", "")
