"""gpu_fit: keep GPUs usable for the pods this cluster runs, and pods without GPUs off GPU nodes, softly.

The measure is FGD's (Weng et al., "Beware of Fragmentation", USENIX ATC'23), for whole GPUs: on a node that a typical
pod does not fit on, every free GPU is a fragment to it; a node's fragmentation is the sum over typical pods, by their
share of the workload. A placement costs what it adds. docs/performance.md has what that does to GPU allocation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from api import names
from scheduler.core.workload_mix import Kind
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows

# Of two placements that fragment alike the fuller node wins (best fit); larger, it would outweigh fragments.
BEST_FIT_SHARE = 0.03


class GpuFit:
    """GPUs that a placement turns into fragments, against the most GPUs a node has. A pod without GPUs costs the
    full scale on a GPU node, beside the fragments it makes there."""

    name = "gpu_fit"
    unit = "GPUs made useless"
    depends_on = DependsOn.USAGE
    by_shape = True

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost of 0 or more, in GPUs."""
        column = view.resource(names.GPU_RESOURCE)
        if column is None:
            return None
        room, taken = view.allocatable[rows], view.requested[rows]
        cpu, memory, free = (room[:, number] - taken[:, number] for number in (0, 1, column))
        left = np.maximum(free - pod.shape.gpus, 0)
        cost = _cost((cpu, memory, free), left, view.table.numbers(pod.shape.requests), pod.shape.gpus, view)
        if not pod.shape.gpus:
            cost = cost + self.full_scale(view, pod) * (room[:, column] > 0)
        return np.asarray(cost)

    def score_row(self, view: ClusterView, pod: PodRequest, row: int) -> float | None:
        """The same of one row."""
        column = view.resource(names.GPU_RESOURCE)
        if column is None:
            return None
        room, taken = view.allocatable[row].tolist(), view.requested[row].tolist()
        cpu, memory, free = (room[number] - taken[number] for number in (0, 1, column))
        left = max(free - pod.shape.gpus, 0)
        cost = _cost((cpu, memory, free), left, view.table.numbers(pod.shape.requests), pod.shape.gpus, view)
        if not pod.shape.gpus:
            cost = cost + self.full_scale(view, pod) * (room[column] > 0)
        return float(cost)

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """The GPUs of the largest node."""
        column = view.resource(names.GPU_RESOURCE)
        return max(1.0, float(view.table.largest(column))) if column is not None else 1.0


def _cost(free: tuple[Any, Any, Any], left: Any, asked: Sequence[int], gpus: int, view: ClusterView) -> Any:
    """Of arrays or of numbers: cpu, memory and GPUs that are free before, GPUs after placing the pod."""
    kinds = view.mix.kinds()
    if not kinds and gpus:
        # Nobody else's wishes are known: the pod is the typical one.
        kinds = (((asked[0], asked[1], gpus), 1.0),)
    cost = BEST_FIT_SHARE * left
    if not kinds:
        return cost
    before = _fragments(free, free[2], kinds)
    after = _fragments((free[0] - asked[0], free[1] - asked[1], free[2] - gpus), left, kinds)
    # Placing takes `gpus` away from the fragments at most, so that this is never negative.
    return cost + (after - before + gpus)


def _fragments(free: tuple[Any, Any, Any], gpus: Any, kinds: Sequence[tuple[Kind, float]]) -> Any:
    """GPUs that typical pods cannot use where this much cpu, memory and GPUs is free."""
    usable: Any = 0.0
    for (cpu, memory, whole), share in kinds:
        usable = usable + share * ((free[0] >= cpu) & (free[1] >= memory) & (free[2] >= whole))
    return gpus * (1.0 - usable)
