"""kube-scheduler's default scoring, and how it looks at nodes, through the core's own passes.

Owns LeastAllocated and BalancedAllocation as cost plugins, NodeAffinity's normalised score, the sample of nodes and
the random choice among equals. Formulas are those of kube-scheduler 1.36's noderesources and nodeaffinity plugins, with
their default weights (1, 1, 2) and integer division; TaintToleration, ImageLocality and the default spreading say the
same about every node for pods of jobs, so they are left out.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np

from scheduler.core.engine import Engine
from scheduler.core.node_masks import term_mask
from scheduler.core.placement import Pass, Placer, Plugins, Scoring
from scheduler.core.pod_request import PodRequest
from scheduler.core.usage_costs import Weighted
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, IntArray, Rows
from scheduler.plugins.registry import FILTERS
from scheduler.settings import Settings

MAX_SCORE = 100.0
NODE_AFFINITY_WEIGHT = 2.0
ALL_BELOW, MIN_PERCENT = 100, 5


class LeastAllocated:
    """Free share of cpu and memory after placing the pod, each in whole points."""

    name = "least_allocated"
    unit = "points below 100"
    depends_on = DependsOn.USAGE

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost between 0 and 100."""
        vector = view.table.vector(pod.shape.requests)
        points = np.zeros(len(view.alive[rows]))
        for column in (0, 1):
            whole = np.maximum(view.allocatable[rows, column], 1)
            free = np.maximum(whole - view.requested[rows, column] - vector[column], 0)
            points += free * 100 // whole
        return np.asarray(MAX_SCORE - points // 2)

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """Nothing free."""
        return MAX_SCORE


class BalancedAllocation:
    """How much more evenly cpu and memory are taken with the pod than without it: 75 - half of the points lost."""

    name = "balanced_allocation"
    unit = "points below 100"
    depends_on = DependsOn.USAGE

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost between 0 and 50; 25 for a pod that changes nothing."""
        vector = view.table.vector(pod.shape.requests)
        before, room = view.requested[rows], view.allocatable[rows]
        gained = _evenness(before + vector, room) - _evenness(before, room)
        return np.asarray(MAX_SCORE / 2 - np.floor((MAX_SCORE / 2 + gained) / 2))

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """All of one taken, nothing of the other."""
        return MAX_SCORE


def _evenness(taken: IntArray, room: IntArray) -> FloatArray:
    """100 - 100 · the standard deviation of the shares of cpu and memory that are taken, in whole points."""
    cpu, memory = (np.minimum(1.0, taken[:, column] / np.maximum(room[:, column], 1)) for column in (0, 1))
    return np.asarray(np.floor((1.0 - np.abs((cpu - memory) / 2)) * MAX_SCORE))


def default_plugins(settings: Settings) -> Plugins:
    """The core's filters, and the two scores above with weight 1 each: a point costs 1/100."""
    del settings
    scores = (Weighted(LeastAllocated(), 1.0), Weighted(BalancedAllocation(), 1.0))
    return Plugins(tuple(factory() for factory in FILTERS), Scoring(scores))


def nodes_to_find(nodes: int) -> int:
    """numFeasibleNodesToFind: how many feasible nodes are scored."""
    if nodes < ALL_BELOW:
        return nodes
    percent = max(MIN_PERCENT, 50 - nodes // 125)
    return max(ALL_BELOW, nodes * percent // 100)


class SamplingPlacer(Placer):
    """The core's passes, seen as kube-scheduler sees them: the first feasible nodes from a rotating start, NodeAffinity
    normalised over those, one of the best at random."""

    def bind_to(self, random: Random) -> "SamplingPlacer":
        """Give it its randomness."""
        self._random = np.random.default_rng(random.getrandbits(64))
        self._start = 0
        return self

    def pass_for(self, pod: PodRequest) -> Pass:
        """A pass whose unseen nodes are not left over."""
        whole = super().pass_for(pod)
        feasible = np.flatnonzero(whole.total != np.inf)
        if not len(feasible):
            return whole
        wanted = nodes_to_find(self._table.count)
        first = int(np.searchsorted(feasible, self._start % max(1, self._table.size)))
        rows = np.roll(feasible, -first)[:wanted]
        # kube-scheduler goes on behind the last node it looked at; that is where it began when it looked at all.
        self._start = int(rows[-1]) + 1 if len(feasible) > wanted else self._start
        total = np.full(len(whole.total), np.inf)
        total[rows] = whole.total[rows] + self._affinity(pod, rows) + self._random.random(len(rows)) * 1e-6
        return replace(whole, total=total)

    def _affinity(self, pod: PodRequest, rows: IntArray) -> FloatArray:
        terms = pod.shape.preferred_terms
        if not terms:
            return np.zeros(len(rows))
        view = self._look()
        raw = np.zeros(view.size)
        for term in terms:
            raw += term_mask(view, term) * float(term.weight)
        most = float(raw[rows].max())
        points = np.floor(raw[rows] * 100 / most) if most > 0 else np.zeros(len(rows))
        return np.asarray(NODE_AFFINITY_WEIGHT * (MAX_SCORE - points) / MAX_SCORE)


class RandomPlacer(Placer):
    """Any node that fits, all equally likely."""

    def bind_to(self, random: Random) -> "RandomPlacer":
        """Give it its randomness."""
        self._random = np.random.default_rng(random.getrandbits(64))
        return self

    def pass_for(self, pod: PodRequest) -> Pass:
        """A pass whose costs are drawn anew."""
        whole = super().pass_for(pod)
        total = np.where(whole.total != np.inf, self._random.random(len(whole.total)), np.inf)
        return replace(whole, total=total)


def with_placer(kind: type[SamplingPlacer] | type[RandomPlacer]) -> Callable[[Engine, Random], None]:
    """Let an engine use another placer, before its first event."""

    def prepare(engine: Engine, random: Random) -> None:
        state = engine.state
        placer = kind(state.table, state.residency, state.assigned.index, state.plugins, mix=state.mix, look=state.view)
        state.placer = placer.bind_to(random)

    return prepare
