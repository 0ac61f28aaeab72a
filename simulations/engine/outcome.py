"""What a run says when it is over: sums, percentiles and pictures, from one account kept on the way.

Owns the definitions of every figure. `gar`: GPUs allocated of those there, mean over time; `sor`: GPU-seconds that
did work (not lost, not stalled) of those there; `gfr`: GPU nodes with some but not all GPUs taken, mean over time;
`goodput`: GPU-seconds of work that counted, of those allocated; `fairness`: Jain's index of users' mean slowdown.
"""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from simulations.engine.jobs import Bytes
from simulations.engine.model import JobSpec, World

PERCENTILES = (50, 90, 99)
SIZES = ((1, "1 GPU"), (4, "2-4 GPUs"), (8, "5-8 GPUs"), (64, "9-64 GPUs"), (10**9, "over 64 GPUs"))


@dataclass(slots=True)
class JobRecord:
    """One job. `stalled`: seconds it ran slower than compute alone; `lost`: seconds of work done again; None: not
    yet."""

    name: str
    gpus: int
    user: str
    submitted: float
    ideal: float
    first_started: float | None = None
    finished: float | None = None
    starts: int = 0
    stalled: float = 0.0
    lost: float = 0.0


@dataclass(slots=True)
class Picture:
    """How much of each dataset is on each node at a moment: share[dataset][node]."""

    at: float
    shares: list[list[float]]


@dataclass(slots=True)
class Meter:
    """Integrals over time, advanced before anything changes."""

    now: float = 0.0
    gpu_seconds: float = 0.0
    there_seconds: float = 0.0
    partly_seconds: float = 0.0
    node_seconds: float = 0.0
    pressed_gpu_seconds: float = 0.0
    pressed_there_seconds: float = 0.0
    loaded_gpu_seconds: float = 0.0
    loaded_there_seconds: float = 0.0
    gang_idle_gpu_seconds: float = 0.0

    def advance(
        self, to: float, gpus: tuple[int, int, int, int], *, is_pressed: bool, is_loaded: bool, gang_idle: int
    ) -> None:
        """Count `gpus` (see Ledger.gpus) until `to`; pressed: a job waits; loaded: jobs still come; `gang_idle`: GPUs
        held by pods that wait for the rest of their gang."""
        seconds = to - self.now
        self.gang_idle_gpu_seconds += gang_idle * seconds
        self.now = to
        used, there, partly, nodes = (amount * seconds for amount in gpus)
        self.gpu_seconds += used
        self.there_seconds += there
        self.partly_seconds += partly
        self.node_seconds += nodes
        if is_pressed:
            self.pressed_gpu_seconds += used
            self.pressed_there_seconds += there
        if is_loaded:
            self.loaded_gpu_seconds += used
            self.loaded_there_seconds += there


@dataclass(slots=True)
class Account:
    """Everything counted during a run."""

    jobs: list[JobRecord]
    bytes: Bytes = field(default_factory=Bytes)
    restored: Bytes = field(default_factory=Bytes)
    checkpoint_bytes: float = 0.0
    stalled_gpu_seconds: float = 0.0
    lost_gpu_seconds: float = 0.0
    worked_gpu_seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    checks: int = 0
    reasons_checked: int = 0
    meter: Meter = field(default_factory=Meter)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run's figures, ready for JSON. `completion_seconds`: of the jobs that finished, sorted."""

    scenario: str
    policy: str
    seed: int
    figures: dict[str, float | None]
    by_size: dict[str, dict[str, float]]
    faults: dict[str, int]
    completion_seconds: list[float]
    pictures: list[Picture]
    jobs: list[JobRecord]

    def as_json(self, *, with_jobs: bool = False) -> dict[str, Any]:
        """Plain values; per-job records only when asked for."""
        found = asdict(self)
        if not with_jobs:
            del found["jobs"]
        return found

    def dump(self) -> str:
        """All of it as text: equal runs give equal text."""
        return json.dumps(self.as_json(with_jobs=True), sort_keys=True)


def record(spec: JobSpec) -> JobRecord:
    """A job nothing has happened to yet."""
    return JobRecord(spec.name, spec.total_gpus, spec.user, spec.submit_seconds, spec.compute_seconds)


def outcome(world: World, policy: str, account: Account, *, end: float, price_per_gib: float) -> Outcome:
    """Figures of a finished run; None where there is nothing to divide by."""
    meter, read = account.meter, account.bytes
    done = [job for job in account.jobs if job.finished is not None]
    times = np.array([job.finished - job.submitted for job in done if job.finished is not None])
    queued = np.array([job.first_started - job.submitted for job in account.jobs if job.first_started is not None])
    origin = read.origin + account.restored.origin
    figures: dict[str, float | None] = {
        "jobs": len(account.jobs),
        "jobs_finished": len(done),
        "restarts": sum(max(0, job.starts - 1) for job in account.jobs),
        "local_bytes": read.local,
        "near_peer_bytes": read.near,
        "far_peer_bytes": read.far,
        "origin_bytes": read.origin,
        "origin_or_far_bytes": read.origin + read.far,
        "restored_bytes": sum(asdict(account.restored).values()),
        "restored_remote_bytes": account.restored.far + account.restored.origin,
        "origin_egress_bytes": origin,
        "origin_egress_cost": origin / 2**30 * price_per_gib,
        "checkpoint_bytes": account.checkpoint_bytes,
        "stage_in_seconds_mean": _ratio(sum(job.stalled for job in account.jobs), len(account.jobs)),
        "gpu_hours_waiting_for_data": account.stalled_gpu_seconds / 3600,
        "gpu_hours_lost": account.lost_gpu_seconds / 3600,
        "gpu_hours_in_partial_gangs": meter.gang_idle_gpu_seconds / 3600,
        "completion_seconds_mean": float(times.mean()) if len(times) else None,
        "queue_seconds_mean": float(queued.mean()) if len(queued) else None,
        "makespan_seconds": end,
        "gar": _ratio(meter.gpu_seconds, meter.there_seconds),
        "gar_loaded": _ratio(meter.loaded_gpu_seconds, meter.loaded_there_seconds),
        "gar_pressed": _ratio(meter.pressed_gpu_seconds, meter.pressed_there_seconds),
        "sor": _ratio(account.worked_gpu_seconds, meter.there_seconds),
        "gfr": _ratio(meter.partly_seconds, meter.node_seconds),
        "goodput": _ratio(account.worked_gpu_seconds, meter.gpu_seconds),
        "fairness": _jain(done),
        "invariant_checks": account.checks,
        "reasons_checked": account.reasons_checked,
    }
    for share in PERCENTILES:
        figures[f"completion_seconds_p{share}"] = float(np.percentile(times, share)) if len(times) else None
        figures[f"queue_seconds_p{share}"] = float(np.percentile(queued, share)) if len(queued) else None
    return Outcome(
        world.name,
        policy,
        world.seed,
        figures,
        _by_size(done),
        dict(sorted(account.faults.items())),
        sorted(times.tolist()),
        account.pictures,
        account.jobs,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _by_size(done: list[JobRecord]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    low = -1
    for high, name in SIZES:
        jobs = [job for job in done if low < job.gpus <= high]
        low = high
        if not jobs:
            continue
        times = [job.finished - job.submitted for job in jobs if job.finished is not None]
        queued = [job.first_started - job.submitted for job in jobs if job.first_started is not None]
        found[name] = {"jobs": len(jobs), "completion_seconds_mean": float(np.mean(times))}
        for share in PERCENTILES:
            found[name][f"queue_seconds_p{share}"] = float(np.percentile(queued, share))
            found[name][f"completion_seconds_p{share}"] = float(np.percentile(times, share))
    return found


def _jain(done: list[JobRecord]) -> float | None:
    slowdowns: dict[str, list[float]] = defaultdict(list)
    for job in done:
        if job.finished is not None:
            slowdowns[job.user].append((job.finished - job.submitted) / max(1.0, job.ideal))
    means = np.array([float(np.mean(values)) for values in slowdowns.values()])
    return float(means.sum() ** 2 / (len(means) * (means**2).sum())) if len(means) else None
