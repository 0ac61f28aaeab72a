"""nodeSelector and required node affinity (NodeAffinity)."""

import numpy as np

from scheduler.core.node_masks import any_term, label_mask
from scheduler.core.pod_request import Shape
from scheduler.core.selectors import Requirement
from scheduler.plugins.base import (
    BoolArray,
    ClusterChange,
    ClusterView,
    NodeFilter,
    PodRequest,
    PreFilter,
    Rows,
)

CONFLICT = "pod affinity terms conflict"


class NodeAffinity(NodeFilter):
    """The selector and all requirements of one term must hold; terms are alternatives."""

    name = "NodeAffinity"
    reason = "node(s) didn't match Pod's node affinity/selector"
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.NODE_LABELS

    def prefilter(self, view: ClusterView, pod: PodRequest) -> PreFilter | None:
        """Terms that name nodes leave the others out of the search, as upstream does."""
        asked = pod.shape.names_asked
        if asked is None:
            return None
        if not asked:
            return PreFilter(refusal=CONFLICT)
        only = np.zeros(view.size, dtype=np.bool_)
        for name in asked:
            row = view.table.row_of.get(name)
            if row is not None:
                only[row] = True
        return PreFilter(only=only)

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where selector and affinity hold."""
        mask = node_mask(view, pod.shape)
        return None if mask is None else np.asarray(mask[rows])


def node_mask(view: ClusterView, shape: Shape) -> BoolArray | None:
    """Rows where a shape's nodeSelector and required affinity hold; None: it has neither."""
    if not shape.node_selector and shape.affinity_terms is None:
        return None
    mask = np.ones(view.size, dtype=np.bool_)
    for key, value in shape.node_selector:
        mask &= label_mask(view, Requirement(key, "In", (value,)))
    if shape.affinity_terms is not None:
        mask &= any_term(view, shape.affinity_terms)
    return mask
