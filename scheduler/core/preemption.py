"""Preemption: the node where evicting pods of lower priority costs least, or why that helps nowhere.

Owns the search over nodes and the choice. The rules are those of kube-scheduler 1.36 (framework/preemption,
plugins/defaultpreemption): only nodes whose refusal removing pods can resolve; of the candidates the one with the
fewest budget violations, then the lowest top victim, the lowest sum of priorities, the fewest victims, the latest
start of its most important victims. Ours decides among those that are still equal: the least lost work, that is
the seconds since their jobs' last complete checkpoints, summed over victims. Pure; does not evict.

Nodes are sieved as arrays first: where evicting all would not even free enough. Where upstream looks at
max(100, 10 %) candidates from a random node on, we look at as many, those with the least important pods first.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.core.assumed import AssignedPod
from scheduler.core.cluster_view import ALL, ClusterView
from scheduler.core.lower_priority import Below
from scheduler.core.node_table import BoolArray, IntArray
from scheduler.core.placement import Pass, Plugins
from scheduler.core.plugin import DependsOn, FilterPlugin
from scheduler.core.pod_request import PodRequest
from scheduler.core.victims import ResourceRoom, Room, Stakes, Victims, ViewRoom, units_on, victims_on

NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
NEVER = "not eligible due to preemptionPolicy=Never."
TERMINATING = "not eligible due to a terminating pod on the nominated node."
# MinCandidateNodesAbsolute and MinCandidateNodesPercentage of DefaultPreemptionArgs.
LEAST_CANDIDATES = 100
CANDIDATES_PERCENT = 10
# Priorities are int32; upstream adds this so that a negative one does not make more victims look cheaper.
PRIORITY_OFFSET = 1 << 31


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node and who would have to leave it."""

    row: int
    victims: Victims
    cost: tuple[float, ...]  # compared in order, the least is chosen


@dataclass(frozen=True, slots=True)
class Preemption:
    """The chosen candidate, or the text that says why there is none, and the names of the filters that refuse the
    pod where nobody could be evicted any more."""

    chosen: Candidate | None
    message: str = ""
    refusing: frozenset[str] = frozenset()


def lost_work_seconds(pods: Sequence[AssignedPod], now: float) -> float:
    """Σ over pods of the seconds of work that are lost with them: since the last complete checkpoint of their
    job, or since they started if that is later (they resumed from it) or nobody knows of one."""
    lost = 0.0
    for pod in pods:
        facts = pod.facts
        if facts.started_at is not None:
            since = facts.started_at if facts.checkpointed_at is None else max(facts.started_at, facts.checkpointed_at)
            lost += max(0.0, now - since)
    return lost


def cost_of(victims: Victims, now: float) -> tuple[float, ...]:
    """pickOneNodeForPreemption's criteria in order, then the seconds of lost work."""
    top = victims.pods[0].priority
    starts = [pod.facts.started_at for pod in victims.pods if pod.priority == top]
    earliest = min(now if start is None else start for start in starts)
    return (
        victims.violations,
        top,
        sum(pod.priority + PRIORITY_OFFSET for pod in victims.pods),
        len(victims.pods),
        -earliest,
        lost_work_seconds(victims.pods, now),
    )


class Search:
    """One preemptor's search on one view. `found` is the preemptor's pass there; `may_resolve` the refused rows
    where removing pods can help."""

    def __init__(
        self,
        view: ClusterView,
        plugins: Plugins,
        stakes: Stakes,
        found: Pass,
        may_resolve: BoolArray,
        *,
        kept: dict[int, Candidate | None] | None = None,
    ) -> None:
        """`kept` holds candidates of an earlier search for an equal pod that are still right, and takes new ones."""
        self._view = view
        self._plugins = plugins
        self._stakes = stakes
        self._found = found
        self._pod = pod = found.pod
        self._rows: IntArray = np.flatnonzero(may_resolve)
        self._below: Below = stakes.lower.below(pod.priority)
        changing = [f for f in plugins.filters if f.depends_on in (DependsOn.USAGE, DependsOn.PODS)]
        speaking = [f for f in changing if f.filter(view, pod, ALL) is not None]
        self._filters = speaking
        self.is_only_room = all(plugin.is_about_room for plugin in speaking)
        self._kept = kept if kept is not None else {}
        self.rows_with_gangs: list[int] = []  # of those weighed
        self.refusing: set[str] = set()  # filters that refuse the pod without lower pods, once `why_not` was asked
        self._looks_at_pods = any(plugin.depends_on is DependsOn.PODS for plugin in speaking)
        self._what_if: ClusterView | None = None
        self._asked_of: dict[object, tuple[int, ...]] = {}

    def candidates(self) -> list[Candidate]:
        """Nodes where evicting pods makes room, each with the fewest victims of the rule."""
        rows = self._sieved()
        enough = max(LEAST_CANDIDATES, len(self._rows) * CANDIDATES_PERCENT // 100)
        made: list[Candidate] = []
        is_any_clean = False
        for row in rows.tolist():
            candidate = self._candidate(row)
            if candidate is None:
                continue
            made.append(candidate)
            is_any_clean = is_any_clean or not candidate.victims.violations
            if is_any_clean and len(made) >= enough:
                break
        return made

    def _candidate(self, row: int) -> Candidate | None:
        """One node's victims; None when evicting does not help there."""
        if row not in self._kept:
            self._kept[row] = self._weigh(row)
        return self._kept[row]

    def _weigh(self, row: int) -> Candidate | None:
        node, priority = self._view.names[row], self._pod.priority
        # Also where a gang keeps its members from being evicted: that hangs on other nodes.
        here = self._stakes.assigned.on_node(node)
        if any(pod.facts.group is not None and pod.priority < priority for pod in here):
            self.rows_with_gangs.append(row)
        units = units_on(self._stakes, node, priority)
        if not units:
            return None
        room = self._room(row)
        victims = victims_on(room, self._stakes, units)
        if isinstance(room, ViewRoom):
            room.reset()
        if victims is None or not victims.pods:
            return None
        return Candidate(row, victims, cost_of(victims, self._stakes.now))

    def why_not(self, outside: int = 0) -> str:
        """The text when there is no candidate: a FitError over the nodes as they were without lower pods, and over
        `outside` more that the view was narrowed not to have."""
        nodes = int(np.count_nonzero(self._view.alive)) + outside
        reasons: Counter[str] = Counter()
        explained = 0
        with_victims: list[int] = []
        for row in self._rows.tolist():
            explained += 1
            if self._below.pods[row] and units_on(self._stakes, self._view.names[row], self._pod.priority):
                with_victims.append(row)
            else:
                reasons[NO_VICTIMS] += 1
        if self._looks_at_pods:
            for row in with_victims:
                reasons += self._refusals_on(row)
        elif with_victims:
            reasons += self._refusals(np.array(with_victims, dtype=np.int64))
        reasons[NOT_HELPFUL] += nodes - explained
        return f"0/{nodes} nodes are available: {histogram(+reasons)}."

    # ---- inside -----------------------------------------------------------------------------

    def _sieved(self) -> IntArray:
        """Rows where all lower pods hold enough, the cheapest by a first look first."""
        rows = self._rows[self._below.pods[self._rows] > 0]
        rows = rows[self._found.fixed_mask[rows]]
        rows = rows[self._is_enough(self._below, rows)]
        levels = self._levels(rows)
        return np.asarray(rows[np.lexsort((rows, self._below.pods[rows], levels))])

    def _is_enough(self, below: Below, rows: IntArray) -> BoolArray:
        view = self._view
        enough = view.pods[rows] - below.pods[rows] < view.pods_allowed[rows]
        for name, amount in self._pod.shape.requests:
            column = view.table.resources[name]
            free = view.allocatable[rows, column] - view.requested[rows, column] + below.requests[rows, column]
            enough &= free >= amount
        return np.asarray(enough)

    def _levels(self, rows: IntArray) -> IntArray:
        """By row, how many priorities must be evicted: the least top victim that can be enough."""
        levels = np.zeros(len(rows), dtype=np.int64)
        if len(rows) <= LEAST_CANDIDATES:
            return levels
        for priority in self._stakes.assigned.priorities_below(self._pod.priority)[1:]:
            levels += ~self._is_enough(self._stakes.lower.below(priority), rows)
        return levels

    def _room(self, row: int) -> Room:
        if self.is_only_room:
            return ResourceRoom(self._view, row, self._pod, self._asked_of)
        if self._what_if is None:
            self._what_if = self._view.what_if()
        return ViewRoom(self._what_if, row, self._pod, self._filters)

    def _refusals(self, rows: IntArray) -> Counter[str]:
        """Reasons on rows without their lower pods, when no filter looks at pods elsewhere."""
        if self.is_only_room:
            requested, pods = self._view.requested.copy(), self._view.pods.copy()
            requested[rows] -= self._below.requests[rows]
            pods[rows] -= self._below.pods[rows]
            view = replace(self._view, requested=requested, pods=pods)
        else:
            view = self._view.what_if()
            for row in rows.tolist():
                for unit in units_on(self._stakes, view.names[row], self._pod.priority):
                    for pod in unit.here:
                        view.release(row, pod)
        return first_refusals(view, self._plugins.filters, self._pod, rows, self.refusing)

    def _refusals_on(self, row: int) -> Counter[str]:
        view = self._view.what_if()
        for unit in units_on(self._stakes, view.names[row], self._pod.priority):
            for pod in unit.here:
                view.release(row, pod)
        return first_refusals(view, self._plugins.filters, self._pod, np.array([row], dtype=np.int64), self.refusing)


def find(
    view: ClusterView, plugins: Plugins, stakes: Stakes, found: Pass, may_resolve: BoolArray, *, outside: int = 0
) -> Preemption:
    """The best candidate for a pod that was refused everywhere. `outside`: nodes the view was narrowed not to have."""
    return best_of(Search(view, plugins, stakes, found, may_resolve), outside=outside)


def best_of(search: Search, *, outside: int = 0) -> Preemption:
    """The best candidate of a search."""
    candidates = search.candidates()
    if not candidates:
        return Preemption(None, search.why_not(outside), frozenset(search.refusing))
    return Preemption(min(candidates, key=lambda candidate: (candidate.cost, candidate.row)))


def first_refusals(
    view: ClusterView, filters: Sequence[FilterPlugin], pod: PodRequest, rows: IntArray, refusing: set[str]
) -> Counter[str]:
    """The reasons of the first filter that refuses each row, counted; the filters' names are added to `refusing`."""
    left = np.zeros(view.size, dtype=np.bool_)
    left[rows] = True
    reasons: Counter[str] = Counter()
    for plugin in filters:
        if not left.any():
            break
        refused = np.zeros(view.size, dtype=np.bool_)
        for refusal in plugin.refusals(view, pod):
            here = refusal.mask & left
            count = int(np.count_nonzero(here))
            if count:
                reasons[refusal.reason] += count
                refusing.add(plugin.name)
                refused |= here
        left &= ~refused
    return reasons


def histogram(reasons: Counter[str]) -> str:
    """Reasons with their counts, sorted as text, as FitError does."""
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
