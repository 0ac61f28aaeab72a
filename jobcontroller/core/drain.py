"""What a pod gets done between SIGTERM and its end, and where its successor reads from.

Owns the length of the grace, and the load of a checkpoint onto nodes where pods are about to join or to start again:
it flows while their images are pulled and their containers made. Writes go through
to the under store before they are acknowledged, so what is dirty when the notice comes is one checkpoint: the newest
one tells how large it is, and the nodes' measured rates from the under store how fast it flows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

from api import names
from api.conditions import parse_timestamp, timestamp
from api.dataload_v1alpha1 import DataLoad, DataLoadSpec, DatasetRef, LoadTarget
from api.training_v1alpha1 import TrainingJob, TrainingJobStatus
from jobcontroller.core import attempts, checkpoints
from jobcontroller.core.actions import ApplyDataLoad
from jobcontroller.core.observed import CheckpointView, PodView
from jobcontroller.core.ownership import labels, owner_references
from jobcontroller.core.turn import Turn

#: Kubernetes' default, and the least a job with checkpoints gets
LEAST_SECONDS = 30
#: a pod on a dead node is waited for that long
MOST_SECONDS = 600
#: to notice the signal and to come to the end of a step
REACTION_SECONDS = 10
#: others write at the same time
SLACK = 1.5
MAX_REMEMBERED = 32
LOAD_TTL_SECONDS = 600
#: Of a checkpoint in parts a node reads its own, and which these are is not known here: a larger one is left to it.
MOST_WARM_BYTES = 64 << 30


def grace_seconds(job: TrainingJob, status: TrainingJobStatus, bytes_per_second: float | None) -> int | None:
    """Return the grace of an attempt's pods; None = the template's own, as nothing is known to size it by."""
    checkpoint = job.spec.checkpoint
    if checkpoint is None:
        return None
    if checkpoint.grace_seconds is not None:
        return checkpoint.grace_seconds
    newest = max((one for one in status.checkpoints if one.complete), key=lambda one: one.step, default=None)
    if newest is None or not newest.bytes or not bytes_per_second:
        return None
    # One pod may write all of it (rank 0 of a replicated model).
    wanted = REACTION_SECONDS + SLACK * newest.bytes / bytes_per_second
    return min(MOST_SECONDS, max(LEAST_SECONDS, math.ceil(wanted)))


def prewarm(turn: Turn, pods: Iterable[PodView]) -> None:
    """Have the newest complete checkpoint brought to the nodes of pods that are about to join."""
    seen = turn.observed.checkpoints
    if seen is None or seen.error:
        return
    created_at = parse_timestamp(turn.job.metadata.creation_timestamp or timestamp(0))
    _warm(turn, pods, checkpoints.newest_complete(seen.found, created_at, turn.status))


def prewarm_restart(turn: Turn) -> None:
    """Have the checkpoint a later attempt resumes from brought to nodes of its pods that hold nothing of it.

    Before their containers run; afterwards the program reads for itself."""
    seen = turn.observed.checkpoints
    if turn.attempt == 0 or turn.status.resume_path is None or seen is None or seen.error:
        return
    resumed = next((one for one in seen.found if one.path == turn.status.resume_path), None)
    starting = [pod for pod in turn.current_pods() if pod.node and not pod.is_running and not pod.is_finished]
    _warm(turn, starting, resumed)


def _warm(turn: Turn, pods: Iterable[PodView], checkpoint: CheckpointView | None) -> None:
    spec, status = turn.job.spec.checkpoint, turn.status
    if spec is None or spec.dataset is None or checkpoint is None or checkpoint.size_bytes > MOST_WARM_BYTES:
        return
    for node in sorted({pod.node for pod in pods} - checkpoint.node_bytes.keys()):
        body = _load(turn.job, spec.dataset, checkpoint.path, node)
        name = body["metadata"]["name"]
        if name not in status.prewarmed and len(status.prewarmed) < MAX_REMEMBERED:
            status.prewarmed = [*status.prewarmed, name]
            turn.act([ApplyDataLoad(name, body)])


def _load(job: TrainingJob, dataset: str, path: str, node: str) -> dict[str, Any]:
    digest = hashlib.sha256(f"{job.metadata.uid}/{node}/{path}".encode()).hexdigest()[:10]
    spec = DataLoadSpec(
        dataset=DatasetRef(name=dataset),
        target=[LoadTarget(path=f"/{path.strip('/')}", nodes=[node], priority=50)],
        ttl_seconds_after_finished=LOAD_TTL_SECONDS,
    )
    return {
        "apiVersion": f"{names.DATA_GROUP}/{names.API_VERSION}",
        "kind": DataLoad.KIND,
        "metadata": {
            "name": attempts.shortened(job.metadata.name, f"-warm-{digest}"),
            "namespace": job.metadata.namespace,
            "labels": labels(job),
            "ownerReferences": owner_references(job),
        },
        "spec": spec.to_wire(),
    }
