"""Selectors over all rows at once: which nodes a label requirement, a term, or one of several terms selects.

Owns the vectorised meaning of core/selectors.py. Pure; reads the view.
"""

import numpy as np

from scheduler.core.cluster_view import ClusterView
from scheduler.core.node_table import BoolArray
from scheduler.core.selectors import NAME_FIELD, LabelSelector, Requirement, Term

# So few values are looked up one by one; of more, each distinct value of the label is asked once.
FEW_VALUES = 8


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


def selector_mask(view: ClusterView, selector: LabelSelector | None) -> BoolArray:
    """Rows whose labels a label selector matches; None matches none."""
    if selector is None:
        return np.zeros(view.size, dtype=np.bool_)
    mask = np.ones(view.size, dtype=np.bool_)
    for requirement in selector.requirements:
        mask &= label_mask(view, requirement)
    return mask


def label_mask(view: ClusterView, requirement: Requirement) -> BoolArray:
    """Rows whose label satisfies a requirement: asked once a distinct value, not once a node."""
    column = view.column(requirement.key)
    ids = column.ids[: view.size]
    if requirement.operator == "In" and len(requirement.values) <= FEW_VALUES:
        # A volume of one node of thousands: every node has another host name.
        mask = np.zeros(view.size, dtype=np.bool_)
        for value in requirement.values:
            number = column.number(value)
            if number is not None:
                mask |= ids == number
        return mask
    # The last entry is for ids of -1: the label is absent.
    answers = [requirement.matches(value) for value in column.values] + [requirement.matches(None)]
    return np.asarray(np.array(answers, dtype=np.bool_)[ids])


def _field_mask(view: ClusterView, requirement: Requirement) -> BoolArray:
    if requirement.key != NAME_FIELD:
        # The API server refuses other fields; an unknown field is absent, so In never holds.
        return np.full(view.size, requirement.operator == "NotIn", dtype=np.bool_)
    mask = np.full(view.size, requirement.operator == "NotIn", dtype=np.bool_)
    row = view.table.row_of.get(requirement.values[0])
    if row is not None:
        mask[row] = not mask[row]
    return mask
