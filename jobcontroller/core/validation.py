"""What is wrong with a job's spec, beyond what the API server's schema can see.

Owns the checks and their sentences: each names the field, the value and what would be right. Does not check
what the API server checks when a pod is created (it names the field itself)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from api import names
from api.training_v1alpha1 import CheckpointSpec, TrainingJob, TrainingJobSpec
from jobcontroller.core import checkpoints, elastic, kueue, roles, startup
from jobcontroller.core.framework import Framework

#: the job's name is its Service's name, and a label's value on every pod
_SERVICE_NAME = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
_RESERVED_ENV = frozenset(
    {
        names.ENV_JOB_NAME,
        names.ENV_JOB_ATTEMPT,
        names.ENV_ROLE,
        names.ENV_INDEX,
        names.ENV_RESUME_FROM,
        names.ENV_RESUME_STEP,
        names.ENV_CHECKPOINT_DIR,
        names.ENV_PROGRESS_FILE,
    }
)
#: pod fields the controller sets, so that pods find each other
_OWN_POD_FIELDS = ("hostname", "subdomain", "setHostnameAsFQDN")
MAX_LISTED = 8


def first_problem(job: TrainingJob, framework: Framework) -> str | None:
    """Return one sentence on the first thing that is wrong; None when the job can be run."""
    return next(_problems(job, framework), None)


def fields_without_effect(spec: TrainingJobSpec) -> list[str]:
    """Return the fields that are set and that this version does not act on."""
    found = []
    if spec.checkpoint is not None and spec.checkpoint.keep is not None and spec.checkpoint.dataset is None:
        # The files of a volume are not known here.
        found.append("checkpoint.keep")
    return found


def _problems(job: TrainingJob, framework: Framework) -> Iterator[str]:
    if not _SERVICE_NAME.match(job.metadata.name):
        yield (
            f"metadata.name {job.metadata.name!r} cannot name the job's Service: use at most 63 lower-case letters, "
            "digits and '-', beginning with a letter"
        )
    yield from _role_problems(job.spec, framework)
    for role, replica in job.spec.replica_specs.items():
        yield from _template_problems(f"spec.replicaSpecs.{role}.template", replica.template, job.spec, framework)
    yield from _dataset_problems(job.spec)
    if job.spec.checkpoint is not None:
        yield from _checkpoint_problems(job.spec, job.spec.checkpoint)
    if kueue.queue_of(job) and elastic.bounds(job.spec) is not None:
        yield (
            f"label {names.KUEUE_QUEUE_LABEL} and spec.{job.spec.framework.lower()}.elastic exclude each other: a pod "
            "group of Kueue has a fixed number of pods"
        )
    problem = framework.validate(job.spec)
    if problem is not None:
        yield problem


def _role_problems(spec: TrainingJobSpec, framework: Framework) -> Iterator[str]:
    for role in spec.replica_specs:
        if framework.roles is not None and role not in framework.roles:
            known = ", ".join(framework.roles)
            yield f"spec.replicaSpecs.{role}: framework {framework.name} has no role {role}; its roles are {known}"
    twice = [role for role, times in Counter(role.lower() for role in spec.replica_specs).items() if times > 1]
    if twice:
        yield f"spec.replicaSpecs: two roles are spelled {twice[0]!r} but for capitals; pods would get the same names"
    yield from startup.problems(spec.replica_specs)
    wanted = roles.replicas(spec)
    if not wanted:
        yield "spec.replicaSpecs: every role has replicas 0; at least one pod is needed"
    yield from _elastic_problems(spec)
    minimum = spec.run_policy.scheduling_policy.min_available
    if minimum is not None and minimum > sum(wanted.values()):
        yield (
            f"spec.runPolicy.schedulingPolicy.minAvailable {minimum} is more than the {sum(wanted.values())} pods "
            "of the job"
        )


def _elastic_problems(spec: TrainingJobSpec) -> Iterator[str]:
    found, field_name = elastic.options(spec), f"spec.{spec.framework.lower()}.elastic"
    if found is None:
        return
    workers = spec.replica_specs.get(elastic.ROLE)
    if workers is None:
        yield f"{field_name}: only the role {elastic.ROLE} is elastic, and the job has none"
        return
    most = found.max if found.max is not None else workers.replicas
    if not found.min <= workers.replicas <= most:
        yield (
            f"spec.replicaSpecs.Worker.replicas is {workers.replicas}; it must be from {field_name}.min {found.min} to "
            f"max {most}"
        )
    if spec.run_policy.scheduling_policy.min_available is not None:
        yield f"spec.runPolicy.schedulingPolicy.minAvailable and {field_name} exclude each other; keep {field_name}.min"


def _template_problems(
    path: str, template: Mapping[str, Any], spec: TrainingJobSpec, framework: Framework
) -> Iterator[str]:
    pod = template.get("spec")
    if not isinstance(pod, dict):
        yield f"{path}.spec is missing: write the pod there, as in a Deployment's template"
        return
    for field_name in ("containers", "initContainers", "volumes"):
        entries = pod.get(field_name, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            yield f"{path}.spec.{field_name} must be a list of objects"
            return
    if not pod.get("containers"):
        yield f"{path}.spec.containers is empty: at least one container is needed"
    for field_name in _OWN_POD_FIELDS:
        if pod.get(field_name) is not None:
            yield f"{path}.spec.{field_name} is set by the controller, so that pods find each other; remove it"
    for field_name in ("containers", "initContainers"):
        for index, container in enumerate(pod.get(field_name, [])):
            yield from _env_problems(f"{path}.spec.{field_name}[{index}]", container, framework)
    metadata = template.get("metadata") or {}
    if not isinstance(metadata, dict):
        yield f"{path}.metadata must be an object"
    elif spec.datasets and names.DATASETS_ANNOTATION in (metadata.get("annotations") or {}):
        yield f"{path}.metadata.annotations: {names.DATASETS_ANNOTATION} and spec.datasets exclude each other"


def _env_problems(path: str, container: Mapping[str, Any], framework: Framework) -> Iterator[str]:
    entries = container.get("env") or []
    mounts = container.get("volumeMounts") or []
    for field_name, value in (("env", entries), ("volumeMounts", mounts)):
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            yield f"{path}.{field_name} must be a list of objects"
            return
    for entry in entries:
        name = entry.get("name")
        if name in _RESERVED_ENV or name in framework.reserved_env:
            yield f"{path}.env: {name} is set by the controller for framework {framework.name}; remove it"


def _dataset_problems(spec: TrainingJobSpec) -> Iterator[str]:
    paths = Counter(dataset.mount_path.rstrip("/") for dataset in spec.datasets)
    for index, dataset in enumerate(spec.datasets):
        path = dataset.mount_path.rstrip("/")
        if not path.startswith("/") or path == "" or ".." in path.split("/"):
            yield f"spec.datasets[{index}].mountPath {dataset.mount_path!r} must be an absolute path below /, as /data"
        elif paths[path] > 1:
            yield f"spec.datasets[{index}].mountPath {dataset.mount_path!r} is used by two datasets"


def _checkpoint_problems(spec: TrainingJobSpec, checkpoint: CheckpointSpec) -> Iterator[str]:
    if (checkpoint.dataset is None) == (checkpoint.volume is None):
        yield "spec.checkpoint: give either dataset or volume"
    if ".." in checkpoint.path.split("/") or checkpoint.path.startswith("/"):
        yield f"spec.checkpoint.path {checkpoint.path!r} must be relative to the dataset's root, as runs/one"
    if "/" in checkpoint.marker or not checkpoint.marker:
        yield f"spec.checkpoint.marker {checkpoint.marker!r} must be a file name, as COMPLETE"
    if checkpoint.dataset is not None:
        found = next((i for i, one in enumerate(spec.datasets) if one.name == checkpoint.dataset), None)
        if found is None:
            known = ", ".join(one.name for one in spec.datasets[:MAX_LISTED]) or "none"
            yield f"spec.checkpoint.dataset {checkpoint.dataset!r} is not one of spec.datasets ({known})"
        elif spec.datasets[found].read_only:
            yield f"spec.datasets[{found}].readOnly must be false: checkpoints are written to {checkpoint.dataset}"
    if checkpoint.volume is not None:
        for role, replica in spec.replica_specs.items():
            if checkpoints.mount_path_of_volume(replica.template, checkpoint.volume) is None:
                yield (
                    f"spec.checkpoint.volume {checkpoint.volume!r} is not mounted by a container of "
                    f"spec.replicaSpecs.{role}.template"
                )
