"""Ending pods for good: those of old attempts, of suspended and of finished jobs.

Owns when a deletion is asked for and when it is forced. Invariant: the pods of the next attempt are created
only when none of an older one is left, so no two attempts of a job ever hold the same GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from jobcontroller.core.actions import Action, DeletePod
from jobcontroller.core.observed import PodView

#: After its grace a pod is given this long for its node to confirm the end, then it is deleted by force: on a
#: dead node nobody ever confirms. Names, hosts and port of the next attempt differ, so a straggler cannot join.
FORCE_AFTER_SECONDS = 30.0


def end_pods(
    pods: Iterable[PodView], now: float, grace_seconds: int | None = None
) -> tuple[list[Action], float | None]:
    """Return the deletions due now, and the seconds until one more may be (None = a watch will tell).

    `grace_seconds` None leaves each pod its own. Asking again for a pod that is ending does nothing."""
    actions: list[Action] = []
    waits: list[float] = []
    for pod in pods:
        if pod.deletion_at is None:
            # A finished pod has nothing left to do in its grace.
            grace = 0 if pod.is_finished else grace_seconds
            actions.append(DeletePod(name=pod.name, uid=pod.uid, grace_seconds=grace))
        elif now >= pod.deletion_at + FORCE_AFTER_SECONDS:
            actions.append(DeletePod(name=pod.name, uid=pod.uid, grace_seconds=0))
        else:
            waits.append(pod.deletion_at + FORCE_AFTER_SECONDS - now)
    return actions, min(waits, default=None)
