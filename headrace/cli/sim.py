"""`headrace sim`: run scenarios, list them, turn a run's JSON into a table.

Owns options and output. What is simulated lives in simulations/."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from headrace.cli.progress import Bar
from headrace.cli.tables import console
from headrace.cli.whatif import whatif
from headrace.errors import HeadraceError, UsageError

sim = typer.Typer(
    help="Simulate a cluster: what placement by data saves against what you run today.", no_args_is_help=True
)


REPORT = "write one self-contained HTML file"
PLOTS = "write every picture as PNG and as SVG into this folder"


class SimulationFailed(HeadraceError):
    """A run broke an invariant, a scheduler under test or the cluster failed, or the engines differ."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(sim, name="sim")


sim.command("whatif")(whatif)


@sim.command("list")
def list_scenarios() -> None:
    """List the scenarios that come with Headrace, and the policies."""
    from simulations.policies.registry import POLICIES
    from simulations.scenarios.schema import built_in, load

    for name, file in built_in().items():
        print(f"{name:18} {load(file).question}")
    print("\npolicies:")
    for policy in POLICIES.values():
        print(f"  {policy.name:16} {policy.about}")


@sim.command("run")
def run_scenario(
    scenario: Annotated[str, typer.Argument(help="a name of `headrace sim list`, or a YAML file")],
    *,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, max=1000, help="worlds to run")] = None,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="the number of the first world")] = 0,
    engine: Annotated[
        str, typer.Option("--engine", help="event: virtual time, the scheduler's core; kwok: a real API server")
    ] = "event",
    policies: Annotated[str, typer.Option("--policies", help="names separated by commas (event)")] = "",
    scheduler: Annotated[
        list[str] | None,
        typer.Option(
            "--scheduler",
            help="headrace, kube-scheduler, or NAME=COMMAND LINE with KUBECONFIG in its environment, for pods whose "
            "schedulerName is NAME; repeatable (kwok)",
        ),
    ] = None,
    without_gangs: Annotated[
        list[str] | None,
        typer.Option("--without-gangs", metavar="NAME", help="this command does not promise whole gangs (kwok)"),
    ] = None,
    training_jobs: Annotated[
        bool, typer.Option("--training-jobs", help="jobs are TrainingJobs, with the job controller as a process (kwok)")
    ] = False,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="scale the scenario to so many nodes")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="and to so many jobs; default: as nodes")] = None,
    origin_price: Annotated[
        float | None,
        typer.Option("--origin-price", help="of a GiB that leaves the origin; default: the scenario's"),
    ] = None,
    trace: Annotated[list[Path] | None, typer.Option("--trace", help="a CSV of openb or Philly; repeatable")] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="table, json or yaml")] = "table",
    report: Annotated[Path | None, typer.Option("--report", help=REPORT)] = None,
    plots: Annotated[Path | None, typer.Option("--plots", help=PLOTS)] = None,
) -> None:
    """Run every policy on the same worlds, and compare them. Exit code 1 when a run breaks an invariant.

    With --engine kwok schedulers are processes beside a real etcd and kube-apiserver, nodes are kwok's.
    """
    from kube.errors import KubeError
    from simulations.engine.ledger import InvariantViolation
    from simulations.errors import ScenarioError
    from simulations.kwok.process import SchedulerDied
    from simulations.scenarios.scale import scaled
    from simulations.scenarios.schema import find, load
    from simulations.traces.readers import read

    if output not in ("table", "json", "yaml"):
        raise UsageError(f"output {output!r} is not known; choose table, json or yaml")
    if engine not in ("event", "kwok"):
        raise UsageError(f"engine {engine!r} is not known; choose event or kwok")
    if engine == "event" and (scheduler or without_gangs or training_jobs):
        raise UsageError("--scheduler, --without-gangs and --training-jobs are for --engine kwok; use --policies")
    if engine == "kwok" and policies:
        raise UsageError("--policies is for the event engine; --engine kwok takes --scheduler")
    if origin_price is not None and not 0 <= origin_price < math.inf:
        raise UsageError(f"--origin-price {origin_price} is no price; give a number from 0 on")
    try:
        loaded, notes = scaled(load(find(scenario)), nodes=nodes, jobs=jobs)
        if origin_price is not None:
            loaded = loaded.model_copy(update={"origin_price_per_gib": origin_price})
        traces = read(trace or [])
        for note in notes:
            print(note, file=sys.stderr)
        with Bar() as bar:
            if engine == "kwok":
                from headrace.cluster.bare import bare_cluster
                from simulations.kwok import runs
                from simulations.kwok.objects import Shape

                tried = runs.wanted(scheduler or [runs.HEADRACE, runs.KUBE], without_gangs or [])
                result = runs.run(
                    loaded,
                    tried,
                    bare_cluster,
                    seeds=seeds or 1,
                    first_seed=first_seed,
                    shape=Shape.TRAINING_JOBS if training_jobs else Shape.PODS,
                    traces=traces,
                    notes=notes,
                    progress=bar.tell,
                )
            else:
                from simulations.run import run

                names = tuple(name.strip() for name in policies.split(",") if name.strip())
                result = run(
                    loaded,
                    policies=names,
                    seeds=seeds,
                    first_seed=first_seed,
                    traces=traces,
                    notes=notes,
                    progress=bar.tell,
                )
        write_pictures(result, report, plots)
    except ScenarioError as error:
        raise UsageError(str(error)) from None
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None
    except (InvariantViolation, SchedulerDied, KubeError) as error:
        raise SimulationFailed(f"scenario {scenario}: {error}") from None
    show(result, output)


@sim.command("calibrate")
def calibrate(
    scenario: Annotated[str, typer.Argument(help="a name of `headrace sim list`, or a YAML file")] = "calibration",
    *,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="worlds to run")] = 1,
    scheduler: Annotated[str, typer.Option("--scheduler", help="headrace or kube-scheduler")] = "headrace",
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="scale the scenario to so many nodes")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="and to so many jobs; default: as nodes")] = None,
) -> None:
    """Run one scenario in both engines, event and kwok, and compare. Exit code 1 when they differ by more than 5 %."""
    from headrace.cluster.bare import bare_cluster
    from kube.errors import KubeError
    from simulations.engine.ledger import InvariantViolation
    from simulations.errors import ScenarioError
    from simulations.kwok.calibration import TOLERANCE, compare, jobs_alike
    from simulations.kwok.process import SchedulerDied
    from simulations.kwok.runs import ABOUT, wanted
    from simulations.kwok.runs import run as run_kwok
    from simulations.run import run
    from simulations.scenarios.scale import scaled
    from simulations.scenarios.schema import find, load

    if scheduler not in ABOUT:
        raise UsageError(f"--scheduler {scheduler!r} is in one engine only; choose {' or '.join(ABOUT)}")
    try:
        loaded, notes = scaled(load(find(scenario)), nodes=nodes, jobs=jobs)
        with Bar() as bar:
            event = run(loaded, policies=[scheduler], seeds=seeds, progress=bar.part("event"))
            tell = bar.part("kwok")
            kwok = run_kwok(loaded, wanted([scheduler], []), bare_cluster, seeds=seeds, progress=tell)
    except ScenarioError as error:
        raise UsageError(str(error)) from None
    except (InvariantViolation, SchedulerDied, KubeError) as error:
        raise SimulationFailed(f"scenario {scenario}: {error}") from None
    from rich.table import Table

    lines = compare(event.runs[scheduler], kwok.runs[scheduler])
    table = Table(title=f"{loaded.name}, {scheduler}, {seeds} seeds", box=None)
    for column in ("figure", "event", "kwok", "difference", "± by chance", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for line in lines:
        title = f"{line.title} [{line.unit}]" if line.unit else line.title
        difference = "hardly any" if line.difference is None else f"{line.difference:.1%}"
        values = (f"{value:,.4g}" if line.unit == "TB" else f"{value:,.0f}" for value in (line.event, line.kwok))
        chance = f"{line.chance:.1%}" if seeds > 1 else "one seed"
        table.add_row(title, *values, difference, chance, "ok" if line.is_equal else "DIFFERS")
    for note in notes:
        print(note)
    console().print(table)
    alike = jobs_alike(event.runs[scheduler], kwok.runs[scheduler])
    print(f"single jobs within {TOLERANCE:.0%}: {alike:.0%}; kwok took {kwok.wall_seconds[scheduler]:.0f} s")
    if not all(line.is_equal for line in lines):
        raise SimulationFailed(f"the engines differ by more than {TOLERANCE:.0%} on scenario {scenario}")
    print(f"The engines agree within {TOLERANCE:.0%}.")


@sim.command("report")
def report_file(
    file: Annotated[Path, typer.Argument(help="what `headrace sim run … -o json` wrote")],
    *,
    output: Annotated[str, typer.Option("-o", "--output", help="table, json or yaml")] = "table",
    report: Annotated[Path | None, typer.Option("--report", help=REPORT)] = None,
    plots: Annotated[Path | None, typer.Option("--plots", help=PLOTS)] = None,
) -> None:
    """Show a run that was kept as JSON: the same tables, intervals and pictures, without running it again."""
    from simulations.errors import ScenarioError
    from simulations.report.kept import NOT_ONE, result_of

    try:
        result = result_of(json.loads(file.read_text(encoding="utf-8")))
        write_pictures(result, report, plots)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; name a file of `headrace sim run … -o json`") from None
    except ScenarioError as error:
        raise UsageError(f"{file}: {error}") from None
    except ValueError:
        raise UsageError(f"{file} {NOT_ONE}") from None
    show(result, output)


def write_pictures(result: Any, report: Path | None, plots: Path | None) -> None:
    """The HTML file and the folder of pictures that were asked for."""
    try:
        with Bar() as bar:
            if report is not None:
                from simulations.report.page import page

                command = shlex.join(["headrace", *sys.argv[1:]])
                report.write_text(page(result, command, bar.counted), encoding="utf-8")
            files = []
            if plots is not None:
                from simulations.report.plots import write

                files = write(result, plots, bar.counted)
        for file in files:
            print(file, file=sys.stderr)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}; name what can be written") from None


def show(result: Any, output: str) -> None:
    """A result (simulations/run.py) as table, json or yaml."""
    from rich.table import Table

    from simulations.report.kept import as_values
    from simulations.report.tables import by_size, side_by_side

    if output != "table":
        _print(as_values(result), output)
        return
    print(result.scenario.question)
    for note in result.notes:
        print(note)
    console().print(side_by_side(result))
    sizes = Table(title="by job size", box=None)
    for column in ("figure", *result.runs):
        sizes.add_column(column, justify="left" if column == "figure" else "right")
    for title, cells in by_size(result):
        sizes.add_row(title, *cells)
    console().print(sizes)
    print("wall seconds:", ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.wall_seconds.items()))


def _print(values: dict[str, Any], output: str) -> None:
    if output not in ("json", "yaml"):
        raise UsageError(f"output {output!r} is not known; choose table, json or yaml")
    print(json.dumps(values, indent=1) if output == "json" else yaml.safe_dump(values, sort_keys=False), end="")
    if output == "json":
        print()
