"""What a filter and a score are to the core; plugins/base.py hands these names to plugin authors.

Owns the protocols. Invariants: a plugin is pure and reads the view only; every answer depends on the pod's
signature and on what `depends_on` names, so answers can be kept; values are NaN-free.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.core.cluster_view import ClusterView, Rows
from scheduler.core.node_table import BoolArray, IntArray
from scheduler.core.pod_request import PodRequest
from scheduler.core.requeue import ClusterChange

FloatArray = NDArray[np.float64]


class DependsOn(StrEnum):
    """What makes an answer stale, beside a change of the nodes themselves."""

    NODES = "nodes"
    USAGE = "usage"  # what is taken on a row; only that row is asked again
    RESIDENCY = "residency"
    PODS = "pods"  # labels and terms of assigned pods: asked again for all rows whenever one came or went


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason on the rows where `mask` is true, in kube-scheduler's words."""

    reason: str
    mask: BoolArray


@dataclass(frozen=True, slots=True)
class PreFilter:
    """A verdict before any node is looked at: a refusal for all, or the only rows worth looking at."""

    refusal: str | None = None
    only: BoolArray | None = None


class FilterPlugin(Protocol):
    """May this pod run there?"""

    name: str
    depends_on: DependsOn
    worth_retry: ClusterChange
    # It compares the pod's requests with what is left of resources and pod slots, and nothing else: preemption
    # then reckons with plain numbers.
    is_about_room: bool

    def prefilter(self, view: ClusterView, pod: PodRequest) -> PreFilter | None:
        """Called once a signature, before `filter`; None when it has nothing to say."""

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where the pod may run, one entry for each of `rows`; None means everywhere."""

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """Why not, over all rows; only asked when no node is left. A row may have several reasons."""

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """Refused rows where removing pods cannot help; None means all of them."""

    def capacity(self, view: ClusterView, pod: PodRequest) -> IntArray | None:
        """How many pods like this one fit on each row; None: no limit. Only asked of filters on usage:
        with it identical members of a gang are placed in one pass."""


class ScorePlugin(Protocol):
    """What does it cost to run this pod there? All scores are costs: 0 is best."""

    name: str
    unit: str
    depends_on: DependsOn

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """The raw cost in `unit`, one entry for each of `rows`; None when it has nothing to say."""

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """The raw cost, in `unit`, that counts as the whole weight; more than 0. Equal for all rows, whatever is
        taken on them."""


class RelativeScorePlugin(Protocol):
    """A score that only compares the nodes left with each other (upstream's NormalizeScore), from what other
    pods are where: it depends on PODS."""

    name: str
    unit: str

    def cost(self, view: ClusterView, pod: PodRequest, left: BoolArray) -> FloatArray | None:
        """0 for the best of the rows `left` to 1, for every row; rows not left may hold anything finite."""


def is_by_shape(plugin: FilterPlugin | ScorePlugin) -> bool:
    """Whether a plugin on usage says that it looks at nothing of a pod but its shape (`by_shape = True`); what it says
    is then kept for all pods of that shape."""
    return bool(getattr(plugin, "by_shape", False))


# What plugins say of one row, in plain numbers.
RowScore = Callable[[ClusterView, PodRequest, int], float | None]
RowFilter = Callable[[ClusterView, PodRequest, int], bool]


def row_score(plugin: ScorePlugin) -> RowScore:
    """A plugin's score of one row: its own `score_row` if it has one, else what `score` says of that row.

    A placement changes one row, and arrays of one entry cost ten times what plain numbers do. Invariant: `score_row`
    gives what `score` gives, to the last bit (tests/property/scheduler/test_scheduler_row_scores.py).
    """
    own: RowScore | None = getattr(plugin, "score_row", None)
    if own is not None:
        return own

    def of_array(view: ClusterView, pod: PodRequest, row: int) -> float | None:
        cost = plugin.score(view, pod, slice(row, row + 1))
        return None if cost is None else float(cost[0])

    return of_array


def row_filter(plugin: FilterPlugin) -> RowFilter:
    """A filter's verdict on one row: its own `filter_row` if it has one, else what `filter` says of that row."""
    own: RowFilter | None = getattr(plugin, "filter_row", None)
    if own is not None:
        return own

    def of_array(view: ClusterView, pod: PodRequest, row: int) -> bool:
        passed = plugin.filter(view, pod, slice(row, row + 1))
        return passed is None or bool(passed[0])

    return of_array
