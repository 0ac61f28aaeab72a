"""A CacheRuntime's status: how many of its workers live, and how full they are. Pure."""

from collections.abc import Sequence
from typing import Literal

from api.data_v1alpha1 import CacheRuntime, CacheRuntimeStatus, CacheStates
from api.gen import metadata_pb2
from api.quantities import format_bytes


def capacity_bytes(workers: Sequence[metadata_pb2.Worker]) -> int:
    """Return the cache room of all live workers."""
    return sum(tier.capacity_bytes for worker in workers if worker.alive for tier in worker.tiers)


def status(runtime: CacheRuntime, workers: Sequence[metadata_pb2.Worker]) -> CacheRuntimeStatus:
    """Return what the pool looks like now; `workers` are those metadata knows."""
    ready = sum(1 for worker in workers if worker.alive)
    desired = max(len(workers), runtime.spec.replicas)
    used = sum(tier.used_bytes for worker in workers if worker.alive for tier in worker.tiers)
    phase: Literal["NotReady", "PartialReady", "Ready"] = "NotReady"
    if ready:
        phase = "Ready" if ready >= desired else "PartialReady"
    return CacheRuntimeStatus(
        worker_phase=phase,
        worker_number_ready=ready,
        desired_worker_number_scheduled=desired,
        cache_states=CacheStates(cached=format_bytes(used), cache_capacity=format_bytes(capacity_bytes(workers))),
    )
