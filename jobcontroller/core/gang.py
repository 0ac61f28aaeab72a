"""The job's gang: one PodGroup an attempt over all roles, and the headless Service of the job.

Owns the two objects' content. One group for the whole job: a group a role lets one role hold GPUs while
another can never be placed. A group an attempt: pods of an old attempt must not count for the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api import names
from api.podgroup import PodGroup, PodGroupSpec
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core import attempts, elastic
from jobcontroller.core.ownership import labels, owner_references


def min_member(job: TrainingJob, replicas: Mapping[str, int]) -> int:
    """Pods that must be placed together: all of `replicas` (the attempt's, by role), unless
    schedulingPolicy.minAvailable says fewer, or the job is elastic and may begin with fewer workers."""
    total = sum(replicas.values())
    limits = elastic.bounds(job.spec)
    if limits is not None:
        workers = replicas.get(elastic.ROLE, 0)
        return total - workers + min(workers, limits.minimum)
    wanted = job.spec.run_policy.scheduling_policy.min_available
    return total if wanted is None else min(wanted, total)


def pod_group(job: TrainingJob, attempt: int, replicas: Mapping[str, int]) -> dict[str, Any]:
    """Return the PodGroup of one attempt with these pods."""
    policy = job.spec.run_policy.scheduling_policy
    topology = policy.topology
    wanted = {
        names.REQUIRED_TOPOLOGY_ANNOTATION: topology.required if topology is not None else None,
        names.PREFERRED_TOPOLOGY_ANNOTATION: topology.preferred if topology is not None else None,
    }
    annotations = {key: value for key, value in wanted.items() if value}
    spec = PodGroupSpec(min_member=min_member(job, replicas), schedule_timeout_seconds=policy.timeout_seconds)
    return {
        "apiVersion": f"{names.SCHEDULING_GROUP}/{names.API_VERSION}",
        "kind": PodGroup.KIND,
        "metadata": {
            "name": attempts.group_name(job.metadata.name, attempt),
            "namespace": job.metadata.namespace,
            "labels": labels(job) | {names.JOB_ATTEMPT_LABEL: str(attempt)},
            **({"annotations": annotations} if annotations else {}),
            "ownerReferences": owner_references(job),
        },
        "spec": spec.to_wire(),
    }


def service(job: TrainingJob) -> dict[str, Any]:
    """Return the headless Service that gives every pod a DNS name before it is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": job.metadata.name,
            "namespace": job.metadata.namespace,
            "labels": labels(job),
            "ownerReferences": owner_references(job),
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.JOB_UID_LABEL: job.metadata.uid},
        },
    }
