"""Which jobs of which queue may run: quota, borrowing, order.

Owns the decision over all queues and jobs at one instant. Does not place pods: an admitted job may still wait for
nodes. All queues share one pool of Σ nominalGPUs. A queue *borrows* what it uses beyond its nominal GPUs, at most
its borrowing limit, out of what other queues leave.

The order: a job comes after those submitted before it to its queue. First every queue gets what is within its
nominal GPUs. Then, if no queue waits for GPUs of its own, the others borrow one job at a time: the queue of the
highest priority, among equals the one that uses least for its weight, among equals the job that waits longest.

Invariants (tests/property/jobcontroller/test_queueing.py):
- admitted jobs stay admitted; new ones never bring all queues above the pool, nor one above nominal + borrowing limit
- while a queue waits for GPUs of its own, no other queue begins to borrow
- so a job that needs no more than its queue's nominal GPUs is admitted in the end, whatever others submit: those
  before it in its queue end, what was borrowed comes back, and nothing is borrowed meanwhile
  (what was borrowed comes back when jobs end, or is taken back: core/reclaiming.py)
- a job larger than its queue's nominal GPUs lives on what others leave. It holds up the jobs behind it only while
  waiting for its own queue and for borrowers is enough, and no other queue waits for its own; else they pass it"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jobcontroller.core import reasons

JobKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Quota:
    """One queue as its owner wrote it; `borrowing_limit` None = whatever others leave."""

    name: str
    nominal_gpus: int
    borrowing_limit: int | None = None
    weight: int = 1
    priority: int = 0
    #: whether its jobs may have others ended that borrow, to get GPUs of its own
    takes_back: bool = True

    @property
    def most_gpus(self) -> float:
        """The most it may ever use."""
        return float("inf") if self.borrowing_limit is None else self.nominal_gpus + self.borrowing_limit


@dataclass(frozen=True, slots=True)
class Claim:
    """One unfinished job of a queue: the GPUs all its pods ask for, and when it was submitted (seconds since 1970)."""

    key: JobKey
    queue: str
    gpus: int
    submitted_at: float
    is_admitted: bool = False
    #: it was told to give its GPUs back, and holds them until its pods are gone
    is_leaving: bool = False
    #: since when its work is in no checkpoint (seconds since 1970); not worth a new decision
    unsaved_since: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a job waits: a condition's reason and message."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Use:
    """What a queue's admitted jobs hold, and how many jobs wait."""

    used_gpus: int = 0
    borrowed_gpus: int = 0
    admitted_jobs: int = 0
    waiting_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Admissions:
    """`admitted`: jobs that may run, those that already did included; `held`: the others, each with its reason."""

    admitted: frozenset[JobKey]
    held: Mapping[JobKey, Hold]
    uses: Mapping[str, Use]


@dataclass(slots=True)
class Pool:
    """The counting while a decision is made."""

    quotas: Mapping[str, Quota]
    used: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    waiting: dict[str, deque[Claim]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(quota.nominal_gpus for quota in self.quotas.values())

    @property
    def free(self) -> int:
        return self.total - sum(self.used.values())

    def is_within_nominal(self, claim: Claim) -> bool:
        return self.used[claim.queue] + claim.gpus <= self.quotas[claim.queue].nominal_gpus

    def is_within_limit(self, claim: Claim) -> bool:
        return self.used[claim.queue] + claim.gpus <= self.quotas[claim.queue].most_gpus

    def is_reachable(self, claim: Claim) -> bool:
        """Whether it fits once its own queue's jobs have ended and others have given back what they borrow."""
        others = sum(
            min(used, self.quotas[name].nominal_gpus) if name in self.quotas else used
            for name, used in self.used.items()
            if name != claim.queue
        )
        quota = self.quotas[claim.queue]
        return claim.gpus <= min(quota.most_gpus, self.total - others)

    def rank(self, claim: Claim) -> tuple[float, float, float, JobKey]:
        """Who borrows first: the smallest."""
        quota = self.quotas[claim.queue]
        return -quota.priority, self.used[claim.queue] / quota.weight, claim.submitted_at, claim.key

    def entitled(self) -> set[str]:
        """Queues that wait for GPUs of their own."""
        firsts = (next(filter(self.is_own_size, waiting), None) for waiting in self.waiting.values())
        return {claim.queue for claim in firsts if claim is not None and self.is_within_nominal(claim)}

    def is_own_size(self, claim: Claim) -> bool:
        return claim.gpus <= self.quotas[claim.queue].nominal_gpus

    def head(self, queue: str, entitled: set[str]) -> Claim | None:
        """The job of a queue whose turn it is."""
        may_hold_up = entitled <= {queue}
        for claim in self.waiting[queue]:
            if self.is_own_size(claim) or (may_hold_up and self.is_reachable(claim)):
                return claim
        return None

    def heads(self, entitled: set[str]) -> list[Claim]:
        """Every queue's, in the order in which they may borrow."""
        found = [self.head(queue, entitled) for queue in self.waiting]
        return sorted((head for head in found if head is not None), key=self.rank)

    def admit(self, claim: Claim) -> None:
        self.waiting[claim.queue].remove(claim)
        self.used[claim.queue] += claim.gpus


def decide(quotas: Iterable[Quota], claims: Iterable[Claim]) -> Admissions:
    """Return who may run now. Deterministic; the order of the arguments does not matter."""
    pool = Pool({quota.name: quota for quota in quotas})
    ordered = sorted(claims, key=lambda claim: (claim.submitted_at, claim.key))
    held: dict[JobKey, Hold] = {}
    admitted = {claim.key for claim in ordered if claim.is_admitted}
    for claim in ordered:
        if claim.is_admitted:
            pool.used[claim.queue] += claim.gpus
        elif claim.queue not in pool.quotas:
            held[claim.key] = _no_queue(claim, pool)
        else:
            pool.waiting.setdefault(claim.queue, deque()).append(claim)
    while (chosen := _next(pool)) is not None:
        pool.admit(chosen)
        admitted.add(chosen.key)
    entitled = pool.entitled()
    for queue, waiting in pool.waiting.items():
        head = pool.head(queue, entitled)
        for place, claim in enumerate(waiting):
            held[claim.key] = _hold(claim, place, claim is head, pool)
    return Admissions(frozenset(admitted), held, _uses(pool, ordered, admitted))


def _next(pool: Pool) -> Claim | None:
    entitled = pool.entitled()
    heads = pool.heads(entitled)
    fitting = next((claim for claim in heads if pool.is_within_nominal(claim) and claim.gpus <= pool.free), None)
    if fitting is not None:
        return fitting
    if entitled:
        # Only what stands before such a job in its own queue may borrow now.
        heads = [claim for claim in heads if claim.queue in entitled and not pool.is_own_size(claim)]
    # The first that may borrow has to be served before anybody after it: small ones would overtake it for ever.
    first = next((claim for claim in heads if pool.is_within_limit(claim)), None)
    return first if first is not None and first.gpus <= pool.free else None


def _uses(pool: Pool, claims: Iterable[Claim], admitted: set[JobKey]) -> dict[str, Use]:
    counts: dict[str, list[int]] = {name: [0, 0] for name in pool.quotas}
    for claim in claims:
        if claim.queue in counts:
            counts[claim.queue][claim.key not in admitted] += 1
    return {
        name: Use(pool.used[name], max(0, pool.used[name] - pool.quotas[name].nominal_gpus), runs, waits)
        for name, (runs, waits) in counts.items()
    }


def _no_queue(claim: Claim, pool: Pool) -> Hold:
    known = ", ".join(sorted(pool.quotas)[:8]) or "none"
    text = (
        f"Queue {claim.queue} does not exist; create it, or correct spec.runPolicy.schedulingPolicy.queue "
        f"(there are: {known})"
    )
    return Hold(reasons.QUEUE_NOT_FOUND, text)


def _hold(claim: Claim, place: int, is_head: bool, pool: Pool) -> Hold:
    quota, used = pool.quotas[claim.queue], pool.used[claim.queue]
    state = f"Queue {claim.queue} uses {used} of {quota.nominal_gpus} GPUs nominal"
    limit = min(quota.most_gpus, pool.total)
    if claim.gpus > limit:
        why = (
            f"this job needs {claim.gpus}, more than the {limit} the queue can ever use; raise its nominalGPUs or "
            "borrowingLimit, or give the job fewer"
        )
        return Hold(reasons.QUOTA_TOO_SMALL, f"{state}; {why}")
    ahead = f"; {place} jobs of the queue are before it" if place else ""
    needs = f"this job needs {claim.gpus}{ahead}"
    if not pool.is_within_limit(claim):
        may = f"borrowingLimit {quota.borrowing_limit}"
        return Hold(reasons.WAITING_FOR_QUOTA, f"{state} and may borrow up to {may}; {needs}")
    if claim.gpus <= pool.free and not is_head:
        return Hold(reasons.WAITING_FOR_QUOTA, f"{state}; {needs}")
    left = f"{max(0, pool.free)} of {pool.total} GPUs of all queues are free"
    if pool.is_within_nominal(claim):
        return Hold(reasons.WAITING_FOR_QUOTA, f"{state}; {needs}; {left}, the queue's others are lent")
    return Hold(reasons.WAITING_FOR_QUOTA, f"{state}; {needs} and would have to borrow; {left}, and others come first")
