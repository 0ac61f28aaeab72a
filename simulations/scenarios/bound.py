"""The offline bound: what no placement, however clairvoyant, can do better than.

Owns three bounds that hold at once: each job starts when it is submitted and never waits for data; each byte that is
read at all and is nowhere at the start leaves the origin once; nothing crosses racks. It is a bound, not a schedule: no
cluster may reach it.
"""

from simulations.engine.jobs import Bytes
from simulations.engine.model import World
from simulations.engine.outcome import Account, Outcome, outcome, record


def bound(world: World, price_per_gib: float) -> Outcome:
    """The bound in the shape of an outcome."""
    account = Account([record(job) for job in world.jobs])
    account.bytes = _bytes(world)
    end = 0.0
    for job, kept in zip(world.jobs, account.jobs, strict=True):
        if job.submit_seconds > world.horizon_seconds:
            continue
        kept.first_started = job.submit_seconds
        kept.starts = 1
        finished = job.submit_seconds + job.compute_seconds
        kept.finished = finished if finished <= world.horizon_seconds else None
        end = max(end, min(finished, world.horizon_seconds))
    return outcome(world, "bound", account, end=end, price_per_gib=price_per_gib)


def _bytes(world: World) -> Bytes:
    most: dict[int, float] = {}
    total = 0.0
    for job in world.jobs:
        if job.dataset is not None:
            runs = min(job.compute_seconds, max(0.0, world.horizon_seconds - job.submit_seconds))
            epochs = job.epochs * runs / job.compute_seconds
            total += epochs * world.datasets[job.dataset].size_bytes
            # Different jobs may read the same part first, so only the longest read counts.
            most[job.dataset] = max(most.get(job.dataset, 0.0), min(1.0, epochs))
    origin = 0.0
    for number, share in most.items():
        dataset = world.datasets[number]
        there = min(dataset.size_bytes, sum(dataset.resident.values()))
        origin += max(0.0, share * dataset.size_bytes - there)
    return Bytes(local=total - origin, origin=origin)
