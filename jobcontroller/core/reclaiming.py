"""Which admitted jobs have to end so that a queue gets back what it lent.

Owns the choice of victims, after core/queueing.py decided who may run. A queue whose next job fits into its nominal
GPUs and finds none free takes them back from queues that borrow: whole jobs, those first that lose the least work.

Invariants (tests/property/jobcontroller/test_reclaiming.py):
- a job is ended only while its queue uses more than its nominal GPUs, and only for a job within its own queue's: nobody
  is ever ended for somebody else's borrowing
- nobody is ended in vain: with all victims gone the job fits, and with one of them less it would not
- what is on its way out counts as free already, so nobody is ended for the same need twice
- it terminates: who takes back is within its own afterwards, so nobody takes that back"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from jobcontroller.core import reasons
from jobcontroller.core.queueing import Admissions, Claim, Hold, JobKey, Pool, Quota, decide

MAX_LISTED = 3


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Why a job has to give its GPUs back: for which job, and a sentence for its owner."""

    by: JobKey
    message: str


@dataclass(frozen=True, slots=True)
class Reclaims:
    """`victims` by job; `waiting`: what the jobs they end for are told meanwhile."""

    victims: Mapping[JobKey, Reclaim]
    waiting: Mapping[JobKey, Hold]


def reclaim(quotas: Iterable[Quota], claims: Iterable[Claim], admissions: Admissions, now: float) -> Reclaims:
    """Return who has to give back at `now` (seconds since 1970). Deterministic; the order of arguments is nothing."""
    pool = Pool({quota.name: quota for quota in quotas})
    ordered = sorted(claims, key=lambda claim: (claim.submitted_at, claim.key))
    for claim in ordered:
        if claim.key in admissions.admitted:
            pool.used[claim.queue] += claim.gpus
        elif claim.queue in pool.quotas:
            pool.waiting.setdefault(claim.queue, deque()).append(claim)
    entitled = pool.entitled()
    heads = [
        pool.head(queue, entitled) for queue in sorted(entitled, key=lambda one: (-_quota(pool, one).priority, one))
    ]
    leaving = [claim for claim in ordered if claim.is_leaving and claim.is_admitted]
    spare = pool.free + sum(claim.gpus for claim in leaving)
    for claim in leaving:
        pool.used[claim.queue] -= claim.gpus
    taken: list[tuple[Claim, Sequence[Claim]]] = []
    """Who takes back, and from whom."""
    gone = {one.key for one in leaving}
    for head in heads:
        # What stands before a queue's own in its line, and borrows, is worth nobody's end.
        if head is None or not pool.is_own_size(head) or not _quota(pool, head.queue).takes_back:
            continue
        chosen: Sequence[Claim] = ()
        if head.gpus > spare:
            candidates = [one for one in ordered if one.is_admitted and one.key not in gone]
            chosen = _choose(pool, candidates, head.gpus - spare, now)
            then = gone | {one.key for one in chosen}
            if not chosen or not _are_served([head], pool.quotas, ordered, admissions, then):
                continue
        taken.append((head, chosen))
        gone |= {one.key for one in chosen}
        for victim in chosen:
            pool.used[victim.queue] -= victim.gpus
        spare += sum(victim.gpus for victim in chosen) - head.gpus
    ending = [victim for _, chosen in taken for victim in chosen]
    for victim in ending:
        pool.used[victim.queue] += victim.gpus
    # A later one's victims may be larger than it needs, and do for an earlier one too.
    spared: set[JobKey] = set()
    for victim in sorted(ending, key=lambda one: _cost(pool, one, now), reverse=True) if len(taken) > 1 else ():
        without = gone - spared - {victim.key}
        if _are_served([head for head, _ in taken], pool.quotas, ordered, admissions, without):
            spared.add(victim.key)
    return _told(taken, spared, leaving, pool, now)


def _told(
    taken: Sequence[tuple[Claim, Sequence[Claim]]],
    spared: Set[JobKey],
    leaving: Sequence[Claim],
    pool: Pool,
    now: float,
) -> Reclaims:
    """Say to each whom it ends for, or waits for; `pool` is as it was before anybody ended."""
    victims: dict[JobKey, Reclaim] = {}
    waiting: dict[JobKey, Hold] = {}
    everybody = [victim for _, chosen in taken for victim in chosen if victim.key not in spared]
    for head, chosen in taken:
        own = [victim for victim in chosen if victim.key not in spared]
        # Who has none of its own gets what others' leave over, or what is on its way out already.
        theirs = everybody if chosen or not leaving else ()
        waiting[head.key] = _hold(head, own or theirs, leaving, pool)
        for victim in own:
            victims[victim.key] = _reclaim(head, victim, pool, now)
        for victim in own:
            pool.used[victim.queue] -= victim.gpus
    return Reclaims(victims, waiting)


def _choose(pool: Pool, candidates: Iterable[Claim], wanted_gpus: int, now: float) -> list[Claim]:
    """Return the fewest of the cheapest jobs whose GPUs will do; [] when all that may be taken do not."""
    used, chosen, freed = dict(pool.used), [], 0
    for claim in sorted(candidates, key=lambda one: _cost(pool, one, now)):
        if freed >= wanted_gpus:
            break
        quota = pool.quotas.get(claim.queue)
        # A queue that was deleted lends and borrows nothing: its jobs keep what they hold.
        if quota is None or claim.gpus == 0 or used[claim.queue] <= quota.nominal_gpus:
            continue
        used[claim.queue] -= claim.gpus
        freed += claim.gpus
        chosen.append(claim)
    if freed < wanted_gpus:
        return []
    for claim in reversed(chosen[:]):
        if freed - claim.gpus >= wanted_gpus:
            freed -= claim.gpus
            chosen.remove(claim)
    return chosen


def _are_served(
    heads: Iterable[Claim],
    quotas: Mapping[str, Quota],
    claims: Iterable[Claim],
    admissions: Admissions,
    gone: Set[JobKey],
) -> bool:
    """Whether the jobs would be admitted with these gone.

    One that stands before it in its line, and fits only when they are, would borrow what they left."""
    then = [replace(one, is_admitted=one.key in admissions.admitted and one.key not in gone) for one in claims]
    return {head.key for head in heads} <= decide(quotas.values(), then).admitted


def lost_gpu_seconds(claim: Claim, now: float) -> float:
    """Return the work that has to be done again if the job ends now."""
    return claim.gpus * max(0.0, now - claim.unsaved_since)


def _cost(pool: Pool, claim: Claim, now: float) -> tuple[float, float, float, JobKey]:
    quota = pool.quotas.get(claim.queue)
    return quota.priority if quota else 0, lost_gpu_seconds(claim, now), -claim.submitted_at, claim.key


def _quota(pool: Pool, name: str) -> Quota:
    return pool.quotas[name]


def _reclaim(head: Claim, victim: Claim, pool: Pool, now: float) -> Reclaim:
    quota = _quota(pool, victim.queue)
    minutes = lost_gpu_seconds(victim, now) / 60
    text = (
        f"queue {head.queue} takes back GPUs it lent, as its job {'/'.join(head.key)} waits for {head.gpus}; queue "
        f"{victim.queue} uses {pool.used[victim.queue]} of {quota.nominal_gpus} nominal, and this job loses the least "
        f"work ({minutes:.0f} GPU minutes since its newest checkpoint)"
    )
    return Reclaim(head.key, text)


def _hold(head: Claim, chosen: Sequence[Claim], leaving: Sequence[Claim], pool: Pool) -> Hold:
    ending = [*chosen, *leaving]
    listed = ", ".join("/".join(one.key) for one in ending[:MAX_LISTED])
    more = " and others" if len(ending) > MAX_LISTED else ""
    text = (
        f"Queue {head.queue} takes back GPUs it lent: this job needs {head.gpus} of its "
        f"{_quota(pool, head.queue).nominal_gpus} nominal, and waits until {listed}{more} gave theirs back"
    )
    return Hold(reasons.RECLAIMING, text)
