"""Runs: every policy on the same worlds, one world a seed; and what several seeds say together.

Owns the order of runs, progress and the confidence intervals. `statistic`: mean and half the width of the 95 % interval
by Student's t over seeds.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulations.engine.outcome import Outcome
from simulations.engine.simulation import Simulation
from simulations.errors import ScenarioError
from simulations.policies.registry import POLICIES, policy
from simulations.scenarios.bound import bound
from simulations.scenarios.build import NO_TRACES, build
from simulations.scenarios.schema import Scenario
from simulations.traces.readers import Traces

# Student's t, two-sided 95 %, by degrees of freedom; beyond the table the normal distribution.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
STUDENT_BEYOND = 1.96
REFRESH_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Step:
    """How far the runs are: share of all of them, and seconds left by the pace so far."""

    label: str
    share: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of a scenario. `wall_seconds`: by policy, all seeds together; `about`: what each policy is; `notes`:
    how they were run."""

    scenario: Scenario
    traces: tuple[str, ...]
    runs: dict[str, list[Outcome]]
    wall_seconds: dict[str, float]
    about: dict[str, str]
    notes: tuple[str, ...] = ()

    def values(self, name: str, figure: str) -> list[float]:
        """A figure of a policy by seed; runs without it are left out."""
        return [value for run in self.runs[name] if (value := run.figures.get(figure)) is not None]

    def statistic(self, name: str, figure: str) -> tuple[float, float] | None:
        """Mean and half of the 95 % interval; None without values."""
        values = self.values(name, figure)
        return (statistics.fmean(values), half_interval(values)) if values else None


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of one value or more; 0.0 for one, which says nothing of it."""
    if len(values) == 1:
        return 0.0
    free = len(values) - 1
    factor = STUDENT[free - 1] if free <= len(STUDENT) else STUDENT_BEYOND
    return factor * statistics.stdev(values) / math.sqrt(len(values))


def run(
    scenario: Scenario,
    *,
    policies: Sequence[str] = (),
    seeds: int | None = None,
    first_seed: int = 0,
    traces: Traces = NO_TRACES,
    notes: Sequence[str] = (),
    progress: Callable[[Step], None] | None = None,
) -> Result:
    """Run a scenario in `seeds` worlds, numbered from `first_seed`: what is tuned on some is confirmed on others.

    Raises KeyError for a policy that is not known, InvariantViolation when a run breaks one.
    """
    chosen = tuple(policies) or scenario.policies
    for name in chosen:
        policy(name)
    if len(set(chosen)) < len(chosen):
        raise ScenarioError(f"policies {', '.join(chosen)} name one twice; give each once")
    numbers = range(first_seed, first_seed + (seeds or scenario.seeds))
    started, todo, done = time.monotonic(), len(numbers) * len(chosen), 0
    runs: dict[str, list[Outcome]] = {name: [] for name in chosen}
    walls = dict.fromkeys(chosen, 0.0)
    for seed in numbers:
        world = build(scenario, seed, traces)
        for name in chosen:
            tell = teller(f"{name}, seed {seed}", done, todo, started, progress)
            began = time.monotonic()
            runs[name].append(Simulation(world, POLICIES[name], price_per_gib=scenario.origin_price_per_gib).run(tell))
            walls[name] += time.monotonic() - began
            done += 1
        runs.setdefault("bound", []).append(bound(world, scenario.origin_price_per_gib))
    about = {name: POLICIES[name].about for name in chosen}
    return Result(scenario, traces.files, runs, walls, about, tuple(notes))


def teller(
    label: str, done: int, todo: int, started: float, progress: Callable[[Step], None] | None
) -> Callable[[int, int, float], None] | None:
    """What a run calls as it goes: tells `progress`, a few times a second, how far all runs are."""
    if progress is None:
        return None
    last = [0.0]

    def tell(finished: int, jobs: int, _at: float) -> None:
        now = time.monotonic()
        if now - last[0] < REFRESH_SECONDS:
            return
        last[0] = now
        share = (done + finished / max(1, jobs)) / todo
        left = (now - started) * (1 - share) / share if share > 0 else float("inf")
        progress(Step(label, share, left))

    return tell
