"""mask → score → choose for one signature of identical pods.

Owns the *pass*: the mask and the total cost of every row for one signature, kept between pods and brought up
to date row by row. Does not take room (core/engine.py does, through core/assumed.py) and does not know gangs.
Invariants: a pass that is current gives the same answer as one computed anew; total is +inf exactly where a
filter refuses; total = Σ weight · min(raw / full scale, CAP), so scores of any unit add up on one scale.

What depends on other pods (DependsOn.PODS) comes last and over all rows, as one pod can change whole zones;
a pod that wants nothing of others and that nobody wants anything of has no such part and pays nothing for it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.core.cluster_view import ALL, ClusterView, Rows
from scheduler.core.node_table import BoolArray, NodeTable
from scheduler.core.plugin import DependsOn, FilterPlugin, FloatArray, RelativeScorePlugin, is_by_shape
from scheduler.core.pod_index import PodIndex
from scheduler.core.pod_request import PodRequest
from scheduler.core.residency_table import ResidencyTable, Sources
from scheduler.core.usage_costs import FEW_ROWS, ShapeCosts, UsagePart, Weighted, cost_of, scales_of
from scheduler.core.workload_mix import WorkloadMix

MAX_PASSES = 256


@dataclass(frozen=True, slots=True)
class WeightedRelative:
    """A relative score and how many points its worst row costs."""

    plugin: RelativeScorePlugin
    weight: float


@dataclass(frozen=True, slots=True)
class Scoring:
    """Weighted scores of one profile."""

    scores: tuple[Weighted, ...]
    relative: tuple[WeightedRelative, ...] = ()


@dataclass(frozen=True, slots=True)
class Plugins:
    """Filters in kube-scheduler's order (the first refusal of a node is the one told), and how nodes left are
    scored: by profile (schedulerName), `scoring` for any other."""

    filters: tuple[FilterPlugin, ...]
    scoring: Scoring
    profiles: Mapping[str, Scoring] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a pod fits nowhere: the text, the names of the filters that refused it somewhere, the rows where removing
    pods may turn the refusal around, and the names of the filters that refuse it there without these pods, too."""

    message: str
    rejected_by: frozenset[str]
    may_resolve: BoolArray
    also: frozenset[str] = frozenset()


@dataclass(slots=True)
class Pass:
    """Everything known about one signature. Arrays have one entry a row."""

    pod: PodRequest
    versions: tuple[int, ...]
    log_position: int
    refusal: str | None  # of a prefilter: no node was looked at
    only: BoolArray | None  # rows a prefilter left; None: all
    fixed_mask: BoolArray
    fixed_cost: FloatArray
    own_scales: tuple[float, ...]  # of scores on usage that hang on more than the shape
    sources: Sources | None  # bytes by source and seconds of stage-in; None when the pod names no data
    total: FloatArray  # +inf where refused
    # `total` as it would be without other pods' labels and terms; None when these make no difference.
    alone: FloatArray | None = None
    # By priority and what else it hangs on, kept by core/preempting.py as long as nothing changes.
    diagnoses: dict[tuple[object, ...], Diagnosis] = field(default_factory=dict)

    @property
    def seconds(self) -> FloatArray | None:
        """Seconds of stage-in by row; None when the pod names no data."""
        return self.sources.seconds if self.sources is not None else None

    def best(self) -> int:
        """The cheapest row; -1 when no row is left."""
        if not len(self.total):
            return -1
        row = int(self.total.argmin())
        return row if self.total[row] != np.inf else -1

    def runner_up(self, chosen: int) -> int:
        """The cheapest other row; -1 when there is none."""
        if len(self.total) < 2:
            return -1
        kept = self.total[chosen]
        self.total[chosen] = np.inf
        row = int(self.total.argmin())
        found = row if self.total[row] != np.inf else -1
        self.total[chosen] = kept
        return found

    def feasible(self) -> int:
        """How many rows are left."""
        return int(np.count_nonzero(self.total != np.inf))

    def coldest(self) -> int:
        """The feasible row with the most seconds of stage-in; -1 without data or rows."""
        if self.seconds is None:
            return -1
        seconds = np.where(self.total != np.inf, self.seconds, -1.0)
        row = int(seconds.argmax()) if len(seconds) else -1
        return row if row >= 0 and seconds[row] >= 0 else -1


@dataclass(frozen=True, slots=True)
class _Scores:
    """A profile's filters on usage and its scores, apart by what makes them stale."""

    fixed: tuple[Weighted, ...]
    shapes: ShapeCosts  # on usage, by the pod's shape alone
    own: UsagePart  # on usage, by more than that
    relative: tuple[WeightedRelative, ...]

    @classmethod
    def of(cls, scoring: Scoring, filters: Sequence[FilterPlugin], table: NodeTable) -> "_Scores":
        fixed = tuple(one for one in scoring.scores if one.plugin.depends_on is not DependsOn.USAGE)
        usage = [one for one in scoring.scores if one.plugin.depends_on is DependsOn.USAGE]
        by_shape = UsagePart(
            [plugin for plugin in filters if is_by_shape(plugin)], [one for one in usage if is_by_shape(one.plugin)]
        )
        own = UsagePart(
            [plugin for plugin in filters if not is_by_shape(plugin)],
            [one for one in usage if not is_by_shape(one.plugin)],
        )
        return cls(fixed, ShapeCosts(table, by_shape), own, scoring.relative)


class Placer:
    """Makes passes and keeps the most recently used ones."""

    def __init__(
        self,
        table: NodeTable,
        residency: ResidencyTable,
        index: PodIndex,
        plugins: Plugins,
        *,
        mix: WorkloadMix,
        look: Callable[[], ClusterView],
        max_passes: int = MAX_PASSES,
    ) -> None:
        """`look` gives the cluster as it is now, of this table, residency, index and mix."""
        self._table = table
        self._residency = residency
        self._index = index
        self._mix = mix
        self._look = look
        self.plugins = plugins
        self._max_passes = max_passes
        self._passes: OrderedDict[object, Pass] = OrderedDict()
        changing = (DependsOn.USAGE, DependsOn.PODS)
        self._fixed_filters = [f for f in plugins.filters if f.depends_on not in changing]
        usage_filters = [f for f in plugins.filters if f.depends_on is DependsOn.USAGE]
        self._pod_filters = [f for f in plugins.filters if f.depends_on is DependsOn.PODS]
        self._scores = {
            profile: _Scores.of(scoring, usage_filters, table) for profile, scoring in plugins.profiles.items()
        }
        self._default_scores = _Scores.of(plugins.scoring, usage_filters, table)

    def pass_for(self, pod: PodRequest) -> Pass:
        """The current pass for a pod's signature."""
        self._table.vector(pod.shape.requests)  # resources get their columns before arrays are shared
        signature = pod.signature
        found = self._passes.get(signature)
        if found is not None and found.versions == self._versions(pod):
            self._passes.move_to_end(signature)
            found.pod = pod  # equal to the core, but what it is known by to others may have changed since
            self._catch_up(found)
            return found
        made = self.compute(pod, self._look())
        self._passes[signature] = made
        self._passes.move_to_end(signature)
        while len(self._passes) > self._max_passes:
            self._passes.popitem(last=False)
        return made

    def compute(self, pod: PodRequest, view: ClusterView, *, usage_of: ClusterView | None = None) -> Pass:
        """A pass from nothing, on any view (also a what-if copy). `usage_of`: a view on which the same is taken: what
        is kept of the cluster's own serves its copy too, until something is placed there."""
        refusal, only = self._prefilter(pod, view)
        scores = self._scores_of(pod)
        mask = view.alive.copy()
        if only is not None:
            mask &= only
        for plugin in self._fixed_filters:
            passed = plugin.filter(view, pod, ALL)
            if passed is not None:
                mask &= passed
        fixed = cost_of(scores.fixed, scales_of(scores.fixed, pod, view), pod, view, ALL)
        made = Pass(
            pod=pod,
            versions=self._versions(pod),
            log_position=self._table.log_position,
            refusal=refusal,
            only=only,
            fixed_mask=mask,
            fixed_cost=np.zeros(view.size) if fixed is None else fixed,
            own_scales=scales_of(scores.own.scores, pod, view),
            sources=self._residency.sources(pod.data, pod.checkpoint) if pod.data or pod.checkpoint else None,
            total=np.empty(0),
        )
        if refusal is not None:
            made.total = np.full(view.size, np.inf)
        else:
            is_own = (usage_of or view) is self._look()
            by_shape = scores.shapes.current(pod, view) if is_own else scores.shapes.anew(pod, view)
            made.total = self._total(made, by_shape, view, ALL)
            self._look_at_pods(made, view)
        return made

    def row_changed(self, found: Pass, view: ClusterView, row: int) -> None:
        """Bring a pass made on a what-if view up to date after pods were placed on, or removed from, a row."""
        if found.refusal is not None:
            return
        without_others = found.alone if found.alone is not None else found.total
        part = self._scores_of(found.pod).shapes.part
        by_shape = part.of_row(scales_of(part.scores, found.pod, view), found.pod, view, row)
        without_others[row] = self._total_of_row(found, by_shape, view, row)
        self._look_at_pods(found, view)

    def _scores_of(self, pod: PodRequest) -> "_Scores":
        return self._scores.get(pod.profile, self._default_scores)

    def _versions(self, pod: PodRequest) -> tuple[int, ...]:
        return (
            self._table.version,
            self._residency.version if pod.data or pod.checkpoint else 0,
            self._index.version,
            self._mix.version,
        )

    def _catch_up(self, found: Pass) -> None:
        changed = self._table.rows_changed_since(found.log_position)
        if changed is not None and not changed:
            return
        found.log_position = self._table.log_position
        found.diagnoses.clear()
        if found.refusal is not None:
            return
        view = self._look()
        by_shape = self._scores_of(found.pod).shapes.current(found.pod, view)
        without_others = found.alone if found.alone is not None else found.total
        if changed is not None and len(changed) <= FEW_ROWS:
            for row in set(changed):
                without_others[row] = self._total_of_row(found, float(by_shape[row]), view, row)
        else:
            rows: Rows = ALL
            if changed is not None and len(changed) <= view.size // 2:
                rows = np.array(list(set(changed)), dtype=np.int64)
            without_others[rows] = self._total(found, by_shape[rows], view, rows)
        if found.alone is not None:
            self._look_at_pods(found, view)

    def _look_at_pods(self, found: Pass, view: ClusterView) -> None:
        """Add to a pass what depends on other pods' labels and terms, on the pass without them."""
        pod = found.pod
        if not pod.looks_at_pods and not view.index.reaching(pod.identity):
            return
        if found.alone is None:
            found.alone = found.total
        total = found.alone.copy()
        for plugin in self._pod_filters:
            passed = plugin.filter(view, pod, ALL)
            if passed is not None:
                total[~passed] = np.inf
        found.total = total
        left = total != np.inf
        for weighted in self._scores_of(pod).relative:
            cost = weighted.plugin.cost(view, pod, left)
            if cost is not None:
                total += cost * weighted.weight

    def _total(self, found: Pass, by_shape: FloatArray, view: ClusterView, rows: Rows) -> FloatArray:
        own = self._scores_of(found.pod).own.of_rows(found.own_scales, found.pod, view, rows)
        total = found.fixed_cost[rows] + (by_shape if own is None else by_shape + own)
        total[~found.fixed_mask[rows]] = np.inf
        return np.asarray(total)

    def _total_of_row(self, found: Pass, by_shape: float, view: ClusterView, row: int) -> float:
        """`_total` of one row."""
        if not found.fixed_mask[row]:
            return np.inf
        own = self._scores_of(found.pod).own.of_row(found.own_scales, found.pod, view, row)
        return float(found.fixed_cost[row]) + (by_shape + own)

    def _prefilter(self, pod: PodRequest, view: ClusterView) -> tuple[str | None, BoolArray | None]:
        only: BoolArray | None = None
        for plugin in self.plugins.filters:
            verdict = plugin.prefilter(view, pod)
            if verdict is None:
                continue
            if verdict.refusal is not None:
                return verdict.refusal, only
            if verdict.only is not None:
                only = verdict.only if only is None else only & verdict.only
        return None, only
