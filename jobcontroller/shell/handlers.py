"""kopf: hears of TrainingJobs, and only puts their keys into the queue.

Owns the registration. `on.event` alone is used: kopf then writes nothing to our objects (no finalizer, no
annotation), and everything it knows can be read again. Jobs deleted while nobody listened need no handler, as
what they own is collected by Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from jobcontroller.shell.caches import Key
from kube.resources import TRAINING_JOBS


def register(registry: kopf.OperatorRegistry, add: Callable[[Key], None]) -> None:
    """Make kopf call `add` with the key of every job that appears, changes or goes."""

    @kopf.on.event(TRAINING_JOBS.group, TRAINING_JOBS.version, TRAINING_JOBS.plural, registry=registry)
    async def job_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        add((namespace or "", name or ""))
