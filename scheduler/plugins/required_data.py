"""`required` datasets: only nodes where every one of them is resident as a whole (Headrace's own filter)."""

import numpy as np

from scheduler.plugins.base import BoolArray, ClusterChange, ClusterView, DependsOn, NodeFilter, PodRequest, Rows


class RequiredData(NodeFilter):
    """All bytes of the current snapshot of each required dataset, in verified blocks, on this node."""

    name = "RequiredData"
    reason = "node(s) didn't have all required dataset(s) resident"
    depends_on = DependsOn.RESIDENCY
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.RESIDENCY

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where every required dataset is whole."""
        required = [item for item in pod.data if item.is_required]
        if not required:
            return None
        mask = np.ones(view.size, dtype=np.bool_)
        for item in required:
            mask &= view.residency.is_resident(item)
        return np.asarray(mask[rows])
