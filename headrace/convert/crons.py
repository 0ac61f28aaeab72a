"""KubeDL's Cron (apps.kubedl.io), and its jobs with a `cronPolicy`, as CronTrainingJobs.

Owns the mapping of their fields (reference: KubeDL apis/apps/v1alpha1, controllers/apps). What KubeDL does without a
field, or does in silence, is written out or said."""

from __future__ import annotations

from typing import Any

from headrace.convert.fields import Body, Fields
from headrace.convert.jobs import KINDS, KUBEDL, convert_job

KUBEDL_APPS = "apps.kubedl.io"
#: the most our field allows; KubeDL keeps all
_MOST_HISTORY = 100


def convert_cron(source: Fields) -> Body:
    """The CronTrainingJob's spec; without a template when what the Cron makes is no training job."""
    spec = _policy(source)
    template = source.part("template")
    workload = template.part("workload")
    group = str(template.take("apiVersion") or workload.take("apiVersion") or "").partition("/")[0]
    kind = str(template.take("kind") or workload.take("kind") or "")
    workload.take("apiVersion")
    workload.take("kind")
    metadata = workload.part("metadata")
    if kind in KINDS and group == KUBEDL:
        labelled: Body = {}
        metadata.copy(labelled, "labels", "annotations")
        if metadata.take("name"):
            # One name for all runs: KubeDL makes the policy Forbid then.
            spec["concurrencyPolicy"] = "Forbid"
        metadata.take("namespace")
        metadata.finish()
        made: Body = {"spec": convert_job(group, kind, workload.part("spec"))}
        spec["jobTemplate"] = made | ({"metadata": labelled} if labelled else {})
        workload.finish()
    else:
        source.note(
            f"template.kind {kind or 'missing'} is no training job of KubeDL; a CronTrainingJob makes those only"
        )
    template.finish()
    source.finish()
    return spec


def convert_job_with_policy(kind: str, source: Fields) -> Body:
    """The CronTrainingJob's spec of a job that KubeDL runs by a `cronPolicy` of its own."""
    policy = source.part("cronPolicy")
    spec = _policy(policy)
    policy.finish()
    return spec | {"jobTemplate": {"spec": convert_job(KUBEDL, kind, source)}}


def has_policy(spec: Any) -> bool:
    """Whether a job's spec tells a schedule."""
    policy = spec.get("cronPolicy") if isinstance(spec, dict) else None
    return isinstance(policy, dict) and bool(policy.get("schedule"))


def _policy(source: Fields) -> Body:
    limit = source.take("historyLimit", _MOST_HISTORY)
    # KubeDL counts both kinds together.
    spec: Body = {"successfulJobsHistoryLimit": limit, "failedJobsHistoryLimit": limit}
    source.copy(spec, "schedule", "concurrencyPolicy", "suspend", "deadline")
    source.note("schedule is in UTC here, in the controller's own zone there; spec.timeZone names another")
    return spec
