"""Zones that the labels of bound volumes name (VolumeZone)."""

import numpy as np

from scheduler.core.node_masks import label_mask
from scheduler.core.pod_claims import ZONE_LABELS
from scheduler.core.selectors import Requirement
from scheduler.plugins.base import BoolArray, ClusterChange, ClusterView, NodeFilter, PodRequest, Rows

GENERAL = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}


class VolumeZone(NodeFilter):
    """A node without any zone or region label takes every volume; others must be in one of each volume's zones."""

    name = "VolumeZone"
    reason = "node(s) had no available volume zone"
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.NODE_LABELS | ClusterChange.VOLUMES

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where every volume's zones and regions are the node's."""
        if not pod.volumes.zones:
            return None
        mask = np.ones(view.size, dtype=np.bool_)
        for key, values in pod.volumes.zones:
            held = label_mask(view, Requirement(key, "In", tuple(sorted(values))))
            if key in GENERAL:
                # A volume's old label is met by the node's new one, where the node lacks the old.
                general = label_mask(view, Requirement(GENERAL[key], "In", tuple(sorted(values))))
                held |= general & ~label_mask(view, Requirement(key, "Exists", ()))
            mask &= held
        is_zoned = np.zeros(view.size, dtype=np.bool_)
        for key in ZONE_LABELS:
            is_zoned |= label_mask(view, Requirement(key, "Exists", ()))
        return np.asarray((mask | ~is_zoned)[rows])
