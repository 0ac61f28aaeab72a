"""When a DataLoad runs: once, by a schedule, or when its dataset has a new snapshot; and after which other one.

Pure. A run begins with a fresh status and ends in Complete or Failed, which is what one sees until the next run. Of all
times of a schedule that came due only the newest counts, and none begins a run while one goes on. Invariant: a time of
a schedule is written down with the beginning of its run, so that no second one begins for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api import cron
from api.conditions import Condition, parse_timestamp, set_condition, timestamp
from api.dataload_v1alpha1 import DataLoad, DataLoadStatus, LoadProgress, WaitingFor
from cacheruntime.controller.dataload import COMPLETE, FAILED, FINISHED_PHASES, expiry_seconds

LONGEST_REST_SECONDS: Final = 600.0
"""Clocks are set anew, machines sleep: a schedule is looked at again this often."""
CHAIN_MAX: Final = 64
RUN_AFTER_CYCLE: Final = "RunAfterCycle"
INVALID_SCHEDULE: Final = "InvalidSchedule"
WAIT_SECONDS: Final = 2.0
REFUSED_SECONDS: Final = 10.0
"""How often a load that cannot run as it is is looked at again: what is wrong may be another object's."""

Key = tuple[str, str]
Find = Callable[[Key], DataLoad | None]


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to happen with a load now: `status` is to be written, then it runs, or rests."""

    runs: bool
    status: DataLoadStatus | None = None
    again_seconds: float | None = None
    """None: when something changes."""


def predecessor(load: DataLoad) -> Key | None:
    """Return the key of the load that must be complete first."""
    first = load.spec.run_after
    return None if first is None else (first.namespace or load.metadata.namespace, first.name)


def cycle(load: DataLoad, find: Find) -> str | None:
    """Return the chain of runAfter that leads back to this load, in words, or None. No chain may be longer than
    `CHAIN_MAX`: what is behind is not looked at."""
    start = (load.metadata.namespace, load.metadata.name)
    chain, current = [start], load
    while (key := predecessor(current)) is not None and len(chain) <= CHAIN_MAX:
        chain.append(key)
        if key == start:
            return " after ".join("/".join(one) for one in chain)
        found = find(key)
        if found is None:
            return None
        current = found
    return None


def next_turn(load: DataLoad, find: Find, snapshot_version: int, now_seconds: float) -> Turn:
    """Return what is to happen. `snapshot_version`: of the dataset, 0 = it has none yet."""
    status, policy = load.status or DataLoadStatus(), load.spec.policy
    has_ended = status.phase in FINISHED_PHASES and not _is_refused(status)
    if status.started_at is not None and not has_ended and status.finished_at is None:
        return Turn(runs=True)
    if has_ended and policy == "Once":
        return Turn(runs=False, again_seconds=expiry_seconds(load, now_seconds))
    chain = cycle(load, find)
    if chain is not None:
        return _refuse(load, RUN_AFTER_CYCLE, f"spec.runAfter is a circle: {chain}; take one of them out", now_seconds)
    status = _forgiven(status)
    if policy == "Cron":
        return _by_schedule(load, find, status, now_seconds)
    if has_ended and snapshot_version <= status.snapshot_version:
        return Turn(runs=False)
    return _waits(load, find, status, now_seconds) or Turn(runs=True, status=_begun(status, now_seconds))


def _is_refused(status: DataLoadStatus) -> bool:
    return any(one.reason in (RUN_AFTER_CYCLE, INVALID_SCHEDULE) for one in status.conditions)


def _forgiven(status: DataLoadStatus) -> DataLoadStatus:
    """Return the status of a load that was refused and may run now."""
    if not _is_refused(status):
        return status
    rest = [one for one in status.conditions if one.type != FAILED]
    return status.model_copy(update={"phase": "Pending", "conditions": rest})


def _by_schedule(load: DataLoad, find: Find, status: DataLoadStatus, now_seconds: float) -> Turn:
    try:
        schedule = cron.parse(load.spec.schedule or "", load.spec.time_zone)
    except cron.CronError as error:
        return _refuse(load, INVALID_SCHEDULE, f"spec.{error}", now_seconds)
    coming = schedule.next_after(now_seconds)
    told = status.model_copy(update={"next_schedule_time": None if coming is None else timestamp(coming)})
    settled = status.last_schedule_time or load.metadata.creation_timestamp
    due = schedule.last_until(now_seconds)
    if due is None or due <= (parse_timestamp(settled) if settled else now_seconds):
        rest = LONGEST_REST_SECONDS if coming is None else min(coming - now_seconds, LONGEST_REST_SECONDS)
        return Turn(runs=False, status=told, again_seconds=rest)
    waits = _waits(load, find, told, now_seconds)
    if waits is not None:
        return waits
    return Turn(runs=True, status=_begun(told, now_seconds).model_copy(update={"last_schedule_time": timestamp(due)}))


def _begun(status: DataLoadStatus, now_seconds: float) -> DataLoadStatus:
    """Return the status with which a new run begins."""
    return status.model_copy(
        update={
            "phase": "Executing",
            "started_at": timestamp(now_seconds),
            "finished_at": None,
            "duration": None,
            "progress": LoadProgress(),
            "waiting_for": None,
            "conditions": [one for one in status.conditions if one.type not in FINISHED_PHASES],
        }
    )


def _waits(load: DataLoad, find: Find, status: DataLoadStatus, now_seconds: float) -> Turn | None:
    key = predecessor(load)
    if key is None:
        return None
    first = find(key)
    name = "/".join(key)
    if first is None:
        message = f"spec.runAfter names DataLoad {name}, which does not exist"
    elif first.status is not None and first.status.phase == COMPLETE:
        return None
    elif first.status is not None and first.status.phase == FAILED:
        message = f"DataLoad {name}, which spec.runAfter names, has failed"
    else:
        message = f"waits for DataLoad {name} to be complete"
    condition = Condition(type=COMPLETE, status="False", reason="RunAfter", message=message)
    waiting = status.model_copy(
        update={
            "phase": "Pending",
            "waiting_for": WaitingFor(operation_complete=True),
            "conditions": set_condition(status.conditions, condition, now_seconds),
            "observed_generation": load.metadata.generation,
        }
    )
    return Turn(runs=False, status=waiting, again_seconds=WAIT_SECONDS)


def _refuse(load: DataLoad, reason: str, message: str, now_seconds: float) -> Turn:
    """End it as failed until its spec is another one."""
    status = load.status or DataLoadStatus()
    condition = Condition(type=FAILED, status="True", reason=reason, message=message)
    refused = status.model_copy(
        update={
            "phase": FAILED,
            "next_schedule_time": None,
            "conditions": set_condition(
                [one for one in status.conditions if one.type != COMPLETE], condition, now_seconds
            ),
            "observed_generation": load.metadata.generation,
        }
    )
    return Turn(runs=False, status=refused, again_seconds=REFUSED_SECONDS)
