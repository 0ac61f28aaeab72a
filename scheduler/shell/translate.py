"""Watched objects into the core's events.

Owns the meaning of a pod's state for the scheduler: waiting for us, taking room, or over. Pure; keeps only
the shape cache. Times: a pod's creation is moved from the wall clock to the core's by a fixed offset, so the
same pod always waits since the same moment.
"""

from collections.abc import Collection

from api import names
from api.conditions import parse_timestamp
from kube.objects import Pod
from scheduler.core import requests
from scheduler.core.assumed import AssignedPod, PodFacts
from scheduler.core.events import Event, PodAssigned, PodGone, PodPending
from scheduler.core.gang_apis import group_of, role_of
from scheduler.core.pod_request import ShapeCache, host_ports, pod_request
from scheduler.core.pod_volumes import held_volumes

FINISHED = ("Succeeded", "Failed")


class PodTranslator:
    """Pods into PodPending, PodAssigned and PodGone."""

    def __init__(self, scheduler_names: Collection[str], clock_offset_seconds: float) -> None:
        """Pods of these names are ours. `clock_offset_seconds`: the core's clock minus seconds since 1970."""
        self._scheduler_names = frozenset(scheduler_names)
        self._offset = clock_offset_seconds
        self._shapes = ShapeCache()

    def event(self, pod: Pod) -> Event | None:
        """What a pod's new state means; None when it is no concern of ours."""
        meta, spec, phase = pod.metadata, pod.spec, pod.status.phase
        is_ours = spec.scheduler_name in self._scheduler_names
        if phase in FINISHED:
            group = group_of(pod) if is_ours else None
            succeeded = phase == "Succeeded" and not meta.deletion_timestamp
            return PodGone(meta.uid, succeeded, meta.namespace, group, role_of(pod))
        if spec.node_name:
            return self._assigned(pod, is_ours)
        if not is_ours:
            return None
        if meta.deletion_timestamp is not None:
            return PodGone(meta.uid)
        since = parse_timestamp(meta.creation_timestamp) + self._offset if meta.creation_timestamp else 0.0
        return PodPending(pod_request(pod, self._shapes, since))

    def _assigned(self, pod: Pod, is_ours: bool) -> PodAssigned:
        meta, spec = pod.metadata, pod.spec
        shape = self._shapes.shape_of(pod)
        identity, terms = self._shapes.seen_of(pod, shape)
        asked = shape.requests
        statuses = (*pod.status.container_statuses, *pod.status.init_container_statuses)
        if any(status.resources is not None for status in statuses):
            asked = requests.bound_pod_requests(pod)
        return PodAssigned(
            AssignedPod(
                meta.uid,
                meta.namespace,
                meta.name,
                spec.node_name,
                asked,
                spec.priority,
                host_ports(spec),
                identity,
                terms,
                is_leaving=meta.deletion_timestamp is not None,
                facts=self._facts(pod),
                held=held_volumes(meta.name, spec),
            ),
            group=group_of(pod) if is_ours else None,
            is_ours=is_ours,
            is_running=pod.status.phase == "Running",
            is_leaving=meta.deletion_timestamp is not None,
            role=role_of(pod),
        )

    def _facts(self, pod: Pod) -> PodFacts:
        meta, status = pod.metadata, pod.status
        group = group_of(pod)
        is_preempted = meta.deletion_timestamp is not None and _was_preempted(pod)
        written = meta.annotations.get(names.CHECKPOINTED_AT_ANNOTATION) if meta.annotations else None
        started_at, checkpointed_at = self._seconds(status.start_time), self._seconds(written)
        return PodFacts(started_at, checkpointed_at, is_preempted, group, meta.generation, role_of(pod))

    def _seconds(self, text: str | None) -> float | None:
        if not text:
            return None
        try:
            return parse_timestamp(text) + self._offset
        except ValueError:
            # Written by whoever runs the workload: an unreadable time is none, as the contract says.
            return None


def _was_preempted(pod: Pod) -> bool:
    """The first DisruptionTarget condition decides, as in podTerminatingByPreemption (defaultpreemption)."""
    for condition in pod.status.conditions:
        if condition.type == "DisruptionTarget":
            return condition.status == "True" and condition.reason == "PreemptionByScheduler"
    return False
