"""balance: prefer the least taken node, evenly over cpu and memory (LeastAllocated, Balanced)."""

from typing import Any

import numpy as np

from api import names
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows

# Up to this share nothing was lost in GPU allocation on the openb trace; at 1, ten points were.
BESIDE_GPUS_SHARE = 0.05


class Balance:
    """Mean taken share of cpu, memory and pod slots after placing the pod, plus a part of the
    difference between cpu and memory, so that neither runs out alone.

    Pod slots are in it so that pods without requests spread too. Where GPUs are, spreading strands them: pods with
    GPUs are left to gpu_fit there, and others balance only among nodes that are equal to it."""

    def __init__(self, *, yields_to_gpu_fit: bool = True) -> None:
        """`yields_to_gpu_fit`: gpu_fit has a weight beside this one."""
        self._yields = yields_to_gpu_fit

    name = "balance"
    unit = "share taken"
    depends_on = DependsOn.USAGE
    by_shape = True

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost between 0 and about 1."""
        asked = view.table.numbers(pod.shape.requests)
        taken, room = view.requested[rows], view.allocatable[rows]
        cost = _cost(
            (taken[:, 0] + asked[0]) / np.maximum(room[:, 0], 1),
            (taken[:, 1] + asked[1]) / np.maximum(room[:, 1], 1),
            (view.pods[rows] + 1) / np.maximum(view.pods_allowed[rows], 1),
        )
        column = view.resource(names.GPU_RESOURCE)
        if self._yields and column is not None and view.mix.is_known:
            cost = np.where(room[:, column] > 0, cost * _beside_gpus(pod), cost)
        return np.asarray(cost)

    def score_row(self, view: ClusterView, pod: PodRequest, row: int) -> float:
        """The same of one row."""
        asked = view.table.numbers(pod.shape.requests)
        taken, room = view.requested[row].tolist(), view.allocatable[row].tolist()
        cost: float = _cost(
            (taken[0] + asked[0]) / max(room[0], 1),
            (taken[1] + asked[1]) / max(room[1], 1),
            (int(view.pods[row]) + 1) / max(int(view.pods_allowed[row]), 1),
        )
        column = view.resource(names.GPU_RESOURCE)
        if self._yields and column is not None and room[column] > 0 and view.mix.is_known:
            cost = cost * _beside_gpus(pod)
        return cost

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """Everything taken."""
        return 1.0


def _cost(cpu: Any, memory: Any, slots: Any) -> Any:
    """Of arrays or of numbers: shares taken after placing the pod."""
    return 0.8 * ((cpu + memory + slots) / 3) + 0.2 * abs(cpu - memory)


def _beside_gpus(pod: PodRequest) -> float:
    return 0.0 if pod.shape.gpus else BESIDE_GPUS_SHARE
