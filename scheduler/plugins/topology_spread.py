"""Topology spread: matching pods lie evenly over the values of a node label (PodTopologySpread).

Mirrors podtopologyspread/filtering.go, scoring.go and common.go of kube-scheduler 1.36, its system defaults
included: pods without constraints of their own, that a Service or controller selects, are spread softly over
hosts (maxSkew 3) and zones (maxSkew 5). Pods that are being deleted are not counted."""

from collections.abc import Hashable

import numpy as np

from scheduler.core.pod_terms import PodSet, SpreadConstraint
from scheduler.core.row_counts import CountArray, Domains
from scheduler.plugins.base import (
    BoolArray,
    ClusterChange,
    ClusterView,
    DependsOn,
    FloatArray,
    IntArray,
    NodeFilter,
    PodRequest,
    Refusal,
    Rows,
)
from scheduler.plugins.node_affinity import node_mask
from scheduler.plugins.taints import taint_mask

NOT_MATCHED = "node(s) didn't match pod topology spread constraints"
NO_LABEL = f"{NOT_MATCHED} (missing required label)"
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
DEFAULTS = ((HOSTNAME, 3), (ZONE, 5))


class PodTopologySpread(NodeFilter):
    """DoNotSchedule constraints: matching pods there, with this one, at most maxSkew above the least of all."""

    name = "PodTopologySpread"
    depends_on = DependsOn.PODS
    worth_retry = (
        ClusterChange.NODE_ADDED
        | ClusterChange.NODE_GONE
        | ClusterChange.NODE_LABELS
        | ClusterChange.NODE_TAINTS
        | ClusterChange.POD_FREED
        | ClusterChange.POD_ADDED
    )

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where every constraint holds."""
        constraints = pod.terms.hard_spread
        if not constraints:
            return None
        kept = np.ones(view.size, dtype=np.bool_)
        for constraint in constraints:
            has_label, is_skewed = _verdicts(view, pod, constraint)
            kept &= has_label
            if is_skewed is not None:
                kept &= ~is_skewed
        return np.asarray(kept[rows])

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """Each row with the first constraint that does not hold there."""
        made: list[Refusal] = []
        left = np.ones(view.size, dtype=np.bool_)
        for constraint in pod.terms.hard_spread:
            has_label, is_skewed = _verdicts(view, pod, constraint)
            made.append(Refusal(NO_LABEL, left & ~has_label))
            left &= has_label
            if is_skewed is not None:
                made.append(Refusal(NOT_MATCHED, left & is_skewed))
                left &= ~is_skewed
        return made

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """Removing pods lessens a skew, but gives no node a label."""
        never = np.zeros(view.size, dtype=np.bool_)
        for refusal in self.refusals(view, pod):
            if refusal.reason == NO_LABEL:
                never |= refusal.mask
        return never


class SpreadScore:
    """ScheduleAnyway constraints, or the system's defaults: the fewer matching pods the better."""

    name = "spread"
    unit = "share of the most matching pods, weighted by the number of values"

    def cost(self, view: ClusterView, pod: PodRequest, left: BoolArray) -> FloatArray | None:
        """0 where there are the fewest matching pods, rising in proportion to the most; 1 without the labels."""
        constraints, keys = pod.terms.soft_spread, tuple(item.topology_key for item in pod.terms.soft_spread)
        if not pod.terms.names_spread and pod.default_spread is not None:
            constraints, keys = _defaults(pod.default_spread), ()
        if not constraints:
            return None
        # Nodes that lack a label of the pod's own constraints come last; the defaults ask for none.
        known = _have_all(view, keys)
        compared = left & known
        score = np.zeros(view.size)
        for constraint in constraints:
            score += _points(view, pod, constraint, keys, compared)
        score = np.floor(score + 0.5)
        among = score if compared.all() else score[compared]
        most = float(among.max()) if len(among) else 0.0
        cost = np.clip((score - float(among.min())) / most, 0.0, 1.0) if most > 0 else np.zeros(view.size)
        cost[~known] = 1.0
        return cost


def _defaults(pods: PodSet) -> tuple[SpreadConstraint, ...]:
    return tuple(
        SpreadConstraint(
            key, max_skew, min_domains=1, pods=pods, selects_itself=True, honors_affinity=True, honors_taints=False
        )
        for key, max_skew in DEFAULTS
    )


def _points(
    view: ClusterView, pod: PodRequest, constraint: SpreadConstraint, keys: tuple[str, ...], compared: BoolArray
) -> FloatArray:
    """scoreForCount: matching pods times ln(values + 2), and maxSkew - 1, on nodes that have the label. The values are
    those of the nodes compared, a missing label among them; hosts are not told apart by name."""
    key = constraint.topology_key
    ids = view.column(key).ids[: view.size]
    base = float(constraint.max_skew - 1)
    if constraint.pods is None:
        return np.where(ids >= 0, base, 0.0)
    matching: IntArray | CountArray
    if key == HOSTNAME:
        matching = view.index.counted(constraint.pods).rows()
        values = int(np.count_nonzero(compared))
    else:
        domains = _domains(view, pod, constraint, keys)
        matching = domains.by_row()
        slots = domains.slots if compared.all() else domains.slots[compared]
        values = int(np.count_nonzero(np.bincount(slots)))
    return np.where(ids >= 0, matching * np.log(values + 2) + base, 0.0)


def _verdicts(view: ClusterView, pod: PodRequest, constraint: SpreadConstraint) -> tuple[BoolArray, BoolArray | None]:
    """Rows that have the label, and rows whose value holds too many; None: no pod is ever counted."""
    key = constraint.topology_key
    has_label = view.column(key).ids[: view.size] >= 0
    if constraint.pods is None:
        return has_label, None
    domains = _domains(view, pod, constraint, tuple(item.topology_key for item in pod.terms.hard_spread))
    least = 0 if len(domains.values) < constraint.min_domains else domains.minimum
    most = constraint.max_skew + least - int(constraint.selects_itself)
    return has_label, domains.by_row() > most


def _domains(view: ClusterView, pod: PodRequest, constraint: SpreadConstraint, keys: tuple[str, ...]) -> Domains:
    """Matching pods by value, over nodes that have all `keys` and that the policies include."""
    assert constraint.pods is not None
    shape, key = pod.shape, constraint.topology_key
    asks_affinity = constraint.honors_affinity and (bool(shape.node_selector) or shape.affinity_terms is not None)
    honors_taints = constraint.honors_taints
    others = tuple(other for other in keys if other != key)
    counts = view.index.counted(constraint.pods)
    if not asks_affinity and not honors_taints and not others:
        return counts.domains(key)
    # A shape stands for its node affinity and tolerations.
    within: Hashable = (shape.number if asks_affinity or honors_taints else -1, asks_affinity, honors_taints, others)

    def eligible() -> BoolArray:
        mask = _have_all(view, others)
        for included in (
            node_mask(view, shape) if asks_affinity else None,
            taint_mask(view, shape.tolerations) if honors_taints else None,
        ):
            if included is not None:
                mask &= included
        return mask

    return counts.domains(key, within, eligible)


def _have_all(view: ClusterView, keys: tuple[str, ...]) -> BoolArray:
    mask = np.ones(view.size, dtype=np.bool_)
    for key in keys:
        mask &= view.column(key).ids[: view.size] >= 0
    return mask
