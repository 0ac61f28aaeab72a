"""A DataLoad's plan: which loads every worker is told to run, and what their progress adds up to.

Pure. Two DataLoads of one target become one load: `load_id` is a hash of what is loaded and by whom, and workers
start a load of one id once. Invariant: Complete only when every worker's share is done and verified; a worker that
leaves or joins changes the id, so that the rest take its share (resident blocks count at once).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from api.conditions import Condition, parse_timestamp, set_condition, timestamp
from api.dataload_v1alpha1 import DataLoad, DataLoadStatus, FailedFile, LoadProgress, LoadTarget
from api.gen import metadata_pb2, worker_pb2
from api.quantities import format_bytes, to_int

COMPLETE = "Complete"
FAILED = "Failed"
FINISHED_PHASES = ("Complete", "Failed")


@dataclass(frozen=True, slots=True)
class WorkerKey:
    """One incarnation of one worker."""

    node: str
    epoch: int


def participants(info: metadata_pb2.DatasetInfo, workers: Sequence[metadata_pb2.Worker]) -> list[metadata_pb2.Worker]:
    """Return the live workers that may keep blocks of the dataset, by node name."""
    allowed = set(info.eligible_nodes)
    return sorted(
        (
            worker
            for worker in workers
            if worker.alive and not worker.leaving and (not allowed or worker.node in allowed)
        ),
        key=lambda worker: worker.node,
    )


def below(load: DataLoad, path: str) -> DataLoad:
    """Return a load with targets inside a directory of its dataset."""
    if not path:
        return load
    inside = [
        target.model_copy(update={"path": f"{path}/{target.path.strip('/')}".rstrip("/")})
        for target in load.spec.target
    ]
    return load.model_copy(update={"spec": load.spec.model_copy(update={"target": inside})})


def unknown_nodes(load: DataLoad, workers: Sequence[metadata_pb2.Worker]) -> list[str]:
    """Return nodes the targets name that have no live worker that may keep the dataset."""
    have = {worker.node for worker in workers}
    return sorted({node for target in load.spec.target for node in target.nodes if node not in have})


def requests(
    load: DataLoad, info: metadata_pb2.DatasetInfo, workers: Sequence[metadata_pb2.Worker]
) -> list[worker_pb2.StartLoadRequest]:
    """Return one request a target, highest priority first; each goes to every participating worker."""
    rate = to_int(load.spec.rate_limit) if load.spec.rate_limit else 0
    members = [WorkerKey(worker.node, worker.epoch) for worker in workers]
    return [
        worker_pb2.StartLoadRequest(
            load_id=_load_id(info, target, members, rate),
            uid=info.uid,
            paths=[path] if (path := target.path.strip("/")) else [],
            replicas=target.replicas,
            nodes=target.nodes,
            rate_limit_bytes_per_second=max(rate // max(len(members), 1), 1) if rate else 0,
            snapshot_version=info.snapshot_version,
            run=f"{load.metadata.uid}:{(load.status and load.status.last_schedule_time) or ''}",
        )
        for target in sorted(load.spec.target, key=lambda target: -target.priority)
    ]


def _load_id(info: metadata_pb2.DatasetInfo, target: LoadTarget, members: Sequence[WorkerKey], rate: int) -> str:
    text = repr((info.uid, info.snapshot_version, target.path, target.replicas, sorted(target.nodes), members, rate))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_listed_since_start(load: DataLoad, info: metadata_pb2.DatasetInfo) -> bool:
    """Return whether the dataset was listed since this run of the load began: after the second that `startedAt`
    names, for the run began within it, and a listing of that same second may be older."""
    started = load.status.started_at if load.status is not None else None
    return started is not None and not info.syncing and info.synced_at_ns >= (parse_timestamp(started) + 1) * 1e9


def waiting_status(load: DataLoad, reason: str, message: str, now_seconds: float) -> DataLoadStatus:
    """Return the status of a load that cannot start yet."""
    old = load.status or DataLoadStatus()
    condition = Condition(type=COMPLETE, status="False", reason=reason, message=message)
    return old.model_copy(
        update={
            "phase": "Pending",
            "conditions": set_condition(old.conditions, condition, now_seconds),
            "observed_generation": load.metadata.generation,
        }
    )


def status(
    load: DataLoad,
    targets: Sequence[Sequence[worker_pb2.LoadProgress]],
    snapshot_version: int,
    now_seconds: float,
    *,
    waits_for_more: bool = False,
) -> DataLoadStatus:
    """Return the status that the workers' answers (one list a started target) amount to; `waits_for_more`: targets
    of lower priority have not been started.

    Ends the load when all shares are done: Complete at `minPercent` of the bytes or more, else Failed."""
    old = load.status or DataLoadStatus()
    started = old.started_at or timestamp(now_seconds)
    progress = _progress([one for target in targets for one in target], now_seconds - parse_timestamp(started))
    running = old.model_copy(
        update={
            "phase": "Executing",
            "started_at": started,
            "progress": progress,
            "snapshot_version": snapshot_version,
            "observed_generation": load.metadata.generation,
        }
    )
    loaded = f"{format_bytes(progress.bytes_loaded)} of {format_bytes(progress.bytes_total)}"
    if waits_for_more or not all(one.done for target in targets for one in target):
        condition = Condition(
            type=COMPLETE, status="False", reason="Loading", message="bytes are being loaded and verified"
        )
        return running.model_copy(update={"conditions": set_condition(old.conditions, condition, now_seconds)})
    percent = 100.0 * progress.bytes_loaded / progress.bytes_total if progress.bytes_total else 100.0
    failed = sum(one.failed_count for target in targets for one in target)
    if percent >= load.spec.min_percent and (not failed or load.spec.min_percent < 100):
        message = f"{loaded} resident and verified in {progress.files_loaded} files"
        return _finish(
            running, load, Condition(type=COMPLETE, status="True", reason="Loaded", message=message), now_seconds
        )
    first = f": {progress.failed[0].path}: {progress.failed[0].error}" if progress.failed else ""
    message = f"{failed} files could not be loaded ({loaded} are resident){first}"
    return _finish(
        running, load, Condition(type=FAILED, status="True", reason="FilesFailed", message=message), now_seconds
    )


def _progress(shares: Sequence[worker_pb2.LoadProgress], elapsed_seconds: float) -> LoadProgress:
    total, loaded = sum(one.bytes_total for one in shares), sum(one.bytes_loaded for one in shares)
    rate = loaded / elapsed_seconds if elapsed_seconds >= 0.5 else 0.0
    return LoadProgress(
        bytes_total=total,
        bytes_loaded=loaded,
        files_total=sum(one.files_total for one in shares),
        files_loaded=sum(one.files_loaded for one in shares),
        bytes_per_second=int(rate),
        eta_seconds=round((total - loaded) / rate) if rate else None,
        origin_bytes=sum(one.origin_bytes for one in shares),
        failed=[FailedFile(path=one.path, error=one.error) for share in shares for one in share.failed][:100],
    )


def _finish(old: DataLoadStatus, load: DataLoad, condition: Condition, now_seconds: float) -> DataLoadStatus:
    others = [one for one in old.conditions if one.type != COMPLETE]
    started = parse_timestamp(old.started_at) if old.started_at else now_seconds
    finished = timestamp(now_seconds)
    return old.model_copy(
        update={
            "phase": "Complete" if condition.type == COMPLETE else "Failed",
            "finished_at": finished,
            "last_successful_time": finished if condition.type == COMPLETE else old.last_successful_time,
            "duration": f"{max(now_seconds - started, 0):.0f}s",
            "progress": old.progress.model_copy(update={"eta_seconds": None}),
            "conditions": set_condition(others, condition, now_seconds),
            "observed_generation": load.metadata.generation,
        }
    )


def is_under_way(load: DataLoad) -> bool:
    """Whether it brings bytes now or is about to."""
    return load.status is None or load.status.phase not in FINISHED_PHASES


def expiry_seconds(load: DataLoad, now_seconds: float) -> float | None:
    """Return seconds until a finished load of policy Once is to be deleted (0 = now), or None when it is kept."""
    ttl, finished = load.spec.ttl_seconds_after_finished, load.status and load.status.finished_at
    if ttl is None or not finished or load.spec.policy != "Once":
        return None
    return max(parse_timestamp(finished) + ttl - now_seconds, 0.0)
