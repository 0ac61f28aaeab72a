"""Changes of an elastic job's size: fewer workers after a loss or where room is missing, more where there is room.

Owns when the number of workers changes and to what; bounds and members are core/elastic.py. How a change comes about
depends on the framework: where members go on without each other (torchrun's rendezvous) the attempt goes on with other
members, else a new attempt begins with the new number, from the newest complete checkpoint.

    lost      the failed members go, if `min` are left; else the whole attempt is restarted, by the budgets
    no room   members still without a node after a cool-down go, if `min` have one
    growth    *reserves* look for room: pods of the gang that wait behind their start gate (core/start_gate.py), so only
              the scheduler says what fits, and a change interrupts the others once, not once a pod. They become members
              when all are placed, or a cool-down after the last was.

Hysteresis: nothing grows sooner than a cool-down after the last change, which doubles with every loss that follows soon
on a change. Where growth needs a new attempt it waits for a checkpoint that completes after the reserves were placed,
so that no step is done twice, but not for ever.

Invariants: the members are never fewer than `min` by a decision made here; every change is said in an event; the
status that names new members or reserves is stored before their pods are made; numbers are never given again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api.conditions import parse_timestamp, timestamp
from api.training_v1alpha1 import ElasticStatus
from jobcontroller.core import attempts, checkpoints, drain, elastic, indexes, notices
from jobcontroller.core.actions import CreatePod
from jobcontroller.core.elastic import ROLE, Bounds
from jobcontroller.core.exit_class import Failure, FailureKind
from jobcontroller.core.observed import PodView
from jobcontroller.core.pod_builder import build_pod
from jobcontroller.core.turn import Turn

SHRUNK, GROWN = "Shrunk", "Grown"
#: a loss within this many pauses after a change is a setback
CALM_PAUSES = 10
MAX_DOUBLINGS = 6
#: reserves at a time; more follow when these are members
MAX_RESERVES = 64
#: how long placed reserves hold their room for a checkpoint to complete
CHECKPOINT_WAIT_SECONDS = 600.0
#: what a status field holds; a set with more gaps is made whole by a restart
MAX_TEXT_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class NewSize:
    """A change that needs a new attempt with this many workers."""

    workers: int
    reason: str
    text: str


def survive(turn: Turn, found: Sequence[Failure]) -> bool:
    """Go on without the members that failed; False when the attempt has to be restarted."""
    limits, state = elastic.bounds(turn.job.spec), turn.status.elastic
    if limits is None or state is None:
        return False
    if any(one.kind is FailureKind.USER_ERROR or one.role != ROLE or one.is_hang for one in found):
        return False
    lost = frozenset(one.index for one in found)
    left = [index for index in elastic.workers(turn.status) if index not in lost]
    is_anchor_lost = elastic.anchor(turn.observed.framework, turn.job.spec) in lost
    if is_anchor_lost or len(left) < limits.minimum or not _goes_on_as(turn, left):
        return False
    note_loss(turn, found)
    why = found[0].message if len(found) == 1 else f"{found[0].message}, and {len(found) - 1} more"
    _change_members(turn, left, SHRUNK, f"{why}; attempt {turn.attempt} goes on with {_size_text(len(left), limits)}")
    if any(one.is_notice for one in found) and not state.reserves:
        # The replacement is placed, and its node made warm, while the old pod drains.
        _appoint_reserves(turn, state, min(len(lost), limits.maximum - len(left)))
    return True


def note_loss(turn: Turn, found: Iterable[Failure]) -> None:
    """Remember that members were lost, if they were, and whether that undid a change just made."""
    limits, state = elastic.bounds(turn.job.spec), turn.status.elastic
    lost = [one for one in found if one.kind is not FailureKind.USER_ERROR and not one.is_hang]
    if limits is None or state is None or not lost:
        return
    soon = state.resized_at is not None and (
        turn.now < parse_timestamp(state.resized_at) + CALM_PAUSES * _pause_seconds(state, limits)
    )
    state.setbacks = min(state.setbacks + 1, MAX_DOUBLINGS) if soon else 0
    state.lost_at = timestamp(min([turn.now, *(one.at for one in lost if one.at is not None)]))


def workers_after(turn: Turn, found: Iterable[Failure]) -> int | None:
    """Return with how many workers the attempt after these failures begins; None = as many as the spec says."""
    limits, state = elastic.bounds(turn.job.spec), turn.status.elastic
    if limits is None or state is None or elastic.goes_on(turn.observed.framework, turn.job.spec):
        return None
    have = len(elastic.workers(turn.status))
    lost = sum(one.role == ROLE and one.kind is not FailureKind.USER_ERROR and not one.is_hang for one in found)
    # With too few left the scheduler says what fits, from `min` on.
    return have - lost if have - lost >= limits.minimum else have


def size_text(turn: Turn, workers: int) -> str:
    """Return how many workers there are of how many there may be; "" for a job that is not elastic."""
    limits = elastic.bounds(turn.job.spec)
    return _size_text(workers, limits) if limits is not None and turn.status.elastic is not None else ""


def fit(turn: Turn) -> NewSize | None:
    """Do without the workers that found no room."""
    limits, state = elastic.bounds(turn.job.spec), turn.status.elastic
    if limits is None or state is None:
        return None
    pods = turn.current_pods()
    unplaced = [pod for pod in pods if not pod.node and not pod.is_finished]
    placed = [pod for pod in pods if pod.role == ROLE and (pod.node or pod.is_finished)]
    if not unplaced or len(placed) < limits.minimum or any(pod.role != ROLE for pod in unplaced):
        return None
    moved_at = max([*(pod.created_at for pod in unplaced), *(pod.scheduled_at or 0.0 for pod in placed)])
    if turn.now < moved_at + limits.cool_down_seconds:
        turn.wake_at(moved_at + limits.cool_down_seconds)
        return None
    text = f"{len(unplaced)} workers found no room for {limits.cool_down_seconds:.0f} s"
    left = [pod.index for pod in placed]
    is_whole = elastic.anchor(turn.observed.framework, turn.job.spec) in (None, *left)
    if is_whole and _goes_on_as(turn, left):
        size = _size_text(len(left), limits)
        _change_members(turn, left, SHRUNK, f"{text}; attempt {turn.attempt} goes on with {size}")
        return None
    _note_change(turn, state)
    return NewSize(len(left), SHRUNK, text)


def grow(turn: Turn) -> NewSize | None:
    """Look for room for more workers, and take them in."""
    limits, state = elastic.bounds(turn.job.spec), turn.status.elastic
    if limits is None or state is None or turn.status.created_attempt != turn.attempt:
        return None
    members = turn.current_pods()
    if any(pod.is_finished for pod in members):
        # The work is coming to its end.
        state.reserves = ""
        return None
    by_index = {pod.index: pod for pod in turn.other_workers() if pod.role == ROLE}
    _forget_bad_reserves(turn, state, by_index)
    chosen = elastic.reserves(turn.status)
    if not chosen:
        if all(pod.is_running for pod in members):
            _appoint_when_due(turn, state, limits, members)
        return None
    missing = [index for index in chosen if index not in by_index]
    if missing and not state.reserves_created:
        _create_reserves(turn, missing)
        return None
    state.reserves_created = True
    placed = [by_index[index] for index in chosen if by_index[index].node]
    if not placed or not all(pod.is_running for pod in members):
        return None
    size = elastic.workers(turn.status) + [pod.index for pod in placed]
    in_place = _goes_on_as(turn, size)
    if in_place:
        drain.prewarm(turn, placed)
    if any(pod.index not in chosen and not pod.is_finished for pod in turn.other_workers()):
        # Who leaves interrupts the others once more than who joins at that moment.
        return None
    ready_at = max(pod.scheduled_at or 0.0 for pod in placed)
    if len(placed) < len(chosen) and turn.now < ready_at + limits.cool_down_seconds:
        turn.wake_at(ready_at + limits.cool_down_seconds)
        return None
    joining = [pod.index for pod in placed]
    text = f"there is room for {len(joining)} more workers"
    if in_place:
        state.reserves = indexes.text(frozenset(chosen) - frozenset(joining))
        _change_members(turn, size, GROWN, f"{text}; attempt {turn.attempt} has {_size_text(len(size), limits)}")
        return None
    if not _has_fresh_checkpoint(turn, ready_at):
        return None
    _note_change(turn, state)
    return NewSize(len(size), GROWN, text)


def _goes_on_as(turn: Turn, chosen: Iterable[int]) -> bool:
    """Whether the attempt itself can have these members from now on."""
    fits = len(indexes.text(chosen)) <= MAX_TEXT_CHARACTERS
    return fits and elastic.goes_on(turn.observed.framework, turn.job.spec)


def _change_members(turn: Turn, chosen: Iterable[int], reason: str, text: str) -> None:
    elastic.set_members(turn.status, chosen)
    assert turn.status.elastic is not None
    _note_change(turn, turn.status.elastic)
    turn.event(reason, text, "Warning" if reason == SHRUNK else "Normal")
    turn.outcome = reason


def _note_change(turn: Turn, state: ElasticStatus) -> None:
    state.resizes += 1
    state.resized_at = timestamp(turn.now)


def _appoint_when_due(turn: Turn, state: ElasticStatus, limits: Bounds, members: Sequence[PodView]) -> None:
    room = limits.maximum - len(elastic.workers(turn.status))
    if room <= 0 or not _may_grow(turn):
        return
    changed_at = parse_timestamp(state.resized_at) if state.resized_at else 0.0
    due = max([changed_at, *(pod.started_at or 0.0 for pod in members)]) + _pause_seconds(state, limits)
    if turn.now < due:
        turn.wake_at(due)
        return
    _appoint_reserves(turn, state, room)


def _appoint_reserves(turn: Turn, state: ElasticStatus, count: int) -> None:
    have, room = elastic.workers(turn.status), min(count, MAX_RESERVES)
    first = state.next_index
    state.reserves, state.reserves_created = indexes.text(range(first, first + room)), False
    state.next_index = first + room
    if elastic.spot_replicas(turn.job):
        spot = indexes.parse(state.spot) & frozenset(have)
        staying = max(0, elastic.on_demand(turn.job) - (len(have) - len(spot)))
        state.spot = indexes.text([*spot, *range(first + staying, first + room)])
    # Made with the next look, when the status that names them is stored.


def _may_grow(turn: Turn) -> bool:
    # A job that keeps no checkpoint would begin again for each worker that joins.
    in_place = elastic.goes_on(turn.observed.framework, turn.job.spec)
    return in_place or turn.job.spec.checkpoint is not None


def _create_reserves(turn: Turn, missing: Iterable[int]) -> None:
    problem, framework = turn.observed.problem, turn.observed.framework
    if framework is None or (problem is not None and (problem.is_permanent or turn.now < problem.retry_at)):
        turn.wake_at(problem.retry_at if problem is not None and not problem.is_permanent else None)
        return
    for index in missing:
        body = build_pod(turn.job, turn.status, framework, ROLE, index)
        turn.act([CreatePod(body["metadata"]["name"], body)])


def _forget_bad_reserves(turn: Turn, state: ElasticStatus, by_index: dict[int, PodView]) -> None:
    def is_good(index: int) -> bool:
        pod = by_index.get(index)
        if pod is None:
            name = attempts.pod_name(turn.job.metadata.name, ROLE, index, turn.attempt)
            return not state.reserves_created and name not in turn.observed.gone_pods
        return not (pod.is_finished or pod.deletion_at is not None or notices.is_about(turn, pod))

    state.reserves = indexes.text(index for index in elastic.reserves(turn.status) if is_good(index))


def _has_fresh_checkpoint(turn: Turn, ready_at: float) -> bool:
    checkpoint, seen = turn.job.spec.checkpoint, turn.observed.checkpoints
    if checkpoint is None or checkpoint.dataset is None:
        # What is in a volume is not known here.
        return True
    if seen is not None and not seen.error:
        created_at = parse_timestamp(turn.job.metadata.creation_timestamp or timestamp(0))
        newest = checkpoints.newest_complete(seen.found, created_at, turn.status)
        if newest is not None and newest.completed_at is not None and newest.completed_at >= ready_at:
            return True
    turn.wake_at(ready_at + CHECKPOINT_WAIT_SECONDS)
    return turn.now >= ready_at + CHECKPOINT_WAIT_SECONDS


def _pause_seconds(state: ElasticStatus, limits: Bounds) -> float:
    return limits.cool_down_seconds * 2.0 ** min(state.setbacks, MAX_DOUBLINGS)


def _size_text(workers: int, limits: Bounds) -> str:
    return f"{workers} workers of {limits.minimum} to {limits.maximum}"
