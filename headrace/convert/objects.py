"""Documents in, documents out: which converter an object goes to, and what is said about it.

Owns the list of kinds. Pure. Invariant: what comes out is valid for our API as far as its schema can see; an object
that is not is named with its problem and left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.cacheruntime_v1alpha1 import CacheRuntime
from api.cron_v1alpha1 import CronTrainingJob
from api.data_v1alpha1 import Dataset
from api.dataload_v1alpha1 import DataLoad
from api.training_v1alpha1 import TrainingJob
from headrace.convert.crons import KUBEDL_APPS, convert_cron, convert_job_with_policy, has_policy
from headrace.convert.data import FLUID, RUNTIMES, convert_dataset, convert_load, convert_runtime
from headrace.convert.fields import Body, Fields
from headrace.convert.jobs import KINDS, KUBEDL, KUBEFLOW, convert_job
from kube.resources import CACHE_RUNTIMES, CRON_TRAINING_JOBS, DATA_LOADS, DATASETS, TRAINING_JOBS, Resource

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MODELS: dict[str, Any] = {
    "TrainingJob": TrainingJob,
    "CronTrainingJob": CronTrainingJob,
    "Dataset": Dataset,
    "DataLoad": DataLoad,
    "CacheRuntime": CacheRuntime,
}


@dataclass(frozen=True, slots=True)
class Converted:
    """Objects of ours, and sentences on what was left out or means something else here."""

    bodies: list[Body]
    notes: list[str]


def convert(documents: Sequence[Any]) -> Converted:
    """Convert what can be; every other document is named in the notes."""
    bodies: list[Body] = []
    notes: list[str] = []
    objects = [document for document in documents if isinstance(document, Mapping)]
    for number, document in enumerate(documents, 1):
        if document is not None and not isinstance(document, Mapping):
            notes.append(f"document {number} is no object")
    runtimes = {str(_meta(item).get("name")) for item in objects if item.get("kind") in RUNTIMES}
    for item in objects:
        body = _one(item, runtimes, notes)
        if body is not None:
            bodies.append(body)
    return Converted(bodies, notes)


def _one(item: Mapping[str, Any], runtimes: set[str], notes: list[str]) -> Body | None:
    group = str(item.get("apiVersion", "")).partition("/")[0]
    kind, meta = str(item.get("kind", "")), _meta(item)
    title = f"{kind} {meta.get('name', '')}"
    spec = item.get("spec")
    source = Fields(f"{title} spec", spec if isinstance(spec, Mapping) else {}, notes)
    found = _converter(group, kind, str(meta.get("name", "")), runtimes, has_schedule=has_policy(spec))
    if found is None:
        notes.append(f"{title} ({item.get('apiVersion')}) is of no kind that can be converted; it was left out")
        return None
    resource, work = found
    body: Body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": _metadata(title, meta, notes),
        "spec": work(source),
    }
    try:
        _MODELS[resource.kind].model_validate(body)
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(map(str, problem["loc"]))
            notes.append(f"{title}: {field}: {problem['msg']}; the object was left out")
        return None
    return body


def _converter(
    group: str, kind: str, name: str, runtimes: set[str], *, has_schedule: bool
) -> tuple[Resource, Callable[[Fields], Body]] | None:
    if group == KUBEDL_APPS and kind == "Cron":
        return CRON_TRAINING_JOBS, convert_cron
    if group == KUBEDL and kind in KINDS and has_schedule:
        return CRON_TRAINING_JOBS, lambda source: convert_job_with_policy(kind, source)
    if group in (KUBEDL, KUBEFLOW) and kind in KINDS:
        return TRAINING_JOBS, lambda source: convert_job(group, kind, source)
    if group != FLUID:
        return None
    if kind == "Dataset":
        return DATASETS, lambda source: convert_dataset(name, source, runtimes)
    if kind == "DataLoad":
        return DATA_LOADS, convert_load
    return (CACHE_RUNTIMES, convert_runtime) if kind in RUNTIMES else None


def _meta(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object's metadata; empty when that is something else: the object then has no name, and is left out."""
    found = item.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _metadata(title: str, meta: Mapping[str, Any], notes: list[str]) -> Body:
    kept: Body = {name: meta[name] for name in ("name", "namespace", "labels") if meta.get(name)}
    annotations = {}
    source = meta.get("annotations")
    if source and not isinstance(source, Mapping):
        notes.append(f"{title} metadata.annotations is no object; it was left out")
        source = {}
    for name, value in (source or {}).items():
        if "kubedl.io/" in str(name) or "aimaster" in str(name):
            notes.append(f"{title} metadata.annotations: {name} has no counterpart and was left out")
        elif name != _LAST_APPLIED:
            annotations[name] = value
    return kept | ({"annotations": annotations} if annotations else {})
