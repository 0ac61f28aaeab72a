"""`headrace get`: objects as a table, JSON or YAML.

Owns the columns of each kind. Does not fetch (jobs.py does)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from api.conditions import parse_timestamp
from api.quantities import format_bytes
from headrace.errors import UsageError
from kube.resources import (
    CACHE_RUNTIMES,
    CRON_TRAINING_JOBS,
    DATA_LOADS,
    DATASETS,
    NODE_CACHES,
    QUEUES,
    TRAINING_JOBS,
    Resource,
)

#: wider than any line
PIPE_CHARACTERS = 10_000
PINNED_MAX = 8
"""Paths in one cell."""
Body = dict[str, Any]
Cell = Callable[[Body], str]


@dataclass(frozen=True, slots=True)
class Listing:
    """One word after `headrace get`: its resource and columns."""

    resource: Resource
    columns: tuple[tuple[str, Cell], ...]


def state_of(job: Body) -> tuple[str, str]:
    """Return a TrainingJob's state and its reason: its last condition."""
    conditions = job.get("status", {}).get("conditions") or [{}]
    return conditions[-1].get("type", "New"), conditions[-1].get("reason", "")


def age(body: Body, now: float | None = None) -> str:
    """Return how old an object is, as kubectl writes it."""
    created = body.get("metadata", {}).get("creationTimestamp")
    if not created:
        return "-"
    seconds = max(0, int((time.time() if now is None else now) - parse_timestamp(created)))
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


def print_objects(listing: Listing, items: Sequence[Body], output: str, *, with_namespace: bool) -> None:
    """Print items on standard output. Raises UsageError for an unknown output."""
    if output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)}, indent=2))
    elif output == "yaml":
        print(yaml.safe_dump_all(list(items), sort_keys=False), end="")
    elif output == "table":
        _print_table(listing, items, with_namespace)
    else:
        raise UsageError(f"output {output!r} is not known; choose table, json or yaml")


def _print_table(listing: Listing, items: Sequence[Body], with_namespace: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns: list[tuple[str, Cell]] = [("NAME", lambda body: str(body["metadata"]["name"])), *listing.columns]
    if with_namespace and listing.resource.namespaced:
        columns.insert(0, ("NAMESPACE", lambda body: str(body["metadata"].get("namespace", ""))))
    for title, _ in columns:
        table.add_column(title, overflow="fold")
    for body in items:
        table.add_row(*(cell(body) for _, cell in columns))
    console().print(table)


def console() -> Console:
    """Return where output goes; a pipe gets whole lines, a terminal its own width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_CHARACTERS)


def _at(*path: str) -> Cell:
    def cell(body: Body) -> str:
        found: Any = body
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return "-" if found is None else str(found)

    return cell


def _restarts(job: Body) -> str:
    counts = job.get("status", {}).get("restarts", {})
    return str(sum(counts.values()))


def _progress(load: Body) -> str:
    progress = load.get("status", {}).get("progress", {})
    total, loaded = progress.get("bytesTotal", 0), progress.get("bytesLoaded", 0)
    if not total:
        return "-"
    return f"{format_bytes(loaded)} of {format_bytes(total)} ({100 * loaded / total:.0f} %)"


def _tiers(node: Body) -> str:
    tiers = node.get("status", {}).get("tiers", [])
    said = [f"{t['medium']} {format_bytes(t['used'])} of {format_bytes(t['capacity'])}" for t in tiers]
    return ", ".join(said) or "-"


def _resident(node: Body) -> str:
    found = []
    for dataset in node.get("status", {}).get("datasets", []):
        size = sum(dataset.get("residentBytes", {}).values())
        found.append(f"{dataset['namespace']}/{dataset['name']} {format_bytes(size)}")
    return ", ".join(found) or "-"


def _workers(runtime: Body) -> str:
    status = runtime.get("status", {})
    return f"{status.get('workerNumberReady', 0)} of {status.get('desiredWorkerNumberScheduled', 0)}"


def _pinned(dataset: Body) -> str:
    pinned = dataset["spec"].get("cache", {}).get("pinned") or []
    more = f" and {len(pinned) - PINNED_MAX} more" if len(pinned) > PINNED_MAX else ""
    return ", ".join(pinned[:PINNED_MAX]) + more or "-"


CACHE_TERMS = Listing(
    DATASETS,
    (
        ("PRIORITY", lambda body: str(body["spec"].get("cache", {}).get("priority", 0))),
        ("GUARANTEED", _at("spec", "cache", "guaranteed")),
        ("MAXIMUM", _at("spec", "cache", "maximum")),
        ("PINNED", _pinned),
        ("CACHED", _at("status", "cacheStates", "cached")),
    ),
)
"""What `headrace cache` prints of a dataset."""

LISTED = Listing(
    DATASETS,
    (
        ("SNAPSHOT", _at("status", "snapshot", "version")),
        ("FILES", _at("status", "snapshot", "files")),
        ("ADDED", _at("status", "metadataSync", "added")),
        ("CHANGED", _at("status", "metadataSync", "changed")),
        ("REMOVED", _at("status", "metadataSync", "removed")),
        ("LISTED", _at("status", "metadataSync", "listedAt")),
    ),
)
"""What `headrace cache sync` prints of a dataset."""

DRAINED = Listing(
    NODE_CACHES,
    (
        ("DONE", _at("status", "leaving", "done")),
        ("MOVED", _at("status", "leaving", "movedBytes")),
        ("REFUSED", _at("status", "leaving", "refusedBytes")),
    ),
)
"""What `headrace cache drain` prints of a node: bytes."""

LISTINGS: dict[str, Listing] = {
    "jobs": Listing(
        TRAINING_JOBS,
        (
            ("FRAMEWORK", _at("spec", "framework")),
            ("STATE", lambda body: state_of(body)[0]),
            ("REASON", lambda body: state_of(body)[1]),
            ("ATTEMPT", _at("status", "attempt")),
            ("RESTARTS", _restarts),
            ("RESUMED AT", _at("status", "resumeStep")),
            ("AGE", age),
        ),
    ),
    "crons": Listing(
        CRON_TRAINING_JOBS,
        (
            ("SCHEDULE", _at("spec", "schedule")),
            ("ZONE", lambda body: str(body["spec"].get("timeZone", "UTC"))),
            ("POLICY", _at("spec", "concurrencyPolicy")),
            ("STATE", lambda body: state_of(body)[1]),
            ("RUN", lambda body: str(len(body.get("status", {}).get("active", [])))),
            ("LAST", _at("status", "lastScheduleTime")),
            ("NEXT", _at("status", "nextScheduleTime")),
            ("AGE", age),
        ),
    ),
    "queues": Listing(
        QUEUES,
        (
            ("NOMINAL GPUS", _at("spec", "nominalGPUs")),
            ("USED", _at("status", "usedGPUs")),
            ("BORROWED", _at("status", "borrowedGPUs")),
            ("MAY BORROW", lambda body: str(body["spec"].get("borrowingLimit", "any"))),
            ("RUN", _at("status", "admittedJobs")),
            ("WAIT", _at("status", "waitingJobs")),
            ("WEIGHT", _at("spec", "weight")),
            ("PRIORITY", _at("spec", "priority")),
            ("AGE", age),
        ),
    ),
    "datasets": Listing(
        DATASETS,
        (
            ("PHASE", _at("status", "phase")),
            ("TOTAL", _at("status", "ufsTotal")),
            ("FILES", _at("status", "fileNum")),
            ("CACHED", _at("status", "cacheStates", "cached")),
            ("CACHED %", _at("status", "cacheStates", "cachedPercentage")),
            ("HITS", _at("status", "cacheStates", "cacheHitRatio")),
            ("EXPECTED", _at("status", "cacheStates", "expectedHitRatio")),
            ("AGE", age),
        ),
    ),
    "loads": Listing(
        DATA_LOADS,
        (
            ("DATASET", _at("spec", "dataset", "name")),
            ("PHASE", _at("status", "phase")),
            ("LOADED", _progress),
            ("ETA s", _at("status", "progress", "etaSeconds")),
            ("DURATION", _at("status", "duration")),
            ("AGE", age),
        ),
    ),
    "runtimes": Listing(
        CACHE_RUNTIMES,
        (
            ("WORKERS", _workers),
            ("PHASE", _at("status", "workerPhase")),
            ("CACHED", _at("status", "cacheStates", "cached")),
            ("CAPACITY", _at("status", "cacheStates", "cacheCapacity")),
            ("AGE", age),
        ),
    ),
    "nodes": Listing(
        NODE_CACHES,
        (("WORKER", _at("status", "worker", "endpoint")), ("TIERS", _tiers), ("RESIDENT", _resident), ("AGE", age)),
    ),
}
"""What `headrace get` lists; singular and short names are resolved by `listing`."""
_ALIASES = {
    "job": "jobs",
    "tj": "jobs",
    "trainingjob": "jobs",
    "trainingjobs": "jobs",
    "cron": "crons",
    "ctj": "crons",
    "crontrainingjob": "crons",
    "crontrainingjobs": "crons",
    "queue": "queues",
    "dataset": "datasets",
    "ds": "datasets",
    "load": "loads",
    "dataload": "loads",
    "dataloads": "loads",
    "runtime": "runtimes",
    "cacheruntime": "runtimes",
    "cacheruntimes": "runtimes",
    "node": "nodes",
    "nodecache": "nodes",
    "nodecaches": "nodes",
}


def listing(word: str) -> Listing:
    """Return what a word stands for. Raises UsageError."""
    found = LISTINGS.get(_ALIASES.get(word, word))
    if found is None:
        raise UsageError(f"{word!r} is nothing that get lists; choose {', '.join(LISTINGS)}")
    return found
