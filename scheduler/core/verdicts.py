"""The verdict on every node for one pod, in the shape kube-scheduler's own can be compared with.

Owns nothing but the shape. Pure; changes nothing. Invariant: feasible nodes and the message are what a try of the
engine goes by, not a second reading of the rules: both come from the pass and from `explain`.
"""

from dataclasses import dataclass

import numpy as np

from scheduler.core import explain
from scheduler.core.engine_state import EngineState
from scheduler.core.pod_request import PodRequest


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a pod may run. `nodes`: every node's reasons, none where it may; `unresolvable`: where removing pods
    cannot help; `message`: the FitError as far as filters speak, "" when a node is feasible."""

    pod: str
    feasible: tuple[str, ...]
    nodes: dict[str, tuple[str, ...]]
    unresolvable: tuple[str, ...]
    message: str


def judge(state: EngineState, request: PodRequest) -> Verdict:
    """Judge one unbound pod against the cluster as it is."""
    pod = state.resolved(request)
    view = state.view()
    alive = [view.names[row] for row in np.flatnonzero(view.alive)]
    if not alive:
        return Verdict(pod.key, (), {}, (), explain.NO_NODES)
    if pod.refusal is not None:
        return _refused(pod, alive, pod.refusal)
    found = state.placer.pass_for(pod)
    view = state.view()  # again: the pod may have named a resource for the first time
    if found.refusal is not None:
        return _refused(pod, alive, found.refusal)
    feasible = found.total != np.inf
    reasons: dict[int, list[str]] = {}
    if found.only is not None:
        reasons = {row: [explain.EXCLUDED] for row in np.flatnonzero(view.alive & ~found.only).tolist()}
    resolvable = np.zeros(view.size, dtype=np.bool_)
    for stage in explain.stages(view, state.plugins, found):
        resolvable |= stage.may_resolve
        for refusal in stage.refusals:
            for row in np.flatnonzero(refusal.mask).tolist():
                reasons.setdefault(row, []).append(refusal.reason)
    stuck = view.alive & ~feasible & ~resolvable
    return Verdict(
        pod.key,
        tuple(sorted(view.names[row] for row in np.flatnonzero(feasible))),
        {view.names[row]: tuple(reasons.get(row, ())) for row in np.flatnonzero(view.alive).tolist()},
        tuple(sorted(view.names[row] for row in np.flatnonzero(stuck))),
        "" if feasible.any() else explain.look(view, state.plugins, found).message,
    )


def _refused(pod: PodRequest, alive: list[str], refusal: str) -> Verdict:
    message = f"0/{len(alive)} nodes are available: {refusal}."
    return Verdict(pod.key, (), dict.fromkeys(alive, (refusal,)), tuple(sorted(alive)), message)
