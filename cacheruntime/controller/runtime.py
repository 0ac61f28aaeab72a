"""A CacheRuntime: which nodes' workers are its pool, how many of them live, and how full they are. Pure.

Every node's worker serves; `spec.replicas` and `spec.nodeSelector` say how many of them, and which, keep the blocks of
the datasets that name the CacheRuntime. Invariants: who is a member stays one while it can be; a pool that grows takes
the fullest workers first, one that shrinks gives up the emptiest, so that the fewest bytes change their home; a worker
that is dead for a moment stays a member, for its blocks have another home meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from api.cacheruntime_v1alpha1 import CacheRuntime, CacheRuntimeStatus
from api.conditions import Condition, set_condition
from api.data_v1alpha1 import CacheStates
from api.gen import metadata_pb2
from api.quantities import format_bytes

WORKER_SELECTOR = "app.kubernetes.io/name=headrace-worker"
"""Pods of all workers: manifests/base/worker."""
SCALED = "Scaled"
"""Condition: whether the pool has as many workers as it is to have."""


def capacity_bytes(workers: Sequence[metadata_pb2.Worker]) -> int:
    """Return the cache room of all live workers."""
    return sum(tier.capacity_bytes for worker in workers if worker.alive for tier in worker.tiers)


def used_bytes(workers: Sequence[metadata_pb2.Worker]) -> int:
    """Return how much of that is taken."""
    return sum(map(_used, (worker for worker in workers if worker.alive)))


def _used(worker: metadata_pb2.Worker) -> int:
    return sum(tier.used_bytes for tier in worker.tiers)


def is_limited(runtime: CacheRuntime) -> bool:
    """Whether only some of all workers are its pool."""
    return runtime.spec.replicas is not None or bool(runtime.spec.node_selector)


def members(
    runtime: CacheRuntime, workers: Sequence[metadata_pb2.Worker], nodes: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Return the nodes whose workers are the pool, sorted. `workers` are those metadata knows, `nodes` maps node name
    to labels."""
    wanted = runtime.spec.node_selector.items()
    fitting = {
        worker.node: worker for worker in workers if not wanted or wanted <= dict(nodes.get(worker.node, {})).items()
    }
    before = set(runtime.status.nodes if runtime.status is not None else ())

    def worth(worker: metadata_pb2.Worker) -> tuple[bool, bool, int, str]:
        """Smallest first: members, live ones before dead ones, then the fullest."""
        return (not worker.alive, worker.node not in before, -_used(worker), worker.node)

    # The dead that Kubernetes does not know either come never again.
    usable = [one for one in fitting.values() if one.alive or (one.node in before and one.node in nodes)]
    limit = len(usable) if runtime.spec.replicas is None else runtime.spec.replicas
    stay = [one for one in usable if one.node in before]
    if len(stay) >= limit:
        chosen = sorted(stay, key=worth)[:limit]
    else:
        others = sorted((one for one in usable if one.node not in before), key=worth)
        chosen = [*stay, *others[: limit - len(stay)]]
    return sorted(one.node for one in chosen)


def eligible(allowed: Sequence[str], of_pool: Collection[str] | None) -> list[str] | None:
    """Return the nodes that may keep a dataset's blocks, when its nodeAffinity allows `allowed` ([] = all) and its pool
    is on `of_pool` (None = on all); [] = all, None = there is none."""
    if of_pool is None:
        return list(allowed)
    return sorted(of_pool if not allowed else set(allowed) & set(of_pool)) or None


def status(
    runtime: CacheRuntime,
    workers: Sequence[metadata_pb2.Worker],
    nodes: Mapping[str, Mapping[str, str]],
    now_seconds: float,
) -> CacheRuntimeStatus:
    """Return what the pool looks like now; `workers` are those metadata knows."""
    old = runtime.status or CacheRuntimeStatus()
    chosen = members(runtime, workers, nodes) if is_limited(runtime) else sorted(one.node for one in workers)
    mine = [worker for worker in workers if worker.node in set(chosen)]
    ready = sum(1 for worker in mine if worker.alive)
    desired = len(chosen) if runtime.spec.replicas is None else runtime.spec.replicas
    capacity, used = capacity_bytes(mine), used_bytes(mine)
    phase: Literal["NotReady", "PartialReady", "Ready"] = "NotReady"
    if ready:
        phase = "Ready" if ready >= desired else "PartialReady"
    return CacheRuntimeStatus(
        worker_phase=phase,
        worker_number_ready=ready,
        desired_worker_number_scheduled=desired,
        current_worker_number_scheduled=len(chosen),
        cache_states=CacheStates(cached=format_bytes(used), cache_capacity=format_bytes(capacity)),
        capacity_used_percent=round(100 * used / capacity) if capacity else 0,
        nodes=chosen if is_limited(runtime) else [],
        selector=WORKER_SELECTOR,
        conditions=set_condition(old.conditions, _scaled(len(chosen), desired), now_seconds),
    )


def _scaled(current: int, desired: int) -> Condition:
    if current >= desired:
        return Condition(type=SCALED, status="True", reason="AsWanted", message=f"{current} nodes keep its blocks")
    message = f"{current} of {desired} nodes: no other live worker fits spec.nodeSelector; add nodes, or lower replicas"
    return Condition(type=SCALED, status="False", reason="TooFewWorkers", message=message)
