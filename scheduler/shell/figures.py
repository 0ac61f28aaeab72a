"""The core's counts as metrics.

Owns what was reported already, as the core only counts up. Reads the state, never changes it but for the tries it
takes out.
"""

from collections import Counter

from scheduler.core.engine_state import EngineState
from scheduler.core.queue import Pool
from scheduler.shell import metrics

SHOWN = (Pool.ACTIVE, Pool.BACKOFF, Pool.UNSCHEDULABLE, Pool.GATED)


class Figures:
    """One engine's figures. `profile`: the main one, for what is not counted apart."""

    def __init__(self, state: EngineState, profile: str) -> None:
        self._state = state
        self._profile = profile
        self._incoming: Counter[tuple[Pool, str]] = Counter()
        self._preemption_attempts = 0

    def tries(self) -> None:
        """Report the tries since the last call."""
        refused = self._state.tally.refused
        for profile, count in refused.items():
            metrics.SCHEDULE_ATTEMPTS.labels("unschedulable", profile).inc(count)
        refused.clear()
        tries = self._state.tally.tries
        while tries:
            one = tries.popleft()
            result = "scheduled" if one.was_placed else "unschedulable"
            if one.is_gang:
                metrics.GANG_TRIES.labels(result, one.profile).inc()
                metrics.GANG_SECONDS.labels(result, one.profile).observe(one.seconds)
            else:
                metrics.ATTEMPT_SECONDS.labels(result, one.profile).observe(one.seconds)

    def measure(self) -> None:
        """Report what is slow to change; for scrapes, not for every turn."""
        state = self._state
        for pool in SHOWN:
            metrics.PENDING_PODS.labels(pool.value).set(state.queue.counts[pool])
        metrics.CACHE_SIZE.labels("nodes").set(state.table.count)
        metrics.CACHE_SIZE.labels("pods").set(len(state.assigned))
        for (pool, event), count in state.queue.incoming.items():
            metrics.QUEUE_INCOMING.labels(pool.value, event).inc(count - self._incoming[(pool, event)])
            self._incoming[(pool, event)] = count
        metrics.CACHE_SIZE.labels("assumed_pods").set(state.assigned.assumed)
        rejected: Counter[str] = Counter()
        for plugin, count in state.queue.rejected.items():
            # Two filters of ours may be one plugin of kube-scheduler's.
            rejected[plugin.partition("/")[0]] += count
        for plugin, count in rejected.items():
            metrics.UNSCHEDULABLE_PODS.labels(plugin, self._profile).set(count)
        metrics.PREEMPTION_ATTEMPTS.inc(state.tally.preemption_attempts - self._preemption_attempts)
        self._preemption_attempts = state.tally.preemption_attempts
