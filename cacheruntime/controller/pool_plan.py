"""Which DaemonSets of workers there are to be beside the installed one, and what their CacheRuntimes are told. Pure.

Owns `plan` and the condition `APPLIED`. How a DaemonSet looks is `pool_workers.py`'s. Invariants: what a label's nodes
run changes only by a CacheRuntime that was read and can be followed, or is known to be gone; a DaemonSet goes when no
node has its label any more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from api.conditions import Condition
from cacheruntime.controller import pool_workers
from cacheruntime.controller.pool_workers import Body, PoolProblem, label_of

APPLIED = "Applied"
"""Condition: whether its workers run as `tieredstore` and `worker` say; absent where these say nothing."""
REFUSED, NO_NODES, ROLLING_OUT, ROLLED_OUT = "Refused", "NoNodes", "RollingOut", "RolledOut"
NOT_PODS, UNKNOWN = "WorkersAreNoPods", "NotKnown"


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is, all of it read after the turn began."""

    installed: Body | None
    pools: Sequence[Body]
    """The DaemonSets with a label of pools."""
    runtimes: Sequence[CacheRuntime]
    unreadable: Collection[str]
    """Labels of CacheRuntimes that are malformed."""
    labels: Collection[str]
    """Values of the label that nodes have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and why some of it cannot be."""

    apply: Mapping[str, Body]
    """By label."""
    delete: Sequence[Body]
    problems: Mapping[str, str] = field(default_factory=dict)
    """By label of the CacheRuntime."""


def plan(seen: Seen, where: str) -> Plan:
    """Return what brings the DaemonSets in line with nodes and CacheRuntimes; `where` names the installed one."""
    by_label = {label_of(item): item for item in seen.runtimes if pool_workers.asks_for_workers(item)}
    there = {one["metadata"]["labels"][names.POOL_LABEL]: one for one in seen.pools}
    delete = [one for label, one in there.items() if label not in seen.labels]
    try:
        if seen.installed is None:
            raise PoolProblem(f"DaemonSet {where}, whose pods its workers are copies of, does not exist")
        pool_workers.check_installed(seen.installed)
    except PoolProblem as problem:
        return Plan({}, delete, dict.fromkeys(by_label, str(problem)))
    apply: dict[str, Body] = {}
    problems: dict[str, str] = {}
    for label in sorted({*seen.labels, *by_label}):
        wanted = None if label in seen.unreadable else _wanted(label, seen.installed, by_label.get(label))
        if isinstance(wanted, str):
            problems[label] = wanted
            wanted = None
        if label not in seen.labels:
            continue
        if wanted is None and label not in there:
            wanted = pool_workers.daemon_set(label, seen.installed, None)  # no node is without a worker
        if wanted is not None:
            apply[label] = wanted
    return Plan(apply, delete, problems)


def _wanted(label: str, installed: Body, runtime: CacheRuntime | None) -> Body | str:
    try:
        if runtime is not None:
            pool_workers.check_label(runtime)
        return pool_workers.daemon_set(label, installed, runtime)
    except PoolProblem as problem:
        return str(problem)


def condition(runtime: CacheRuntime, live: Body | None, problem: str | None) -> Condition:
    """Return what a CacheRuntime that asks for workers is told; `live` is its DaemonSet, if any node has its label."""
    label = f"{names.POOL_LABEL}={label_of(runtime)}"
    if problem is not None:
        tail = "" if live is None else "; its workers stay as they are"
        return _condition("False", REFUSED, f"{problem}{tail}")
    if live is None:
        message = (
            f"no node has the label {label}: give it nodes with kubectl label node NODE {label}; tieredstore and "
            "worker have no effect until then, and the workers of all nodes that it allows keep its datasets' blocks"
        )
        return _condition("False", NO_NODES, message)
    done, wanted = _rolled_out(live)
    message = f"{done} of {wanted} workers run as tieredstore and worker say"
    if done < wanted or not wanted:
        return _condition("False", ROLLING_OUT, message)
    return _condition("True", ROLLED_OUT, message)


def not_pods() -> Condition:
    """Return what a CacheRuntime is told where the workers are processes."""
    message = (
        "tieredstore and worker have no effect: the workers of this cluster are no pods of a DaemonSet; `headrace up` "
        "gives its nodes' workers their tiers (--mem-tier, --ssd-tier)"
    )
    return _condition("False", NOT_PODS, message)


def unknown(why: str) -> Condition:
    """Return what it is told when its workers cannot be looked at."""
    return _condition("Unknown", UNKNOWN, f"its workers cannot be looked at, and it is tried again: {why}")


def refused(why: str) -> str:
    """Return the problem when the API server does not take a DaemonSet."""
    return f"the API server does not take its workers: {why}"


def _rolled_out(live: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many workers are as the DaemonSet says and ready, and how many there are to be."""
    status = live.get("status") or {}
    wanted = int(status.get("desiredNumberScheduled", 0))
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 1):
        return 0, wanted
    return min(int(status.get("updatedNumberScheduled", 0)), int(status.get("numberAvailable", 0))), wanted


def _condition(status: Any, reason: str, message: str) -> Condition:
    return Condition(type=APPLIED, status=status, reason=reason, message=message)
