"""Failures of the running attempt: which pods failed or are gone, when that is known well enough, and which
of them was the cause.

Owns gathering; the classes are in core/exit_class.py and what follows in core/restart_policy.py."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from api.conditions import parse_timestamp, timestamp
from jobcontroller.core import attempts, checkpoints, hang, notices
from jobcontroller.core.exit_class import Failure, FailureKind, classify, first_cause, vanished
from jobcontroller.core.turn import Turn

#: how long after a loss the errors of members that were to go on are blamed on it
AFTER_LOSS_SECONDS = 120.0


def of_attempt(turn: Turn) -> list[Failure]:
    """Return every member of the current attempt that failed, vanished, or is about to be lost."""
    pods = turn.current_pods()
    found = [failure for failure in map(classify, pods) if failure is not None]
    if turn.status.created_attempt == turn.attempt or turn.observed.gone_pods:
        found.extend(_vanished(turn, {pod.key for pod in pods}))
    found += notices.of_attempt(turn)
    return found or hang.of_attempt(turn)


def _vanished(turn: Turn, present: Collection[tuple[str, int]]) -> Iterator[Failure]:
    was_whole = turn.status.created_attempt == turn.attempt
    for role, index in turn.members():
        name = attempts.pod_name(turn.job.metadata.name, role, index, turn.attempt)
        if (role, index) not in present and (was_whole or name in turn.observed.gone_pods):
            yield vanished(role, index, name)


def settled_at(turn: Turn, found: Sequence[Failure]) -> float:
    """Return when the cause may be decided; a time in the past = now.

    Peers of a killed member exit with an error of their own, and theirs may be seen first. So while only such
    errors are known and other members still run, the controller waits `settle_seconds`."""
    if any(failure.kind is not FailureKind.USER_ERROR for failure in found):
        return turn.now
    if all(pod.is_finished for pod in turn.current_pods()):
        return turn.now
    first = min((failure.at for failure in found if failure.at is not None), default=None)
    # A node's clock that is ahead must not hold up the restart.
    if first is None or first > turn.now + turn.policy.settle_seconds:
        return turn.now
    return first + turn.policy.settle_seconds


def cause(turn: Turn, found: Sequence[Failure]) -> Failure:
    """Return the failure that brought the others about.

    Members of an elastic attempt that was to go on without a lost one, and that end soon after, were brought down by
    that loss: their collectives broke, or torchrun's agents gave up."""
    found_first = first_cause(found, turn.policy.settle_seconds)
    lost_at = turn.status.elastic.lost_at if turn.status.elastic is not None else None
    if found_first.kind is not FailureKind.USER_ERROR or lost_at is None or found_first.at is None:
        return found_first
    since = found_first.at - parse_timestamp(lost_at)
    if not -turn.policy.settle_seconds <= since <= AFTER_LOSS_SECONDS:
        return found_first
    text = f"{found_first.message}, {max(0.0, since):.0f} s after other members were lost"
    return replace(found_first, kind=FailureKind.INFRASTRUCTURE, message=text)


def resume_text(turn: Turn) -> str:
    """Return where the next attempt will go on, as far as is known now."""
    if turn.job.spec.checkpoint is None:
        return "starts from the beginning: the job names no checkpoint place"
    seen = turn.observed.checkpoints
    if seen is None or seen.error:
        return "resumes from the newest complete checkpoint"
    created_at = parse_timestamp(turn.job.metadata.creation_timestamp or timestamp(0))
    newest = checkpoints.newest_complete(seen.found, created_at, turn.status)
    if newest is None:
        return "starts from the beginning: no checkpoint is complete yet"
    return f"resumes from step {newest.step} or a newer complete checkpoint"
