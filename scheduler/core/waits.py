"""What a pending pod waits for beside a node that would do: its gates, its gang, room kept for others, a warm node.

Owns the wording for people; whether each holds is asked of the engine's own parts. Pure; changes nothing. See
core/outlook.py for what stands between the pod and each node.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from scheduler.core.engine_state import EngineState
from scheduler.core.gang_placement import place_gang, required_first
from scheduler.core.gangs import Gang
from scheduler.core.placement import Pass
from scheduler.core.pod_request import PodRequest
from scheduler.core.preempting import Preempting

NAMES_SHOWN = 3


def waits(state: EngineState, pod: PodRequest, now: float) -> tuple[str, ...]:
    """Sentences, the first reason first; none when only its turn is to come. `pod` is resolved; its gang and
    nominations are known to the state if it was handled as an event."""
    if pod.gates:
        # Nothing else is looked at before they go.
        gates = "its scheduling gate" if len(pod.gates) == 1 else "its scheduling gates"
        return (f"It waits for {gates} {', '.join(pod.gates)} to be removed by whoever set it.",)
    found = None if pod.refusal is not None else state.placer.pass_for(pod)
    return (*_nomination(state, pod), *_gang(state, pod), *(() if found is None else _room(state, found, pod, now)))


def _nomination(state: EngineState, pod: PodRequest) -> Iterator[str]:
    node = state.nominations.node_of(pod.uid)
    if not node:
        return
    if node not in state.table.row_of:
        yield f"It was nominated to node {node}, which is no longer there."
        return
    leaving = [f"{held.namespace}/{held.name}" for held in state.assigned.on_node(node) if held.is_leaving]
    if leaving:
        yield f"Pods were evicted for it: it is nominated to {node}, which {some(sorted(leaving))} must leave first."
    else:
        yield f"It is nominated to {node}; no pod is leaving that node any more."


def _gang(state: EngineState, pod: PodRequest) -> Iterator[str]:
    gang = state.gangs.of_member(pod.uid)
    if gang is None:
        return
    reason = gang.waiting_for()
    if reason is not None:
        yield f"It is {reason}."
    elif gang.needed > 0:
        yield from _whole(state, gang)


def _whole(state: EngineState, gang: Gang) -> Iterator[str]:
    """Whether the gang fits as a whole, in the order in which a try would place it."""
    members = sorted((state.pods[uid].request for uid in gang.pending), key=lambda one: (-one.priority, one.name))
    wish = state.gang_wish(gang)
    pods = [state.resolved(one) for one in required_first(members, wish.by_role, lambda one: one.role)]
    usable = [one for one in pods if one.refusal is None]
    if not gang.is_enough([one.role for one in usable]):
        refused = next(one for one in pods if one.refusal is not None)
        yield f"Its gang PodGroup {gang.key} cannot be placed without {refused.name}: {refused.refusal}."
        return
    for one in usable:
        state.table.vector(one.shape.requests)
    result = place_gang(state.placer, state.view(), usable, gang.needed, wish)
    if result.placed:
        yield f"Its gang PodGroup {gang.key} would fit now as a whole."
    else:
        yield (
            f"Its gang PodGroup {gang.key} needs {result.needed} members placed together{result.where}, "
            f"{result.fitting} fit now{result.note}."
        )


def _room(state: EngineState, found: Pass, pod: PodRequest, now: float) -> Iterator[str]:
    """What keeps a pod from nodes that would do."""
    if not found.feasible():
        return
    left = Preempting(state).less_nominated(found, pod)
    if not left.feasible():
        nominees = [
            f"{one.pod.key} ({one.node})"
            for one in state.nominations.against(pod.priority, (pod.uid,))
            if (row := state.table.row_of.get(one.node)) is not None and found.total[row] != np.inf
        ]
        yield f"The room it fits into is kept for pods of equal or higher priority: {some(sorted(nominees))}."
        return
    if pod.uid in state.pods and state.gangs.of_member(pod.uid) is None:
        wait = state.wait(left, pod, left.best(), now)
        if wait is not None:
            yield f"It is {wait.message}."


def some(names: Sequence[str]) -> str:
    """A few names of many: `a, b, c and 4 more`."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
