"""A CacheRuntime: which nodes' workers are its pool, how many of them live, and how full they are. Pure.

Every node's worker serves; `spec.replicas` and `spec.nodeSelector` say how many of them, and which, keep the blocks of
the datasets that name the CacheRuntime; one that says how its workers are (`pool_workers.py`) has those of its own
nodes only, once it has any. Invariants: who is a member stays one while it can be; a pool that grows takes the fullest
workers first, one that shrinks gives up the emptiest, so that the fewest bytes change their home; a worker that
is dead for a moment stays a member, for its blocks have another home meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime, CacheRuntimeStatus
from api.conditions import Condition, set_condition
from api.data_v1alpha1 import CacheStates
from api.gen import metadata_pb2
from api.quantities import format_bytes
from cacheruntime.controller import pool_plan, pool_workers

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
    """Whether only some of all workers may be its pool."""
    spec = runtime.spec
    return spec.replicas is not None or bool(spec.node_selector) or pool_workers.asks_for_workers(runtime)


def _own_nodes(runtime: CacheRuntime, nodes: Mapping[str, Mapping[str, str]]) -> Collection[str]:
    """Return the nodes whose workers are as it says; none when it says nothing, or was given no node."""
    return pool_workers.own_nodes(runtime, nodes) if pool_workers.asks_for_workers(runtime) else frozenset()


def _fits(runtime: CacheRuntime, node: str, nodes: Mapping[str, Mapping[str, str]]) -> bool:
    wanted = runtime.spec.node_selector.items()
    return not wanted or wanted <= dict(nodes.get(node, {})).items()


def members(
    runtime: CacheRuntime, workers: Sequence[metadata_pb2.Worker], nodes: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Return the nodes whose workers are the pool, sorted. `workers` are those metadata knows, `nodes` maps node name
    to labels."""
    own = _own_nodes(runtime, nodes)
    fitting = {
        worker.node: worker
        for worker in workers
        if (not own or worker.node in own) and _fits(runtime, worker.node, nodes)
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
    applied: Condition | None = None,
) -> CacheRuntimeStatus:
    """Return what the pool looks like now; `workers` are those metadata knows, `applied` says how they are."""
    old = runtime.status or CacheRuntimeStatus()
    chosen = members(runtime, workers, nodes) if is_limited(runtime) else sorted(one.node for one in workers)
    mine = [worker for worker in workers if worker.node in set(chosen)]
    ready = sum(1 for worker in mine if worker.alive)
    own = _own_nodes(runtime, nodes)
    desired = sum(1 for node in own if _fits(runtime, node, nodes)) if own else len(chosen)
    if runtime.spec.replicas is not None:
        desired = runtime.spec.replicas
    capacity, used = capacity_bytes(mine), used_bytes(mine)
    phase: Literal["NotReady", "PartialReady", "Ready"] = "NotReady"
    if ready:
        phase = "Ready" if ready >= desired else "PartialReady"
    kept = [one for one in old.conditions if one.type != pool_plan.APPLIED or applied is not None]
    conditions = set_condition(kept, _scaled(len(chosen), desired, is_own=bool(own)), now_seconds)
    return CacheRuntimeStatus(
        worker_phase=phase,
        worker_number_ready=ready,
        desired_worker_number_scheduled=desired,
        current_worker_number_scheduled=len(chosen),
        cache_states=CacheStates(cached=format_bytes(used), cache_capacity=format_bytes(capacity)),
        capacity_used_percent=round(100 * used / capacity) if capacity else 0,
        nodes=chosen if is_limited(runtime) else [],
        selector=f"{WORKER_SELECTOR},{names.POOL_LABEL}={pool_workers.label_of(runtime)}" if own else WORKER_SELECTOR,
        conditions=conditions if applied is None else set_condition(conditions, applied, now_seconds),
    )


def _scaled(current: int, desired: int, *, is_own: bool) -> Condition:
    if current >= desired:
        return Condition(type=SCALED, status="True", reason="AsWanted", message=f"{current} nodes keep its blocks")
    what = f"fits spec.nodeSelector{' and is its own' if is_own else ''}"
    message = f"{current} of {desired} nodes: no other live worker {what}; add nodes, or lower replicas"
    return Condition(type=SCALED, status="False", reason="TooFewWorkers", message=message)
