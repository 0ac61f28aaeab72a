"""How far the pods of an attempt are, in conditions: PodsScheduled, and the state Queued or Running.

Owns the sentences a waiting user reads. Invariant: Running is true only when every pod of the attempt runs or
has finished well, and at least one still runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from api.training_v1alpha1 import PODS_SCHEDULED, RUNNING
from jobcontroller.core import elastic, reasons, resize, startup
from jobcontroller.core.observed import PodPhase, PodView
from jobcontroller.core.turn import Turn

MAX_GROUPS = 4


def describe(turn: Turn) -> None:
    """Set the conditions of the current attempt from its pods."""
    pods = turn.current_pods()
    wanted = len(turn.members())
    _set_scheduled(turn, pods, wanted)
    running = sum(pod.is_running for pod in pods)
    finished = sum(pod.phase is PodPhase.SUCCEEDED for pod in pods)
    if running and running + finished == wanted:
        text = f"all {wanted} pods run" if not finished else f"{running} of {wanted} pods run, {finished} finished"
        size = resize.size_text(turn, sum(pod.role == elastic.ROLE for pod in pods))
        text = f"{text}: {size}" if size else text
        reason = reasons.SOME_FINISHED if finished else reasons.ALL_RUNNING
        if not turn.draft.is_true(RUNNING):
            turn.event(RUNNING, f"attempt {turn.attempt}: all {wanted} pods run")
        turn.draft.enter(RUNNING, reason, text)
        return
    if turn.draft.is_true(RUNNING):
        # A member failed and the cause is not decided yet; the state changes with the decision.
        return
    unplaced = [pod for pod in pods if not pod.node and not pod.is_finished]
    if unplaced:
        reason = reasons.UNSCHEDULABLE if any(pod.unschedulable for pod in unplaced) else reasons.WAITING_FOR_PLACEMENT
        turn.draft.wait(reason, _placement_text(unplaced, wanted))
        return
    held = startup.waiting_text(turn.job.spec, turn.status.started_replicas, pods)
    if held:
        turn.draft.wait(reasons.WAITING_FOR_ROLES, f"{running} of {wanted} pods run; {held}")
        return
    turn.draft.wait(reasons.STARTING, _starting_text(pods, running, wanted))


def _set_scheduled(turn: Turn, pods: Sequence[PodView], wanted: int) -> None:
    placed = sum(bool(pod.node) for pod in pods)
    if placed == wanted:
        turn.draft.set(PODS_SCHEDULED, True, reasons.ALL_SCHEDULED, f"all {wanted} pods have a node")
        return
    unplaced = [pod for pod in pods if not pod.node]
    reason = reasons.UNSCHEDULABLE if any(pod.unschedulable for pod in unplaced) else reasons.WAITING_FOR_PLACEMENT
    turn.draft.set(PODS_SCHEDULED, False, reason, _placement_text(unplaced, wanted))


def _placement_text(unplaced: Sequence[PodView], wanted: int) -> str:
    groups = Counter(pod.unschedulable for pod in unplaced if pod.unschedulable)
    head = f"{len(unplaced)} of {wanted} pods have no node"
    if not groups:
        return head
    said = [f"{text} ({times} pods)" for text, times in groups.most_common(MAX_GROUPS)]
    return f"{head}: {'; '.join(said)}"


def _starting_text(pods: Sequence[PodView], running: int, wanted: int) -> str:
    groups = Counter(_waiting_text(pod.waiting) for pod in pods if pod.waiting is not None)
    head = f"{running} of {wanted} pods run"
    if not groups:
        return head
    said = [f"{text} ({times} pods)" for text, times in groups.most_common(MAX_GROUPS)]
    return f"{head}; the others: {'; '.join(said)}"


def _waiting_text(waiting: tuple[str, str]) -> str:
    reason, message = waiting
    return f"{reason}: {message[:300]}" if message else reason
