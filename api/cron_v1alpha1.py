"""training.headrace.dev/v1alpha1: CronTrainingJob.

Owns the fields, limits and rules. Field names and meanings are Kubernetes' CronJob's; `deadline` is KubeDL's Cron's.
Written by: users (spec), the job controller (status).
"""

from typing import ClassVar, Literal

from pydantic import Field

from api import names
from api.conditions import Condition
from api.model import KubeObject, Model, ShortText, StringMap
from api.training_v1alpha1 import TrainingJobSpec


class RunMetadata(Model):
    """What each job carries beside what the controller writes."""

    labels: StringMap = Field(default_factory=dict)
    annotations: StringMap = Field(default_factory=dict)


class TrainingJobTemplate(Model):
    """The job that is made at each time; a change counts from the next one."""

    IS_TEMPLATE: ClassVar = True

    metadata: RunMetadata = Field(default_factory=RunMetadata)
    spec: TrainingJobSpec


class CronTrainingJobSpec(Model):
    """When which job is made."""

    schedule: ShortText = Field(
        description="five fields as '0 2 * * *', or @hourly, @daily, @weekly, @monthly, @yearly"
    )
    time_zone: ShortText | None = Field(default=None, description="IANA name, as Europe/Berlin; default UTC")
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = Field(
        default="Allow",
        description="while a job still runs: start beside it, wait until it has ended, or delete it first",
    )
    suspend: bool = Field(default=False, description="make no further job; those that run go on")
    deadline: ShortText | None = Field(default=None, description="RFC 3339 time; no job is made for a time after it")
    starting_deadline_seconds: int | None = Field(
        default=None, ge=0, description="a job that could not be made for this long is left out; default never"
    )
    successful_jobs_history_limit: int = Field(
        default=3, ge=0, le=100, description="jobs that ended well to keep; older ones are deleted"
    )
    failed_jobs_history_limit: int = Field(default=1, ge=0, le=100, description="the same of those that failed")
    job_template: TrainingJobTemplate


class RunRecord(Model):
    """One job that has ended."""

    name: ShortText
    state: Literal["Succeeded", "Failed"]
    created: ShortText | None = None
    finished: ShortText | None = None


class CronTrainingJobStatus(Model):
    """What the job controller did last."""

    conditions: list[Condition] = Field(default_factory=list, max_length=8)
    active: list[ShortText] = Field(
        default_factory=list, max_length=128, description="names of jobs that have not ended"
    )
    history: list[RunRecord] = Field(default_factory=list, max_length=200, description="newest first")
    last_schedule_time: ShortText | None = Field(default=None, description="newest time a job was made for")
    decided_time: ShortText | None = Field(
        default=None, description="newest time that is settled: a job was made for it, or it was left out"
    )
    next_schedule_time: ShortText | None = None
    last_successful_time: ShortText | None = Field(default=None, description="when a job ended well last")
    observed_generation: int = 0


class CronTrainingJob(KubeObject):
    """A TrainingJob made again and again, by a schedule."""

    GROUP: ClassVar = names.TRAINING_GROUP
    KIND: ClassVar = "CronTrainingJob"
    PLURAL: ClassVar = "crontrainingjobs"
    SHORT_NAMES: ClassVar = ("ctj",)
    COLUMNS: ClassVar = (
        ("Schedule", "string", ".spec.schedule"),
        ("Suspend", "boolean", ".spec.suspend"),
        ("Active", "string", ".status.active"),
        ("Last", "date", ".status.lastScheduleTime"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: CronTrainingJobSpec
    status: CronTrainingJobStatus | None = None


READY = "Ready"
