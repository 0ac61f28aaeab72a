"""Checkpoints: which one an attempt resumes from, and what its pods are told of it.

Owns the choice and the paths. Does not decide what makes a checkpoint complete (metadata/ does). A file that was whole
and is rotten shows only when a program reads it: from a checkpoint from which no attempt gets to the next one the job
turns to the one before (`note_failed_resume`). Invariant: the choice is made once an attempt, after the last pod of the
one before is gone, and kept in the status."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from api import names
from api.conditions import parse_timestamp, timestamp
from api.training_v1alpha1 import CheckpointStatus, DistrustedCheckpoint, TrainingJobSpec, TrainingJobStatus
from jobcontroller.core.actions import AnnotatePod
from jobcontroller.core.observed import CheckpointView, PodView

#: clocks of the under store and the API server may differ by this much
CLOCK_SKEW_SECONDS = 5.0
MAX_STATUS_CHECKPOINTS = 16
MAX_STATUS_NODES = 256
MAX_PROBLEM_CHARACTERS = 200
#: attempts in a row that end with an error before their checkpoint is followed by a newer one
FAILED_RESUMES_TO_DISTRUST = 2
MAX_DISTRUSTED = 16
LAST_LOOK_SECONDS = 600.0
"""How long after a job's end its last checkpoints are asked for; a controller that starts later leaves them alone."""


def newest_complete(
    found: Iterable[CheckpointView], job_created_at: float, status: TrainingJobStatus | None = None
) -> CheckpointView | None:
    """Return the complete checkpoint with the highest step that this job wrote.

    Never one whose removal has begun or that is distrusted, as `status` says. One completed before the job existed
    belongs to another run in the same directory."""
    retiring = status.retiring_checkpoints if status is not None else ()
    own = (
        checkpoint
        for checkpoint in found
        if checkpoint.is_complete
        and checkpoint.path not in retiring
        and not (status is not None and is_distrusted(status, checkpoint))
        and (checkpoint.completed_at is None or checkpoint.completed_at >= job_created_at - CLOCK_SKEW_SECONDS)
    )
    return max(own, key=lambda checkpoint: checkpoint.step, default=None)


def newest_torn(
    found: Iterable[CheckpointView], chosen: CheckpointView | None, status: TrainingJobStatus
) -> CheckpointView | None:
    """Return the newest incomplete checkpoint that is newer than the chosen one; None when there is none."""
    after = chosen.step if chosen is not None else -1
    torn = (
        one for one in found if not one.is_complete and one.step > after and one.path not in status.retiring_checkpoints
    )
    return max(torn, key=lambda one: one.step, default=None)


def is_distrusted(status: TrainingJobStatus, checkpoint: CheckpointView) -> bool:
    """Whether attempts failed again and again from just this one; not after it was saved anew."""
    return _record(checkpoint) in status.distrusted_checkpoints


def note_failed_resume(
    status: TrainingJobStatus, found: Sequence[CheckpointView], job_created_at: float
) -> CheckpointView | None:
    """Count one more attempt that ended with an error; the checkpoint that is not trusted any more from now on."""
    newest = newest_complete(found, job_created_at, status)
    resumed = next((one for one in found if one.path == status.resume_path), None)
    if resumed is None or newest is None or newest.step > resumed.step:
        status.failed_resumes = 0
        return None
    status.failed_resumes += 1
    if status.failed_resumes < FAILED_RESUMES_TO_DISTRUST:
        return None
    status.failed_resumes = 0
    status.distrusted_checkpoints = [*status.distrusted_checkpoints, _record(resumed)][-MAX_DISTRUSTED:]
    return resumed


def _record(checkpoint: CheckpointView) -> DistrustedCheckpoint:
    at = timestamp(checkpoint.completed_at) if checkpoint.completed_at is not None else None
    return DistrustedCheckpoint(path=checkpoint.path, completed_at=at)


def statuses(found: Iterable[CheckpointView]) -> list[CheckpointStatus]:
    """Return `status.checkpoints`: the newest few, newest first."""
    newest = sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)[:MAX_STATUS_CHECKPOINTS]
    return [
        CheckpointStatus(
            step=checkpoint.step,
            complete=checkpoint.is_complete,
            # Writes go through to the under store before they are acknowledged.
            durable=checkpoint.is_complete,
            bytes=checkpoint.size_bytes,
            path=checkpoint.path,
            nodes=_largest(checkpoint.node_bytes),
            completed_at=timestamp(checkpoint.completed_at) if checkpoint.completed_at is not None else None,
            problem=checkpoint.problem[:MAX_PROBLEM_CHARACTERS] or None,
        )
        for checkpoint in newest
    ]


def is_last_look_due(status: TrainingJobStatus, now: float) -> bool:
    """Whether a finished job ended so lately that what `status` says of its checkpoints may be from before its end."""
    return status.completion_time is not None and now < parse_timestamp(status.completion_time) + LAST_LOOK_SECONDS


def annotate(pods: Iterable[PodView], found: Iterable[CheckpointView], job_created_at: float) -> list[AnnotatePod]:
    """Return what tells the scheduler, on each running pod, since when its work is not in a checkpoint."""
    newest = newest_complete(found, job_created_at)
    if newest is None or newest.completed_at is None:
        return []
    at = timestamp(newest.completed_at)
    return [
        AnnotatePod(pod.name, pod.uid, {names.CHECKPOINTED_AT_ANNOTATION: at})
        for pod in pods
        if pod.is_running and pod.deletion_at is None and pod.checkpointed_at != at
    ]


def directory(spec: TrainingJobSpec, template: Mapping[str, Any]) -> str | None:
    """Return where in the container checkpoints are to be written; None when the job names no place."""
    if spec.checkpoint is None:
        return None
    root = _root(spec, template)
    return _join(root, spec.checkpoint.path) if root is not None else None


def environment(spec: TrainingJobSpec, status: TrainingJobStatus, template: Mapping[str, Any]) -> dict[str, str]:
    """Return the HEADRACE_CHECKPOINT_DIR and, for a resumed attempt, HEADRACE_RESUME_* variables."""
    place = directory(spec, template)
    if place is None:
        return {}
    result = {names.ENV_CHECKPOINT_DIR: place}
    hangs = spec.run_policy.hang_detection
    if hangs is not None and hangs.progress_file is not None:
        result[names.ENV_PROGRESS_FILE] = _join(place, hangs.progress_file)
    root = _root(spec, template)
    if root is not None and status.resume_path is not None and status.resume_step is not None:
        result[names.ENV_RESUME_FROM] = _join(root, status.resume_path)
        result[names.ENV_RESUME_STEP] = str(status.resume_step)
    return result


def nodes_annotation(status: TrainingJobStatus) -> str | None:
    """Return names.CHECKPOINT_NODES_ANNOTATION's value: where the chosen checkpoint's bytes are."""
    if status.resume_path is None:
        return None
    chosen = next((one for one in status.checkpoints if one.path == status.resume_path), None)
    if chosen is None or not chosen.nodes:
        return None
    return json.dumps(chosen.nodes, sort_keys=True)


def mount_path_of_volume(template: Mapping[str, Any], volume: str) -> str | None:
    """Return where the first container that mounts `volume` has it."""
    for container in template.get("spec", {}).get("containers", []):
        for mount in container.get("volumeMounts") or []:
            if mount.get("name") == volume:
                return str(mount.get("mountPath", ""))
    return None


def _root(spec: TrainingJobSpec, template: Mapping[str, Any]) -> str | None:
    if spec.checkpoint is None:
        return None
    if spec.checkpoint.volume is not None:
        return mount_path_of_volume(template, spec.checkpoint.volume)
    found = (dataset.mount_path for dataset in spec.datasets if dataset.name == spec.checkpoint.dataset)
    return next(found, None)


def _join(root: str, path: str) -> str:
    inside = path.strip("/")
    return f"{root.rstrip('/')}/{inside}" if inside else root


def _largest(node_bytes: Mapping[str, int]) -> dict[str, int]:
    ordered = sorted(node_bytes.items(), key=lambda item: (-item[1], item[0]))
    return dict(sorted(ordered[:MAX_STATUS_NODES]))


def completed_at(status: CheckpointStatus) -> float:
    """Return when that checkpoint was complete; the beginning of time if nobody said."""
    return parse_timestamp(status.completed_at) if status.completed_at else 0.0
