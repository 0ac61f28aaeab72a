"""A node's NodeCache: what it says, and when a change is worth a write.

Pure. Rule (api.md): one write a node at most every 2 s, and only on a change worth ≥ 1 % of a dataset's bytes on
the node or 1 GiB; at once when the worker died, restarted, lost bytes, or a dataset or snapshot came or went. A
smaller change is written after a longer pause, or the last bytes of a load would never be seen.
"""

from collections.abc import Sequence

from api.gen import metadata_pb2, worker_pb2
from api.nodecache_v1alpha1 import (
    DATASETS_ON_NODE_MAX,
    DatasetOnNode,
    LeavingStatus,
    NodeCacheStatus,
    RateStatus,
    ResidentBytes,
    TierStatus,
    WorkerStatus,
)

WRITE_INTERVAL_SECONDS = 2.0
SMALL_CHANGE_INTERVAL_SECONDS = 10.0
CHANGE_BYTES = 1 << 30
CHANGE_RATIO = 0.01
RATE_CHANGE_RATIO = 0.25


def status(residency: metadata_pb2.NodeResidency, progress: worker_pb2.LeaveProgress | None = None) -> NodeCacheStatus:
    """Return the status of a node whose worker lives; `progress` of handing its blocks over, if it is told to."""
    worker = residency.worker
    return NodeCacheStatus(
        worker=WorkerStatus(endpoint=worker.data_endpoint, epoch=worker.epoch),
        tiers=[
            TierStatus(
                medium=tier.medium,  # type: ignore[arg-type]  # pydantic checks the word
                capacity=tier.capacity_bytes,
                used=tier.used_bytes,
                read_bytes_per_second=tier.read_bytes_per_second,
            )
            for tier in worker.tiers
        ],
        network=RateStatus(read_bytes_per_second=worker.network_read_bytes_per_second),
        origin=RateStatus(read_bytes_per_second=worker.origin_read_bytes_per_second),
        datasets=[
            DatasetOnNode(
                namespace=one.namespace,
                name=one.name,
                uid=one.uid,
                snapshot=one.snapshot_version,
                resident_bytes=ResidentBytes.model_validate(dict(one.resident_bytes)),
                groups=dict(one.groups) or None,
            )
            for one in sorted(_largest(residency.datasets), key=lambda one: (one.namespace, one.name))
        ],
        leaving=None if progress is None else _leaving(progress),
    )


def _leaving(progress: worker_pb2.LeaveProgress) -> LeavingStatus:
    return LeavingStatus(done=progress.done, moved_bytes=progress.moved_bytes, refused_bytes=progress.refused_bytes)


def _largest(datasets: Sequence[metadata_pb2.DatasetOnNode]) -> Sequence[metadata_pb2.DatasetOnNode]:
    """An object holds so many; of more, those with the most bytes are worth knowing."""
    if len(datasets) <= DATASETS_ON_NODE_MAX:
        return datasets
    return sorted(datasets, key=lambda one: (-sum(one.resident_bytes.values()), one.uid))[:DATASETS_ON_NODE_MAX]


def gone() -> NodeCacheStatus:
    """Return the status of a node whose worker is gone: nothing is resident there."""
    return NodeCacheStatus()


def write_delay_seconds(
    written: NodeCacheStatus | None, current: NodeCacheStatus, written_at_seconds: float, now_seconds: float
) -> float | None:
    """Return seconds to wait before writing `current` (0 = write now), or None when no write is due."""
    if written is None or _is_urgent(written, current):
        return 0.0
    if _is_worth_it(written, current):
        return max(written_at_seconds + WRITE_INTERVAL_SECONDS - now_seconds, 0.0)
    if _bytes_by_dataset(written) == _bytes_by_dataset(current):
        return None
    return max(written_at_seconds + SMALL_CHANGE_INTERVAL_SECONDS - now_seconds, 0.0)


def _bytes_by_dataset(status: NodeCacheStatus) -> dict[tuple[str, int], int]:
    return {
        (one.uid, one.snapshot): one.resident_bytes.mem + one.resident_bytes.ssd + one.resident_bytes.hdd
        for one in status.datasets
    }


def _is_urgent(written: NodeCacheStatus, current: NodeCacheStatus) -> bool:
    if written.worker != current.worker or written.leaving != current.leaving:
        return True
    old, new = _bytes_by_dataset(written), _bytes_by_dataset(current)
    return old.keys() != new.keys() or any(new[key] < old[key] for key in old)


def _is_worth_it(written: NodeCacheStatus, current: NodeCacheStatus) -> bool:
    old, new = _bytes_by_dataset(written), _bytes_by_dataset(current)
    for key, now_bytes in new.items():
        change = abs(now_bytes - old.get(key, 0))
        if change >= CHANGE_BYTES or change > CHANGE_RATIO * max(now_bytes, 1):
            return True
    rates = [(written.network, current.network), (written.origin, current.origin)]
    return any(
        abs(a.read_bytes_per_second - b.read_bytes_per_second)
        > RATE_CHANGE_RATIO * max(a.read_bytes_per_second, b.read_bytes_per_second)
        for a, b in rates
    )
