"""Gangs pod by pod, as coscheduling's plugin has it: what is held, given back at once, and tried again."""

import pytest

from simulations.engine.clock import EventHeap
from simulations.engine.driver import Attempt
from simulations.engine.outcome import Outcome
from simulations.engine.permits import PERMIT_SECONDS, PermitTimers
from simulations.engine.simulation import Simulation
from simulations.policies.registry import POLICIES
from tests.builders.simulated import a_job, a_world


def run(nodes: int, *jobs: object) -> Outcome:
    return Simulation(a_world(nodes, jobs=jobs), POLICIES["coscheduling"]).run()  # type: ignore[arg-type]


def test_a_gang_that_fits_in_part_gives_its_room_back_at_once() -> None:
    first = a_job("first", pods=2, gpus=8, compute_seconds=1000.0)
    gang = a_job("gang", pods=2, gpus=8, submit_seconds=10.0)
    single = a_job("single", gpus=8, submit_seconds=11.0, compute_seconds=50.0)
    found = run(3, first, gang, single)
    jobs = {job.name: job for job in found.jobs}
    assert found.figures["gpu_hours_in_partial_gangs"] == 0.0
    assert jobs["single"].first_started == 11.0
    assert jobs["gang"].first_started == pytest.approx(1000.0, abs=10.0)


def test_a_gang_that_lacks_no_more_than_a_tenth_holds_what_it_has() -> None:
    taken = a_job("taken", gpus=8, compute_seconds=40.0)
    gang = a_job("gang", pods=10, gpus=8, submit_seconds=10.0)
    found = run(10, taken, gang)
    assert found.jobs[1].first_started == pytest.approx(40.0, abs=2.0)
    assert (found.figures["gpu_hours_in_partial_gangs"] or 0.0) * 3600 == pytest.approx(9 * 8 * 30.0, rel=0.1)


def test_who_waits_for_more_than_permit_allows_lets_others_go_first() -> None:
    taken = a_job("taken", gpus=8, compute_seconds=1000.0)
    gang = a_job("gang", pods=10, gpus=8, submit_seconds=10.0)
    single = a_job("single", gpus=8, submit_seconds=11.0, compute_seconds=2000.0)
    found = run(10, taken, gang, single)
    assert found.jobs[2].first_started == pytest.approx(10.0 + PERMIT_SECONDS, abs=1.0)
    assert found.jobs[1].first_started == pytest.approx(10.0 + PERMIT_SECONDS + 2000.0, rel=0.05)


def test_two_gangs_that_do_not_fit_together_both_run() -> None:
    gangs = (a_job(f"g{index}", pods=3, gpus=8, submit_seconds=float(index)) for index in range(4))
    assert run(4, *gangs).figures["jobs_finished"] == 4


def test_every_hold_has_its_own_time() -> None:
    heap, attempt = EventHeap(), Attempt(0, 1, a_job(pods=2))
    timers = PermitTimers(heap)
    attempt.permits["0.1.0"] = 0
    timers.follow({0: attempt})
    heap.advance(50.0)
    attempt.permits.clear()
    timers.follow({0: attempt})
    attempt.permits["0.1.0"] = 0
    timers.follow({0: attempt})
    heap.advance(PERMIT_SECONDS)
    assert not timers.is_over(heap.pop_due()[1])  # type: ignore[index]
    heap.advance(50.0 + PERMIT_SECONDS)
    assert timers.is_over(heap.pop_due()[1])  # type: ignore[index]
