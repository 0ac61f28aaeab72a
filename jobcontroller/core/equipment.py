"""Files a framework gives its pods: a ConfigMap of the attempt and a Secret with the job's ssh keys.

Owns their bodies and where pods mount them. The keys themselves are made where the Secret is created
(shell/executor.py): no key passes through a decision, a status or a log. Invariants: both names carry the job's uid, so
that whoever finds the name taken knows the object is this job's and need not read it; the ConfigMap's carries the
attempt too and is never changed; both are owned by the job."""

from __future__ import annotations

from typing import Any

from api.training_v1alpha1 import TrainingJob, TrainingJobStatus
from jobcontroller.core import attempts
from jobcontroller.core.actions import Action, ApplyConfigMap, ApplySshKeys
from jobcontroller.core.framework import Equipment
from jobcontroller.core.ownership import labels, owner_references

_CONFIG_VOLUME = "headrace-config"
_SSH_VOLUME = "headrace-ssh"
#: read-only for everybody but nobody's to change: ssh refuses keys others could have written
_SSH_MODE = 0o400
_UID_CHARACTERS = 8


def config_map_name(job: TrainingJob, attempt: int) -> str:
    """Return the name of the attempt's ConfigMap."""
    return attempts.shortened(job.metadata.name, f"-mpi-hostfile-a{attempt}-{_uid(job)}")


def secret_name(job: TrainingJob) -> str:
    """Return the name of the job's Secret with ssh keys."""
    return attempts.shortened(job.metadata.name, f"-mpi-ssh-auth-{_uid(job)}")


def creations(job: TrainingJob, attempt: int, equipment: Equipment) -> list[Action]:
    """Return what has to be there before the attempt's pods are."""
    config = config_map_name(job, attempt)
    secret = secret_name(job)
    return [
        ApplyConfigMap(
            config,
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": _metadata(job, config),
                "immutable": True,
                "data": dict(equipment.config_files),
            },
        ),
        ApplySshKeys(
            secret,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": _metadata(job, secret),
                "immutable": True,
                "type": "Opaque",
            },
        ),
    ]


def mount(
    job: TrainingJob, status: TrainingJobStatus, equipment: Equipment, role: str, pod_spec: dict[str, Any]
) -> None:
    """Show the files to every container of a pod under construction."""
    secret = {"name": _SSH_VOLUME, "secret": {"secretName": secret_name(job), "defaultMode": _SSH_MODE}}
    volumes: list[dict[str, Any]] = [secret]
    mounts = [{"name": _SSH_VOLUME, "mountPath": equipment.ssh_directory, "readOnly": True}]
    if role in equipment.config_roles:
        volumes.append({"name": _CONFIG_VOLUME, "configMap": {"name": config_map_name(job, status.attempt)}})
        mounts.append({"name": _CONFIG_VOLUME, "mountPath": equipment.config_directory, "readOnly": True})
    pod_spec["volumes"] = [*(pod_spec.get("volumes") or []), *volumes]
    for field_name in ("initContainers", "containers"):
        for container in pod_spec.get(field_name) or []:
            container["volumeMounts"] = [*(container.get("volumeMounts") or []), *mounts]


def _metadata(job: TrainingJob, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": labels(job),
        "ownerReferences": owner_references(job),
    }


def _uid(job: TrainingJob) -> str:
    return job.metadata.uid.replace("-", "")[:_UID_CHARACTERS]
