"""preferences: preferred node affinity and PreferNoSchedule taints (scores of NodeAffinity, TaintToleration)."""

import numpy as np

from scheduler.core.node_masks import term_mask
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows
from scheduler.plugins.taints import tolerates


class Preferences:
    """The missed share of the pod's preferred weights, plus untolerated soft taints."""

    name = "preferences"
    unit = "share of preferences missed"
    depends_on = DependsOn.NODES

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost between 0 and 2 (both kinds missed)."""
        terms = pod.shape.preferred_terms
        soft = [
            sum(taint.effect == "PreferNoSchedule" and not tolerates(pod.shape.tolerations, taint) for taint in taints)
            for taints in view.table.taint_sets
        ]
        if not terms and not any(soft):
            return None
        cost = np.zeros(view.size)
        if terms:
            whole = sum(term.weight for term in terms)
            cost += 1.0
            for term in terms:
                cost -= term_mask(view, term) * (term.weight / whole)
        if any(soft):
            cost += np.array(soft, dtype=np.float64)[view.table.taint_ids[: view.size]] / max(soft)
        return np.asarray(cost[rows])

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """One kind missed as a whole."""
        return 1.0
