"""Taints and spec.unschedulable (kube-scheduler's TaintToleration and NodeUnschedulable)."""

from collections.abc import Sequence

import numpy as np

from kube.objects import Taint, Toleration
from scheduler.plugins.base import BoolArray, ClusterChange, ClusterView, NodeFilter, PodRequest, Rows

REPELLING = ("NoSchedule", "NoExecute")
UNSCHEDULABLE = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """Whether any toleration covers the taint. Lt and Gt are behind an alpha gate upstream: no match."""
    for toleration in tolerations:
        if toleration.effect and toleration.effect != taint.effect:
            continue
        if toleration.key and toleration.key != taint.key:
            continue
        if toleration.operator == "Exists":
            return True
        if toleration.operator in ("", "Equal") and toleration.value == taint.value:
            return True
    return False


class Unschedulable(NodeFilter):
    """Cordoned nodes pass only for pods that tolerate the taint cordoning stands for."""

    name = "NodeUnschedulable"
    reason = "node(s) were unschedulable"
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.NODE_TAINTS

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where the node is not cordoned."""
        cordoned = view.table.unschedulable[: view.size]
        if not cordoned.any() or tolerates(pod.shape.tolerations, UNSCHEDULABLE):
            return None
        return np.asarray(~cordoned[rows])


class Taints(NodeFilter):
    """NoSchedule and NoExecute taints must be tolerated."""

    name = "TaintToleration"
    reason = "node(s) had untolerated taint(s)"
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.NODE_TAINTS

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where every repelling taint is tolerated."""
        mask = taint_mask(view, pod.shape.tolerations)
        return None if mask is None else np.asarray(mask[rows])


def taint_mask(view: ClusterView, tolerations: Sequence[Toleration]) -> BoolArray | None:
    """Rows whose repelling taints are all tolerated; None: no node has taints."""
    sets = view.table.taint_sets
    if len(sets) == 1:
        return None
    passes = [
        all(taint.effect not in REPELLING or tolerates(tolerations, taint) for taint in taints) for taints in sets
    ]
    return np.asarray(np.array(passes, dtype=np.bool_)[view.table.taint_ids[: view.size]])
