"""How many volumes of a CSI driver a node takes (NodeVolumeLimits, nodevolumelimits/csi.go)."""

from collections import Counter

import numpy as np

from scheduler.core.pod_volumes import Attachable
from scheduler.plugins.base import (
    ALL,
    BoolArray,
    ClusterChange,
    ClusterView,
    DependsOn,
    IntArray,
    NodeFilter,
    PodRequest,
    Rows,
)

UNLIMITED = 1 << 40


class NodeVolumeLimits(NodeFilter):
    """What is attached, and what the pod adds to it, stays within each driver's limit."""

    name = "NodeVolumeLimits"
    reason = "node(s) exceed max volume count"
    depends_on = DependsOn.USAGE
    worth_retry = ClusterChange.POD_FREED | ClusterChange.NODE_ADDED | ClusterChange.VOLUMES

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where the pod's volumes can be attached."""
        if not pod.volumes.attached:
            return None
        asked = np.arange(view.size)[rows]
        mask = np.ones(len(asked), dtype=np.bool_)
        for number, row in enumerate(asked.tolist()):
            if view.alive[row]:
                mask[number] = _may_attach(view, row, pod.volumes.attached)
        return mask

    def capacity(self, view: ClusterView, pod: PodRequest) -> IntArray | None:
        """Equal pods share their volumes: where one fits, more do."""
        fits = self.filter(view, pod, ALL)
        return None if fits is None else np.where(fits, np.int64(UNLIMITED), np.int64(0))

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """Removing pods detaches volumes."""
        return np.zeros(view.size, dtype=np.bool_)


def _may_attach(view: ClusterView, row: int, wanted: tuple[Attachable, ...]) -> bool:
    table, node = view.volumes, view.names[row]
    limits = table.limits.get(node)
    if not limits:
        return True
    new = {volume for volume in wanted if volume.driver in limits}
    if not new:
        return True
    used = _used(view, row)
    new -= used
    used.update(table.attached_to(node))
    attached = _by_driver(used)
    return all(attached[driver] + count <= limits[driver] for driver, count in _by_driver(new).items())


def _by_driver(volumes: set[Attachable]) -> Counter[str]:
    return Counter(volume.driver for volume in volumes)


def _used(view: ClusterView, row: int) -> set[Attachable]:
    """Volumes of the pods on a row, that count against limits."""
    held = view.volume_use.on_row(row)
    if held is None:
        return set()
    found = (view.volumes.attachable(claim) for claim in held.claims)
    return {volume for volume in (*found, *held.inline) if volume is not None}
