"""What counts as equal, the clock beside a real cluster, sizes of scenarios, and names of schedulers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.engine.outcome import Outcome
from simulations.engine.simulation import Simulation
from simulations.errors import ScenarioError
from simulations.kwok.calibration import compare, jobs_alike
from simulations.kwok.clock import WorkClock
from simulations.kwok.runs import Wanted, wanted
from simulations.policies.registry import POLICIES
from simulations.scenarios.build import build
from simulations.scenarios.scale import scaled
from simulations.scenarios.schema import built_in, load
from tests.builders.simulated import a_busy_world


def an_outcome() -> Outcome:
    return Simulation(a_busy_world(), POLICIES["headrace"]).run()


def changed(outcome: Outcome, figure: str, factor: float) -> Outcome:
    return replace(outcome, figures=outcome.figures | {figure: (outcome.figures[figure] or 0.0) * factor})


def test_an_outcome_equals_itself_and_every_figure_counts() -> None:
    outcome = an_outcome()
    assert all(line.is_equal for line in compare([outcome], [outcome]))
    assert jobs_alike([outcome], [outcome]) == 1.0
    for figure in ("local_bytes", "far_peer_bytes", "origin_bytes", "completion_seconds_p90", "jobs_finished"):
        lines = compare([outcome], [changed(outcome, figure, 1.06)])
        assert [line.is_equal for line in lines].count(False) == 1, figure
    assert all(line.is_equal for line in compare([outcome], [changed(outcome, "origin_bytes", 1.04)]))


def test_what_chance_makes_of_a_difference_is_said_and_excuses_nothing() -> None:
    outcome = an_outcome()
    apart = [changed(outcome, "origin_bytes", factor) for factor in (1.0, 1.2, 1.4)]
    (line,) = [line for line in compare([outcome] * 3, apart) if line.title == "read from the origin"]
    # Differences of 0, 0.2 and 0.4: their deviation is 0.2, Student's factor for three is 4.303.
    assert line.chance == pytest.approx(4.303 * 0.2 / 3**0.5 / 1.2)
    assert not line.is_equal
    assert all(line.chance == 0.0 for line in compare([outcome], apart[:1]))


def test_a_source_hardly_used_has_no_ratio() -> None:
    outcome = replace(an_outcome(), figures=an_outcome().figures | {"near_peer_bytes": 1e3})
    line = next(
        line for line in compare([outcome], [changed(outcome, "near_peer_bytes", 3.0)]) if "in the" in line.title
    )
    assert line.is_equal and line.difference is None


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1000)), max_size=20))
def test_the_clock_never_goes_back_and_runs_as_the_real_one_between_jumps(steps: list[tuple[float, float]]) -> None:
    wall, clock = 100.0, WorkClock(100.0)
    now = clock.now(wall)
    assert now == 0.0
    for seconds, ahead in steps:
        wall += seconds
        later = clock.now(wall)
        assert later == pytest.approx(now + seconds)
        clock.jump(later + ahead - 1.0, wall)
        now = clock.now(wall)
        assert now == pytest.approx(max(later, later + ahead - 1.0))


@pytest.mark.parametrize("name", sorted(built_in()))
def test_a_scenario_of_another_size_has_that_size_and_says_so(name: str) -> None:
    scenario = load(built_in()[name])
    same, nothing = scaled(scenario)
    assert same == scenario and nothing == ()
    smaller, said = scaled(scenario, nodes=20, jobs=7)
    world = build(smaller, 0)
    assert len(world.nodes) == 20
    assert len(world.jobs) == 7
    assert said


def test_load_a_node_stays_when_a_cluster_grows() -> None:
    scenario = load(built_in()["sweep"])
    larger, said = scaled(scenario, nodes=640)
    assert larger.workload.jobs == 10 * scenario.workload.jobs
    assert larger.workload.arrival_seconds == scenario.workload.arrival_seconds / 10
    assert larger.cluster.origin == 10 * scenario.cluster.origin
    assert said == ("Scaled: nodes 64 → 640, origin bandwidth and arrivals × 10.", "Scaled: jobs 400 → 4000.")
    with pytest.raises(ScenarioError, match="--nodes 1 is too few"):
        scaled(load(built_in()["spot-storm"]), nodes=1)


def test_schedulers_by_name_and_by_command() -> None:
    assert wanted(["headrace", "kube-scheduler", "mine=run --it"], ["mine"]) == (
        Wanted("headrace"),
        Wanted("kube-scheduler", has_gangs=False),
        Wanted("mine", "run --it", has_gangs=False),
    )


@pytest.mark.parametrize(
    ("words", "without", "said"),
    [
        (["volcano"], [], "'volcano' is not known"),
        (["headrace=x"], [], "another name"),
        (["a=x", "a=y"], [], "must differ"),
        (["a=x"], ["b"], "'b' is no scheduler of this run"),
    ],
)
def test_a_scheduler_that_cannot_be_is_refused_in_one_sentence(words: list[str], without: list[str], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        wanted(words, without)
