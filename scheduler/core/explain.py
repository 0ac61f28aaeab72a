"""Why not, and why there: the "0/N nodes are available" text, and the decision record.

Owns the wording. The text is kube-scheduler 1.36's FitError: for each node the reasons of the first filter
that refuses it, counted, sorted as text, and then what its PostFilter plugins say: core/preemption.py has that
of preemption. Does not decide.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from api.decision import Decision
from api.quantities import format_bytes
from scheduler.core import preemption
from scheduler.core.assumed import Assigned
from scheduler.core.budgets import Budgets
from scheduler.core.cluster_view import ClusterView
from scheduler.core.lower_priority import LowerPriority
from scheduler.core.node_table import BoolArray
from scheduler.core.placement import Diagnosis, Pass, Plugins
from scheduler.core.plugin import Refusal
from scheduler.core.pod_request import PodRequest
from scheduler.core.preemption import histogram
from scheduler.core.residency_table import MEDIA, Sources
from scheduler.core.victims import Stakes

EXCLUDED = "node(s) didn't satisfy plugin(s) [NodeAffinity]"
# Ours, of gangs: nodes outside the domain their members must share. No filter has this name: anything may help.
OUTSIDE = "node(s) were outside the topology domain looked at for the gang"
GANG_TOPOLOGY = "GangTopology"
NO_NODES = "no nodes available to schedule pods"
# What the DynamicResources plugin says of a pod without claims; it runs before preemption.
NO_CLAIMS = "no new claims to deallocate"
# What it says where an earlier plugin ended the PreFilter stage: its own state was never written.
NO_STATE = "not found"
# Refusals kube-scheduler has too; ours (fields that are not evaluated, annotations) get no such ending.
KUBES_OWN = re.compile(
    r"pod affinity terms conflict|pod has unbound immediate PersistentVolumeClaims|"
    r'persistentvolumeclaim "[^"]*" (?:not found|is being deleted|bound to non-existent persistentvolume "[^"]*")|'
    r'persistentvolume "[^"]*" not found|'
    r'waiting for ephemeral volume controller to create the persistentvolumeclaim "[^"]*"|'
    r"PVC \S+ was not created for pod \S+ \(pod is not owner\)"
)


def look(
    view: ClusterView, plugins: Plugins, found: Pass, *, outside: int = 0, plain: ClusterView | None = None
) -> Diagnosis:
    """Explain a pass without a row left, up to where PostFilter plugins speak. `outside`: nodes the view was narrowed
    not to have. `plain`: the cluster without the nominees of `view`; a node must do on both, and is explained by the
    first on which it does not."""
    nodes = int(np.count_nonzero(view.alive)) + outside
    nowhere = np.zeros(view.size, dtype=np.bool_)
    if nodes == 0:
        return Diagnosis(NO_NODES, frozenset({"NodeAdded"}), nowhere)
    if found.refusal is not None:
        return Diagnosis(refused(nodes, found.refusal), frozenset({"NodeAffinity"}), nowhere)
    reasons: Counter[str] = Counter()
    rejected_by: set[str] = set()
    if outside:
        reasons[OUTSIDE] = outside
        rejected_by.add(GANG_TOPOLOGY)
    may_resolve = nowhere
    if found.only is not None:
        excluded = int(np.count_nonzero(view.alive & ~found.only))
        if excluded:
            reasons[EXCLUDED] += excluded
            rejected_by.add("NodeAffinity")
    left = view.alive.copy()
    for where in (view,) if plain is None else (view, plain):
        for stage in stages(where, plugins, found, left.copy()):
            rejected_by.add(stage.plugin)
            may_resolve |= stage.may_resolve
            for refusal in stage.refusals:
                reasons[refusal.reason] += int(np.count_nonzero(refusal.mask))
                left &= ~refusal.mask
    text = f"0/{nodes} nodes are available: {histogram(reasons)}."
    return Diagnosis(text, frozenset(rejected_by), may_resolve)


@dataclass(frozen=True, slots=True)
class Stage:
    """What one filter refused of the rows that came to it: its reasons, and where removing pods may help."""

    plugin: str
    refusals: list[Refusal]
    may_resolve: BoolArray


def stages(view: ClusterView, plugins: Plugins, found: Pass, rows: BoolArray | None = None) -> Iterator[Stage]:
    """The filters that refuse something, in order; a row comes to a filter only if all before it let it pass. `rows`:
    those that come to the first; all that are alive without it."""
    pod = found.pod
    left = view.alive.copy() if rows is None else rows
    if found.only is not None:
        left &= found.only
    for plugin in plugins.filters:
        refusals = [Refusal(refusal.reason, refusal.mask & left) for refusal in plugin.refusals(view, pod)]
        refusals = [refusal for refusal in refusals if refusal.mask.any()]
        if not refusals:
            continue
        refused_rows = np.logical_or.reduce([refusal.mask for refusal in refusals])
        never = plugin.unresolvable(view, pod)
        may_resolve = refused_rows & ~never if never is not None else np.zeros(view.size, dtype=np.bool_)
        yield Stage(plugin.name, refusals, may_resolve)
        left &= ~refused_rows


def diagnose(
    view: ClusterView,
    plugins: Plugins,
    found: Pass,
    pod: PodRequest,
    *,
    assigned: Assigned,
    outside: int = 0,
) -> Diagnosis:
    """Explain a pass without a row left, with what preemption would say when no disruption budgets and no gangs
    were known; where it would evict pods it says nothing."""
    seen = look(view, plugins, found, outside=outside)
    if seen.message == NO_NODES or found.refusal is not None:
        return seen
    if not pod.may_preempt:
        return with_preemption(seen, preemption.NEVER)
    lower = LowerPriority(view.table, assigned)
    stakes = Stakes(assigned, lower, Budgets(), lambda namespace, group: None, 0.0)
    result = preemption.find(view, plugins, stakes, found, seen.may_resolve, outside=outside)
    return seen if result.chosen is not None else with_preemption(seen, result.message)


def with_preemption(seen: Diagnosis, text: str) -> Diagnosis:
    """A diagnosis with what kube-scheduler's PostFilter plugins say after it."""
    return replace(seen, message=f"{seen.message} {NO_CLAIMS}, preemption: {text}")


def refused(nodes: int, reason: str) -> str:
    """The text for a pod that was refused before any node was looked at."""
    text = f"0/{nodes} nodes are available: {reason}."
    return f"{text} {NO_STATE}" if KUBES_OWN.fullmatch(reason) else text


def _candidate(view: ClusterView, sources: Sources | None, row: int) -> dict[str, object]:
    """The fields of one node as it looked when the pod was placed; what has nothing to say is not set."""
    if sources is None:
        return {"node": view.names[row], "stage_in_seconds": 0.0}
    local = {
        medium: int(sources.local[row, column]) for column, medium in enumerate(MEDIA) if sources.local[row, column]
    }
    by_source: dict[str, object] = {"local": local} if local else {}
    for source, amount in (("peers", int(sources.peers[row])), ("origin", int(sources.origin[row]))):
        if amount:
            by_source[source] = amount
    seconds = round(float(sources.seconds[row]), 4)
    return {"node": view.names[row], "stage_in_seconds": seconds} | (
        {"bytes_by_source": by_source} if by_source else {}
    )


def decision(
    view: ClusterView,
    sources: Sources | None,
    row: int,
    *,
    feasible_nodes: int,
    runner_up: int,
    coldest: int,
    gang: str | None,
) -> Decision:
    """The record that goes into the pod's annotation, where fields that are not set are left out."""
    fields = _candidate(view, sources, row)
    fields["feasible_nodes"], fields["total_nodes"] = feasible_nodes, view.table.count
    if runner_up >= 0:
        fields["runner_up"] = _candidate(view, sources, runner_up)
    if coldest >= 0 and sources is not None:
        fields["coldest"] = _candidate(view, sources, coldest)
    if gang is not None:
        fields["gang"] = gang
    return Decision.model_validate(fields)


def scheduled_note(namespace: str, name: str, verdict: Decision) -> str:
    """The note of the `Scheduled` event: kube-scheduler's, and where the data comes from if there is any."""
    note = f"Successfully assigned {namespace}/{name} to {verdict.node}"
    source = verdict.bytes_by_source
    parts = [f"{format_bytes(size)} local {medium}" for medium, size in source.local.items()]
    if source.peers:
        parts.append(f"{format_bytes(source.peers)} from peers")
    if source.origin:
        parts.append(f"{format_bytes(source.origin)} from the under store")
    if not parts:
        return note
    note += f"; data: {', '.join(parts)}, expected stage-in {_seconds(verdict.stage_in_seconds)}"
    cold = verdict.coldest
    if cold is not None and cold.node != verdict.node and cold.stage_in_seconds > verdict.stage_in_seconds:
        note += f" (cold node {cold.node}: {_seconds(cold.stage_in_seconds)})"
    return note


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
