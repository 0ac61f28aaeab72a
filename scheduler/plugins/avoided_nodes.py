"""avoided_nodes: nodes a pod would rather not run on, by name.

A preferred node affinity that says `metadata.name NotIn` and nothing else is a verdict on these nodes (the job
controller's, of nodes where members were lost), no taste: it weighs more than all the data that may be there."""

import numpy as np

from scheduler.core.node_masks import term_mask
from scheduler.core.selectors import NAME_FIELD, Term
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows


class AvoidedNodes:
    """1 on the nodes named so, 0 elsewhere."""

    name = "avoided_nodes"
    unit = "is to be avoided"
    depends_on = DependsOn.NODES

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """None for a pod that names none."""
        terms = [term for term in pod.shape.preferred_terms if _names_nodes(term)]
        if not terms:
            return None
        cost = np.zeros(view.size)
        for term in terms:
            cost[~term_mask(view, term)] = 1.0
        return np.asarray(cost[rows])

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """The node is one of them."""
        return 1.0


def _names_nodes(term: Term) -> bool:
    return not term.labels and all(one.key == NAME_FIELD and one.operator == "NotIn" for one in term.fields)
