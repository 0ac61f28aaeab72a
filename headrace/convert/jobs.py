"""Training jobs of KubeDL (training.kubedl.io) and Kubeflow's training-operator v1 (kubeflow.org) as TrainingJobs.

Owns the table of kinds and the mapping of their fields (reference: KubeDL apis/training/v1alpha1, training-operator
pkg/apis/kubeflow.org/v1). Defaults that differ from ours are written out, so that the job behaves as it did."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from api import names
from headrace.convert.fields import Body, Fields

KUBEDL, KUBEFLOW = "training.kubedl.io", "kubeflow.org"


@dataclass(frozen=True, slots=True)
class JobKind:
    """What a foreign kind is here: framework, its options' field, where the roles are, KubeDL's cleanPodPolicy."""

    framework: str
    options: str
    replica_specs: str
    clean_pod_policy: str = "None"


KINDS: dict[str, JobKind] = {
    "JAXJob": JobKind("JAX", "jax", "jaxReplicaSpecs"),
    "MPIJob": JobKind("MPI", "mpi", "mpiReplicaSpecs", "Running"),
    "PaddleJob": JobKind("Paddle", "paddle", "paddleReplicaSpecs"),
    "PyTorchJob": JobKind("PyTorch", "pytorch", "pytorchReplicaSpecs"),
    "TFJob": JobKind("TensorFlow", "tensorflow", "tfReplicaSpecs", "Running"),
    "XGBoostJob": JobKind("XGBoost", "xgboost", "xgbReplicaSpecs"),
}
# Containers name the rendezvous port so; ours is an option of the framework.
_PORT_NAMES = {
    f"{stem}-port" for stem in ("pytorchjob", "tfjob", "xgboostjob", "paddlejob", "jaxjob", "mpijob", "master")
}


def convert_job(group: str, kind: str, source: Fields) -> Body:
    """The TrainingJob's spec."""
    known = KINDS[kind]
    policy: Body = {}
    _run_policy(source, policy)
    nested = source.part("runPolicy")
    _run_policy(nested, policy)
    nested.finish()
    policy.setdefault("cleanPodPolicy", known.clean_pod_policy if group == KUBEDL else "None")
    if source.take("successPolicy") == "AllWorkers":
        policy["successPolicy"] = "AllWorkers"
    elif known.framework == "TensorFlow":
        source.note("without a Chief, worker 0 alone ended the job there; here all workers do")
    options: Body = {}
    roles: Body = {}
    for role, replica in source.part(known.replica_specs).items():
        roles[role] = _replica(replica, options)
    source.copy(options, *{"pytorch": ("nprocPerNode",), "mpi": ("slotsPerWorker",)}.get(known.options, ()))
    if isinstance(options.get("nprocPerNode"), str) and options["nprocPerNode"].isdecimal():
        options["nprocPerNode"] = int(options["nprocPerNode"])
    if known.options == "mpi":
        implementation = source.take("mpiImplementation")
        if implementation is not None:
            options["implementation"] = implementation
        options.pop("port", None)
        source.note("mpirun reaches the workers over ssh, not kubectl exec: their image needs sshd")
    if known.options == "tensorflow" and source.take("enableDynamicWorker"):
        options["enableDynamicWorker"] = True
    if known.options == "pytorch":
        _elastic(source.part("elasticPolicy"), options)
    scheduling = policy.get("schedulingPolicy", {})
    if "elastic" in options and scheduling.pop("minAvailable", None) is not None:
        source.note("schedulingPolicy.minAvailable was left out: pytorch.elastic.min says how many workers are enough")
    source.finish()
    spec: Body = {"framework": known.framework, "replicaSpecs": roles, "runPolicy": policy}
    return spec | ({known.options: options} if options else {})


def _elastic(source: Fields, options: Body) -> None:
    found: Body = {}
    for theirs, ours in (("minReplicas", "min"), ("maxReplicas", "max")):
        value = source.take(theirs)
        if value is not None:
            found[ours] = value
    source.copy(found, "rdzvBackend", "maxRestarts")
    host, port = source.take("rdzvHost"), source.take("rdzvPort")
    if host is not None and port is not None:
        found["rdzvEndpoint"] = f"{host}:{port}"
    conf = {str(one.take("key")): str(one.take("value")) for one in source.parts("rdzvConf")}
    if conf:
        found["rdzvConf"] = conf
    if "nprocPerNode" not in options:
        per_node = source.take("nProcPerNode")
        if per_node is not None:
            options["nprocPerNode"] = per_node
    source.finish()
    if found:
        options["elastic"] = found


def _run_policy(source: Fields, policy: Body) -> None:
    source.copy(
        policy, "cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit", "suspend",
        "managedBy",
    )  # fmt: skip
    scheduling = source.part("schedulingPolicy")
    found: Body = {}
    scheduling.copy(found, "minAvailable", "queue", "priorityClassName")
    for theirs, ours in (("priorityClass", "priorityClassName"), ("scheduleTimeoutSeconds", "timeoutSeconds")):
        value = scheduling.take(theirs)
        if value is not None:
            found[ours] = value
    scheduling.finish()
    if found:
        policy["schedulingPolicy"] = found


def _replica(source: Fields, options: Body) -> Body:
    found: Body = {"replicas": source.take("replicas", 1)}
    source.copy(found, "restartPolicy")
    template = deepcopy(source.take("template", {}))
    pod = template.get("spec") if isinstance(template, dict) else None
    if isinstance(pod, dict):
        _without_scheduler(source, pod)
        port = _port(pod)
        if port is not None:
            options.setdefault("port", port)
    found["template"] = template
    spot = source.part("spotReplicaSpec")
    taken: Body = {}
    spot.copy(taken, "spotReplicaNumber", "priorityClassName", "labels")
    spot.finish()
    if taken:
        found["spotReplicaSpec"] = taken
    source.finish()
    return found


def _without_scheduler(source: Fields, pod: Body) -> None:
    scheduler = pod.pop("schedulerName", None)
    if scheduler not in (None, "default-scheduler", names.DEFAULT_SCHEDULER_NAME):
        source.note(f"template.spec.schedulerName {scheduler} was left out: jobs are placed by Headrace's scheduler")


def _port(pod: Body) -> int | None:
    containers = [one for one in pod.get("containers") or [] if isinstance(one, dict)]
    ports = [port for one in containers for port in one.get("ports") or [] if isinstance(port, dict)]
    for port in ports:
        if port.get("name") in _PORT_NAMES and isinstance(port.get("containerPort"), int):
            return int(port["containerPort"])
    return None
