"""training.headrace.dev/v1alpha1: TrainingJob.

Owns the fields, limits and rules. Where KubeDL has a field, ours has its name and meaning. `manifests/crds` is
generated from here. Written by: users (spec), the job controller (status).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from api import names
from api.conditions import Conditions
from api.model import AnyObject, KubeObject, Model, Name, Path, ShortText, StringMap, Text, cel, immutable, rules

Framework = Literal["PyTorch", "TensorFlow", "MPI", "JAX", "XGBoost", "Paddle", "Custom"]
RestartPolicy = Literal["Always", "OnFailure", "Never", "ExitCode"]
RoleName = Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]


class DependsOn(Model):
    """Start this role after another reached a state."""

    role: RoleName
    status: Literal["Running", "Ready", "Succeeded"] = "Running"


class SpotReplicas(Model):
    """The last `spotReplicaNumber` indexes run on capacity that may be taken away."""

    spot_replica_number: int = Field(default=0, ge=0)
    priority_class_name: Name | None = None
    labels: StringMap = Field(default_factory=dict)
    tolerations: list[AnyObject] = Field(default_factory=list, max_length=32)


class ReplicaSpec(Model):
    """One role's pods."""

    replicas: int = Field(default=1, ge=0, le=20000)
    template: AnyObject = Field(description="core/v1 PodTemplateSpec")
    restart_policy: RestartPolicy | None = None
    depends_on: list[DependsOn] = Field(default_factory=list, max_length=8)
    spot_replica_spec: SpotReplicas | None = None


class Topology(Model):
    """Node label keys the gang should share a value of."""

    required: ShortText | None = None
    preferred: ShortText | None = None


class SchedulingPolicy(Model):
    """How the gang is placed."""

    min_available: int | None = Field(default=None, ge=1)
    queue: Name | None = None
    priority_class_name: Name | None = None
    topology: Topology | None = None
    timeout_seconds: int | None = Field(default=None, ge=1)


class Restarts(Model):
    """Restart budgets: how many whole-attempt restarts each kind of failure may cost."""

    user_error: int | None = Field(
        default=None, ge=0, le=1000, description="default 0; 6 where restartPolicy is OnFailure, Always or ExitCode"
    )
    infrastructure: int = Field(default=10, ge=0, le=1000)
    preemption: int = Field(default=100, ge=0, le=10000)


HangSignal = Literal["Log", "ProgressFile", "Heartbeat"]


class HangDetection(Model):
    """An attempt none of whose pods gives a sign of life for so long is ended, and another one begins."""

    RULES: ClassVar = (
        cel(
            "!has(self.signals) || !self.signals.exists(s, s == 'ProgressFile') || has(self.progressFile)",
            "signal ProgressFile needs progressFile",
        ),
        cel(
            "!has(self.progressFile) || (!self.progressFile.startsWith('/') && !self.progressFile.contains('..'))",
            "progressFile must be relative to the checkpoint directory, as progress",
        ),
    )

    timeout_seconds: int = Field(ge=5, le=604800, description="longest silence of all pods together")
    start_seconds: int | None = Field(
        default=None,
        ge=5,
        le=604800,
        description="from the start of the last container to the first sign; default timeoutSeconds",
    )
    signals: list[HangSignal] = Field(
        default_factory=lambda: list[HangSignal](["Log"]),
        min_length=1,
        max_length=3,
        description="what counts as a sign: a line in a pod's log, a change of progressFile, a heartbeat annotation",
    )
    progress_file: Path | None = Field(
        default=None, description="file below checkpoint.path the program writes again as it gets on"
    )


class RunPolicy(Model):
    """The life of the job around its pods."""

    clean_pod_policy: Literal["All", "Running", "None"] = "Running"
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0)
    active_deadline_seconds: int | None = Field(default=None, ge=1)
    backoff_limit: int | None = Field(default=None, ge=0, description="cap over all restarts, whatever their kind")
    suspend: bool = False
    managed_by: ShortText | None = Field(default=None, json_schema_extra=rules(immutable("managedBy")))
    scheduling_policy: SchedulingPolicy = Field(default_factory=SchedulingPolicy)
    restarts: Restarts = Field(default_factory=Restarts)
    success_policy: Literal["Default", "AllWorkers"] = "Default"
    hang_detection: HangDetection | None = None


class JobDataset(Model):
    """A Dataset the job reads or writes, and where its pods see it."""

    RULES: ClassVar = (cel("self.mountPath.startsWith('/')", "mountPath must be absolute, e.g. /data"),)

    name: Name
    mount_path: Path
    paths: list[Path] = Field(default_factory=list, max_length=64, description="the parts that will be read")
    required: bool = Field(default=False, description="only nodes where all of it is resident")
    max_wait_seconds: int | None = Field(default=None, ge=0, description="how long to wait for a warm node")
    min_cached_percent: int | None = Field(default=None, ge=0, le=100)
    read_only: bool = True


class CheckpointSpec(Model):
    """Where the job writes checkpoints, and what makes one complete."""

    RULES: ClassVar = (cel("has(self.dataset) != has(self.volume)", "give either dataset or volume, not both"),)

    dataset: Name | None = Field(default=None, description="one of spec.datasets, with readOnly: false")
    volume: Name | None = None
    path: Path = Field(default="", description="directory inside the dataset that holds one directory a step")
    format: Literal["auto", "TorchDCP", "Orbax", "DeepSpeed", "Megatron", "Marker"] = "auto"
    marker: ShortText = Field(default="COMPLETE", description="file whose presence completes a checkpoint")
    keep: int | None = Field(
        default=None, ge=1, description="complete checkpoints to keep; older ones are removed. Default all"
    )
    grace_seconds: int | None = Field(default=None, ge=1)


class Elastic(Model):
    """Workers may be fewer than `replicas` where members are lost or find no room, and more where there is room."""

    RULES: ClassVar = (cel("!has(self.max) || self.min <= self.max", "elastic.min must not be above elastic.max"),)

    min: int = Field(default=1, ge=1, le=20000, description="the job never trains with fewer workers")
    max: int | None = Field(default=None, ge=1, le=20000, description="it takes room up to here; default replicas")
    cool_down_seconds: int = Field(
        default=60, ge=0, le=86400, description="least time between changes of size; doubled with every setback"
    )


class TorchElastic(Elastic):
    """torchrun's elastic rendezvous: members that are left go on when others are lost or join."""

    rdzv_backend: ShortText = "c10d"
    rdzv_endpoint: ShortText | None = Field(
        default=None, description="host:port of a store outside the job; default in the Master, else in Worker 0"
    )
    rdzv_conf: StringMap = Field(default_factory=dict)
    max_restarts: int = Field(default=10, ge=0, le=1000, description="of one pod's processes, by torchrun")


class PyTorchOptions(Model):
    """Options of framework PyTorch."""

    nproc_per_node: int | Literal["auto", "gpu", "cpu"] = Field(
        default=1, json_schema_extra={"x-kubernetes-int-or-string": True}
    )
    port: int | None = Field(default=None, ge=1, le=65535)
    elastic: TorchElastic | None = None


class JaxOptions(Model):
    """Options of framework JAX."""

    port: int | None = Field(default=None, ge=1, le=65535)
    elastic: Elastic | None = None


class TensorFlowOptions(Model):
    """Options of framework TensorFlow."""

    port: int | None = Field(default=None, ge=1, le=65535)
    enable_dynamic_worker: bool = Field(
        default=False, description="TF_CONFIG in the sparse form: a worker knows itself and the parameter servers"
    )
    elastic: Elastic | None = None


class XGBoostOptions(Model):
    """Options of framework XGBoost."""

    port: int | None = Field(default=None, ge=1, le=65535)
    elastic: Elastic | None = None


class PaddleOptions(Model):
    """Options of framework Paddle."""

    port: int | None = Field(default=None, ge=1, le=65535)
    elastic: Elastic | None = None


class MpiOptions(Model):
    """Options of framework MPI."""

    slots_per_worker: int = Field(default=1, ge=1)
    implementation: Literal["OpenMPI", "Intel", "MPICH"] = "OpenMPI"
    ssh_auth_mount_path: Path = Field(default="/root/.ssh", description="where the job's ssh keys are in its pods")
    ssh_port: int | None = Field(
        default=None, ge=1, le=65535, description="port of the workers' sshd; default what the image's ssh takes"
    )
    elastic: Elastic | None = None


class CustomOptions(Model):
    """Options of framework Custom."""

    elastic: Elastic | None = None


class TrainingJobSpec(Model):
    """What to run, on what data, and how to live through failures."""

    RULES: ClassVar = (
        cel(
            "self.replicaSpecs.all(role, role.matches('^[A-Za-z][A-Za-z0-9]{0,31}$'))",
            "a role in replicaSpecs is a word like Worker or Master: letters and digits, at most 32",
        ),
        cel(
            "!has(self.checkpoint) || !has(self.checkpoint.dataset) || "
            "(has(self.datasets) && self.datasets.exists(d, d.name == self.checkpoint.dataset))",
            "checkpoint.dataset must be the name of one of spec.datasets",
        ),
        cel(
            "!has(self.runPolicy) || !has(self.runPolicy.hangDetection) || "
            "!has(self.runPolicy.hangDetection.progressFile) || "
            "(has(self.checkpoint) && has(self.checkpoint.dataset))",
            "runPolicy.hangDetection.progressFile needs checkpoint.dataset: it is looked for below checkpoint.path",
        ),
    )

    framework: Framework = Field(default="Custom", json_schema_extra=rules(immutable("framework")))
    replica_specs: Annotated[dict[RoleName, ReplicaSpec], Field(min_length=1, max_length=8)]
    run_policy: RunPolicy = Field(default_factory=RunPolicy)
    datasets: list[JobDataset] = Field(default_factory=list, max_length=16)
    checkpoint: CheckpointSpec | None = None
    pytorch: PyTorchOptions | None = None
    jax: JaxOptions | None = None
    tensorflow: TensorFlowOptions | None = None
    xgboost: XGBoostOptions | None = None
    paddle: PaddleOptions | None = None
    mpi: MpiOptions | None = None
    custom: CustomOptions | None = None


class ReplicaStatus(Model):
    """Pods of the current attempt by what they are doing."""

    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0


class RestartCounts(Model):
    """Whole-attempt restarts so far, by kind."""

    user_error: int = 0
    infrastructure: int = 0
    preemption: int = 0


class CheckpointStatus(Model):
    """One checkpoint the metadata service knows."""

    step: int
    complete: bool
    durable: bool
    bytes: int
    path: Path
    nodes: Annotated[dict[Annotated[str, StringConstraints(max_length=253)], int], Field(max_length=256)] = Field(
        default_factory=dict
    )
    completed_at: ShortText | None = None
    problem: ShortText | None = Field(default=None, description="why it is not complete")


class DistrustedCheckpoint(Model):
    """A complete checkpoint from which attempts ended with an error again and again; saved anew it counts again."""

    path: Path
    completed_at: ShortText | None = None


class SuspectNode(Model):
    """A node where members were lost to the infrastructure; one that tells of the node itself counts twice."""

    node: Annotated[str, StringConstraints(max_length=253)]
    strikes: int = Field(description="from 2 on the node is avoided by the job's next pods, where others fit")
    until: ShortText = Field(description="when that is forgotten")


class Goodput(Model):
    """Seconds of one attempt by activity."""

    attempt: int
    queued: float = 0
    placing: float = 0
    staging: float = 0
    starting: float = 0
    training: float = 0
    lost: float = 0


class PodPlacement(Model):
    """Where a pod of the current attempt is."""

    pod: ShortText
    node: ShortText


class ElasticStatus(Model):
    """The workers an elastic job has; sets of indexes are written as `0-3,6`. A number is never given twice in an
    attempt: a pod that comes for a lost one is a new member."""

    replicas: int = Field(description="workers the current attempt began with, or the next one begins with")
    members: Text = Field(default="", description="workers of the current attempt")
    reserves: Text = Field(default="", description="pods that look for room for more workers and wait, held")
    reserves_created: bool = Field(default=False, description="all reserves were seen; one that is missing is gone")
    spot: Text = Field(default="", description="of both, those on capacity that may be taken away")
    next_index: int = 0
    resizes: int = 0
    resized_at: ShortText | None = None
    lost_at: ShortText | None = Field(default=None, description="when members were lost last")
    setbacks: int = Field(default=0, description="losses that followed soon on a change; each doubles the cool-down")


class TrainingJobStatus(Model):
    """What the job controller saw last; restart counts and the attempt live here, so they survive it."""

    conditions: Conditions = Field(default_factory=list)
    replica_statuses: Annotated[dict[RoleName, ReplicaStatus], Field(max_length=8)] = Field(default_factory=dict)
    attempt: int = 0
    restarts: RestartCounts = Field(default_factory=RestartCounts)
    handled_failures: list[ShortText] = Field(
        default_factory=list, max_length=64, description="UIDs of failed pods already counted as a restart"
    )
    attempt_began_at: ShortText | None = Field(default=None, description="when the current attempt was decided")
    data_listed_since: ShortText | None = Field(
        default=None,
        description="the first attempt waits for listings, not older than this, of datasets with policy OnJobStart",
    )
    started_attempt: int | None = Field(
        default=None, description="newest attempt whose pods may be created; resumeStep and resumePath are its own"
    )
    started_replicas: Annotated[dict[RoleName, int], Field(max_length=8)] = Field(
        default_factory=dict, description="pods by role of startedAttempt; a changed spec counts from the next one"
    )
    created_attempt: int | None = Field(
        default=None, description="newest attempt of which every pod was seen; a pod of it that is missing is lost"
    )
    elastic: ElasticStatus | None = None
    admitted_queue: Name | None = Field(
        default=None, description="queue the job holds GPUs of, from its admission until it ends or is suspended"
    )
    reclaimed_by: ShortText | None = Field(
        default=None, description="job for which this one gives its GPUs back, until its last pod is gone"
    )
    admitted_gpus: int | None = Field(default=None, alias="admittedGPUs", description="how many")
    grace_seconds: int | None = Field(
        default=None,
        description="the pods' grace after SIGTERM, from a checkpoint's size and the nodes' measured rates",
    )
    resume_step: int | None = Field(default=None, description="step the current attempt resumed from")
    resume_path: Path | None = Field(default=None, description="that checkpoint's path inside the dataset")
    checkpoints: list[CheckpointStatus] = Field(default_factory=list, max_length=16)
    retiring_checkpoints: list[Path] = Field(
        default_factory=list, max_length=16, description="paths being removed by checkpoint.keep; never resumed from"
    )
    prewarmed: list[Name] = Field(
        default_factory=list,
        max_length=32,
        description="DataLoads the current attempt asked for, to bring its checkpoint to nodes of its pods",
    )
    hung_at_step: int | None = Field(default=None, description="step at which an attempt hung last")
    failed_resumes: int = Field(
        default=0, description="attempts in a row that ended with an error before a checkpoint after resumeStep"
    )
    distrusted_checkpoints: list[DistrustedCheckpoint] = Field(default_factory=list, max_length=16)
    suspect_nodes: list[SuspectNode] = Field(default_factory=list, max_length=16)
    goodput: list[Goodput] = Field(default_factory=list, max_length=64)
    placement: list[PodPlacement] = Field(default_factory=list, max_length=1024)
    start_time: ShortText | None = None
    completion_time: ShortText | None = None
    message: Text | None = None
    observed_generation: int = 0


class TrainingJob(KubeObject):
    """A distributed training job: a gang of pods near its data, restarted from checkpoints it knows."""

    GROUP: ClassVar = names.TRAINING_GROUP
    KIND: ClassVar = "TrainingJob"
    PLURAL: ClassVar = "trainingjobs"
    SHORT_NAMES: ClassVar = ("tj",)
    COLUMNS: ClassVar = (
        ("Framework", "string", ".spec.framework"),
        ("State", "string", ".status.conditions[-1:].type"),
        ("Attempt", "integer", ".status.attempt"),
        ("Resumed at", "integer", ".status.resumeStep"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: TrainingJobSpec
    status: TrainingJobStatus | None = None


class QueueSpec(Model):
    """What one tenant may use of the GPUs all queues share."""

    nominal_gpus: int = Field(
        ge=0, le=10_000_000, alias="nominalGPUs", description="GPUs its jobs get before anybody borrows them"
    )
    borrowing_limit: int | None = Field(
        default=None, ge=0, description="GPUs beyond nominalGPUs it may use while others leave theirs; default no limit"
    )
    weight: int = Field(default=1, ge=1, le=1000, description="share of what is borrowed, against other queues'")
    priority: int = Field(default=0, description="queues of a higher priority borrow first")
    take_back: bool = Field(
        default=False,
        description="jobs of others that borrow are ended when a job within nominalGPUs finds none free; else it waits",
    )


class QueueStatus(Model):
    """What the job controller counted last."""

    used_gpus: int = Field(default=0, alias="usedGPUs", description="GPUs of admitted jobs")
    borrowed_gpus: int = Field(default=0, alias="borrowedGPUs", description="the part of them beyond nominalGPUs")
    admitted_jobs: int = 0
    waiting_jobs: int = 0


class Queue(KubeObject):
    """A tenant's share of the cluster's GPUs; a TrainingJob names it in runPolicy.schedulingPolicy.queue."""

    GROUP: ClassVar = names.TRAINING_GROUP
    KIND: ClassVar = "Queue"
    PLURAL: ClassVar = "queues"
    NAMESPACED: ClassVar = False
    COLUMNS: ClassVar = (
        ("Nominal", "integer", ".spec.nominalGPUs"),
        ("Used", "integer", ".status.usedGPUs"),
        ("Borrowed", "integer", ".status.borrowedGPUs"),
        ("Waiting", "integer", ".status.waitingJobs"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: QueueSpec
    status: QueueStatus | None = None


CREATED = "Created"
QUEUED = "Queued"
PODS_SCHEDULED = "PodsScheduled"
DATA_READY = "DataReady"
CHECKPOINT_RETENTION = "CheckpointRetention"
RUNNING = "Running"
RESTARTING = "Restarting"
SUSPENDED = "Suspended"
SUCCEEDED = "Succeeded"
FAILED = "Failed"


def is_finished(status: TrainingJobStatus | None) -> bool:
    """Whether the job reached Succeeded or Failed; it never leaves them."""
    return status is not None and any(
        condition.type in (SUCCEEDED, FAILED) and condition.status == "True" for condition in status.conditions
    )
