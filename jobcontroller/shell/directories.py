"""Which unfinished jobs write checkpoints into one directory.

Owns that index, fed by the watch of TrainingJobs (shell/queues.py). Decides nothing (core/retention.py)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from api.training_v1alpha1 import FAILED, SUCCEEDED, TrainingJob

JobKey = tuple[str, str]
#: namespace, dataset, path without slashes at its ends
Directory = tuple[str, str, str]


class Directories:
    """One event loop."""

    def __init__(self) -> None:
        self._writers: defaultdict[Directory, set[str]] = defaultdict(set)
        self._of_job: dict[JobKey, Directory] = {}

    def job_changed(self, key: JobKey, spec: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Take notice of a job; one that is gone has an empty spec."""
        checkpoint = spec.get("checkpoint") or {}
        found: Directory | None = None
        if checkpoint.get("dataset") and not _has_ended(status):
            found = _directory(key[0], str(checkpoint["dataset"]), str(checkpoint.get("path") or ""))
        before = self._of_job.get(key)
        if found == before:
            return
        if before is not None:
            del self._of_job[key]
            self._writers[before].discard(key[1])
            if not self._writers[before]:
                del self._writers[before]
        if found is not None:
            self._of_job[key] = found
            self._writers[found].add(key[1])

    def others(self, job: TrainingJob) -> tuple[str, ...]:
        """Names of the other unfinished jobs that write where this one does."""
        checkpoint = job.spec.checkpoint
        if checkpoint is None or checkpoint.dataset is None:
            return ()
        where = _directory(job.metadata.namespace, checkpoint.dataset, checkpoint.path)
        return tuple(sorted(self._writers.get(where, set()) - {job.metadata.name}))


def _directory(namespace: str, dataset: str, path: str) -> Directory:
    return namespace, dataset, path.strip("/")


def _has_ended(status: Mapping[str, Any]) -> bool:
    conditions = status.get("conditions") or []
    return any(one.get("type") in (SUCCEEDED, FAILED) and one.get("status") == "True" for one in conditions)
