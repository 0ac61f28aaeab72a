"""Labels, annotations, environment names and finalizers: each once, with who writes and who reads it.

Owns spelling only. Invariant: no other module spells one of these as a literal.
"""

from typing import Final

DATA_GROUP: Final = "data.headrace.dev"
TRAINING_GROUP: Final = "training.headrace.dev"
SCHEDULING_GROUP: Final = "scheduling.x-k8s.io"
VOLCANO_GROUP: Final = "scheduling.volcano.sh"
UPSTREAM_SCHEDULING_GROUP: Final = "scheduling.k8s.io"
API_VERSION: Final = "v1alpha1"

DEFAULT_SCHEDULER_NAME: Final = "headrace-scheduler"
"""`spec.schedulerName` of pods the scheduler takes; written by users and the job controller."""

CSI_DRIVER: Final = "csi.headrace.dev"
"""Driver of PVs and inline volumes; attributes below. Read by the scheduler and by nodes."""
CSI_ATTRIBUTE_DATASET: Final = "dataset"
CSI_ATTRIBUTE_NAMESPACE: Final = "namespace"
CSI_ATTRIBUTE_SUB_PATH: Final = "subPath"
"""A directory of the dataset, in place of all of it."""
CSI_ATTRIBUTE_UID: Final = "uid"
CSI_ATTRIBUTE_GID: Final = "gid"
"""Numbers of the user and the group that files are shown to belong to; a pod's fsGroup goes before the group."""
STORAGE_CLASS: Final = "headrace"
"""`storageClassName` of the PV and PVC the cache controller makes for each Dataset (same name as it)."""
DATASET_LABEL: Final = "data.headrace.dev/dataset"
"""On the PVC and PV of a Dataset: its name. Written by the cache controller; read by scheduler and nodes."""

FLUID_GROUP: Final = "data.fluid.io"
FLUID_CSI_DRIVER: Final = "fuse.csi.fluid.io"
"""Driver of the PersistentVolume Fluid makes for each of its Datasets; attributes below, absent in older releases."""
FLUID_CSI_ATTRIBUTE_NAME: Final = "runtime_name"
FLUID_CSI_ATTRIBUTE_NAMESPACE: Final = "runtime_namespace"
FLUID_STORAGE_LABEL: Final = "fluid.io/s-"
"""Begins the label Fluid puts on a node where a Dataset has a cache worker; NAMESPACE-NAME or the uid follows. Read by
the scheduler, where it reads Fluid's objects."""

DATASETS_ANNOTATION: Final = "data.headrace.dev/datasets"
"""On a pod: JSON list of the data it reads (api.md "How a pod names its data"). Users and job controller
write it; the scheduler reads it."""
DECISION_ANNOTATION: Final = "scheduling.headrace.dev/decision"
"""On a bound pod: JSON verdict (see `api.decision`). Written by the scheduler with the binding."""

POD_GROUP_LABEL: Final = "scheduling.x-k8s.io/pod-group"
"""On a pod: the PodGroup it belongs to (coscheduling's label)."""
VOLCANO_GROUP_ANNOTATION: Final = "scheduling.k8s.io/group-name"
VOLCANO_OWN_GROUP_ANNOTATION: Final = "scheduling.volcano.sh/group-name"
"""On a pod: the Volcano PodGroup it belongs to, in either of Volcano's spellings; read only."""
VOLCANO_TASK_ANNOTATION: Final = "volcano.sh/task-spec"
"""On a pod: its task in Volcano's job, which minTaskMember counts; read only."""
REQUIRED_TOPOLOGY_ANNOTATION: Final = "scheduling.headrace.dev/required-topology"
"""On a PodGroup (scheduling.x-k8s.io): a node label key; all members are placed on nodes that share its value.
Written by users and the job controller, read by the scheduler."""
PREFERRED_TOPOLOGY_ANNOTATION: Final = "scheduling.headrace.dev/preferred-topology"
"""On a PodGroup (scheduling.x-k8s.io): node label keys, the widest first, separated by commas; members cross as few
values of each as possible. Written by users and the job controller, read by the scheduler."""

JOB_NAME_LABEL: Final = "training.headrace.dev/job-name"
JOB_UID_LABEL: Final = "training.headrace.dev/job-uid"
JOB_ROLE_LABEL: Final = "training.headrace.dev/role"
JOB_INDEX_LABEL: Final = "training.headrace.dev/index"
JOB_ATTEMPT_LABEL: Final = "training.headrace.dev/attempt"
"""On every pod of a TrainingJob; written by the job controller, read by it and by `headrace logs`."""

CRON_NAME_LABEL: Final = "training.headrace.dev/cron-name"
CRON_UID_LABEL: Final = "training.headrace.dev/cron-uid"
SCHEDULED_AT_ANNOTATION: Final = "training.headrace.dev/scheduled-at"
"""On a TrainingJob a CronTrainingJob made: its owner, and the time it was made for (RFC 3339). Written by the job
controller; it reads the labels."""

KUEUE_QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
"""On a TrainingJob, or in a template of it: the LocalQueue of Kueue its pods are to be admitted by, as one plain pod
group an attempt. Written by users; the job controller hands it on, with the three below."""
KUEUE_GROUP_LABEL: Final = "kueue.x-k8s.io/pod-group-name"
KUEUE_COUNT_ANNOTATION: Final = "kueue.x-k8s.io/pod-group-total-count"
KUEUE_RETRIABLE_ANNOTATION: Final = "kueue.x-k8s.io/retriable-in-group"
"""On a pod of such a group: "false", as a failed pod is never replaced in its group: the next attempt is a new one."""

STOP_ANNOTATION: Final = "training.headrace.dev/stop"
"""On a TrainingJob: it is to end for good (any value; `headrace stop` writes the time). Read by the job controller."""

START_ANNOTATION: Final = "training.headrace.dev/start"
"""On a pod whose role depends on others: empty while it is held, a word once it may start. Written by the job
controller, read by the pod's first init container and by the controller."""

CHECKPOINT_NODES_ANNOTATION: Final = "training.headrace.dev/checkpoint-nodes"
"""On a pod of a later attempt: JSON {node: bytes of the checkpoint resident there}. Written by the job
controller, read by the scheduler as one more dataset of that many bytes."""

CHECKPOINTED_AT_ANNOTATION: Final = "training.headrace.dev/checkpointed-at"
"""On a pod: when the newest complete checkpoint of its job was finished, RFC 3339 in UTC. Written by the job
controller (or by whoever runs the workload), read by the scheduler: evicting the pod loses the work done since
then. Without it, or when it cannot be read, all work since the pod started counts as lost."""

HEARTBEAT_ANNOTATION: Final = "training.headrace.dev/heartbeat"
"""On a pod: when its program was last seen to get on, `<RFC 3339 time>` or `<time>/<step>`. Written by the program or
by who watches it; read by the job controller where runPolicy.hangDetection asks for heartbeats."""

ENV_JOB_NAME: Final = "HEADRACE_JOB_NAME"
ENV_JOB_ATTEMPT: Final = "HEADRACE_ATTEMPT"
ENV_ROLE: Final = "HEADRACE_ROLE"
ENV_INDEX: Final = "HEADRACE_INDEX"
ENV_RESUME_FROM: Final = "HEADRACE_RESUME_FROM"
"""Path inside the container of the newest complete checkpoint; absent when there is none."""
ENV_RESUME_STEP: Final = "HEADRACE_RESUME_STEP"
ENV_PROGRESS_FILE: Final = "HEADRACE_PROGRESS_FILE"
"""Path inside the container of the file runPolicy.hangDetection watches."""
ENV_CHECKPOINT_DIR: Final = "HEADRACE_CHECKPOINT_DIR"
"""Path inside the container below which checkpoints are to be written."""

GPU_RESOURCE: Final = "nvidia.com/gpu"
PROCESS_NODE_LABEL: Final = "headrace.dev/node-kind"
"""On Nodes of the local cluster: `process`. Written by the process node agent."""

DATASET_EVICT_ANNOTATION: Final = "data.headrace.dev/evict"
"""On a Dataset: a JSON list of paths that are to leave the cache now, "/" = all of it. Written by users (`headrace
cache evict`), taken away by the cache controller once it is done."""
NODE_DRAIN_ANNOTATION: Final = "data.headrace.dev/drain-cache"
"""On a Node: "true" = its cache worker hands its blocks over and is home of nothing until this is gone again. Written
by users (`headrace cache drain`), read by the cache controller."""
POOL_LABEL: Final = "data.headrace.dev/pool"
"""On a Node: NAMESPACE.NAME of the CacheRuntime whose `tieredstore` and `worker` its cache worker follows, instead of
the installation's. Written by administrators only: it gives a namespace's CacheRuntime a say over the node. Read by the
cache controller, and by the installed DaemonSet, which leaves such nodes out."""
POOL_FOLDERS_ANNOTATION: Final = "data.headrace.dev/pool-folders"
"""On the installed workers' DaemonSet: folders of the nodes, separated by commas, that levels of CacheRuntimes may
name. Written by administrators, read by the cache controller and by admission
(manifests/base/cacheruntime/pools.yaml)."""
DATASET_SYNC_ANNOTATION: Final = "data.headrace.dev/sync-requested-at"
"""On a Dataset: a time (RFC 3339); a listing that began before it is not new enough. Written by the job controller for
policy OnJobStart, and by whoever wants a listing now, with any policy; read by the cache controller and the job
controller."""
DATASET_FINALIZER: Final = "data.headrace.dev/cache"
"""On a Dataset: the cache controller still has to drop its blocks and namespace, once nobody uses it any more."""
FORCE_DELETE_ANNOTATION: Final = "data.headrace.dev/force-delete"
"""On a Dataset that was deleted: "true" takes it away from those who still use it. Written by users, read by the cache
controller."""
