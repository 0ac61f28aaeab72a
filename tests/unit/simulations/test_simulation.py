"""Whole small runs: known answers, the same bytes for the same seed, and violations that are caught."""

from dataclasses import replace
from random import Random

import pytest

from simulations.engine.core_driver import CoreDriver
from simulations.engine.driver import Attempt
from simulations.engine.ledger import InvariantViolation
from simulations.engine.model import DatasetSpec, Fault, World
from simulations.engine.objects import CacheTeller
from simulations.engine.outcome import Outcome
from simulations.engine.policy import Policy
from simulations.engine.simulation import Simulation
from simulations.policies.registry import POLICIES
from simulations.scenarios.bound import bound
from tests.builders.simulated import SPEEDS, a_busy_world, a_job, a_sim_node, a_world

HEADRACE = POLICIES["headrace"]


def run(world: World, policy: Policy = HEADRACE) -> Outcome:
    return Simulation(world, policy).run()


def seconds(outcome: Outcome) -> float:
    found = outcome.figures["completion_seconds_mean"]
    assert found is not None
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    one, two = (Simulation(a_busy_world(seed=5), POLICIES[name]).run() for _ in range(2))
    assert one.dump() == two.dump()
    assert one.figures["jobs_finished"] == 40
    assert one.faults["failures"] > 0
    assert (one.figures["reasons_checked"] or 0) > 0


def test_another_seed_gives_other_faults() -> None:
    assert run(a_busy_world(seed=1)).dump() != run(a_busy_world(seed=2)).dump()


def test_without_data_a_job_takes_its_compute() -> None:
    assert seconds(run(a_world(jobs=(a_job(compute_seconds=321.0),)))) == pytest.approx(321.0)


def test_a_job_goes_as_fast_as_the_closed_form_says() -> None:
    # f = min(f*, b / (1 - c/d)): half of the dataset fits, the origin gives 1e9 bytes a second.
    node = a_sim_node(0, ssd_bytes=50e9)
    job = a_job(dataset=0, epochs=10, compute_seconds=10.0)
    first, others = 100e9 / 1e9, 9 * 100e9 * 0.5 / 1e9
    outcome = run(a_world((node,), jobs=(job,)))
    assert seconds(outcome) == pytest.approx(first + others, rel=0.01)
    assert outcome.figures["origin_bytes"] == pytest.approx(100e9 + 9 * 50e9, rel=0.01)


def test_a_slow_job_does_not_wait_for_its_data() -> None:
    assert seconds(run(a_world(jobs=(a_job(dataset=0, compute_seconds=500.0),)))) == pytest.approx(500.0, rel=0.01)


def test_two_readers_share_the_origin() -> None:
    jobs = tuple(a_job(f"j{index}", gpus=8, dataset=index, compute_seconds=1.0) for index in range(2))
    assert seconds(run(a_world(jobs=jobs, sizes=(50e9, 50e9)))) == pytest.approx(100.0, rel=0.01)


def test_readers_on_one_node_fetch_a_dataset_once() -> None:
    jobs = tuple(a_job(f"j{index}", dataset=0, compute_seconds=50.0) for index in range(8))
    outcome = run(a_world((a_sim_node(0),), jobs=jobs))
    assert outcome.figures["origin_bytes"] == pytest.approx(100e9, rel=0.01)


def test_readers_on_two_nodes_take_a_dataset_from_the_origin_once() -> None:
    jobs = tuple(a_job(f"j{index}", gpus=8, dataset=0, compute_seconds=50.0, epochs=3) for index in range(2))
    assert run(a_world(2, jobs=jobs)).figures["origin_bytes"] == pytest.approx(100e9, rel=0.01)


def test_readers_that_begin_cold_on_one_node_share_what_comes() -> None:
    jobs = tuple(a_job(f"j{index}", dataset=0, compute_seconds=10.0) for index in range(8))
    world = a_world((a_sim_node(0),), jobs=jobs, speeds=replace(SPEEDS, ssd=1e12))
    makespan = run(world).figures["makespan_seconds"]
    assert makespan == pytest.approx(100e9 / SPEEDS.origin, rel=0.15)


def test_a_reader_that_comes_later_shares_what_the_first_one_still_fetches() -> None:
    # The first one has a tenth when the second one begins; both want more than the origin gives.
    jobs = tuple(
        a_job(f"j{index}", gpus=8, dataset=0, compute_seconds=50.0, submit_seconds=10.0 * index) for index in range(2)
    )
    figures = run(a_world(2, jobs=jobs)).figures
    assert figures["origin_bytes"] == pytest.approx(100e9, rel=0.01)
    assert figures["makespan_seconds"] == pytest.approx(100e9 / SPEEDS.origin, rel=0.15)


def test_readers_under_fluid_keep_nothing_of_what_they_read() -> None:
    # Three of five nodes hold a third each; over many epochs a reader finds at most that share on its own node.
    job = a_job(dataset=0, epochs=16.5, compute_seconds=100.0)
    figures = run(a_world(5, jobs=(job,)), POLICIES["fluid"]).figures
    assert (figures["local_bytes"] or 0.0) <= 16.5 * 100e9 / 3 * 1.001
    assert figures["origin_bytes"] == pytest.approx(100e9, rel=0.01)


def test_headrace_goes_where_most_bytes_are_and_fluid_cannot_tell() -> None:
    nodes = tuple(a_sim_node(index) for index in range(8))
    dataset = DatasetSpec("d0", 100e9, {0: 10e9, 3: 100e9, 5: 20e9})
    world = replace(a_world(nodes, jobs=(a_job(dataset=0),)), datasets=(dataset,))
    assert run(world).figures["local_bytes"] == pytest.approx(100e9)
    local = [run(replace(world, seed=seed), POLICIES["fluid"]).figures["local_bytes"] or 0.0 for seed in range(12)]
    assert min(local) < 50e9
    assert all(amount >= 10e9 for amount in local)


def test_a_crashed_job_resumes_from_its_checkpoint() -> None:
    job = a_job(compute_seconds=1000.0, checkpoint_bytes=1e9, checkpoint_seconds=100.0)
    crash = Fault(at=450.0, kind="crash", nodes=(0,), seconds=60.0)
    outcome = run(a_world(1, jobs=(job,), faults=(crash,)))
    restore = 1e9 / SPEEDS.ssd
    assert seconds(outcome) == pytest.approx(450.0 + 60.0 + restore + 600.0, abs=1.0)
    assert outcome.figures["gpu_hours_lost"] == pytest.approx(50.0 / 3600)
    assert outcome.faults == {"crashes": 1, "jobs_stopped": 1}


def test_a_reclaimed_node_loses_its_cache_and_its_job_moves_without_losing_work() -> None:
    job = a_job(compute_seconds=1000.0, checkpoint_bytes=1e9, dataset=0, epochs=2)
    fault = Fault(at=400.0, kind="spot", nodes=(0, 1), notice_seconds=100.0, seconds=0.0)
    outcome = run(a_world(3, jobs=(job,), faults=(fault,)))
    assert outcome.faults["reclaims"] == 2
    assert outcome.figures["gpu_hours_lost"] == 0.0
    assert outcome.figures["jobs_finished"] == 1


def test_a_brownout_slows_the_origin_for_its_time() -> None:
    job = a_job(dataset=0, compute_seconds=1.0)
    fault = Fault(at=50.0, kind="brownout", seconds=100.0, share=0.1)
    assert seconds(run(a_world(1, jobs=(job,), faults=(fault,)))) == pytest.approx(50 + 100 + 40, rel=0.02)


def test_plain_kube_scheduler_can_leave_partial_gangs_holding_gpus() -> None:
    jobs = tuple(a_job(f"j{index}", pods=2, gpus=8, compute_seconds=60.0) for index in range(4))
    world = a_world(3, jobs=jobs, horizon_seconds=1e5)
    assert run(world).figures["jobs_finished"] == 4
    # Three nodes, two gangs of two at once: one member of the second waits for ever only if it blocks the others.
    assert (run(world, POLICIES["kube-scheduler"]).figures["gpu_hours_in_partial_gangs"] or 0.0) > 0.0


# ---- planted violations ----------------------------------------------------------------------


def planted(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Falsify what the scheduler decided, between it and the simulated kubelets."""
    turn = CoreDriver.turn

    def falsified(self: CoreDriver, now: float) -> list[tuple[str, int, Attempt]]:
        bound = turn(self, now)
        if change == "one node":
            return [(uid, 0, attempt) for uid, _, attempt in bound]
        if change == "twice":
            return bound + bound
        for uid, _, attempt in bound[1:]:
            del attempt.node_of[uid]
        return bound[:1]

    monkeypatch.setattr(CoreDriver, "turn", falsified)


@pytest.mark.parametrize(
    ("change", "said"), [("one node", "over-committed"), ("twice", "double bind"), ("part", "partial gang")]
)
def test_a_planted_violation_is_caught(monkeypatch: pytest.MonkeyPatch, change: str, said: str) -> None:
    planted(monkeypatch, change)
    with pytest.raises(InvariantViolation, match=said):
        run(a_world(3, jobs=(a_job(pods=3, gpus=8),)))


def test_an_untrue_reason_is_caught() -> None:
    jobs = (a_job("a", gpus=8, compute_seconds=100.0), a_job("b", gpus=8, submit_seconds=1.0))
    simulation = Simulation(a_world(1, jobs=jobs), HEADRACE)
    simulation.ledger.free[0] += simulation.ledger.whole[0]  # room the scheduler does not know of
    with pytest.raises(InvariantViolation, match="untrue reason"):
        simulation.run()


def driven(world: World, driver: type[CoreDriver], policy: Policy = HEADRACE) -> Outcome:
    """A run with another driver than the core's own."""
    return Simulation(world, policy, drive=lambda world, cache: driver(world, policy, cache, Random(0))).run()


def one_after_the_other(jobs: int = 4) -> World:
    return a_world(1, jobs=tuple(a_job(f"j{index}", gpus=8, submit_seconds=float(index)) for index in range(jobs)))


@pytest.mark.parametrize("name", ["headrace", "coscheduling", "kube-scheduler"])
def test_a_pod_that_is_forgotten_is_caught(name: str) -> None:
    class Forgetful(CoreDriver):
        def submit(self, attempt: Attempt, now: float, checkpoint: dict[int, float]) -> None:
            if attempt.job == 2:
                self._attempts |= dict.fromkeys(attempt.uids, attempt)
            else:
                super().submit(attempt, now, checkpoint)

    with pytest.raises(InvariantViolation, match="job j2 waits and was told '', which is no reason"):
        driven(one_after_the_other(), Forgetful, POLICIES[name])


def test_room_that_never_comes_back_is_caught() -> None:
    class Deaf(CoreDriver):
        def gone(self, uid: str) -> None:
            """Not heard."""

    with pytest.raises(InvariantViolation, match="untrue reason"):
        driven(one_after_the_other(), Deaf)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("0/1 nodes are available: 1 Insufficient memory.", "every node has enough of memory"),
        ("0/1 nodes are available: waiting for node n0, where the data is", "asked for no wait for data"),
        ("", "which is no reason"),
    ],
)
def test_a_wrong_reason_is_caught_for_the_last_of_many_too(told: str, said: str) -> None:
    class Liar(CoreDriver):
        def reason_of(self, attempt: Attempt) -> tuple[str, bool]:
            true, rests = super().reason_of(attempt)
            return (told if true and attempt.job == 19 else true), rests

    with pytest.raises(InvariantViolation, match=f"job j19.*{said}"):
        driven(one_after_the_other(20), Liar)


# ---- how runs end ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_a_run_ends_when_what_waits_can_never_start(name: str) -> None:
    jobs = (a_job("large", gpus=9), a_job("wide", pods=3, gpus=8), a_job("small", dataset=0))
    world = a_world(2, jobs=jobs, node_mtbf_seconds=1e5, faults=(Fault(3e4, "upgrade", (0,), seconds=100.0),))
    found = run(world, POLICIES[name])
    assert found.figures["jobs_finished"] == 1
    assert [job.name for job in found.jobs if job.finished is None] == ["large", "wide"]


def test_what_running_jobs_did_until_the_horizon_counts() -> None:
    jobs = (a_job("long", compute_seconds=1e4, dataset=0, epochs=100), a_job("later", submit_seconds=2e4))
    figures = run(a_world(1, jobs=jobs, sizes=(1e9,), horizon_seconds=1000.0)).figures
    assert figures["makespan_seconds"] == 1000.0
    assert (figures["local_bytes"] or 0) + (figures["origin_bytes"] or 0) == pytest.approx(10e9, rel=0.01)
    assert (figures["sor"] or 0) == pytest.approx(1 / 8, rel=0.01)
    bounded = bound(a_world(1, jobs=jobs, sizes=(1e9,), horizon_seconds=1000.0), 0.0).figures
    assert bounded["jobs_finished"] == 0
    assert (bounded["local_bytes"] or 0) + (bounded["origin_bytes"] or 0) == pytest.approx(10e9)


def test_fluid_runs_where_nothing_is_cached() -> None:
    nodes = tuple(a_sim_node(index, ssd_bytes=0.0) for index in range(2))
    for name in ("fluid", "fluid-wide", "headrace"):
        figures = run(a_world(nodes, jobs=(a_job(dataset=0, epochs=2),)), POLICIES[name]).figures
        assert figures["origin_bytes"] == pytest.approx(200e9)


def test_the_core_knows_empty_caches_from_the_start() -> None:
    world = a_world(3, jobs=(a_job(),))
    simulation = Simulation(world, HEADRACE)
    assert isinstance(simulation.driver, CoreDriver)
    simulation.driver.turn(0.0)
    residency = simulation.driver.engine.state.residency
    for index in range(3):
        # Nothing new: the same was told before.
        told = CacheTeller(world, simulation.cache, {}).node_cache(index)
        assert not residency.put_cache(told)
