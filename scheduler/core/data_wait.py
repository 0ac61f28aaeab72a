"""maxWaitSeconds: whether a pod should wait for a warm node instead of taking a cold one now.

Owns the rule. A pod waits only while a node exists that is warmer, could hold the pod, and does not fit
right now; and never longer than the seconds it would save: then the worst case costs twice the best one.
"""

from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster_view import ClusterView
from scheduler.core.placement import Pass, Plugins
from scheduler.core.plugin import DependsOn
from scheduler.core.pod_request import PodRequest


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until then (core clock), and what to tell meanwhile."""

    until: float
    message: str


def wait_verdict(
    view: ClusterView,
    plugins: Plugins,
    found: Pass,
    pod: PodRequest,
    row: int,
    *,
    since: float,
    now: float,
    min_saving_seconds: float,
) -> Wait | None:
    """Whether to wait rather than take `row`, `since` when the pod can be placed; None: take it."""
    max_wait = max((item.max_wait_seconds for item in pod.data), default=0.0)
    if found.seconds is None or max_wait <= 0 or now >= since + max_wait:
        return None
    could_hold = found.fixed_mask & (found.total == np.inf)
    for plugin in plugins.filters:
        if plugin.depends_on in (DependsOn.USAGE, DependsOn.PODS):
            never = plugin.unresolvable(view, pod)
            if never is not None:
                could_hold &= ~never
    if not could_hold.any():
        return None
    seconds = np.where(could_hold, found.seconds, np.inf)
    warmest = int(seconds.argmin())
    saving = float(found.seconds[row] - seconds[warmest])
    until = since + min(max_wait, saving)
    if saving < min_saving_seconds or now >= until:
        return None
    message = (
        f"waiting for node {view.names[warmest]}, where the data is, for at most {until - since:.0f} s: "
        f"it would save {saving:.1f} s against {view.names[row]}, but does not fit the pod now"
    )
    return Wait(until, message)
