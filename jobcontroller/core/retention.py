"""Which checkpoints `checkpoint.keep` says are to go, and what is said of it.

Owns the choice and the condition CheckpointRetention. Does not remove anything (shell/retention.py), nor decide what
makes a checkpoint complete (metadata/).

Invariants: the `keep` newest complete checkpoints of the job stay, and so does the one the current attempt resumed
from, for as long as that attempt lives; nothing goes that is incomplete or that another run may have written: what is
in doubt stays, and all is in doubt while another job writes into the same directory. A checkpoint is entered in
`status.retiringCheckpoints` before its removal begins and leaves it when nothing of it is listed any more, so a removal
that was cut off is finished; no attempt resumes from one that is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from api.conditions import parse_timestamp
from api.training_v1alpha1 import CHECKPOINT_RETENTION, TrainingJob, TrainingJobStatus
from jobcontroller.core import reasons
from jobcontroller.core.actions import RemoveCheckpoint
from jobcontroller.core.checkpoints import CLOCK_SKEW_SECONDS, is_distrusted
from jobcontroller.core.observed import CheckpointView
from jobcontroller.core.turn import Turn

#: removals under way at once; more follow
MAX_RETIRING = 16
#: pause before a removal is looked at again: a large one takes several calls
LOOK_AGAIN_SECONDS = 1.0
MAX_LISTED = 3


def keeps(job: TrainingJob) -> int | None:
    """Return how many complete checkpoints the job keeps; None = all, as nobody here can remove any."""
    checkpoint = job.spec.checkpoint
    return checkpoint.keep if checkpoint is not None and checkpoint.dataset is not None else None


def concerns(job: TrainingJob, status: TrainingJobStatus) -> bool:
    """Whether there is anything to decide: what was begun is finished also when `keep` is taken back."""
    return keeps(job) is not None or bool(status.retiring_checkpoints)


def surplus(job: TrainingJob, status: TrainingJobStatus, found: Iterable[CheckpointView]) -> list[CheckpointView]:
    """Return the checkpoints that are to go, oldest first; `status` tells what the attempt resumed from."""
    keep = keeps(job)
    if keep is None or job.metadata.creation_timestamp is None:
        return []
    begin = parse_timestamp(job.metadata.creation_timestamp) + CLOCK_SKEW_SECONDS
    # What came after the job's end is of a later run in the same directory.
    end = parse_timestamp(status.completion_time) + CLOCK_SKEW_SECONDS if status.completion_time else None
    own = [
        one
        for one in found
        if one.is_complete
        and one.completed_at is not None
        and not is_distrusted(status, one)
        and one.completed_at >= begin
        and (end is None or one.completed_at <= end)
    ]
    own.sort(key=lambda one: (one.step, one.path))
    # A job that has ended resumes from nothing any more.
    in_use = None if status.completion_time else status.resume_path
    return [one for one in own[: max(0, len(own) - keep)] if one.path != in_use]


def apply(turn: Turn) -> None:
    """Enter what is to go in the status, ask for its removal, and say what is gone."""
    seen, status = turn.observed.checkpoints, turn.status
    if seen is None or seen.error or not concerns(turn.job, status):
        return
    keep = keeps(turn.job)
    listed = {one.path for one in seen.found}
    gone = [path for path in status.retiring_checkpoints if path not in listed]
    retiring = [path for path in status.retiring_checkpoints if path in listed]
    sharers = turn.observed.checkpoint_sharers
    surplus_now = [] if sharers else surplus(turn.job, status, seen.found)
    more = [one.path for one in surplus_now if one.path not in retiring]
    status.retiring_checkpoints = (retiring + more)[:MAX_RETIRING]
    if gone:
        why = f"as spec.checkpoint.keep is {keep}" if keep is not None else "as spec.checkpoint.keep said"
        turn.event(reasons.CHECKPOINT_REMOVED, f"{', '.join(gone)}: removed, {why}")
    if sharers and keep is not None:
        _say_shared(turn, sharers)
    else:
        _say_kept(turn, keep)
    problem = turn.observed.removal_problem
    if status.retiring_checkpoints and problem is not None and turn.now < problem.retry_at:
        turn.wake_at(problem.retry_at)
        return
    if status.retiring_checkpoints:
        seals = {one.path: one.seal[len(one.path) + 1 :] for one in seen.found if one.seal}
        turn.act(RemoveCheckpoint(path, seals.get(path, "")) for path in status.retiring_checkpoints)
        turn.wake_at(turn.now + LOOK_AGAIN_SECONDS)


def _say_shared(turn: Turn, sharers: Sequence[str]) -> None:
    listed = ", ".join(sharers[:MAX_LISTED]) + (
        f" and {len(sharers) - MAX_LISTED} more" if len(sharers) > MAX_LISTED else ""
    )
    text = (
        f"no checkpoint is removed while {listed} write to the same directory, as nobody can tell whose one is; give "
        "each job a spec.checkpoint.path of its own"
    )
    if turn.draft.is_true(CHECKPOINT_RETENTION):
        turn.event(reasons.SHARED_DIRECTORY, text, "Warning")
    turn.draft.set(CHECKPOINT_RETENTION, False, reasons.SHARED_DIRECTORY, text)


def _say_kept(turn: Turn, keep: int | None) -> None:
    status, problem = turn.status, turn.observed.removal_problem
    if not status.retiring_checkpoints or problem is None:
        kept = f"the newest {keep} complete" if keep is not None else "all"
        text = f"{kept} checkpoints are kept, and the one the attempt resumed from"
        turn.draft.set(CHECKPOINT_RETENTION, True, reasons.KEPT, text)
    else:
        if turn.draft.is_true(CHECKPOINT_RETENTION):
            turn.event(reasons.CHECKPOINT_NOT_REMOVED, problem.message, "Warning")
        turn.draft.set(CHECKPOINT_RETENTION, False, reasons.CHECKPOINT_NOT_REMOVED, problem.message)
