"""Pods from templates: the only place that builds them.

Owns what is added to a user's template: names, labels, owner, gang, environment, dataset volumes. Leaves the
rest as the user wrote it. Invariant: the same job, status, role and index give the same pod, whoever asks."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from api import names
from api.training_v1alpha1 import JobDataset, TrainingJob, TrainingJobSpec, TrainingJobStatus
from jobcontroller.core import attempts, checkpoints, elastic, equipment, indexes, kueue, start_gate, suspects
from jobcontroller.core.framework import Framework, Rendezvous, is_equipped
from jobcontroller.core.ownership import labels, owner_references


def build_pod(
    job: TrainingJob, status: TrainingJobStatus, framework: Framework, role: str, index: int
) -> dict[str, Any]:
    """Return the pod of one member of the attempt `status` says is started. Raises KeyError for a role the
    spec does not have."""
    replica = job.spec.replica_specs[role]
    template = copy.deepcopy(dict(replica.template))
    pod_spec: dict[str, Any] = template.get("spec", {})
    name = attempts.pod_name(job.metadata.name, role, index, status.attempt)
    pod_spec |= {
        "hostname": name,
        "subdomain": job.metadata.name,
        # The attempt is restarted as a whole; a container restarted alone would meet peers that gave up.
        "restartPolicy": "Never",
    }
    pod_spec.setdefault("schedulerName", names.DEFAULT_SCHEDULER_NAME)
    if status.grace_seconds is not None:
        pod_spec.setdefault("terminationGracePeriodSeconds", status.grace_seconds)
    priority_class = job.spec.run_policy.scheduling_policy.priority_class_name
    if priority_class is not None:
        pod_spec.setdefault("priorityClassName", priority_class)
    metadata = _metadata(job, status, template.get("metadata") or {}, (role, index))
    if replica.spot_replica_spec is not None and _is_spot(job, status, role, index):
        _apply_spot(metadata, pod_spec, replica.spot_replica_spec.to_wire())
    suspects.avoid(status, pod_spec)
    environment = _environment(job, status, framework, role, index)
    _fill_containers(pod_spec, environment, job.spec)
    if is_equipped(framework):
        equipment.mount(job, status, framework.equipment(rendezvous(job, status, framework)), role, pod_spec)
    if replica.depends_on or (role == elastic.ROLE and index in elastic.reserves(status)):
        start_gate.close(metadata, pod_spec)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec}


def rendezvous(job: TrainingJob, status: TrainingJobStatus, framework: Framework) -> Rendezvous:
    """Return how the pods of the started attempt find each other."""
    port = framework.port(job.spec) or attempts.rendezvous_port(job.metadata.uid, status.attempt)
    return Rendezvous(
        job_name=job.metadata.name,
        attempt=status.attempt,
        replicas=dict(status.started_replicas),
        port=port,
        spec=job.spec,
    )


def _metadata(
    job: TrainingJob, status: TrainingJobStatus, template: Mapping[str, Any], member: tuple[str, int]
) -> dict[str, Any]:
    role, index = member
    own_labels = labels(job) | {
        names.JOB_ROLE_LABEL: role,
        names.JOB_INDEX_LABEL: str(index),
        names.JOB_ATTEMPT_LABEL: str(status.attempt),
        names.POD_GROUP_LABEL: attempts.group_name(job.metadata.name, status.attempt),
        **kueue.pod_labels(job, status),
    }
    annotations = dict(template.get("annotations") or {}) | kueue.pod_annotations(job, status)
    datasets = datasets_annotation(job.spec)
    if datasets is not None:
        annotations[names.DATASETS_ANNOTATION] = datasets
    nodes = checkpoints.nodes_annotation(status)
    if nodes is not None:
        annotations[names.CHECKPOINT_NODES_ANNOTATION] = nodes
    return {
        "name": attempts.pod_name(job.metadata.name, role, index, status.attempt),
        "namespace": job.metadata.namespace,
        "labels": dict(template.get("labels") or {}) | own_labels,
        "annotations": annotations,
        "ownerReferences": owner_references(job),
    }


def datasets_annotation(spec: TrainingJobSpec) -> str | None:
    """Return what the scheduler is told the pod reads; None when that is nothing.

    A dataset that only takes checkpoints is left out: its old checkpoints are not going to be read."""
    entries = [_annotation_entry(dataset) for dataset in spec.datasets if not _only_checkpoints(spec, dataset)]
    return json.dumps(entries, separators=(",", ":")) if entries else None


def _only_checkpoints(spec: TrainingJobSpec, dataset: JobDataset) -> bool:
    return spec.checkpoint is not None and spec.checkpoint.dataset == dataset.name and not dataset.paths


def _annotation_entry(dataset: JobDataset) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": dataset.name}
    if dataset.paths:
        entry["paths"] = dataset.paths
    entry["required"] = dataset.required
    if dataset.max_wait_seconds is not None:
        entry["maxWaitSeconds"] = dataset.max_wait_seconds
    return entry


def _environment(
    job: TrainingJob, status: TrainingJobStatus, framework: Framework, role: str, index: int
) -> dict[str, str]:
    return {
        names.ENV_JOB_NAME: job.metadata.name,
        names.ENV_JOB_ATTEMPT: str(status.attempt),
        names.ENV_ROLE: role,
        names.ENV_INDEX: str(index),
        **checkpoints.environment(job.spec, status, job.spec.replica_specs[role].template),
        **framework.env(rendezvous(job, status, framework), role, index),
    }


def _fill_containers(pod_spec: dict[str, Any], environment: Mapping[str, str], spec: TrainingJobSpec) -> None:
    volumes, mounts = _dataset_volumes(spec)
    if volumes:
        pod_spec["volumes"] = [*(pod_spec.get("volumes") or []), *volumes]
    for field_name in ("initContainers", "containers"):
        for container in pod_spec.get(field_name) or []:
            own = container.get("env") or []
            set_by_user = {entry.get("name") for entry in own}
            # Ours first: Kubernetes expands $(NAME) in a variable only from those before it.
            ours = [{"name": key, "value": value} for key, value in environment.items() if key not in set_by_user]
            container["env"] = [*ours, *own]
            if mounts:
                container["volumeMounts"] = [*(container.get("volumeMounts") or []), *mounts]


def _dataset_volumes(spec: TrainingJobSpec) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes, mounts = [], []
    for index, dataset in enumerate(spec.datasets):
        # A Dataset's name may be longer than a volume's may be, and hold dots.
        volume = f"headrace-dataset-{index}"
        claim = {"claimName": dataset.name, "readOnly": dataset.read_only}
        volumes.append({"name": volume, "persistentVolumeClaim": claim})
        mounts.append({"name": volume, "mountPath": dataset.mount_path, "readOnly": dataset.read_only})
    return volumes, mounts


def _is_spot(job: TrainingJob, status: TrainingJobStatus, role: str, index: int) -> bool:
    if role == elastic.ROLE and status.elastic is not None:
        return index in indexes.parse(status.elastic.spot)
    replica = job.spec.replica_specs[role]
    spot = replica.spot_replica_spec
    return spot is not None and index >= replica.replicas - spot.spot_replica_number


def _apply_spot(metadata: dict[str, Any], pod_spec: dict[str, Any], spot: Mapping[str, Any]) -> None:
    if spot.get("priorityClassName"):
        pod_spec["priorityClassName"] = spot["priorityClassName"]
    if spot.get("tolerations"):
        pod_spec["tolerations"] = [*(pod_spec.get("tolerations") or []), *spot["tolerations"]]
    # The controller's own labels are how it finds the pod again.
    metadata["labels"] = {**(spot.get("labels") or {}), **metadata["labels"]}
