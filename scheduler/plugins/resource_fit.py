"""Fit: a pod's requests against what is left on the node (kube-scheduler's NodeResourcesFit).

Mirrors fitsRequest of noderesources/fit.go: the number of pods first, then each resource that is asked for;
all that lack are reasons. Asking for more than allocatable cannot be resolved by preemption."""

import numpy as np

from scheduler.plugins.base import (
    ALL,
    BoolArray,
    ClusterChange,
    ClusterView,
    DependsOn,
    IntArray,
    NodeFilter,
    PodRequest,
    Refusal,
    Rows,
)

TOO_MANY_PODS = "Too many pods"


class ResourceFit(NodeFilter):
    """cpu, memory, ephemeral-storage, scalars and the number of pods."""

    name = "NodeResourcesFit"
    is_about_room = True
    depends_on = DependsOn.USAGE
    by_shape = True
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.NODE_ALLOCATABLE | ClusterChange.POD_FREED

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where everything asked for is left."""
        fits = view.pods[rows] < view.pods_allowed[rows]
        room, taken = view.allocatable[rows], view.requested[rows]
        for column, amount in _asked(view, pod):
            fits &= room[:, column] - taken[:, column] >= amount
        return fits

    def filter_row(self, view: ClusterView, pod: PodRequest, row: int) -> bool:
        """The same of one row."""
        if view.pods[row] >= view.pods_allowed[row]:
            return False
        room, taken = view.allocatable[row].tolist(), view.requested[row].tolist()
        return all(room[column] - taken[column] >= amount for column, amount in _asked(view, pod))

    def capacity(self, view: ClusterView, pod: PodRequest) -> IntArray | None:
        """How many such pods fit on each row."""
        room = np.maximum(view.pods_allowed - view.pods, 0)
        for column, amount in _asked(view, pod):
            free = view.allocatable[:, column] - view.requested[:, column]
            room = np.minimum(room, np.maximum(free, 0) // amount)
        return np.asarray(room)

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """One reason a resource that lacks."""
        found = [Refusal(TOO_MANY_PODS, view.pods >= view.pods_allowed)]
        for resource, amount in pod.shape.requests:
            column = view.resource(resource)
            assert column is not None  # vector() gave every asked resource a column
            lacking = view.allocatable[:, column] - view.requested[:, column] < amount
            found.append(Refusal(f"Insufficient {resource}", lacking))
        return found

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """Rows that could not hold the pod when empty."""
        never = np.zeros(view.size, dtype=np.bool_)
        for column, amount in _asked(view, pod):
            never |= view.allocatable[ALL, column] < amount
        return never


def _asked(view: ClusterView, pod: PodRequest) -> list[tuple[int, int]]:
    return [(view.table.resources[resource], amount) for resource, amount in pod.shape.requests]
