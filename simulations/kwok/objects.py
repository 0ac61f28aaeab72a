"""Bodies of a simulated world's objects for a real API server, and what is written to make kwok act. Pure.

Owns what the API server and kwok want beyond engine/objects.py. The annotations are those of
headrace/cluster/kwok_stages.yaml: a pod ends, and a node is lost, when it is told so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from api import names
from jobcontroller.core import attempts
from kube.identity import JsonObject
from kube.objects import NodeCache
from kube.resources import DATASETS, NODE_CACHES, NODES, POD_GROUPS, PODS, PRIORITY_CLASSES, TRAINING_JOBS, Resource
from simulations.engine import objects
from simulations.engine.driver import Attempt, Ending
from simulations.engine.model import DatasetSpec, World

KWOK_NODE: Final = {"kwok.x-k8s.io/node": "fake"}
POD_ENDS, NODE_STATE = "kwok.headrace.dev/ends", "kwok.headrace.dev/state"
ENDS_AS: Final = {Ending.FINISHED: "succeeded", Ending.LOST: "failed", Ending.PREEMPTED: "preempted"}
UNREACHABLE: Final = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}
PRIORITY_CLASS, PROBE, IMAGE, ROLE = "simulated", "is-the-scheduler-there", "registry.invalid/none", "Worker"


class Verb(StrEnum):
    """How something is written."""

    CREATE = "create"
    PATCH = "patch"
    STATUS = "status"  # a merge patch of the status
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Write:
    """One request to the API server."""

    verb: Verb
    resource: Resource
    name: str
    body: JsonObject

    @property
    def namespace(self) -> str | None:
        """Where it goes; None for what has no namespace."""
        return objects.NAMESPACE if self.resource.namespaced else None


def priority_class() -> Write:
    """The only priority there is; its pods preempt nobody."""
    body = {"metadata": {"name": PRIORITY_CLASS}, "value": 0, "preemptionPolicy": "Never"}
    return _create(PRIORITY_CLASSES, body)


def dataset(spec: DatasetSpec) -> tuple[Write, Write]:
    """A Dataset, and then the status of one that is listed."""
    mount = {"name": spec.name, "mountPoint": f"file:///simulated/{spec.name}"}
    body = _builtins(objects.dataset_object(spec))
    body["metadata"].pop("uid")
    status = {"status": {**body.pop("status"), "phase": "Bound"}}
    made = _create(DATASETS, {**body, "spec": {"mounts": [mount]}})
    return made, Write(Verb.STATUS, DATASETS, spec.name, status)


def node(world: World, index: int) -> Write:
    """A Node of kwok's."""
    body = _builtins(objects.node_object(world, index, is_open=True))
    body["metadata"]["annotations"] = dict(KWOK_NODE)
    body["status"]["capacity"] = body["status"]["allocatable"]
    return _create(NODES, body)


def node_state(world: World, index: int, *, is_up: bool, is_open: bool) -> Write:
    """A node is lost, cordoned, or there again. The taint is what the node lifecycle controller would write."""
    body: JsonObject = {
        "metadata": {"annotations": {NODE_STATE: None if is_up else "lost"}},
        "spec": {"unschedulable": None if is_open else True, "taints": None if is_up else [UNREACHABLE]},
    }
    return Write(Verb.PATCH, NODES, world.nodes[index].name, body)


def node_cache(world: World, index: int) -> Write:
    """A NodeCache nothing is known of."""
    return _create(NODE_CACHES, {"metadata": {"name": world.nodes[index].name}})


def node_cache_status(told: NodeCache, *, is_served: bool) -> Write:
    """What a node's cache holds; not served: its worker is gone."""
    status: JsonObject = {"worker": None, "tiers": [], "datasets": []}
    if is_served:
        typed = told.status
        status |= _builtins(typed)
        # The CRD wants every field, also 0, which the typed structs leave out.
        status["tiers"] = [{"medium": at.medium, "capacity": at.capacity, "used": at.used} for at in typed.tiers]
    return Write(Verb.STATUS, NODE_CACHES, told.metadata.name, {"status": status})


class Shape(StrEnum):
    """What a job is in the cluster."""

    PODS = "pods"  # pods and a PodGroup, made here
    TRAINING_JOBS = "training-jobs"  # a TrainingJob; the job controller makes all else, again after a failure


def pod_names(attempt: Attempt, shape: Shape) -> list[str]:
    """The names of an attempt's pods, in the order of its uids."""
    if shape is Shape.PODS:
        return [f"p{uid}" for uid in attempt.uids]
    number = attempt.number - 1
    return [attempts.pod_name(attempt.spec.name, ROLE, pod, number) for pod in range(attempt.spec.pods)]


def training_job(world: World, attempt: Attempt, scheduler: str) -> Write:
    """The TrainingJob of a job's first attempt. Where its checkpoints are only a metadata service could tell."""
    template = _pod(world, attempt, scheduler, {})
    return _create(
        TRAINING_JOBS,
        {
            "metadata": {"name": attempt.spec.name},
            "spec": {
                "framework": "Custom",
                "runPolicy": {"restarts": {"infrastructure": 1000, "preemption": 10_000}},
                "replicaSpecs": {ROLE: {"replicas": attempt.spec.pods, "template": template}},
            },
        },
    )


def gang(attempt: Attempt) -> Write:
    """The PodGroup of an attempt."""
    body = _builtins(objects.group_object(attempt.group, attempt.spec.pods))
    body["metadata"].pop("uid")
    return _create(POD_GROUPS, body)


def pods(
    world: World, attempt: Attempt, scheduler: str, checkpoint: Mapping[int, float], *, is_gang: bool
) -> list[Write]:
    """The pods of an attempt; a gang's have its label."""
    template = _pod(world, attempt, scheduler, checkpoint)
    metadata = template["metadata"] | ({"labels": {names.POD_GROUP_LABEL: attempt.group}} if is_gang else {})
    return [
        _create(PODS, {**template, "metadata": {**metadata, "name": name}}) for name in pod_names(attempt, Shape.PODS)
    ]


def _pod(world: World, attempt: Attempt, scheduler: str, checkpoint: Mapping[int, float]) -> JsonObject:
    """Metadata and spec of one of an attempt's pods, without a name."""
    # Priority and its preemption policy come from the class: the API server refuses them otherwise.
    spec = msgspec.structs.replace(
        objects.pod_spec(attempt.spec, scheduler),
        priority=0,
        preemption_policy="PreemptLowerPriority",
        priority_class_name=PRIORITY_CLASS,
        restart_policy="Never",
        termination_grace_period_seconds=0,
    )
    made = _builtins(spec)
    for container in made["containers"]:
        container["image"] = IMAGE
        if attempt.spec.gpus:
            container["resources"]["limits"] = {names.GPU_RESOURCE: str(attempt.spec.gpus)}
    annotations = objects.data_annotations(world, attempt.spec, checkpoint)
    return {"metadata": {"annotations": annotations}, "spec": made}


def probe_pod(scheduler: str) -> Write:
    """A pod no node takes: once it was told so its scheduler is there."""
    container = {"name": "main", "image": IMAGE}
    spec = {"schedulerName": scheduler, "containers": [container], "nodeSelector": {"simulated": "nowhere"}}
    return _create(PODS, {"metadata": {"name": PROBE}, "spec": {**spec, "priorityClassName": PRIORITY_CLASS}})


def pod_ends(name: str, ending: Ending) -> Write:
    """kwok is to end a pod, bound or not."""
    return Write(Verb.PATCH, PODS, name, {"metadata": {"annotations": {POD_ENDS: ENDS_AS[ending]}}})


def pod_goes(name: str) -> Write:
    """A pod that was never bound is not kwok's to end."""
    return Write(Verb.DELETE, PODS, name, {})


def _create(resource: Resource, body: JsonObject) -> Write:
    whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
    return Write(Verb.CREATE, resource, body["metadata"]["name"], whole)


def _builtins(item: msgspec.Struct) -> JsonObject:
    found: JsonObject = msgspec.to_builtins(item)
    return found
