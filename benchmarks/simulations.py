"""Simulations against Fluid's rule and kube-scheduler: bytes from afar, job completion, GPU allocation, engine speed.

Owns which scenarios and baselines make the headline cases. Every pair is one world, that is one seed, run under both
policies. The worlds are those of `headrace sim run`; docs/evidence.md says what each baseline is.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import frame
from headrace.cli.progress import Bar
from simulations.engine.outcome import Outcome
from simulations.engine.simulation import Simulation
from simulations.policies.registry import POLICIES
from simulations.run import teller
from simulations.scenarios.build import build
from simulations.scenarios.schema import Scenario, find, load
from simulations.traces.readers import Traces, read

FLUIDS = ("fluid", "fluid-wide", "fluid-labels")
BYTES_GOAL, COMPLETION_GOAL, ALLOCATION_GOAL = 5.0, 1.5, 0.98
QUICK_JOBS = 150
SCALE_NODES, SCALE_JOBS = 10_000, 100_000
SCALE_GOAL_SECONDS = 600.0


def main(arguments: list[str]) -> int:
    """Run it; 0 whatever the figures."""
    parser = frame.parser("simulations", __doc__ or "")
    parser.add_argument("--trace", type=Path, action="append", default=[], help="a CSV of openb or Philly; repeatable")
    parser.add_argument("--scale", action="store_true", help="also a month of 10,000 nodes and 100,000 jobs")
    options = parser.parse_args(arguments)
    traces = read(options.trace)
    runs = 1 if options.quick else options.runs
    cases: list[frame.Case] = []
    with Bar() as bar:
        for name in ("sweep", "philly"):
            cases += data_cases(_loaded(name, quick=options.quick), runs, traces, bar)
        cases += allocation_cases(_loaded("gangs-fragmented", quick=options.quick), runs, traces, bar)
        if options.scale:
            cases.append(scale_case(bar))
    frame.report("simulations", cases, options.json, options.plot)
    return 0


def data_cases(scenario: Scenario, runs: int, traces: Traces, bar: Bar) -> list[frame.Case]:
    """Bytes from the origin or across racks, and mean completion, against each reading of Fluid's rule."""
    made = _made(scenario, ("headrace", *FLUIDS), runs, traces, bar)
    cases = []
    for yardstick in FLUIDS:
        # The goals are set against Fluid as it is deployed; the other readings are told beside it.
        is_headline = yardstick == "fluid"
        for what, figure, unit, scale, goal in (
            ("remote-bytes", "origin_or_far_bytes", "TB", 1e12, BYTES_GOAL),
            ("job-completion", "completion_seconds_mean", "s", 1.0, COMPLETION_GOAL),
        ):
            cases.append(
                frame.Case(
                    f"{what}-{scenario.name}-{yardstick}",
                    unit,
                    _pairs(made["headrace"], made[yardstick], figure, scale),
                    yardstick=yardstick,
                    higher_is_better=False,
                    goal=goal if is_headline else None,
                    note=POLICIES[yardstick].about.split(";", maxsplit=1)[0],
                )
            )
    return cases


def allocation_cases(scenario: Scenario, runs: int, traces: Traces, bar: Bar) -> list[frame.Case]:
    """GPU allocation while jobs come, without data, against kube-scheduler with and without coscheduling."""
    names = ("headrace", "kube-scheduler", "coscheduling")
    made = _made(scenario, names, runs, traces, bar)
    return [
        frame.Case(
            f"allocation-{scenario.name}-{yardstick}",
            "%",
            _pairs(made["headrace"], made[yardstick], "gar_loaded", 0.01),
            yardstick=yardstick,
            goal=ALLOCATION_GOAL,
            note="GPUs allocated while jobs come",
        )
        for yardstick in names[1:]
    ]


def scale_case(bar: Bar) -> frame.Case:
    """Wall time of a simulated month."""
    world = build(load(find("month-at-scale")), 0)
    assert (len(world.nodes), len(world.jobs)) == (SCALE_NODES, SCALE_JOBS)
    frame.progress(f"month-at-scale: {SCALE_NODES} nodes, {SCALE_JOBS} jobs")
    started, used = time.perf_counter(), time.process_time()
    tell = teller("month-at-scale", 0, 1, time.monotonic(), bar.tell)
    outcome = Simulation(world, POLICIES["headrace"]).run(tell)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    gar = 100 * (outcome.figures["gar"] or 0.0)
    return frame.Case(
        "engine-month-10000-nodes",
        "s",
        [(seconds,)],
        higher_is_better=False,
        goal=SCALE_GOAL_SECONDS,
        note=f"{used:.0f} s of one core; {outcome.figures['jobs_finished']:.0f} jobs finished, GAR {gar:.0f} %",
    )


def _made(scenario: Scenario, names: Sequence[str], runs: int, traces: Traces, bar: Bar) -> dict[str, list[Outcome]]:
    """Outcomes by policy, one a seed."""
    made: dict[str, list[Outcome]] = {name: [] for name in names}
    began, tell = time.monotonic(), bar.part(scenario.name)
    for seed in range(runs):
        world = build(scenario, seed, traces)
        for name, outcomes in made.items():
            frame.progress(f"{scenario.name}: {name}, seed {seed}")
            done = sum(map(len, made.values()))
            steps = teller(f"{name}, seed {seed}", done, runs * len(names), began, tell)
            outcomes.append(Simulation(world, POLICIES[name]).run(steps))
    return made


def _loaded(name: str, *, quick: bool) -> Scenario:
    scenario = load(find(name))
    if not quick:
        return scenario
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"jobs": QUICK_JOBS})})


def _pairs(ours: Sequence[Outcome], others: Sequence[Outcome], figure: str, scale: float) -> list[frame.Run]:
    return [
        (_figure(one, figure) / scale, _figure(other, figure) / scale) for one, other in zip(ours, others, strict=True)
    ]


def _figure(outcome: Outcome, figure: str) -> float:
    value = outcome.figures[figure]
    if value is None:
        raise ValueError(f"{outcome.scenario} under {outcome.policy} has no {figure}: no job finished")
    return value
