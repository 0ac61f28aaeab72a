"""What makes a job elastic, and which of its pods are members.

Owns the bounds a spec gives and the reading of `status.elastic`. When the size changes is core/resize.py. Invariants:
the members of an attempt are in the status before any pod of theirs is made; an index is never given twice in an
attempt, so no two pods ever stand for one index and attempt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from api.training_v1alpha1 import Elastic, ElasticStatus, TrainingJob, TrainingJobSpec, TrainingJobStatus
from jobcontroller.core import indexes
from jobcontroller.core.framework import Framework, is_resizable

#: the role that grows and shrinks, in every framework
ROLE = "Worker"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many workers an elastic job may have, and the least seconds between two changes of their number."""

    minimum: int
    maximum: int
    cool_down_seconds: float


def options(spec: TrainingJobSpec) -> Elastic | None:
    """Return the `elastic` of the framework's own options."""
    own = getattr(spec, spec.framework.lower())
    return own.elastic if own is not None else None


def bounds(spec: TrainingJobSpec) -> Bounds | None:
    """Return the bounds of an elastic job; None for any other."""
    found, workers = options(spec), spec.replica_specs.get(ROLE)
    if found is None or workers is None:
        return None
    maximum = found.max if found.max is not None else workers.replicas
    return Bounds(found.min, maximum, float(found.cool_down_seconds))


def goes_on(framework: Framework | None, spec: TrainingJobSpec) -> bool:
    """Whether members that run go on when others are lost or join; else a change of size is a new attempt."""
    return is_resizable(framework) and framework.resizes(spec)


def anchor(framework: Framework | None, spec: TrainingJobSpec) -> int | None:
    """Return the worker with whose loss the attempt ends all the same; None = there is none."""
    return framework.anchor(spec) if is_resizable(framework) else None


def members(status: TrainingJobStatus) -> list[tuple[str, int]]:
    """Return (role, index) of every pod the started attempt has."""
    found = []
    for role, count in status.started_replicas.items():
        chosen = workers(status) if role == ROLE and status.elastic is not None else range(count)
        found += [(role, index) for index in chosen]
    return found


def workers(status: TrainingJobStatus) -> list[int]:
    """Return the indexes of an elastic job's workers, ascending."""
    return sorted(indexes.parse(status.elastic.members)) if status.elastic is not None else []


def reserves(status: TrainingJobStatus) -> list[int]:
    """Return the indexes of pods that look for room for more workers, ascending."""
    return sorted(indexes.parse(status.elastic.reserves)) if status.elastic is not None else []


def begin(job: TrainingJob, status: TrainingJobStatus) -> None:
    """Write down the members an attempt begins with. `started_replicas` is what the spec says."""
    limits = bounds(job.spec)
    if limits is None or ROLE not in status.started_replicas:
        status.elastic = None
        return
    wanted = status.elastic.replicas if status.elastic is not None else status.started_replicas[ROLE]
    count = max(limits.minimum, min(wanted, limits.maximum))
    before = status.elastic or ElasticStatus(replicas=count)
    status.started_replicas[ROLE] = count
    status.elastic = before.model_copy(
        update={"replicas": count, "reserves": "", "reserves_created": False, "next_index": count, "lost_at": None}
    )
    set_members(status, range(count))
    status.elastic.spot = indexes.text(range(on_demand(job), count)) if spot_replicas(job) else ""


def set_members(status: TrainingJobStatus, chosen: Iterable[int]) -> None:
    """Write down the workers the attempt has from now on; needs `status.elastic`."""
    assert status.elastic is not None
    found = frozenset(chosen)
    status.elastic.members = indexes.text(found)
    status.started_replicas[ROLE] = len(found)


def spot_replicas(job: TrainingJob) -> int:
    """Return how many workers run on capacity that may be taken away, of those the spec asks for."""
    spot = job.spec.replica_specs[ROLE].spot_replica_spec
    return spot.spot_replica_number if spot is not None else 0


def on_demand(job: TrainingJob) -> int:
    """Return how many workers run on capacity that stays; all others, also beyond `replicas`, are spot."""
    return max(0, job.spec.replica_specs[ROLE].replicas - spot_replicas(job))
