"""Why not, and why there: the "0/N nodes are available" text, and the decision record.

Owns the wording. The text is kube-scheduler 1.36's FitError: for each node the reasons of the first filter
that refuses it, counted, sorted as text, and then what its PostFilter plugins say: core/preemption.py has that
of preemption. Does not decide.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

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


def look(view: ClusterView, plugins: Plugins, found: Pass, *, outside: int = 0) -> Diagnosis:
    """Explain a pass without a row left, up to where PostFilter plugins speak. `outside`: nodes the view was narrowed
    not to have."""
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
    for stage in stages(view, plugins, found):
        rejected_by.add(stage.plugin)
        may_resolve |= stage.may_resolve
        for refusal in stage.refusals:
            reasons[refusal.reason] += int(np.count_nonzero(refusal.mask))
    text = f"0/{nodes} nodes are available: {histogram(reasons)}."
    return Diagnosis(text, frozenset(rejected_by), may_resolve)


@dataclass(frozen=True, slots=True)
class Stage:
    """What one filter refused of the rows that came to it: its reasons, and where removing pods may help."""

    plugin: str
    refusals: list[Refusal]
    may_resolve: BoolArray


def stages(view: ClusterView, plugins: Plugins, found: Pass) -> Iterator[Stage]:
    """The filters that refuse something, in order; a row comes to a filter only if all before it let it pass."""
    pod = found.pod
    left = view.alive.copy()
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


@dataclass(frozen=True, slots=True)
class BindRecord:
    """The chosen node and where the pod's data comes from; `annotation` is an `api.decision.Decision` as JSON."""

    node: str
    stage_in_seconds: float
    local_bytes: int
    peer_bytes: int
    origin_bytes: int
    annotation: str
    note: str


def _candidate(view: ClusterView, sources: Sources | None, row: int) -> dict[str, Any]:
    """The fields of one node as it looked when the pod was placed; what has nothing to say is not set."""
    if sources is None:
        return {"node": view.names[row], "stageInSeconds": 0.0}
    fields: dict[str, Any] = {"node": view.names[row], "stageInSeconds": round(float(sources.seconds[row]), 4)}
    local = {
        medium: int(sources.local[row, column]) for column, medium in enumerate(MEDIA) if sources.local[row, column]
    }
    by_source: dict[str, Any] = {"local": local} if local else {}
    for source, amount in (("peers", int(sources.peers[row])), ("origin", int(sources.origin[row]))):
        if amount:
            by_source[source] = amount
    if by_source:
        fields["bytesBySource"] = by_source
    return fields


def bind_record(
    view: ClusterView,
    sources: Sources | None,
    row: int,
    pod: PodRequest,
    *,
    feasible_nodes: int,
    runner_up: int,
    coldest: int,
    gang: str | None,
) -> BindRecord:
    """What is said of a bind. `runner_up`, `coldest`: rows, or -1."""
    # Plain values instead of the API's model, which costs ten times as much for every pod.
    fields = chosen = _candidate(view, sources, row)
    fields["feasibleNodes"], fields["totalNodes"] = feasible_nodes, view.table.count
    if runner_up >= 0:
        fields["runnerUp"] = _candidate(view, sources, runner_up)
    cold = None
    if coldest >= 0 and sources is not None:
        fields["coldest"] = cold = _candidate(view, sources, coldest)
    if gang is not None:
        fields["gang"] = gang
    by_source = chosen.get("bytesBySource", {})
    return BindRecord(
        node=chosen["node"],
        stage_in_seconds=chosen["stageInSeconds"],
        local_bytes=sum(by_source.get("local", {}).values()),
        peer_bytes=by_source.get("peers", 0),
        origin_bytes=by_source.get("origin", 0),
        annotation=msgspec.json.encode(fields).decode(),
        note=_scheduled_note(pod, chosen, cold),
    )


def _scheduled_note(pod: PodRequest, chosen: dict[str, Any], cold: dict[str, Any] | None) -> str:
    """The note of the `Scheduled` event: kube-scheduler's, and where the data comes from if there is any."""
    note = f"Successfully assigned {pod.namespace}/{pod.name} to {chosen['node']}"
    source = chosen.get("bytesBySource")
    if not source:
        return note
    parts = [f"{format_bytes(size)} local {medium}" for medium, size in source.get("local", {}).items()]
    parts += [
        f"{format_bytes(source[key])} from {words}"
        for key, words in (("peers", "peers"), ("origin", "the under store"))
        if key in source
    ]
    seconds = chosen["stageInSeconds"]
    note += f"; data: {', '.join(parts)}, expected stage-in {_seconds(seconds)}"
    if cold is not None and cold["node"] != chosen["node"] and cold["stageInSeconds"] > seconds:
        note += f" (cold node {cold['node']}: {_seconds(cold['stageInSeconds'])})"
    return note


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
