"""What is left of a finished job: cleanPodPolicy, and its own end by ttlSecondsAfterFinished.

Owns both verdicts. Invariant: nothing here looks at anything but a finished job, and a finished job never
gets a pod again; its end is the deletion of the whole object, with its uid as precondition."""

from __future__ import annotations

from collections.abc import Iterable

from api.conditions import find_condition, parse_timestamp
from api.training_v1alpha1 import FAILED, RunPolicy, TrainingJobStatus
from jobcontroller.core import elastic, reasons
from jobcontroller.core.observed import PodView

CUT_OFF = frozenset({reasons.DEADLINE_EXCEEDED, reasons.STOPPED})


def pods_to_end(policy: RunPolicy, pods: Iterable[PodView], status: TrainingJobStatus) -> list[PodView]:
    """Return the pods cleanPodPolicy says to delete, every pod of an older attempt, and those that are no members.

    A job that was stopped, or ran for too long, is to hold nothing any more: what still runs of it goes, whatever the
    policy says."""
    failed = find_condition(status.conditions, FAILED)
    is_cut_off = failed is not None and failed.status == "True" and failed.reason in CUT_OFF
    members = frozenset(elastic.members(status))
    is_elastic = status.elastic is not None

    def goes(pod: PodView) -> bool:
        if is_elastic and pod.key not in members:
            return True
        if pod.attempt != status.attempt or policy.clean_pod_policy == "All":
            return True
        return (policy.clean_pod_policy == "Running" or is_cut_off) and not pod.is_finished

    return [pod for pod in pods if goes(pod)]


def expires_at(policy: RunPolicy, status: TrainingJobStatus) -> float | None:
    """Return when the finished job is to be deleted; None = never."""
    if policy.ttl_seconds_after_finished is None or status.completion_time is None:
        return None
    return parse_timestamp(status.completion_time) + policy.ttl_seconds_after_finished
