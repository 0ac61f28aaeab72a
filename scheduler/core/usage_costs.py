"""What the usage of rows makes of a pod: where it is refused, and the points it costs elsewhere.

Owns the parts of plugins on usage (DependsOn.USAGE), and keeps the part that hangs on a pod's shape alone. Pods of one
shape that read different data share it: a placement changes one row for all of them, once. Invariants: what is kept for
a shape is what is computed anew, to the last bit; a refused row costs +inf.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster_view import ALL, ClusterView, Rows
from scheduler.core.node_table import NodeTable
from scheduler.core.plugin import FilterPlugin, FloatArray, ScorePlugin, row_filter, row_score
from scheduler.core.pod_request import PodRequest, Shape

# A node much worse than the full scale (a broken disk) must not make all other scores vanish.
CAP = 4.0
# So many changed rows are looked at one by one; more of them as arrays.
FEW_ROWS = 8
MAX_SHAPES = 256


@dataclass(frozen=True, slots=True)
class Weighted:
    """A score and how many points its full scale costs."""

    plugin: ScorePlugin
    weight: float


def scales_of(scores: Sequence[Weighted], pod: PodRequest, view: ClusterView) -> tuple[float, ...]:
    """The full scale of each score."""
    return tuple(weighted.plugin.full_scale(view, pod) for weighted in scores)


def cost_of(
    scores: Sequence[Weighted], scales: Sequence[float], pod: PodRequest, view: ClusterView, rows: Rows
) -> FloatArray | None:
    """Points of all scores on rows; None when none has anything to say."""
    cost: FloatArray | None = None
    for weighted, scale in zip(scores, scales, strict=True):
        raw = weighted.plugin.score(view, pod, rows)
        if raw is not None:
            points = np.minimum(raw * (1.0 / scale), CAP) * weighted.weight
            cost = points if cost is None else cost + points
    return cost


class UsagePart:
    """Filters and scores on usage that are asked together."""

    def __init__(self, filters: Sequence[FilterPlugin], scores: Sequence[Weighted]) -> None:
        self._filters = tuple(filters)
        self.scores = tuple(scores)
        self._row_filters = tuple(row_filter(plugin) for plugin in filters)
        self._row_scores = tuple((row_score(one.plugin), one.weight) for one in scores)

    def of_rows(self, scales: Sequence[float], pod: PodRequest, view: ClusterView, rows: Rows) -> FloatArray | None:
        """Points on rows; None: nothing to say, 0 everywhere. The array is the caller's."""
        cost = cost_of(self.scores, scales, pod, view, rows)
        for plugin in self._filters:
            passed = plugin.filter(view, pod, rows)
            if passed is not None:
                if cost is None:
                    cost = np.zeros(len(passed))
                cost[~passed] = np.inf
        return cost

    def of_row(self, scales: Sequence[float], pod: PodRequest, view: ClusterView, row: int) -> float:
        """Points on one row."""
        if not all(passes(view, pod, row) for passes in self._row_filters):
            return np.inf
        cost = 0.0
        for (score, weight), scale in zip(self._row_scores, scales, strict=True):
            raw = score(view, pod, row)
            if raw is not None:
                cost += min(raw * (1.0 / scale), CAP) * weight
        return cost


@dataclass(slots=True)
class _Kept:
    versions: tuple[int, int]
    log_position: int
    scales: tuple[float, ...]
    cost: FloatArray


class ShapeCosts:
    """The part of one profile that hangs on shapes alone, kept for the cluster as it is."""

    def __init__(self, table: NodeTable, part: UsagePart) -> None:
        self.part = part
        self._table = table
        self._kept: OrderedDict[Shape, _Kept] = OrderedDict()

    def current(self, pod: PodRequest, view: ClusterView) -> FloatArray:
        """Points by row on the cluster's own view; not to be written to."""
        versions = (self._table.version, view.mix.version)
        kept = self._kept.get(pod.shape)
        if kept is None or kept.versions != versions:
            scales = scales_of(self.part.scores, pod, view)
            kept = _Kept(versions, self._table.log_position, scales, self._all(scales, pod, view))
            self._kept[pod.shape] = kept
            while len(self._kept) > MAX_SHAPES:
                self._kept.popitem(last=False)
            return kept.cost
        self._kept.move_to_end(pod.shape)
        changed = self._table.rows_changed_since(kept.log_position)
        kept.log_position = self._table.log_position
        if changed is None:
            kept.cost = self._all(kept.scales, pod, view)
        elif len(changed) <= FEW_ROWS:
            for row in set(changed):
                kept.cost[row] = self.part.of_row(kept.scales, pod, view, row)
        else:
            rows = np.array(list(set(changed)), dtype=np.int64)
            cost = self.part.of_rows(kept.scales, pod, view, rows)
            kept.cost[rows] = 0.0 if cost is None else cost
        return kept.cost

    def anew(self, pod: PodRequest, view: ClusterView) -> FloatArray:
        """Points by row on any view."""
        return self._all(scales_of(self.part.scores, pod, view), pod, view)

    def _all(self, scales: Sequence[float], pod: PodRequest, view: ClusterView) -> FloatArray:
        cost = self.part.of_rows(scales, pod, view, ALL)
        return np.zeros(view.size) if cost is None else cost
