"""The tenant queue's promises, on random queues and histories."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jobcontroller.core.queueing import Admissions, Claim, JobKey, Quota, decide

NAMES = ("a", "b", "c")
quotas_of = st.tuples(
    *(
        st.builds(
            Quota,
            name=st.just(name),
            nominal_gpus=st.integers(0, 8),
            borrowing_limit=st.none() | st.integers(0, 6),
            weight=st.integers(1, 3),
            priority=st.integers(0, 1),
        )
        for name in NAMES
    )
)


def used(claims: dict[JobKey, Claim], queue: str | None = None) -> int:
    return sum(one.gpus for one in claims.values() if one.is_admitted and queue in (None, one.queue))


class Tenants(RuleBasedStateMachine):
    """Jobs come and end, owners change their queues; each decision is stored before the next."""

    def __init__(self) -> None:
        super().__init__()
        self.quotas: dict[str, Quota] = {}
        self.claims: dict[JobKey, Claim] = {}
        self.clock = 0
        self.last: Admissions | None = None

    @initialize(quotas=quotas_of)
    def begin(self, quotas: tuple[Quota, ...]) -> None:
        self.quotas = {quota.name: quota for quota in quotas}

    @rule(queue=st.sampled_from((*NAMES, "nowhere")), gpus=st.integers(0, 12))
    def submit(self, queue: str, gpus: int) -> None:
        self.clock += 1
        key = ("ns", f"j{self.clock}")
        self.claims[key] = Claim(key, queue, gpus, float(self.clock // 2))

    @rule(number=st.integers(0, 20))
    def end(self, number: int) -> None:
        running = [key for key, one in self.claims.items() if one.is_admitted]
        if running:
            del self.claims[running[number % len(running)]]

    @rule(name=st.sampled_from(NAMES), nominal=st.integers(0, 8))
    def change(self, name: str, nominal: int) -> None:
        self.quotas[name] = replace(self.quotas[name], nominal_gpus=nominal)

    @rule(turned=st.booleans())
    def look(self, turned: bool) -> None:
        before = self.claims
        jobs = list(before.values())
        found = decide(self.quotas.values(), jobs[::-1] if turned else jobs)
        assert found == decide(list(self.quotas.values())[::-1], jobs), "the order of the input does not matter"
        assert found.admitted | set(found.held) == set(before)
        assert not found.admitted & set(found.held)
        assert {key for key, one in before.items() if one.is_admitted} <= found.admitted, "nobody is thrown out"
        now = {key: replace(one, is_admitted=key in found.admitted) for key, one in before.items()}
        fresh = [one for key, one in now.items() if one.is_admitted and not before[key].is_admitted]
        total = sum(quota.nominal_gpus for quota in self.quotas.values())
        if any(one.gpus for one in fresh):
            assert used(now) <= total, "the pool is not given out twice"
        for one in fresh:
            quota = self.quotas[one.queue]
            if quota.borrowing_limit is not None:
                assert used(now, one.queue) <= quota.nominal_gpus + quota.borrowing_limit
        self._check_order(before, now, fresh, total)
        self.claims, self.last = now, found

    def _check_order(
        self, before: dict[JobKey, Claim], now: dict[JobKey, Claim], fresh: list[Claim], total: int
    ) -> None:
        for name, quota in self.quotas.items():
            waiting = [one for one in now.values() if one.queue == name and not one.is_admitted]
            own = [one for one in waiting if one.gpus <= quota.nominal_gpus]
            first = min(own, key=lambda one: (one.submitted_at, one.key), default=None)
            if first is None:
                continue
            ours = [one for one in fresh if one.queue == name]
            assert all((one.submitted_at, one.key) < (first.submitted_at, first.key) for one in ours), "first come"
            in_front = [one for one in waiting if (one.submitted_at, one.key) < (first.submitted_at, first.key)]
            if used(now, name) + first.gpus > quota.nominal_gpus:
                continue
            assert in_front or used(now) + first.gpus > total, "what is a queue's own and free is given to it"
            borrowed = {one.queue for one in fresh if used(now, one.queue) > self.quotas[one.queue].nominal_gpus}
            assert borrowed <= ({name} if in_front else set()), f"{borrowed} borrow while {name} waits for its own"

    @invariant()
    def counts_agree(self) -> None:
        if self.last is not None:
            for name, use in self.last.uses.items():
                assert use.borrowed_gpus <= use.used_gpus
                assert use.waiting_jobs + use.admitted_jobs >= 0
                assert name in NAMES


TestTenants = Tenants.TestCase
TestTenants.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@given(
    quotas=quotas_of,
    backlog=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 12)), max_size=12),
    flood=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 12)), min_size=1, max_size=8),
    queue=st.sampled_from(NAMES),
    wanted=st.integers(0, 8),
)
@settings(deadline=None, max_examples=300)
def test_a_job_within_its_queues_nominal_gpus_never_starves(
    quotas: tuple[Quota, ...], backlog: list[tuple[str, int]], flood: list[tuple[str, int]], queue: str, wanted: int
) -> None:
    """Others submit for ever, in its own queue too; each admitted job ends, one a round, the oldest first."""
    quota = next(one for one in quotas if one.name == queue)
    target = Claim(("ns", "target"), queue, min(wanted, quota.nominal_gpus), 100.0)
    claims = {target.key: target}
    for number, (name, gpus) in enumerate(backlog):
        claims["ns", f"b{number}"] = Claim(("ns", f"b{number}"), name, gpus, float(number))
    admitted_order: list[JobKey] = []
    for round_ in range(200):
        for number, (name, gpus) in enumerate(flood):
            key = ("ns", f"f{round_}-{number}")
            claims[key] = Claim(key, name, gpus, 101.0 + round_)
        found = decide(quotas, claims.values())
        if target.key in found.admitted:
            return
        for key in sorted(found.admitted - set(admitted_order)):
            admitted_order.append(key)
            claims[key] = replace(claims[key], is_admitted=True)
        if admitted_order:
            claims.pop(admitted_order.pop(0), None)  # of a flood long ago: taken out below already
        # What can never be admitted only makes the test slow.
        claims = {key: one for key, one in claims.items() if one.submitted_at <= 100 or round_ - one.submitted_at < -80}
    raise AssertionError("the job was never admitted")
