"""Which GPU indices each container of a pod gets.

Owns the arithmetic. There is no hardware behind the indices: they tell a program which of
the node's GPUs is its own. Invariant: two pods never hold the same index; init containers
reuse the pod's indices, since they do not run beside its other containers."""

from __future__ import annotations

from collections.abc import Collection

from api.names import GPU_RESOURCE
from headrace.node.core.pod_spec import Container, ContainerKind, PodSpec, all_containers
from headrace.node.core.requests import amount


def gpus_of(container: Container) -> int:
    """Return the GPUs a container asks for (for GPUs requests and limits are equal)."""
    wanted = {**container.resources.limits, **container.resources.requests}
    return amount(GPU_RESOURCE, wanted.get(GPU_RESOURCE, 0))


def assign(spec: PodSpec, *, total: int, taken: Collection[int]) -> dict[str, tuple[int, ...]]:
    """Return container name -> GPU indices, the lowest free ones first.

    Raises ValueError when there are not enough; admission prevents that."""
    free = [index for index in range(total) if index not in taken]
    result: dict[str, tuple[int, ...]] = {}
    used = 0
    for container, kind in all_containers(spec):
        count = gpus_of(container)
        if used + count > len(free):
            raise ValueError(f"{len(free)} of {total} GPUs are free, {used + count} are asked for")
        result[container.name] = tuple(free[used : used + count])
        if kind is not ContainerKind.INIT:
            used += count
    return result
