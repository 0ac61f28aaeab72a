"""What must hold at rest: no partial gang, and a true reason for every pod that waits.

Owns those two; the ledger refuses over-commitment and double binds as they happen. Reasons are checked against the
ledger, not against the scheduler's own tables, a few jobs a time in turn. Raises InvariantViolation.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from api import names
from scheduler.core import explain
from simulations.engine.driver import Attempt
from simulations.engine.ledger import InvariantViolation, Ledger
from simulations.engine.model import JobSpec
from simulations.engine.policy import Gangs

A_TIME = 8
COLUMNS = {names.GPU_RESOURCE: 0, "cpu": 1, "memory": 2}  # of the ledger
NO_ROOM, WAITS_FOR_DATA = "nodes are available: ", ": waiting for node "


def asks_of(spec: JobSpec) -> NDArray[np.int64]:
    """What one pod takes: GPUs, millicores, bytes, a slot."""
    return np.array([spec.gpus, spec.cpu_milli, spec.memory_bytes, 1], dtype=np.int64)


def pods_needed(attempt: Attempt, gangs: Gangs) -> int:
    """How many pods must fit before an attempt that waits could go on. One of a gang that holds room in Permit; all of
    one that gave up."""
    return 1 if gangs is Gangs.NONE or attempt.permits else attempt.spec.pods


def check_gang(attempt: Attempt, gangs: Gangs, now: float) -> None:
    """After a turn a gang is on nodes as a whole or not at all, unless the policy knows no gangs."""
    bound, pods = len(attempt.node_of), attempt.spec.pods
    if gangs is not Gangs.NONE and 0 < bound < pods:
        raise InvariantViolation(
            f"partial gang at {now:.1f} s: job {attempt.spec.name} has {bound} of {pods} pods bound"
        )


def held_by_permits(waiting: Iterable[Attempt], ledger: Ledger) -> NDArray[np.int64] | None:
    """Room on each node that placed pods hold while they wait for the rest of their gangs; None: none."""
    held: NDArray[np.int64] | None = None
    for attempt in waiting:
        for node in attempt.permits.values():
            held = np.zeros_like(ledger.free) if held is None else held
            held[node] += asks_of(attempt.spec)
    return held


def check_reason(
    attempt: Attempt, told: str, gangs: Gangs, ledger: Ledger, *, held: NDArray[np.int64] | None, now: float
) -> None:
    """A resting pod was told why, and it is so: what it asks for is not there as the ledger has it."""
    name = attempt.spec.name
    if told == explain.NO_NODES and not (ledger.is_up & ledger.is_open).any():
        return
    if NO_ROOM not in told:
        raise InvariantViolation(f"at {now:.1f} s job {name} waits and was told {told!r}, which is no reason")
    if WAITS_FOR_DATA in told:
        if attempt.spec.dataset is None or not attempt.spec.max_wait_seconds:
            raise InvariantViolation(f"untrue reason at {now:.1f} s: job {name} ({told!r}) asked for no wait for data")
        return
    asks = asks_of(attempt.spec)
    most = ledger.free if held is None else ledger.free - held
    most = most[ledger.is_up & ledger.is_open]
    for resource, column in COLUMNS.items():
        # Not how many nodes: since it was told more may lack something.
        is_ample = len(most) > 0 and bool((most[:, column] >= asks[column] * attempt.spec.pods).all())
        if is_ample and f"Insufficient {resource}" in told:
            raise InvariantViolation(
                f"untrue reason at {now:.1f} s: job {name} waits ({told!r}), but every node has enough of {resource}"
            )
    fits = int(np.minimum(ledger.fits(asks, held), attempt.spec.pods).sum())
    needed = pods_needed(attempt, gangs)
    if fits >= needed:
        raise InvariantViolation(
            f"untrue reason at {now:.1f} s: job {name} waits ({told!r}), but {fits} of its pods fit, needed: {needed}"
        )
