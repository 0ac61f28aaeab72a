"""Runs with a real API server: every scheduler on the same worlds, each on an empty cluster of its own.

Owns the schedulers by name and the order of runs. Starting a control plane is the caller's: `start` gives an empty
cluster with our CRDs and kwok, in a folder of its own, and stops it afterwards.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import uvloop
import yaml

from simulations.engine.model import World
from simulations.engine.objects import scheduler_speeds
from simulations.engine.outcome import Outcome
from simulations.engine.policy import Gangs, Policy
from simulations.errors import ScenarioError
from simulations.kwok.follow import Contender, follow
from simulations.kwok.objects import Shape
from simulations.kwok.process import Scheduler, headrace_scheduler, kube_scheduler
from simulations.policies.kube import default_plugins
from simulations.policies.registry import POLICIES
from simulations.run import Result, Step, teller
from simulations.scenarios.bound import bound
from simulations.scenarios.build import NO_TRACES, build
from simulations.scenarios.schema import Scenario
from simulations.traces.readers import Traces

HEADRACE, KUBE = "headrace", "kube-scheduler"
ABOUT = {
    HEADRACE: "python -m scheduler of this installation, as a process behind the API server",
    KUBE: "kube-scheduler as it comes, as a process behind the API server; no gangs",
}
# Time that is skipped does not end a backoff: who waits would be passed by who comes later.
BACKOFF = {"first_backoff_seconds": 0.05, "max_backoff_seconds": 0.2}
NOTES = (
    "Engine kwok: etcd, kube-apiserver and kwok's nodes are real, the schedulers are processes; run times, bytes and "
    "faults are the event engine's model's for where the pods were bound.",
    "While a scheduler, the API server or kwok works a simulated second is a real one; when the cluster rests time "
    "jumps to the next event. Backoffs of refused pods pass in real time only, and are shortened (Headrace 0.2 s, "
    "kube-scheduler 1 s at most).",
)
BY_CONTROLLER = (
    "Jobs are TrainingJobs: the job controller, a process too, makes their pods and PodGroups and starts them again. "
    "Pods are not told where their checkpoints are, which only a metadata service knows."
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """An empty cluster. `kube_scheduler`: that binary."""

    kubeconfig: Path
    folder: Path
    kube_scheduler: str


Start = Callable[[], AbstractContextManager[Cluster]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A scheduler to be tried. `command`: None for those known by name. `has_gangs`: it promises to place PodGroups
    whole or not at all."""

    name: str
    command: str | None = None
    has_gangs: bool = True


def wanted(words: Sequence[str], without_gangs: Sequence[str]) -> tuple[Wanted, ...]:
    """From `headrace`, `kube-scheduler` or NAME=COMMAND. Raises ScenarioError with what would be right."""
    found = []
    for word in words:
        name, is_command, command = word.partition("=")
        if name in ABOUT and not is_command:
            found.append(Wanted(name, has_gangs=name == HEADRACE))
        elif is_command and name and command.strip() and name not in ABOUT:
            found.append(Wanted(name, command, name not in without_gangs))
        else:
            raise ScenarioError(
                f"--scheduler {word!r} is not known; choose headrace, kube-scheduler, or NAME=COMMAND with another name"
            )
    names = [item.name for item in found]
    for name in without_gangs:
        if name not in names:
            raise ScenarioError(f"--without-gangs {name!r} is no scheduler of this run; choose of {', '.join(names)}")
    if len(set(names)) < len(names):
        raise ScenarioError(f"--scheduler names {', '.join(names)} must differ")
    return tuple(found)


def run(
    scenario: Scenario,
    schedulers: Sequence[Wanted],
    start: Start,
    *,
    seeds: int = 1,
    first_seed: int = 0,
    shape: Shape = Shape.PODS,
    traces: Traces = NO_TRACES,
    notes: Sequence[str] = (),
    progress: Callable[[Step], None] | None = None,
) -> Result:
    """Run a scenario. Raises InvariantViolation, SchedulerDied, ScenarioError and kube's errors."""
    if scenario.workload.required:
        raise ScenarioError(
            "workload.required is not for --engine kwok, whose judge does not know it; use the event engine"
        )
    began_all, todo, done = time.monotonic(), seeds * len(schedulers), 0
    runs: dict[str, list[Outcome]] = {item.name: [] for item in schedulers}
    walls = {item.name: 0.0 for item in schedulers}
    for seed in range(first_seed, first_seed + seeds):
        world = build(scenario, seed, traces)
        for item in schedulers:
            label = f"{item.name}, seed {seed}"
            began = time.monotonic()
            with start() as cluster:
                found = run_one(
                    world,
                    item,
                    cluster,
                    shape=shape,
                    price=scenario.origin_price_per_gib,
                    progress=teller(label, done, todo, began_all, progress),
                )
            runs[item.name].append(found)
            walls[item.name] += time.monotonic() - began
            done += 1
        runs.setdefault("bound", []).append(bound(world, scenario.origin_price_per_gib))
    about = {item.name: ABOUT.get(item.name) or f"`{item.command}`" for item in schedulers}
    more = (BY_CONTROLLER, *notes) if shape is Shape.TRAINING_JOBS else notes
    return Result(scenario, traces.files, runs, walls, about, (*NOTES, *more))


def run_one(
    world: World,
    item: Wanted,
    cluster: Cluster,
    *,
    shape: Shape = Shape.PODS,
    price: float = 0.0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Outcome:
    """One scheduler on one world, on an empty cluster."""
    contender = Contender(_scheduler(world, item, cluster), _policy(item), shape)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(follow(world, contender, cluster.kubeconfig, cluster.folder, price=price, progress=progress))


def _scheduler(world: World, item: Wanted, cluster: Cluster) -> Scheduler:
    if item.command is not None:
        return Scheduler(item.name, item.command, item.name)
    if item.name == KUBE:
        shortest = {"podInitialBackoffSeconds": 1, "podMaxBackoffSeconds": 1}
        return kube_scheduler(cluster.kube_scheduler, cluster.kubeconfig, cluster.folder, settings=shortest)
    config = cluster.folder / "headrace-scheduler.yaml"
    settings = {"speeds": scheduler_speeds(world).model_dump(), **BACKOFF}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return headrace_scheduler("--config", str(config))


def _policy(item: Wanted) -> Policy:
    """What the event engine must know of a process: whether its gangs are whole, and that caches are Headrace's."""
    if item.command is None:
        return POLICIES[item.name]
    gangs = Gangs.WHOLE if item.has_gangs else Gangs.NONE
    return Policy(item.name, item.command, default_plugins, gangs, names_data=True)
