"""nodeSelector, required node affinity, and the node affinity of bound volumes (NodeAffinity, VolumeBinding)."""

import numpy as np

from scheduler.core.pod_request import Shape
from scheduler.core.selectors import NAME_FIELD, Requirement, Term
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


class VolumeAffinity(NodeFilter):
    """Every bound volume must be usable on the node."""

    name = "VolumeBinding"
    reason = "node(s) didn't match PersistentVolume's node affinity"
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.NODE_LABELS | ClusterChange.VOLUMES

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where all volumes' affinities hold."""
        if not pod.volume_terms:
            return None
        mask = np.ones(view.size, dtype=np.bool_)
        for terms in pod.volume_terms:
            mask &= any_term(view, terms)
        return np.asarray(mask[rows])


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


def any_term(view: ClusterView, terms: tuple[Term, ...]) -> BoolArray:
    """Rows where at least one term holds; no terms hold nowhere."""
    mask = np.zeros(view.size, dtype=np.bool_)
    for term in terms:
        mask |= term_mask(view, term)
    return mask


def term_mask(view: ClusterView, term: Term) -> BoolArray:
    """Rows where all requirements of a term hold."""
    mask = np.ones(view.size, dtype=np.bool_)
    for requirement in term.labels:
        mask &= label_mask(view, requirement)
    for requirement in term.fields:
        mask &= _field_mask(view, requirement)
    return mask


def label_mask(view: ClusterView, requirement: Requirement) -> BoolArray:
    """Rows whose label satisfies a requirement: asked once a distinct value, not once a node."""
    column = view.column(requirement.key)
    # The last entry is for ids of -1: the label is absent.
    answers = [requirement.matches(value) for value in column.values] + [requirement.matches(None)]
    return np.asarray(np.array(answers, dtype=np.bool_)[column.ids[: view.size]])


def _field_mask(view: ClusterView, requirement: Requirement) -> BoolArray:
    if requirement.key != NAME_FIELD:
        # The API server refuses other fields; an unknown field is absent, so In never holds.
        return np.full(view.size, requirement.operator == "NotIn", dtype=np.bool_)
    mask = np.full(view.size, requirement.operator == "NotIn", dtype=np.bool_)
    row = view.table.row_of.get(requirement.values[0])
    if row is not None:
        mask[row] = not mask[row]
    return mask
