"""One component of a cluster: kept running as it should be.

Owns the decision keep / restart / start and the wait until it answers, with the
log's tail in the error. Does not know which components there are. Invariant: a
process is recorded in the state file before it is waited for, so a command that
is interrupted leaves nothing `down` cannot find."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.cluster import processes
from headrace.cluster.binaries import PROJECT_ROOT
from headrace.cluster.state import ClusterFolder, ClusterState, ComponentState
from headrace.errors import ComponentFailed

#: Returns None when the component answers, else what is missing, in a few words.
Probe = Callable[[], str | None]


def always_ready() -> str | None:
    """The probe of a component that is ready as soon as it runs."""
    return None


@dataclass(frozen=True, slots=True)
class Component:
    """How one process is started and how we know that it answers."""

    name: str
    argv: tuple[str, ...]
    address: str = ""
    node: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    probe: Probe = always_ready
    ready_seconds: float = 60.0
    grace_seconds: float = 15.0


def is_running(component: ComponentState) -> bool:
    """True when the recorded process is alive."""
    return processes.is_running(component.process)


def ensure_started(folder: ClusterFolder, state: ClusterState, component: Component) -> bool:
    """Start the component unless this very command line runs already; True when it was started.

    Raises ComponentFailed when the program cannot be executed. Does not wait."""
    known = state.components.get(component.name)
    if known is not None and is_running(known):
        if known.argv == list(component.argv):
            return False
        processes.stop(known.process, grace_seconds=component.grace_seconds)
    log = folder.log(component.name)
    try:
        record = processes.spawn(component.argv, log=log, cwd=PROJECT_ROOT, env={**os.environ, **component.env})
    except OSError as error:
        raise ComponentFailed(f"{component.name} cannot be started: {component.argv[0]}: {error.strerror}") from error
    # A restarted component keeps its place: the order of the first start is the order of dependence.
    state.components[component.name] = ComponentState(
        process=record,
        argv=list(component.argv),
        log=str(log),
        address=component.address,
        node=component.node,
        starts=(known.starts + 1) if known is not None else 1,
    )
    folder.save(state)
    return True


def wait_ready(state: ClusterState, component: Component) -> None:
    """Wait until the component answers. Raises ComponentFailed when it dies or the time is over."""
    recorded = state.components[component.name]
    deadline = time.monotonic() + component.ready_seconds
    pause_seconds = 0.05
    while True:
        missing = component.probe()
        if not is_running(recorded):
            raise ComponentFailed(f"{component.name} ended while starting{_tail(Path(recorded.log))}")
        if missing is None:
            return
        if time.monotonic() > deadline:
            raise ComponentFailed(
                f"{component.name} was not ready after {component.ready_seconds:.0f} s: {missing}"
                f"{_tail(Path(recorded.log))}"
            )
        time.sleep(pause_seconds)
        pause_seconds = min(0.5, pause_seconds * 1.3)


def stop(folder: ClusterFolder, state: ClusterState, name: str, *, grace_seconds: float = 15.0) -> None:
    """Stop the recorded component and forget it. A recycled pid is left alone."""
    processes.stop(state.components[name].process, grace_seconds=grace_seconds)
    del state.components[name]
    folder.save(state)


def _tail(log: Path) -> str:
    lines = processes.log_tail(log)
    return f"; the end of {log}:\n" + "\n".join(f"  {line}" for line in lines) if lines else f"; {log} is empty"
