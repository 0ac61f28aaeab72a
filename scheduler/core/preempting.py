"""What a try does about others' nominations and, when it finds no node, about pods of lower priority.

Owns the order of these steps, for single pods and for gangs. The rules are kube-scheduler 1.36's (schedule_one.go,
RunFilterPluginsWithNominatedPods, defaultpreemption, preemption/executor.go): a node counts as fitting only if it
does with and without the pods of equal or higher priority nominated to it; a pod's own nominated node is tried
first; while a victim is leaving the nominated node nothing more is evicted; nominees of lower priority lose their
nomination when their node is taken. Decides; does not evict.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.core import explain, preemption
from scheduler.core.assumed import AssignedPod
from scheduler.core.cluster_view import ClusterView
from scheduler.core.decisions import Decision, Nominate, Preempt, Victim
from scheduler.core.engine_state import EngineState
from scheduler.core.gang_placement import GangPlacement
from scheduler.core.gang_preemption import GangPreemption, preempt_as_a_whole
from scheduler.core.gangs import Gang
from scheduler.core.kept_candidates import KeptCandidates
from scheduler.core.node_table import BoolArray
from scheduler.core.nominations import Nominee
from scheduler.core.placement import Diagnosis, Pass
from scheduler.core.plugin import DependsOn
from scheduler.core.pod_request import PodRequest
from scheduler.core.victims import Stakes

MAX_DIAGNOSES = 64


@dataclass(frozen=True, slots=True)
class Refused:
    """A try without a node: why, and what is done about it. `is_final`: an equal pod would fare the same until
    something changes."""

    diagnosis: Diagnosis
    decisions: tuple[Decision, ...] = ()
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Preemptor:
    """Who evicts: a pod, or a PodGroup. `unit` is its id in the queue, `own` the uids of its pods, `profile` their
    schedulerName."""

    unit: str
    uid: str
    namespace: str
    name: str
    priority: int
    own: frozenset[str]
    profile: str
    is_group: bool = False


class Preempting:
    """See the module's docstring."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._kept = KeptCandidates(state)

    # ---- nominations ------------------------------------------------------------------------

    def view_for(self, priority: int, uids: Iterable[str]) -> ClusterView:
        """The cluster with the nominees that pods of this priority must leave room for in place."""
        view = self._state.view()
        nominees = list(self._state.nominations.against(priority, uids)) if len(self._state.nominations) else []
        return _with_nominees(view, nominees) if nominees else view

    def less_nominated(self, found: Pass, pod: PodRequest) -> Pass:
        """The pass without the rows that others' nominations leave too little of."""
        state = self._state
        if not len(state.nominations) or found.refusal is not None:
            return found
        by_row: dict[int, list[Nominee]] = {}
        for nominee in state.nominations.against(pod.priority, (pod.uid,)):
            row = state.table.row_of.get(nominee.node)
            if row is not None and found.total[row] != np.inf:
                by_row.setdefault(row, []).append(nominee)
        blocked = [row for row, nominees in by_row.items() if not self._fits_beside(pod, row, nominees)]
        if not blocked:
            return found
        total = found.total.copy()
        total[blocked] = np.inf
        return replace(found, total=total)

    def own_node(self, found: Pass, pod: PodRequest) -> int:
        """The row a pod is nominated to, if it fits there; -1 otherwise."""
        row = self._state.table.row_of.get(self._state.nominations.node_of(pod.uid))
        return row if row is not None and found.total[row] != np.inf else -1

    def clear(self, pods: Iterable[PodRequest]) -> list[Decision]:
        """End nominations, and tell the API server of those it knows."""
        told: list[Decision] = []
        for pod in pods:
            before = self._state.nominations.remove(pod.uid)
            self._state.nominee_left(before)
            if before or pod.nominated_node:
                told.append(Nominate(pod.uid, pod.namespace, pod.name, ""))
        return told

    def _fits_beside(self, pod: PodRequest, row: int, nominees: Sequence[Nominee]) -> bool:
        view = _with_nominees(self._state.view(), nominees)
        rows = slice(row, row + 1)
        for plugin in self._state.plugins.filters:
            if plugin.depends_on in (DependsOn.USAGE, DependsOn.PODS):
                passed = plugin.filter(view, pod, rows)
                if passed is not None and not passed[0]:
                    return False
        return True

    # ---- preemption -------------------------------------------------------------------------

    def refused(self, pod: PodRequest, found: Pass, now: float) -> Refused:
        """A pod fits nowhere: explain it, and evict pods of lower priority where that makes room."""
        state = self._state
        view = self.view_for(pod.priority, (pod.uid,))
        key = (pod.priority, pod.may_preempt, state.nominations.version, state.groups_version)
        nominated = state.nominations.node_of(pod.uid)
        kept = found.diagnoses.get(key)
        if kept is not None and not nominated:
            state.tally.preemption_attempts += 1
            return Refused(kept, tuple(self.clear((pod,))), is_final=True)
        plain = state.view()
        seen = explain.look(view, state.plugins, found, plain=plain if view is not plain else None)
        if seen.message == explain.NO_NODES or found.refusal is not None:
            return Refused(seen, tuple(self.clear((pod,))))
        state.tally.preemption_attempts += 1
        if not pod.may_preempt:
            return Refused(explain.with_preemption(seen, preemption.NEVER), is_final=True)
        if not self.is_eligible(pod.uid, (pod,), seen.may_resolve):
            return Refused(explain.with_preemption(seen, preemption.TERMINATING))
        result = self._search(view, found, seen.may_resolve, now)
        if result.chosen is None:
            seen = replace(explain.with_preemption(seen, result.message), also=result.refusing)
            if len(found.diagnoses) >= MAX_DIAGNOSES:
                found.diagnoses.clear()
            found.diagnoses[key] = seen
            return Refused(seen, tuple(self.clear((pod,))), is_final=True)
        node = view.names[result.chosen.row]
        decisions = self.nominate([(pod, node)])
        victims = result.chosen.victims.pods
        own = frozenset((pod.uid,))
        preemptor = Preemptor(pod.uid, pod.uid, pod.namespace, pod.name, pod.priority, own, pod.profile)
        decisions += self.evict(preemptor, victims, {node})
        return Refused(seen, tuple(decisions))

    def _search(self, view: ClusterView, found: Pass, may_resolve: BoolArray, now: float) -> preemption.Preemption:
        kept = self._kept.of(found.pod)
        search = preemption.Search(view, self._state.plugins, self.stakes(now), found, may_resolve, kept=kept)
        result = preemption.best_of(search)
        if not search.is_only_room:
            self._kept.forget(found.pod)
        for row in search.rows_with_gangs:
            kept.pop(row, None)
        return result

    def is_eligible(self, unit: str, pods: Sequence[PodRequest], may_resolve: BoolArray) -> bool:
        """Whether a unit may evict pods now (PodEligibleToPreemptOthers): not while its last victims are leaving."""
        state = self._state
        is_waiting = False
        for pod in pods:
            node = state.nominations.node_of(pod.uid)
            row = state.table.row_of.get(node)
            if row is None or not may_resolve[row]:
                continue
            is_waiting = is_waiting or bool(state.evicting.get(unit))
            for held in state.assigned.on_node(node):
                if held.priority < pod.priority and (held.facts.is_preempted or held.uid in state.leaving):
                    is_waiting = True
        return not is_waiting

    def stakes(self, now: float) -> Stakes:
        """What evictions are weighed against now."""
        state = self._state
        leaving = frozenset(state.leaving)
        return Stakes(state.assigned, state.lower, state.budgets, state.gang_minimum, now, leaving)

    def nominate(self, placed: Iterable[tuple[PodRequest, str]]) -> list[Decision]:
        """Nominate pods to nodes, here at once and then at the API server."""
        told: list[Decision] = []
        for pod, node in placed:
            before = self._state.nominations.set(pod, node)
            if before != node:
                self._state.nominee_left(before)
            if pod.nominated_node != node:
                told.append(Nominate(pod.uid, pod.namespace, pod.name, node))
        return told

    def gang_node_of(self, pods: Iterable[PodRequest]) -> dict[str, str]:
        """Where members are nominated to, by uid; members that are not are left out."""
        found = {pod.uid: self._state.nominations.node_of(pod.uid) for pod in pods}
        return {uid: node for uid, node in found.items() if node}

    def gang_refused(
        self, gang: Gang, pods: Sequence[PodRequest], result: GangPlacement, view: ClusterView, now: float
    ) -> Refused:
        """A gang fits nowhere: explain it, and evict for all members it needs, or for none."""
        state = self._state
        seen = state.look_at_gang(result, pods[0], view)
        if seen.message == explain.NO_NODES or gang.group is None:
            return Refused(seen, tuple(self.clear(pods)))
        state.tally.preemption_attempts += 1
        if not all(pod.may_preempt for pod in pods):
            return Refused(state.of_gang(explain.with_preemption(seen, preemption.NEVER), gang, result))
        anywhere = np.ones(state.table.size, dtype=np.bool_)
        if not self.is_eligible(gang.unit, pods, anywhere):
            return Refused(state.of_gang(explain.with_preemption(seen, preemption.TERMINATING), gang, result))
        found: GangPreemption | None = None
        if state.assigned.any_below(gang.priority):
            wish = state.gang_wish(gang)
            for where in wish.domain_views(view):
                stakes = self.stakes(now)
                stakes.gone.update(gang.assigned)
                found = preempt_as_a_whole(state.placer, where, stakes, pods, result.needed, by_role=wish.by_role)
                if found is not None:
                    break
        if found is None:
            return Refused(state.diagnose_gang(gang, result, pods[0], view), tuple(self.clear(pods)))
        placed = [(pod, view.names[row]) for pod, row in found.placed]
        group = gang.group
        own, profile = frozenset(gang.pending), pods[0].profile
        preemptor = Preemptor(
            gang.unit, group.uid, group.namespace, group.name, gang.priority, own, profile, is_group=True
        )
        nominated = {pod.uid for pod, _ in placed}
        decisions = self.clear(pod for pod in pods if pod.uid not in nominated)
        decisions += self.nominate(placed)
        decisions += self.evict(preemptor, found.victims, {node for _, node in placed})
        return Refused(state.of_gang(seen, gang, result), tuple(decisions))

    def evict(self, preemptor: Preemptor, pods: Sequence[AssignedPod], nodes: set[str]) -> list[Decision]:
        """Evict pods for a preemptor that was nominated to nodes; those that leave already are left alone."""
        state = self._state
        victims = tuple(
            Victim(pod.uid, pod.namespace, pod.name, pod.node, pod.facts.generation)
            for pod in pods
            if not pod.is_leaving and pod.uid not in state.leaving
        )
        if not victims:
            return []
        decisions: list[Decision] = []
        for node in sorted(nodes):
            lower = [
                nominee
                for nominee in state.nominations.on(node)
                if nominee.priority < preemptor.priority and nominee.uid not in preemptor.own
            ]
            decisions += self.clear(lower)
            for nominee in lower:
                state.activate(nominee)
        state.start_evicting(preemptor.unit, [victim.uid for victim in victims])
        decisions.append(
            Preempt(
                preemptor.unit,
                preemptor.uid,
                preemptor.namespace,
                preemptor.name,
                preemptor.is_group,
                victims,
                len(pods),
                preemptor.profile,
            )
        )
        return decisions


def _with_nominees(view: ClusterView, nominees: Sequence[Nominee]) -> ClusterView:
    made = view.what_if()
    for nominee in nominees:
        row = view.table.row_of.get(nominee.node)
        if row is not None:
            made.place(row, nominee.pod)
    return made
