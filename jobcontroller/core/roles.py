"""Roles of a job: how many pods each has, and how they are doing.

Owns replica arithmetic over `spec.replicaSpecs`. Does not know what a framework makes of a role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from api.training_v1alpha1 import ReplicaStatus, TrainingJobSpec
from jobcontroller.core.framework import RoleCounts
from jobcontroller.core.observed import PodPhase, PodView


def replicas(spec: TrainingJobSpec) -> dict[str, int]:
    """Return pods by role in the spec's order; roles without pods are left out."""
    return {role: replica.replicas for role, replica in spec.replica_specs.items() if replica.replicas > 0}


def counts(wanted: Mapping[str, int], pods: Iterable[PodView]) -> dict[str, RoleCounts]:
    """Return, for the pods each role of an attempt has, how many of them succeeded."""
    succeeded = dict.fromkeys(wanted, 0)
    for pod in pods:
        if pod.phase is PodPhase.SUCCEEDED and pod.role in succeeded:
            succeeded[pod.role] += 1
    return {role: RoleCounts(count, succeeded[role]) for role, count in wanted.items()}


def statuses(spec: TrainingJobSpec, pods: Iterable[PodView]) -> dict[str, ReplicaStatus]:
    """Return `status.replicaStatuses`: pods of the current attempt by what they do."""
    result = {role: ReplicaStatus() for role in spec.replica_specs}
    for pod in pods:
        status = result.get(pod.role)
        if status is None:
            continue
        if pod.phase is PodPhase.SUCCEEDED:
            status.succeeded += 1
        elif pod.phase is PodPhase.FAILED:
            status.failed += 1
        else:
            status.active += 1
            status.ready += pod.is_ready
    return result
