"""Pods known to fit nowhere: of ten thousand equal ones, one is judged.

Owns the diagnoses of refused pods by what makes pods equal to a try, as long as nothing happened that could turn
them around. Room that is taken never does, unless the pod's own or others' terms are about neighbours. Invariant: a
pod found here would be refused by a try as well.
"""

from scheduler.core.engine_state import EngineState
from scheduler.core.placement import Diagnosis
from scheduler.core.pod_request import PodRequest

MAX_KINDS = 4096
Stamp = tuple[int, ...]


class Hopeless:
    """See the module's docstring."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._kept: dict[tuple[object, ...], tuple[Stamp, Diagnosis]] = {}

    def keep(self, pod: PodRequest, diagnosis: Diagnosis) -> None:
        """A try refused this pod, and nothing can be evicted for it."""
        if len(self._kept) >= MAX_KINDS:
            self._kept.clear()
        self._kept[_kind(pod)] = (self._stamp(pod), diagnosis)

    def find(self, pod: PodRequest) -> Diagnosis | None:
        """Why a pod (its claims looked up) need not be tried now; None when it must be."""
        kept = self._kept.get(_kind(pod)) if self._kept else None
        if kept is None or kept[0] != self._stamp(pod):
            return None
        if pod.refusal is not None or pod.nominated_node or self._state.nominations.node_of(pod.uid):
            return None
        return kept[1]

    def __len__(self) -> int:
        return len(self._kept)

    def _stamp(self, pod: PodRequest) -> Stamp:
        """Rises with everything that can help such a pod."""
        state, table = self._state, self._state.table
        looks_at_pods = pod.looks_at_pods or pod.reach
        return (
            table.version,
            table.log_position if looks_at_pods else table.returns,
            state.residency.version,
            state.volumes.version,
            state.assigned.index.version,
            state.nominations.version,
            state.groups_version,
        )


def _kind(pod: PodRequest) -> tuple[object, ...]:
    return (pod.signature, pod.priority, pod.may_preempt)
