"""Bound pods' required anti-affinity against a pod of ours (InterPodAffinity's symmetric half).

Owns the rows such pods forbid. The pod's own required terms are refused in core/pod_request.py. It is asked
per pod, not per signature, because it depends on labels and identical pods differ in theirs."""

import numpy as np

from scheduler.core.assumed import Assigned
from scheduler.core.node_table import BoolArray, NodeTable
from scheduler.core.pod_request import PodRequest


def kept_away(table: NodeTable, assigned: Assigned, pod: PodRequest) -> BoolArray | None:
    """Rows that share a topology value with a pod that wants no such pod near it; None: no row is."""
    holders = assigned.with_anti_affinity()
    if not holders:
        return None
    mask = np.zeros(table.size, dtype=np.bool_)
    for holder in holders:
        row = table.row_of.get(holder.node)
        if row is None:
            continue
        for term in holder.anti_affinity:
            if term.selects(pod.namespace, pod.labels):
                ids = table.column(term.topology_key).ids[: table.size]
                if ids[row] >= 0:
                    mask |= ids == ids[row]
    return mask if mask.any() else None
