"""Scenario files, traces and what is built of them."""

from pathlib import Path

import pytest

from simulations.engine.model import World
from simulations.engine.simulation import Simulation
from simulations.errors import ScenarioError
from simulations.policies.kube import nodes_to_find
from simulations.policies.registry import POLICIES
from simulations.run import run
from simulations.scenarios.build import build
from simulations.scenarios.schema import Scenario, built_in, load
from simulations.traces.readers import read

SMALL_JOBS = 30
PHILLY = "timestamp,duration,num_gpus,gpu_time,cluster\n" + "".join(
    f"2017-10-0{day} 07:0{minute}:00,{60 * (minute + 1)}.0,{gpus},1.0,team{day % 2}\n"
    for day in range(1, 6)
    for minute, gpus in enumerate((1, 2, 16))
)
OPENB_NODES = "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,2,P100\nb,96000,786432,8,G2\n"


def small(name: str) -> Scenario:
    """A built-in scenario with few jobs and nodes, its faults kept."""
    scenario = load(built_in()[name])
    cluster = scenario.cluster
    pools = tuple(pool.model_copy(update={"count": max(2, min(12, pool.count // 8))}) for pool in cluster.pools)
    return scenario.model_copy(
        update={
            "workload": scenario.workload.model_copy(update={"jobs": min(SMALL_JOBS, scenario.workload.jobs)}),
            "cluster": cluster.model_copy(update={"pools": pools, "openb_nodes": min(20, cluster.openb_nodes)}),
            "datasets": scenario.datasets.model_copy(update={"count": min(20, scenario.datasets.count)}),
        }
    )


@pytest.mark.parametrize("name", built_in())
def test_every_scenario_loads_and_is_reproducible(name: str) -> None:
    scenario = load(built_in()[name])
    assert scenario.name == name
    if name != "month-at-scale":
        assert build(scenario, 1) == build(scenario, 1)
        if scenario.workload.jobs > 1:
            assert build(scenario, 1) != build(scenario, 2)


@pytest.mark.parametrize("name", [name for name in built_in() if name != "month-at-scale"])
def test_every_scenario_runs_small_and_its_faults_take_place(name: str) -> None:
    scenario = small(name)
    result = run(scenario, policies=("headrace", "fluid"), seeds=1)
    for outcomes in result.runs.values():
        assert outcomes[0].figures["jobs_finished"] == scenario.workload.jobs
    kinds = {
        "crash": "crashes",
        "spot": "notices",
        "upgrade": "upgrades",
        "remove": "removals",
        "brownout": "brownouts",
    }
    for fault in scenario.faults:
        assert result.runs["headrace"][0].faults.get(kinds[fault.kind], 0) > 0
    bound, ours = result.runs["bound"][0].figures, result.runs["headrace"][0].figures
    assert (bound["completion_seconds_mean"] or 0) <= (ours["completion_seconds_mean"] or 0) + 1e-6
    assert (bound["origin_bytes"] or 0) <= (ours["origin_bytes"] or 0) * 1.0001 + (ours["far_peer_bytes"] or 0) + 1.0


def test_partial_cache_takes_the_times_it_was_set_to() -> None:
    result = run(load(built_in()["partial-cache"]), policies=("headrace", "fluid", "coscheduling"), seeds=1)
    seconds = {name: runs[0].figures["completion_seconds_mean"] for name, runs in result.runs.items()}
    assert seconds["headrace"] == pytest.approx(80, rel=0.05)
    assert seconds["fluid"] == pytest.approx(600, rel=0.05)
    assert seconds["coscheduling"] == pytest.approx(18 * 60, rel=0.05)


def test_runs_begin_with_the_seed_they_are_told() -> None:
    scenario = small("sweep")
    both = run(scenario, policies=("headrace",), seeds=2, first_seed=4)
    last = run(scenario, policies=("headrace",), seeds=1, first_seed=5)
    assert [outcome.dump() for outcome in both.runs["headrace"][1:]] == [
        outcome.dump() for outcome in last.runs["headrace"]
    ]
    assert both.runs["headrace"][0].dump() != last.runs["headrace"][0].dump()


def test_traces_are_known_by_their_columns(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(PHILLY)
    (tmp_path / "nodes.csv").write_text(OPENB_NODES)
    traces = read([tmp_path / "jobs.csv", tmp_path / "nodes.csv"])
    assert [node.gpus for node in traces.nodes] == [2, 8]
    assert len(traces.philly) == 15
    scenario = small("philly")
    world = build(scenario, 0, traces)
    assert {job.user for job in world.jobs} >= {"team0", "team1"}
    assert any(job.pods == 2 and job.gpus == 8 for job in world.jobs)
    assert Simulation(world, POLICIES["headrace"]).run().figures["jobs_finished"] == len(world.jobs)
    fragmented = build(small("gangs-fragmented"), 0, traces)
    assert {node.gpus for node in fragmented.nodes} == {2, 8}


def test_teams_read_their_own_datasets() -> None:
    world: World = build(load(built_in()["philly"]), 0)
    teams = {job.user: set[int | None]() for job in world.jobs}
    for job in world.jobs:
        teams[job.user].add(job.dataset)
    found = list(teams.values())
    assert all(not (one & other) for index, one in enumerate(found) for other in found[:index])


PLAIN = "name: x\nquestion: y\ncluster: {pools: [{count: 4}]}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nquestion: y\n", "cluster: Field required"),
        ("name: x\nquestion: y\ncluster: {}\n", "give pools or openb_nodes"),
        (
            "name: x\nquestion: y\ncluster: {pools: [{count: 1}]}\npolicies: [nobody]\n",
            "not known; choose from headrace",
        ),
        ("name: x\nquestion: y\ncluster: {pools: [{count: 0}]}\n", "cluster.pools.0.count"),
        ("a: [", "not valid YAML"),
        (f"{PLAIN}workload: {{sizes: []}}\n", "workload.sizes.*at least 1 item"),
        (f"{PLAIN}workload: {{arrival_seconds: .inf}}\n", "workload.arrival_seconds.*finite"),
        (f"{PLAIN}workload: {{compute_seconds: {{median: .inf}}}}\n", "compute_seconds.median.*finite"),
        (f"{PLAIN}datasets: {{bytes: {{median: .inf}}}}\n", "datasets.bytes.median.*finite"),
        (f"{PLAIN}datasets: {{resident: {{4: 1}}}}\n", "datasets.resident names node 4, but there are 4"),
        (f"{PLAIN}datasets: {{resident: {{-1: 1}}}}\n", "greater than or equal to 0"),
        (f"{PLAIN}datasets: {{only_there: true}}\n", "resident is empty"),
        (f"{PLAIN}faults: [{{kind: crash, at: 1, nodes: [7]}}]\n", "faults.0.nodes names node 7, but there are 4"),
        (f"{PLAIN}faults: [{{kind: crash, at: 1}}]\n", "neither given; give one"),
        (f"{PLAIN}faults: [{{kind: spot, at: 1, share: 1}}]\n", "no pool is spot"),
        (f"{PLAIN}faults: [{{kind: brownout, at: 1, nodes: [0]}}]\n", "leave it out"),
        (f"{PLAIN}policies: [random, random]\n", "name one twice"),
        (f"{PLAIN}policies: []\n", "at least 1 item"),
    ],
)
def test_a_wrong_scenario_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=said):
        load(file)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wrong"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="not UTF-8 text"):
        load(file)
    with pytest.raises(ScenarioError, match="not a CSV of UTF-8 text"):
        read([file])


def test_sizes_are_bytes_or_quantities(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"{PLAIN}datasets: {{bytes: {{median: 500Gi, most: 1Ti}}}}\n")
    assert load(file).datasets.bytes.median == 500 * 2**30
    assert load(file).datasets.bytes.most == 2**40


@pytest.mark.parametrize(("column", "value"), [(",2,1.0,", ",-2,1.0,"), (",60.0,", ",inf,")])
def test_numbers_of_a_trace_are_from_0_on(tmp_path: Path, column: str, value: str) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text(PHILLY.replace(column, value, 1))
    with pytest.raises(ScenarioError, match="no number from 0 on"):
        read([file])


def test_a_policy_is_run_once(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="name one twice"):
        run(small("sweep"), policies=("random", "random"), seeds=1)


def test_a_wrong_trace_is_refused_by_line(tmp_path: Path) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text(PHILLY.replace(",2,1.0,", ",two,1.0,", 1))
    with pytest.raises(ScenarioError, match="line 3: num_gpus is 'two'"):
        read([file])


@pytest.mark.parametrize(
    ("nodes", "scored"), [(50, 50), (500, 230), (1000, 420), (2000, 680), (5000, 500), (15000, 750)]
)
def test_kube_scheduler_scores_as_many_nodes_as_it_says(nodes: int, scored: int) -> None:
    assert nodes_to_find(nodes) == scored


def test_a_scenario_that_names_no_policies_is_run_under_every_one() -> None:
    assert load(built_in()["sweep"]).policies == tuple(POLICIES)
    assert "kube-scheduler" in load(built_in()["philly"]).policies
