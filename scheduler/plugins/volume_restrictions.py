"""Volumes that pods cannot share: in-tree disks on one node, ReadWriteOncePod claims anywhere (VolumeRestrictions)."""

from collections.abc import Iterable

import numpy as np

from scheduler.core.pod_volumes import Disk
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

DISK_CONFLICT = "node(s) had no available disk"
CLAIM_IN_USE = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
)


def conflict(wanted: Disk, held: Iterable[Disk]) -> bool:
    """Whether a disk is in use in a way that keeps this pod off the node."""
    return any(
        other.key == wanted.key and not (other.is_read_only and wanted.is_read_only)  # two readers may share
        for other in held
    )


class VolumeRestrictions(NodeFilter):
    """Nobody else uses the pod's disks on the node, nor its exclusive claims anywhere."""

    name = "VolumeRestrictions"
    depends_on = DependsOn.PODS
    worth_retry = ClusterChange.POD_FREED | ClusterChange.NODE_ADDED | ClusterChange.VOLUMES

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where all volumes are free for the pod."""
        refused = [refusal.mask for refusal in self.refusals(view, pod)]
        return np.asarray(~np.logical_or.reduce(refused)[rows]) if refused else None

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """Taken disks; elsewhere, claims in use."""
        made: list[Refusal] = []
        taken = np.zeros(view.size, dtype=np.bool_)
        if pod.volumes.disks:
            for row, held in view.volume_use.rows_with_disks().items():
                taken[row] = any(conflict(disk, held) for disk in pod.volumes.disks)
            if taken.any():
                made.append(Refusal(DISK_CONFLICT, taken))
        if any(view.volume_use.is_used(claim) for claim in pod.volumes.exclusive):
            made.append(Refusal(CLAIM_IN_USE, ~taken))
        return made

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """Removing the other pod helps everywhere."""
        return np.zeros(view.size, dtype=np.bool_)
