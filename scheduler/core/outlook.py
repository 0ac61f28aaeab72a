"""What stands between a pending pod and each node, and what would make it fit.

Owns the wording for people; the verdicts are those of core/verdicts.py. Pure; changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from api.quantities import format_bytes
from scheduler.core import requests
from scheduler.core.cluster_view import ClusterView
from scheduler.core.data_request import DataRequest
from scheduler.core.engine_state import EngineState
from scheduler.core.node_table import BoolArray
from scheduler.core.plugin import FilterPlugin
from scheduler.core.pod_request import PodRequest
from scheduler.core.verdicts import judge
from scheduler.core.waits import some, waits

REMEDIES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outlook:
    """`message`: as the scheduler tells it, "" when some node would do; `feasible`: nodes that would; `groups`: why
    not, by the nodes that have just these reasons, most nodes first; `remedies`: what would make the pod fit, what
    helps on most nodes first; `waits`: what it waits for beside that (core/waits.py)."""

    message: str
    feasible: tuple[str, ...]
    groups: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    remedies: tuple[str, ...]
    waits: tuple[str, ...] = ()


def outlook(state: EngineState, request: PodRequest, now: float = 0.0) -> Outlook:
    """Look at one unbound pod and the cluster as it is at `now`."""
    verdict = judge(state, request)
    by_reasons: dict[tuple[str, ...], list[str]] = {}
    for node, reasons in verdict.nodes.items():
        if reasons:
            by_reasons.setdefault(reasons, []).append(node)
    groups = sorted(by_reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    remedies: tuple[str, ...] = ()
    pod = state.resolved(request)
    if not verdict.feasible and pod.refusal is None and state.placer.pass_for(pod).refusal is None:
        remedies = tuple(_remedies(state, pod))
    return Outlook(
        verdict.message,
        verdict.feasible,
        tuple((reasons, tuple(sorted(nodes))) for reasons, nodes in groups),
        remedies,
        waits(state, pod, now),
    )


def _remedies(state: EngineState, pod: PodRequest) -> list[str]:
    view = state.view()
    found = state.placer.pass_for(pod)
    refused = [(plugin, _refused(view, plugin, pod)) for plugin in state.plugins.filters]
    count = np.sum([mask for _, mask in refused], axis=0)
    asked = view.alive if found.only is None else view.alive & found.only
    alone = [(plugin, asked & mask & (count == 1)) for plugin, mask in refused]
    alone = sorted(((p, m) for p, m in alone if m.any()), key=lambda item: -int(np.count_nonzero(item[1])))
    if alone:
        return [_remedy(view, plugin, pod, mask) for plugin, mask in alone[:REMEDIES_SHOWN]]
    if not asked.any():
        return []
    fewest = int(np.min(count[asked]))
    rows = np.flatnonzero(asked & (count == fewest)).tolist()
    row = _least_short(view, pod, rows)
    reasons = [text for plugin, mask in refused if mask[row] for text in _reasons(view, plugin, pod, row)]
    others = f" ({len(rows) - 1} more nodes lack as many things)" if len(rows) > 1 else ""
    return [f"no single change would do; {view.names[row]} is closest: {'; '.join(reasons)}{others}"]


def _refused(view: ClusterView, plugin: FilterPlugin, pod: PodRequest) -> BoolArray:
    passed = plugin.filter(view, pod, slice(None))
    return np.zeros(view.size, dtype=np.bool_) if passed is None else ~passed


def _reasons(view: ClusterView, plugin: FilterPlugin, pod: PodRequest, row: int) -> list[str]:
    if plugin.is_about_room:
        return [_shortage(view, pod, row)]
    return [refusal.reason for refusal in plugin.refusals(view, pod) if refusal.mask[row]]


def _remedy(view: ClusterView, plugin: FilterPlugin, pod: PodRequest, mask: BoolArray) -> str:
    """What to change where one filter alone keeps the pod out."""
    rows = np.flatnonzero(mask).tolist()
    nodes = some([view.names[row] for row in rows])
    special = _SPECIAL.get(plugin.name)
    if special is not None:
        return special(view, pod, rows, nodes)
    if plugin.is_about_room:
        row = _least_short(view, pod, rows)
        return f"room: {_shortage(view, pod, row)} on {view.names[row]} ({_nodes(rows)} short of room only)"
    reasons = dict.fromkeys(text for row in rows for text in _reasons(view, plugin, pod, row))
    return f"{_nodes(rows)} kept out by one thing: {'; '.join(reasons)} ({nodes})"


def _uncordon(view: ClusterView, pod: PodRequest, rows: Sequence[int], nodes: str) -> str:
    return f"uncordon {_one_of(rows)}{nodes}"


def _tolerate(view: ClusterView, pod: PodRequest, rows: Sequence[int], nodes: str) -> str:
    taints = Counter(
        f"{taint.key}{f'={taint.value}' if taint.value else ''}:{taint.effect}"
        for row in rows
        for taint in view.table.taint_sets[view.table.taint_ids[row]]
    )
    return f"tolerate {' and '.join(text for text, _ in taints.most_common(2))} ({nodes})"


def _load(view: ClusterView, pod: PodRequest, rows: Sequence[int], nodes: str) -> str:
    required = [item for item in pod.data if item.is_required]
    absent = [item for item in required if view.residency.size_of(item.key) is None]
    if absent:
        return f"create {_datasets(absent)} and load it, or do not require it: there is no such Dataset"
    # What every one of these nodes holds already is not in the way.
    wanted = [item for item in required if not view.residency.is_resident(item)[rows].all()]
    return f"load {_datasets(wanted)} onto {_one_of(rows)}{nodes}, or do not require it"


def _datasets(items: Sequence[DataRequest]) -> str:
    return ", ".join(f"{item.namespace}/{item.name}" for item in items)


_SPECIAL: dict[str, Callable[[ClusterView, PodRequest, Sequence[int], str], str]] = {
    "NodeUnschedulable": _uncordon,
    "TaintToleration": _tolerate,
    "RequiredData": _load,
}


def _nodes(rows: Sequence[int]) -> str:
    return "1 node is" if len(rows) == 1 else f"{len(rows)} nodes are"


def _one_of(rows: Sequence[int]) -> str:
    return "" if len(rows) == 1 else "one of "


def _lacks(view: ClusterView, pod: PodRequest, row: int) -> list[tuple[str, int, int]]:
    """Resource, how much is missing, how much the node has in all."""
    found = []
    for resource, amount in pod.shape.requests:
        column = view.table.resources[resource]
        missing = amount - int(view.allocatable[row, column] - view.requested[row, column])
        if missing > 0:
            found.append((resource, missing, int(view.allocatable[row, column])))
    if view.pods[row] >= view.pods_allowed[row]:
        found.append(("pods", int(view.pods[row]) + 1 - int(view.pods_allowed[row]), int(view.pods_allowed[row])))
    return found


def _least_short(view: ClusterView, pod: PodRequest, rows: Sequence[int]) -> int:
    """The row that lacks least, as a share of what it has."""
    return min(
        rows, key=lambda row: (sum(missing / max(whole, 1) for _, missing, whole in _lacks(view, pod, row)), row)
    )


def _shortage(view: ClusterView, pod: PodRequest, row: int) -> str:
    parts = []
    for resource, missing, whole in _lacks(view, pod, row):
        more = f"{_amount(resource, missing)} more"
        asked = whole + 1 if resource == "pods" else dict(pod.shape.requests)[resource]
        parts.append(f"{more} (the node has {_amount(resource, whole)} in all)" if asked > whole else more)
    return ", ".join(parts)


def _amount(resource: str, amount: int) -> str:
    if resource == requests.CPU:
        return f"{amount / 1000:g} cpu"
    if resource in (requests.MEMORY, requests.EPHEMERAL) or resource.startswith(requests.HUGEPAGES_PREFIX):
        return f"{format_bytes(amount)} of {resource}"
    return f"{amount} {resource}"
