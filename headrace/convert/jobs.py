"""Training jobs of KubeDL (training.kubedl.io) and Kubeflow's training-operator v1 (kubeflow.org) as TrainingJobs.

Owns the table of kinds and the mapping of their fields (reference: KubeDL apis/training/v1alpha1, training-operator
pkg/apis/kubeflow.org/v1). Defaults that differ from ours are written out, so that the job behaves as it did."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from api import names
from headrace.convert.fields import Body, Fields

KUBEDL, KUBEFLOW = "training.kubedl.io", "kubeflow.org"


@dataclass(frozen=True, slots=True)
class JobKind:
    """What a foreign kind is here: framework, its options' field, where the roles are and which there are, and the
    defaults each system has: KubeDL's cleanPodPolicy, and the restartPolicy of a role."""

    framework: str
    options: str
    replica_specs: str
    roles: tuple[str, ...]
    clean_pod_policy: str = "None"
    kubedl_restarts: Mapping[str, str] = field(default_factory=dict)
    kubeflow_restart: str = "Never"


_MASTER_WORKER = ("Master", "Worker")
_TENSORFLOW = ("PS", "Worker", "Chief", "Master", "Evaluator")
_MPI = ("Launcher", "Worker")
KINDS: dict[str, JobKind] = {
    "JAXJob": JobKind("JAX", "jax", "jaxReplicaSpecs", ("Worker",)),
    "MPIJob": JobKind("MPI", "mpi", "mpiReplicaSpecs", _MPI, "Running", dict.fromkeys(_MPI, "Never")),
    "PaddleJob": JobKind("Paddle", "paddle", "paddleReplicaSpecs", _MASTER_WORKER, kubeflow_restart="OnFailure"),
    "PyTorchJob": JobKind(
        "PyTorch",
        "pytorch",
        "pytorchReplicaSpecs",
        _MASTER_WORKER,
        kubedl_restarts={"Master": "ExitCode", "Worker": "OnFailure"},
        kubeflow_restart="OnFailure",
    ),
    "TFJob": JobKind(
        "TensorFlow", "tensorflow", "tfReplicaSpecs", _TENSORFLOW, "Running", dict.fromkeys(_TENSORFLOW, "ExitCode")
    ),
    "XGBoostJob": JobKind("XGBoost", "xgboost", "xgbReplicaSpecs", _MASTER_WORKER),
}
#: of a KubeDL XGBoostJob that names none
_XGBOOST_TTL_SECONDS = 100
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
    if group == KUBEDL and kind == "XGBoostJob":
        policy.setdefault("ttlSecondsAfterFinished", _XGBOOST_TTL_SECONDS)
    if source.take("successPolicy") == "AllWorkers":
        policy["successPolicy"] = "AllWorkers"
    elif known.framework == "TensorFlow":
        source.note("without a Chief, worker 0 alone ended the job there; here all workers do")
    options: Body = {}
    roles = _roles(group, known, source.part(known.replica_specs), options)
    source.copy(options, *{"pytorch": ("nprocPerNode",), "mpi": ("slotsPerWorker",)}.get(known.options, ()))
    if isinstance(options.get("nprocPerNode"), str) and options["nprocPerNode"].isdecimal():
        options["nprocPerNode"] = int(options["nprocPerNode"])
    if known.options == "pytorch" and group == KUBEFLOW and "nprocPerNode" not in options:
        elastic = source.source.get("elasticPolicy")
        if not isinstance(elastic, Mapping) or elastic.get("nProcPerNode") is None:
            # Its default; one process a pod is ours.
            options["nprocPerNode"] = "auto"
    if known.options == "mpi":
        implementation = source.take("mpiImplementation") or source.take("mpiDistribution")
        if implementation is not None:
            options["implementation"] = "Intel" if implementation == "IntelMPI" else implementation
        source.copy(options, "sshAuthMountPath")
        if source.take("launcherCreationPolicy") == "AtStartup":
            source.note("launcherCreationPolicy AtStartup was left out: the Launcher waits until the workers are ready")
        options.pop("port", None)
        source.note("mpirun reaches the workers over ssh, not kubectl exec: their image needs sshd")
    if known.options == "tensorflow" and source.take("enableDynamicWorker"):
        options["enableDynamicWorker"] = True
    if known.options in ("pytorch", "paddle"):
        _elastic(source.part("elasticPolicy"), options, is_torchrun=known.options == "pytorch")
    scheduling = policy.get("schedulingPolicy", {})
    if "elastic" in options and scheduling.pop("minAvailable", None) is not None:
        text = f"{known.options}.elastic.min says how many workers are enough"
        source.note(f"schedulingPolicy.minAvailable was left out: {text}")
    source.finish()
    spec: Body = {"framework": known.framework, "replicaSpecs": roles, "runPolicy": policy}
    return spec | ({known.options: options} if options else {})


def _roles(group: str, known: JobKind, source: Fields, options: Body) -> Body:
    """The replicaSpecs; both systems take a role's name in any case, and give each a restartPolicy."""
    spelled = {role.lower(): role for role in known.roles}
    roles: Body = {}
    for name, replica in source.items():
        role = spelled.get(str(name).lower())
        if role is None or role in roles:
            replica.note(f"{known.framework} has no role {name} here; its roles are {', '.join(known.roles)}")
            continue
        roles[role] = _replica(replica, options)
        default = known.kubedl_restarts.get(role) if group == KUBEDL else known.kubeflow_restart
        if default is not None:
            roles[role].setdefault("restartPolicy", default)
    source.finish()
    return roles


def _elastic(source: Fields, options: Body, *, is_torchrun: bool) -> None:
    found: Body = {}
    for theirs, ours in (("minReplicas", "min"), ("maxReplicas", "max")):
        value = source.take(theirs)
        if value is not None:
            found[ours] = value
    if is_torchrun:
        _rendezvous(source, found, options)
    source.finish()
    if found:
        options["elastic"] = found


def _rendezvous(source: Fields, elastic: Body, options: Body) -> None:
    """What torchrun is told."""
    source.copy(elastic, "rdzvBackend", "maxRestarts")
    host, port = source.take("rdzvHost"), source.take("rdzvPort")
    if host is not None and port is not None:
        elastic["rdzvEndpoint"] = f"{host}:{port}"
        source.note(f"rdzvHost {host} is taken for a store outside the job; take rdzvEndpoint out for one of its pods")
    elif port is not None:
        options["port"] = port
    elif host is not None:
        source.note("rdzvHost was left out: it needs rdzvPort")
    conf = {str(one.take("key")): str(one.take("value")) for one in source.parts("rdzvConf")}
    if conf:
        elastic["rdzvConf"] = conf
    if "nprocPerNode" not in options:
        per_node = source.take("nProcPerNode")
        if per_node is not None:
            options["nprocPerNode"] = per_node


def _run_policy(source: Fields, policy: Body) -> None:
    source.copy(
        policy, "cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit", "suspend",
        "managedBy",
    )  # fmt: skip
    if str(policy.get("managedBy", "")).startswith(f"{KUBEFLOW}/"):
        source.note(f"managedBy {policy.pop('managedBy')} was left out: that operator does not run TrainingJobs")
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
