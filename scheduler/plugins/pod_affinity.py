"""Pod affinity and anti-affinity: which other pods must, should or must not be near (InterPodAffinity).

Mirrors interpodaffinity/filtering.go and scoring.go of kube-scheduler 1.36. A pod may run on a node when the node's
topology values hold a pod that all its affinity terms are about (or it is the first of a group that wants itself),
none that its anti-affinity is about, and none whose anti-affinity is about it."""

import numpy as np

from scheduler.core.pod_terms import AffinityTerm
from scheduler.plugins.base import (
    ALL,
    BoolArray,
    ClusterChange,
    ClusterView,
    DependsOn,
    FloatArray,
    NodeFilter,
    PodRequest,
    Refusal,
    Rows,
)

AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"


class InterPodAffinity(NodeFilter):
    """Required terms, the pod's own and those of assigned pods about it."""

    name = "InterPodAffinity"
    depends_on = DependsOn.PODS
    worth_retry = (
        ClusterChange.NODE_ADDED
        | ClusterChange.NODE_LABELS
        | ClusterChange.POD_FREED
        | ClusterChange.POD_ADDED
        | ClusterChange.NAMESPACES
    )

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where all three rules hold."""
        kept: BoolArray | None = None
        for refused in (_lacks_affinity(view, pod), _meets_unwanted(view, pod), _is_unwanted(view, pod)):
            if refused is not None:
                kept = ~refused if kept is None else kept & ~refused
        return None if kept is None else np.asarray(kept[rows])

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """Each row with the first rule it breaks."""
        made: list[Refusal] = []
        left = np.ones(view.size, dtype=np.bool_)
        for reason, refused in (
            (AFFINITY, _lacks_affinity(view, pod)),
            (ANTI_AFFINITY, _meets_unwanted(view, pod)),
            (EXISTING_ANTI_AFFINITY, _is_unwanted(view, pod)),
        ):
            if refused is not None:
                made.append(Refusal(reason, refused & left))
                left &= ~refused
        return made

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """Removing pods never brings the wanted ones; it can remove unwanted ones."""
        lacking = _lacks_affinity(view, pod)
        return np.zeros(view.size, dtype=np.bool_) if lacking is None else lacking


class PodAffinityScore:
    """Preferred terms: the pod's own, those of assigned pods about it, and assigned pods' required affinity."""

    name = "pod_affinity"
    unit = "share of the range of preferences met"

    def cost(self, view: ClusterView, pod: PodRequest, left: BoolArray) -> FloatArray | None:
        """0 where the sum of weights is highest, 1 where it is lowest; pods count as often as they are there."""
        met: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
        for term in pod.terms.preferred:
            met = _plus(met, term.weight * _by_row(view, term))
        for held, counts in view.index.reaching(pod.identity):
            if held.weight:
                met = _plus(met, held.weight * counts.domains(held.topology_key).by_row())
        if met is None:
            return None
        among = met if left.all() else met[left]
        if not len(among):
            return None
        highest, lowest = int(among.max()), int(among.min())
        if highest == lowest:
            return None
        return np.asarray((highest - met) / (highest - lowest))


def _plus(
    total: np.ndarray[tuple[int], np.dtype[np.int64]] | None, more: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return more if total is None else total + more


def _by_row(view: ClusterView, term: AffinityTerm) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return view.index.counted(term.pods).domains(term.topology_key).by_row()


def _lacks_affinity(view: ClusterView, pod: PodRequest) -> BoolArray | None:
    """Rows without a pod that all affinity terms are about; None: the pod has no such terms."""
    terms = pod.terms
    if terms.affinity_pods is None:
        return None
    counts = view.index.counted(terms.affinity_pods)
    lacking = np.zeros(view.size, dtype=np.bool_)
    is_anywhere = False
    for term in terms.affinity:
        domains = counts.domains(term.topology_key)
        lacking |= domains.by_row() <= 0
        is_anywhere = is_anywhere or bool(counts.total and domains.counts.any())
    if is_anywhere or not view.index.selects(terms.affinity_pods, pod.identity):
        return lacking
    # The first of a group that wants itself goes wherever the topology is known.
    lacking[ALL] = False
    for term in terms.affinity:
        lacking |= counts.domains(term.topology_key).slots == 0
    return lacking


def _meets_unwanted(view: ClusterView, pod: PodRequest) -> BoolArray | None:
    """Rows whose topology value holds a pod that an anti-affinity term is about."""
    refused: BoolArray | None = None
    for term in pod.terms.anti_affinity:
        here = _by_row(view, term) > 0
        refused = here if refused is None else refused | here
    return refused


def _is_unwanted(view: ClusterView, pod: PodRequest) -> BoolArray | None:
    """Rows whose topology value holds a pod with anti-affinity about this one."""
    refused: BoolArray | None = None
    for held, counts in view.index.reaching(pod.identity):
        if held.keeps_away:
            here = counts.domains(held.topology_key).by_row() > 0
            refused = here if refused is None else refused | here
    return refused
