"""Ending pods for good: those of old attempts, of suspended and of finished jobs.

Owns when a deletion is asked for and when it is forced. A pod whose end its node does not confirm may run on: kubelet
is down or cut off, its containers are not. So before it is deleted by force the cache is told to take no checkpoints
of the job from that node any more, until who mounts there says that the pod has ended; and before the next attempt
begins, when somebody else deleted it so.

Invariants: the pods of the next attempt are created only when none of an older one is left, so no two attempts of a job
ever hold the same GPUs; what may still run has a fence around it, if the job has its checkpoints in the cache."""

from __future__ import annotations

from collections.abc import Iterable

from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import DeletePod, RaiseFences
from jobcontroller.core.observed import PodView
from jobcontroller.core.turn import Turn


def end_pods(turn: Turn, pods: Iterable[PodView], grace_seconds: int | None = None) -> None:
    """Ask for the deletions due now, and to look again when more are. `grace_seconds` None leaves each pod its own.

    Asking again for a pod that is ending does nothing. After its grace it is given `force_after_seconds` for its node
    to confirm the end: on a dead node nobody ever confirms. Names, hosts and port of the next attempt differ, so a
    straggler cannot join."""
    forced: list[PodView] = []
    for pod in pods:
        if pod.deletion_at is None:
            # A finished pod has nothing left to do in its grace.
            grace = 0 if pod.is_finished else grace_seconds
            turn.act([DeletePod(name=pod.name, uid=pod.uid, grace_seconds=grace)])
        elif turn.now >= (due := _force_at(turn, pod, pod.deletion_at)):
            forced.append(pod)
        else:
            turn.wake_at(due)
    turn.act(_fences(turn, forced))
    turn.act(DeletePod(name=pod.name, uid=pod.uid, grace_seconds=0) for pod in forced)


def _force_at(turn: Turn, pod: PodView, grace_ends_at: float) -> float:
    at, problem = grace_ends_at + turn.policy.force_after_seconds, turn.observed.fence_problem
    return max(at, problem.retry_at) if problem is not None and _may_write(turn.job, pod) else at


def fence_lost(turn: Turn) -> bool:
    """Raise fences around pods of older attempts that somebody deleted by force while they ran; whether that has to be
    waited for."""
    lost = [pod for pod in turn.observed.lost_pods if pod.attempt != turn.attempt]
    fences, problem = _fences(turn, lost), turn.observed.fence_problem
    if fences and problem is not None and turn.now < problem.retry_at:
        turn.wake_at(problem.retry_at)
        turn.draft.wait(problem.reason, problem.message)
        return True
    turn.act(fences)
    return False


def _may_write(job: TrainingJob, pod: PodView) -> bool:
    has_checkpoints = job.spec.checkpoint is not None and job.spec.checkpoint.dataset is not None
    return has_checkpoints and bool(pod.node) and (pod.may_run or not pod.is_finished)


def _fences(turn: Turn, pods: Iterable[PodView]) -> list[RaiseFences]:
    """Return the fences around these pods; none on a node where the attempt that counts runs: it saves from there."""
    found: dict[str, tuple[str, ...]] = {}
    busy = {pod.node for pod in turn.current_pods() if pod.deletion_at is None and not pod.is_finished}
    for pod in pods:
        if _may_write(turn.job, pod) and pod.node not in busy:
            found[pod.node] = (*found.get(pod.node, ()), pod.uid)
    return [RaiseFences(found)] if found else []
