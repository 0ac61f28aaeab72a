"""Features a pod needs of its node, as nodes declare them (NodeDeclaredFeatures)."""

import numpy as np

from scheduler.plugins.base import BoolArray, ClusterChange, ClusterView, NodeFilter, PodRequest, Rows


class DeclaredFeatures(NodeFilter):
    """Every feature the pod's fields imply must be among the node's status.declaredFeatures."""

    name = "NodeDeclaredFeatures"
    reason = "node(s) didn't match Pod's required features"
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.NODE_FEATURES

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where all features are declared; asked once a distinct set of them."""
        needed = pod.shape.features
        if not needed:
            return None
        table = view.table
        answers = np.array([needed <= declared for declared in table.feature_sets], dtype=np.bool_)
        return np.asarray(answers[table.feature_ids[: view.size]][rows])
