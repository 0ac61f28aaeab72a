"""balance: prefer the least taken node, evenly over cpu and memory (LeastAllocated, Balanced)."""

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

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost between 0 and about 1."""
        vector = view.table.vector(pod.shape.requests)
        cpu = (view.requested[rows, 0] + vector[0]) / np.maximum(view.allocatable[rows, 0], 1)
        memory = (view.requested[rows, 1] + vector[1]) / np.maximum(view.allocatable[rows, 1], 1)
        slots = (view.pods[rows] + 1) / np.maximum(view.pods_allowed[rows], 1)
        mean = (cpu + memory + slots) / 3
        cost = 0.8 * mean + 0.2 * np.abs(cpu - memory)
        column = view.resource(names.GPU_RESOURCE)
        if self._yields and column is not None and view.mix.is_known:
            share = 0.0 if pod.shape.gpus else BESIDE_GPUS_SHARE
            cost = np.where(view.allocatable[rows, column] > 0, cost * share, cost)
        return np.asarray(cost)

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """Everything taken."""
        return 1.0
