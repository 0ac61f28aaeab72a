"""Bound volumes that can be used on the node, and volumes for claims that wait for one (VolumeBinding).

Two filters where upstream has one: what bound volumes want depends on nodes only, and is all most pods have; what
unbound claims find depends on what other pods are promised.
"""

import numpy as np

from scheduler.core import volume_binding
from scheduler.plugins.base import (
    BoolArray,
    ClusterChange,
    ClusterView,
    DependsOn,
    NodeFilter,
    PodRequest,
    Refusal,
    Rows,
)

AFFINITY = "node(s) didn't match PersistentVolume's node affinity"
NOT_FOUND = "node(s) didn't find available persistent volumes to bind"
NO_ROOM = "node(s) did not have enough free storage"
LOST = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
WORTH_RETRY = ClusterChange.NODE_ADDED | ClusterChange.NODE_LABELS | ClusterChange.VOLUMES


class BoundVolumes(NodeFilter):
    """Every bound volume must be usable on the node; pods with unbound claims are left to UnboundClaims."""

    name = "VolumeBinding"
    worth_retry = WORTH_RETRY

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where all volumes' affinities hold."""
        volumes = pod.volumes
        if volumes.unbound or not volumes.has_affinity:
            return None
        if volumes.is_lost:
            return np.zeros(view.size, dtype=np.bool_)[rows]
        return np.asarray(volume_binding.held(view, pod)[rows])

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """An affinity that does not hold, or a volume that does not exist."""
        volumes = pod.volumes
        if volumes.unbound or not volumes.has_affinity:
            return []
        held = volume_binding.held(view, pod)
        return [Refusal(AFFINITY, ~held), *([Refusal(LOST, held)] if volumes.is_lost else [])]


class UnboundClaims(NodeFilter):
    """Claims of WaitForFirstConsumer classes find a volume on the node, or can have one made there."""

    name = "VolumeBinding/unbound"
    depends_on = DependsOn.PODS
    worth_retry = WORTH_RETRY | ClusterChange.POD_FREED

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where all claims can be met."""
        if not pod.volumes.unbound:
            return None
        if pod.volumes.is_lost:
            return np.zeros(view.size, dtype=np.bool_)[rows]
        return np.asarray(volume_binding.match(view, pod).mask[rows])

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """Up to three reasons a node, in upstream's order."""
        if not pod.volumes.unbound:
            return []
        found = volume_binding.match(view, pod)
        return [
            Refusal(AFFINITY, ~found.is_held),
            Refusal(NOT_FOUND, ~found.is_found),
            Refusal(NO_ROOM, ~found.has_room),
            *([Refusal(LOST, found.is_held)] if pod.volumes.is_lost else []),
        ]
