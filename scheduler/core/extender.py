"""The data score for an unmodified kube-scheduler: which of its nodes are near the pod's data.

Owns the translation of stage-in into the scheduler extender's scale. Pure; reads the engine's state and changes
nothing. Invariants: a pod without data gets equal scores, so the extender never sways it; a node we have not seen
(yet) counts as wholly cold, and is filtered out only for a `required` dataset, which it cannot hold.
See k8s.io/kube-scheduler/extender/v1 (MaxExtenderPriority) for the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kube.objects import Pod
from scheduler.core.engine_state import EngineState
from scheduler.core.pod_request import PodRequest, ShapeCache, named_data, pod_request
from scheduler.plugins.required_data import RequiredData
from scheduler.plugins.stage_in import StageIn

MAX_SCORE = 10


@dataclass(frozen=True, slots=True)
class Filtered:
    """Nodes that may hold the pod, in the order given, and the reason for each other."""

    kept: tuple[str, ...]
    failed: dict[str, str]


class DataExtender:
    """Answers for one engine's state."""

    def __init__(self, state: EngineState, stage_in: StageIn) -> None:
        self._state = state
        self._stage_in = stage_in
        self._required = RequiredData()
        self._shapes = ShapeCache()

    def filter(self, pod: Pod, nodes: Sequence[str]) -> Filtered:
        """Keep the nodes that hold every `required` dataset whole. Raises BadDataRequest."""
        state, request = self._state, self._request(pod)
        mask = self._required.filter(state.view(), request, slice(None))
        if mask is None:
            return Filtered(tuple(nodes), {})
        rows = state.table.row_of
        kept = tuple(name for name in nodes if (row := rows.get(name)) is not None and mask[row])
        holders = set(kept)
        return Filtered(kept, {name: self._required.reason for name in nodes if name not in holders})

    def prioritize(self, pod: Pod, nodes: Sequence[str]) -> list[int]:
        """A score 0..MAX_SCORE for each of `nodes`; all equal without data. Raises BadDataRequest.

        The slowest of the nodes scores 0 and the fastest MAX_SCORE, as kube-scheduler's own plugins normalise;
        unless they differ by less than the floor, which then is the scale: eleven steps cannot show a cold start
        of minutes and a local read of seconds on one absolute scale.
        """
        state, request = self._state, self._request(pod)
        view = state.view()
        seconds = self._stage_in.score(view, request, slice(None))
        if seconds is None or not nodes:
            return [0] * len(nodes)
        rows = state.table.row_of
        asked = np.array([rows.get(name, -1) for name in nodes], dtype=np.int64)
        known = asked >= 0
        found = np.full(len(nodes), view.residency.cold_seconds(request.data, request.checkpoint))
        found[known] = seconds[asked[known]]
        slowest = float(found.max())
        scale = max(slowest - float(found.min()), self._stage_in.floor_seconds)
        return [int(score) for score in np.rint(MAX_SCORE * (slowest - found) / scale)]

    def _request(self, pod: Pod) -> PodRequest:
        named_data(pod)
        return self._state.resolved(pod_request(pod, self._shapes))
