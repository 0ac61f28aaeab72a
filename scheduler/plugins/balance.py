"""balance: prefer the least taken node, evenly over cpu and memory (LeastAllocated, Balanced)."""

import numpy as np

from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows


class Balance:
    """Mean taken share of cpu, memory and pod slots after placing the pod, plus a part of the
    difference between cpu and memory, so that neither runs out alone.

    Pod slots are in it so that pods without requests spread too."""

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
        return np.asarray(0.8 * mean + 0.2 * np.abs(cpu - memory))

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """Everything taken."""
        return 1.0
