"""Reasons of conditions and events: each once, with when it occurs."""

from typing import Final

# Created
ACCEPTED: Final = "Accepted"
"""The job was seen and its spec makes sense."""

# Queued
WAITING_FOR_DATA: Final = "WaitingForData"
WAITING_FOR_OLD_PODS: Final = "WaitingForOldPods"
"""Pods of the attempt before are still ending."""
WAITING_FOR_METADATA: Final = "WaitingForMetadata"
"""Which checkpoint to resume from could not be asked."""
BACKING_OFF: Final = "BackingOff"
"""Attempts ended soon after they began, so the next one is held back for some seconds."""
CREATING_PODS: Final = "CreatingPods"
UNSCHEDULABLE: Final = "Unschedulable"
"""The scheduler said why pods cannot be placed."""
WAITING_FOR_PLACEMENT: Final = "WaitingForPlacement"
STARTING: Final = "Starting"
"""All pods have a node; not all containers run."""
ADMITTED: Final = "Admitted"
"""An event only: the job's queue gave it its GPUs."""
QUEUE_NOT_FOUND: Final = "QueueNotFound"
WAITING_FOR_QUOTA: Final = "WaitingForQuota"
"""The job's queue has no GPUs for it now."""
RECLAIMING: Final = "ReclaimingQuota"
"""The job waits while jobs that borrow its queue's GPUs end; an event too."""
RECLAIMED: Final = "Reclaimed"
"""The job ended because another queue took back what it had lent; it waits to be admitted again. An event too."""
QUOTA_TOO_SMALL: Final = "QuotaTooSmall"
"""The job needs more than its queue can ever use."""
WAITING_FOR_ROLES: Final = "WaitingForRoles"
"""All pods have a node; those of a role with dependsOn are held until other roles are far enough."""
PODS_REFUSED: Final = "PodsRefused"
"""The API server refuses pods for now (quota, admission)."""
NAME_TAKEN: Final = "NameTaken"
"""An object of a name this job needs exists and is not its own."""

# PodsScheduled
ALL_SCHEDULED: Final = "AllScheduled"

# DataReady
DATA_READY: Final = "DatasetsReady"
DATASET_NOT_FOUND: Final = "DatasetNotFound"
DATASET_NOT_BOUND: Final = "DatasetNotBound"
DATASET_NOT_CACHED: Final = "DatasetNotCached"
DATASET_NOT_LISTED: Final = "DatasetNotListed"
"""A listing since the job could start is waited for. An event too: the job began without it."""

# CheckpointRetention, and events of removals
KEPT: Final = "Kept"
SHARED_DIRECTORY: Final = "SharedDirectory"
"""Other jobs write there too: nothing is removed, as nobody can tell whose a checkpoint is."""
CHECKPOINT_REMOVED: Final = "CheckpointRemoved"
"""An event only."""
CHECKPOINT_NOT_REMOVED: Final = "CheckpointNotRemoved"

CHECKPOINT_SKIPPED: Final = "CheckpointSkipped"
"""An event only: an attempt resumes from an older checkpoint, as the newest is torn."""
CHECKPOINT_DISTRUSTED: Final = "CheckpointDistrusted"
"""An event only: no attempt got from this complete checkpoint to the next."""

FENCE_NOT_RAISED: Final = "FenceNotRaised"
"""Pods whose end nobody confirms are not deleted by force before the cache refuses their checkpoints."""
FENCING: Final = "Fencing"
"""They are about to be: it takes a few seconds until every worker knows."""
FENCED: Final = "Fenced"
"""An event only: a node may not change checkpoints until the pods that were deleted by force have ended there."""

NODE_AVOIDED: Final = "NodeAvoided"
"""An event only: a member was lost on that node, so the job's next pods go elsewhere where they fit."""

# Running
ALL_RUNNING: Final = "AllPodsRunning"
SOME_FINISHED: Final = "SomePodsFinished"
NOT_RUNNING: Final = "NotRunning"

# Restarting; failures that end a job use the same words
USER_ERROR: Final = "UserError"
INFRASTRUCTURE: Final = "InfrastructureFailure"
PREEMPTION: Final = "Preempted"

# Suspended
SUSPENDED: Final = "SuspendedByUser"
RESUMED: Final = "Resumed"

# Succeeded, Failed
SUCCEEDED: Final = "Succeeded"
INVALID_SPEC: Final = "InvalidSpec"
FRAMEWORK_NOT_SUPPORTED: Final = "FrameworkNotSupported"
DEADLINE_EXCEEDED: Final = "DeadlineExceeded"
STOPPED: Final = "StoppedByUser"
"""Annotation names.STOP_ANNOTATION."""
BACKOFF_LIMIT_EXCEEDED: Final = "BackoffLimitExceeded"
RESTARTS_EXHAUSTED: Final = "RestartsExhausted"

# Condition Ready of a CronTrainingJob, and events
SCHEDULED: Final = "Scheduled"
CRON_SUSPENDED: Final = "Suspended"
DEADLINE_PASSED: Final = "DeadlinePassed"
WAITING_FOR_RUN: Final = "WaitingForJob"
"""concurrencyPolicy Forbid: a job has not ended."""
REPLACING: Final = "Replacing"
"""concurrencyPolicy Replace: a job is being deleted."""
RUN_REFUSED: Final = "JobRefused"
"""The API server refused the job."""
RUN_CREATED: Final = "JobCreated"
RUN_ENDED: Final = "JobEnded"
MISSED_SCHEDULE: Final = "MissedSchedule"
"""Events only."""
