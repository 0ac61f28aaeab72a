"""Errors of the job controller.

    JobControllerError
    ├── MetadataUnavailable   the metadata service did not answer; comes back, so the job waits
    ├── RemovalFailed         a checkpoint that is kept no longer could not be removed; tried again
    └── StatusConflict        somebody else wrote the job since it was read; read it again

What is wrong with a user's job is never an exception: it becomes a condition of the job
(core/validation.py, shell/executor.py). Invariant: no text here holds a secret."""

from __future__ import annotations


class JobControllerError(Exception):
    """Base of this part's errors."""


class MetadataUnavailable(JobControllerError):
    """The metadata service did not answer in time, or refused; the text says what and why."""


class RemovalFailed(JobControllerError):
    """No cache worker removed the checkpoint; the text says what the last one that was asked answered."""


class StatusConflict(JobControllerError):
    """The job changed between read and write: nothing was written, nothing may be done."""
