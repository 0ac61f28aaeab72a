"""Why not, and why there: the "0/N nodes are available" text, and the decision record.

Owns the wording. The text is kube-scheduler 1.36's FitError: for each node the reasons of the first filter
that refuses it, counted, sorted as text, and then what its PostFilter plugins say, which for preemption is
what removing pods of lower priority would come to (this scheduler evicts nobody). Does not decide.
"""

import re
from collections import Counter

import numpy as np

from api.decision import Candidate, Decision, SourceBytes
from api.quantities import format_bytes
from scheduler.core.assumed import Assigned
from scheduler.core.cluster_view import ClusterView
from scheduler.core.node_table import BoolArray
from scheduler.core.placement import Diagnosis, Pass, Plugins
from scheduler.core.pod_request import PodRequest
from scheduler.core.residency_table import MEDIA, Sources

NO_NODES = "no nodes available to schedule pods"
NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
NEVER = "preemption: not eligible due to preemptionPolicy=Never."
# What the DynamicResources plugin says of a pod without claims; it runs before preemption.
NO_CLAIMS = "no new claims to deallocate"
# What it says where an earlier plugin ended the PreFilter stage: its own state was never written.
NO_STATE = "not found"
# Refusals kube-scheduler has too; ours (fields that are not evaluated, annotations) get no such ending.
KUBES_OWN = re.compile(
    r"pod affinity terms conflict|pod has unbound immediate PersistentVolumeClaims|"
    r'persistentvolumeclaim "[^"]*" (?:not found|is being deleted)'
)


def diagnose(
    view: ClusterView,
    plugins: Plugins,
    found: Pass,
    pod: PodRequest,
    *,
    assigned: Assigned,
) -> Diagnosis:
    """Explain a pass without a row left."""
    nodes = int(np.count_nonzero(view.alive))
    if nodes == 0:
        return Diagnosis(NO_NODES, frozenset({"NodeAdded"}))
    if found.refusal is not None:
        return Diagnosis(refused(nodes, found.refusal), frozenset({"NodeAffinity"}))
    left = view.alive.copy()
    reasons: Counter[str] = Counter()
    rejected_by: set[str] = set()
    may_resolve = np.zeros(view.size, dtype=np.bool_)
    if found.only is not None:
        excluded = int(np.count_nonzero(left & ~found.only))
        if excluded:
            reasons["node(s) didn't satisfy plugin(s) [NodeAffinity]"] += excluded
            rejected_by.add("NodeAffinity")
        left &= found.only
    for plugin in plugins.filters:
        refused_rows = np.zeros(view.size, dtype=np.bool_)
        for refusal in plugin.refusals(view, pod):
            count = int(np.count_nonzero(refusal.mask & left))
            if count:
                reasons[refusal.reason] += count
                refused_rows |= refusal.mask & left
        if refused_rows.any():
            rejected_by.add(plugin.name)
            never = plugin.unresolvable(view, pod)
            if never is not None:
                may_resolve |= refused_rows & ~never
            left &= ~refused_rows
    text = f"0/{nodes} nodes are available: {_histogram(reasons)}."
    post_filter = _post_filter(view, pod, may_resolve, nodes, assigned)
    return Diagnosis(f"{text} {post_filter}" if post_filter else text, frozenset(rejected_by))


def refused(nodes: int, reason: str) -> str:
    """The text for a pod that was refused before any node was looked at."""
    text = f"0/{nodes} nodes are available: {reason}."
    return f"{text} {NO_STATE}" if KUBES_OWN.fullmatch(reason) else text


def _histogram(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))


def _not_helpful(nodes: int, reasons: Counter[str]) -> str:
    counted = Counter(reasons)
    counted[NOT_HELPFUL] += nodes - sum(counted.values())
    counted = +counted
    return f"{NO_CLAIMS}, preemption: 0/{nodes} nodes are available: {_histogram(counted)}."


def _post_filter(view: ClusterView, pod: PodRequest, may_resolve: BoolArray, nodes: int, assigned: Assigned) -> str:
    """What kube-scheduler's PostFilter would say; "" where it would start to evict pods."""
    if not pod.may_preempt:
        return f"{NO_CLAIMS}, {NEVER}"
    rows = np.flatnonzero(may_resolve)
    if not len(rows):
        return _not_helpful(nodes, Counter())
    if not assigned.any_below(pod.priority):
        return _not_helpful(nodes, Counter({NO_VICTIMS: len(rows)}))
    reasons: Counter[str] = Counter()
    asked = view.table.vector(pod.shape.requests)
    explained = 0
    for row in rows.tolist():
        victims = [held for held in assigned.on_node(view.names[row]) if held.priority < pod.priority]
        if not victims:
            reasons[NO_VICTIMS] += 1
            explained += 1
            continue
        freed = sum((view.table.vector(held.requests) for held in victims), np.zeros_like(asked))
        left = view.allocatable[row] - view.requested[row] + freed
        lacking = [name for name, amount in pod.shape.requests if left[view.table.resources[name]] < amount]
        if view.pods[row] - len(victims) >= view.pods_allowed[row]:
            reasons["Too many pods"] += 1
        elif not lacking:
            return ""
        for name in lacking:
            reasons[f"Insufficient {name}"] += 1
        explained += 1
    counted = Counter(reasons)
    counted[NOT_HELPFUL] += nodes - explained
    return f"{NO_CLAIMS}, preemption: 0/{nodes} nodes are available: {_histogram(+counted)}."


def candidate(view: ClusterView, sources: Sources | None, row: int) -> Candidate:
    """One node as it looked when the pod was placed."""
    if sources is None:
        return Candidate(node=view.names[row], stage_in_seconds=0.0)
    local = {
        medium: int(sources.local[row, column]) for column, medium in enumerate(MEDIA) if sources.local[row, column]
    }
    bytes_by_source = SourceBytes(local=local, peers=int(sources.peers[row]), origin=int(sources.origin[row]))
    return Candidate(
        node=view.names[row],
        stage_in_seconds=round(float(sources.seconds[row]), 4),
        bytes_by_source=bytes_by_source,
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
    """The record that goes into the pod's annotation."""
    chosen = candidate(view, sources, row)
    return Decision(
        node=chosen.node,
        stage_in_seconds=chosen.stage_in_seconds,
        bytes_by_source=chosen.bytes_by_source,
        feasible_nodes=feasible_nodes,
        total_nodes=view.table.count,
        runner_up=candidate(view, sources, runner_up) if runner_up >= 0 else None,
        coldest=candidate(view, sources, coldest) if coldest >= 0 and sources is not None else None,
        gang=gang,
    )


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
