"""What is lent comes back, and nobody pays for another's borrowing; on random tenants."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from jobcontroller.core.queueing import Claim, JobKey, Quota, decide
from jobcontroller.core.reclaiming import Reclaims, reclaim

NAMES = ("a", "b", "c")
NOW = 1000.0
QUOTAS = st.tuples(
    *(
        st.builds(
            Quota,
            name=st.just(name),
            nominal_gpus=st.integers(0, 8),
            borrowing_limit=st.none() | st.integers(0, 8),
            priority=st.integers(0, 1),
            takes_back=st.booleans() if name == "c" else st.just(True),
        )
        for name in NAMES
    )
)
JOBS = st.lists(
    st.tuples(st.sampled_from((*NAMES, "gone")), st.integers(0, 9), st.booleans(), st.integers(0, 1000)), max_size=14
)
Jobs = list[tuple[str, int, bool, int]]


def tenants(quotas: tuple[Quota, ...], jobs: Jobs) -> dict[JobKey, Claim]:
    """Jobs that run, as many as the pool has room for, and jobs that wait."""
    room, claims = sum(one.nominal_gpus for one in quotas), {}
    for number, (queue, gpus, runs, saved) in enumerate(jobs):
        key = ("ns", f"j{number:02}")
        is_admitted = runs and gpus <= room
        room -= gpus if is_admitted else 0
        claims[key] = Claim(key, queue, gpus, float(number), is_admitted=is_admitted, unsaved_since=float(saved))
    return claims


def look(quotas: tuple[Quota, ...], claims: dict[JobKey, Claim]) -> tuple[dict[JobKey, Claim], Reclaims]:
    """Admit who may run, then see who has to go."""
    found = decide(quotas, claims.values())
    now = {key: replace(one, is_admitted=key in found.admitted) for key, one in claims.items()}
    return now, reclaim(quotas, now.values(), decide(quotas, now.values()), NOW)


def used(claims: dict[JobKey, Claim], queue: str) -> int:
    return sum(one.gpus for one in claims.values() if one.queue == queue and one.is_admitted)


@given(quotas=QUOTAS, jobs=JOBS)
@settings(deadline=None, max_examples=400)
def test_only_borrowers_end_and_only_for_what_is_a_queues_own(quotas: tuple[Quota, ...], jobs: Jobs) -> None:
    by_name = {one.name: one for one in quotas}
    claims, found = look(quotas, tenants(quotas, jobs))
    for key, why in found.victims.items():
        victim, winner = claims[key], claims[why.by]
        assert victim.is_admitted
        assert not winner.is_admitted
        assert used(claims, victim.queue) > by_name[victim.queue].nominal_gpus, "a queue within its own loses nothing"
        assert used(claims, winner.queue) + winner.gpus <= by_name[winner.queue].nominal_gpus, "nobody ends for a loan"
        assert by_name[winner.queue].takes_back
        assert winner.queue != victim.queue
    assert {why.by for why in found.victims.values()} <= found.waiting.keys()


@given(quotas=QUOTAS, jobs=JOBS)
@settings(deadline=None, max_examples=400)
def test_nobody_ends_in_vain_and_it_terminates(quotas: tuple[Quota, ...], jobs: Jobs) -> None:
    """Victims end and wait again, at the place they had; nothing else happens."""
    claims, rounds = tenants(quotas, jobs), 0
    while True:
        claims, found = look(quotas, claims)
        if not found.victims:
            return
        rounds += 1
        assert rounds <= len(claims) + 1, "it goes round in circles"
        leaving = {key: replace(one, is_leaving=key in found.victims) for key, one in claims.items()}
        _, again = look(quotas, leaving)
        assert not again.victims.keys() & found.victims.keys()
        assert not {why.by for why in again.victims.values()} & {why.by for why in found.victims.values()}
        claims = {
            key: replace(one, is_admitted=one.is_admitted and key not in found.victims) for key, one in claims.items()
        }
        after = decide(quotas, claims.values())
        for winner in {why.by for why in found.victims.values()}:
            assert winner in after.admitted


ONE_DOES_FOR_TWO = (Quota("a", 6), Quota("b", 1, priority=1), Quota("c", 6, takes_back=False))
"""What queue a has to take from queue c is more than it needs, and does for queue b too."""


@given(quotas=QUOTAS, jobs=JOBS)
@example(
    quotas=ONE_DOES_FOR_TWO,
    jobs=[
        ("a", 1, True, 0), ("a", 2, False, 0), ("a", 3, True, 0), ("b", 1, False, 0), ("c", 2, True, 0),
        ("c", 7, True, 0),
    ],
)  # fmt: skip
@settings(deadline=None, max_examples=200)
def test_one_victim_less_would_not_do(quotas: tuple[Quota, ...], jobs: Jobs) -> None:
    claims, found = look(quotas, tenants(quotas, jobs))
    winners = {why.by for why in found.victims.values()}
    for spared in found.victims:
        left = {
            key: replace(one, is_admitted=one.is_admitted and (key == spared or key not in found.victims))
            for key, one in claims.items()
        }
        assert not winners <= decide(quotas, left.values()).admitted


def test_who_gets_what_others_victims_leave_over_is_told_whom_it_waits_for() -> None:
    jobs = [("a", 4, True, 0), ("a", 2, False, 0), ("b", 1, False, 0), ("c", 2, True, 0), ("c", 7, True, 0)]
    _, found = look(ONE_DOES_FOR_TWO, tenants(ONE_DOES_FOR_TWO, jobs))
    assert set(found.victims) == {("ns", "j04")}
    assert "waits until ns/j04 gave theirs back" in found.waiting["ns", "j01"].message
    assert "waits until ns/j04 gave theirs back" in found.waiting["ns", "j02"].message


def test_the_job_that_loses_the_least_work_ends() -> None:
    quotas = (Quota("a", 4), Quota("b", 4))
    claims = {
        ("ns", "old"): Claim(("ns", "old"), "b", 4, 1.0, is_admitted=True, unsaved_since=0.0),
        ("ns", "saved"): Claim(("ns", "saved"), "b", 4, 2.0, is_admitted=True, unsaved_since=990.0),
        ("ns", "own"): Claim(("ns", "own"), "a", 4, 3.0),
    }
    _, found = look(quotas, claims)
    assert set(found.victims) == {("ns", "saved")}
    assert "queue a takes back GPUs it lent, as its job ns/own waits for 4" in found.victims["ns", "saved"].message
    assert "queue b uses 8 of 4 nominal" in found.victims["ns", "saved"].message
    assert found.waiting["ns", "own"].reason == "ReclaimingQuota"
    assert "waits until ns/saved gave theirs back" in found.waiting["ns", "own"].message


@pytest.mark.parametrize("takes_back", [True, False])
def test_a_queue_may_be_told_to_wait_instead(takes_back: bool) -> None:
    quotas = (Quota("a", 4, takes_back=takes_back), Quota("b", 0))
    claims = {
        ("ns", "guest"): Claim(("ns", "guest"), "b", 4, 1.0, is_admitted=True),
        ("ns", "own"): Claim(("ns", "own"), "a", 4, 3.0),
    }
    _, found = look(quotas, claims)
    assert bool(found.victims) is takes_back
