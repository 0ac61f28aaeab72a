"""The life of a pod on its node: what happened so far, and what is to be done next.

Owns the state of a pod and its containers, the events that change it (`handle`) and the
decisions that follow (`decide`). Does not start or stop anything (shell/pod_worker.py),
and does not spell the status (core/pod_status.py). Time comes in as seconds since 1970.

A container:

    waiting ──StartOrdered──> starting ──ContainerStarted──> running ──ContainerExited──> terminated
       ^                         │ ContainerBlocked (config)      │ StopOrdered: stopping      │
       └─────────────────────────┘                                └────────────────────────────┤
       ^────────────── restart wanted: at once the first time, then CrashLoopBackOff ──────────┘

Invariants: a final phase is never left; Succeeded only if every container that had to end
ended with 0; a container's attempt only grows; nothing is started once a stop is requested;
main containers start only after every init container ended with 0 and every sidecar started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from headrace.node.core.pod_model import (
    BACK_OFF,
    FAILED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    ContainerBlocked,
    ContainerExited,
    ContainerRules,
    ContainerStarted,
    ContainerState,
    Decision,
    Event,
    PodRules,
    PodState,
    ProbeAnswered,
    Rejected,
    Running,
    SandboxReady,
    StartOrdered,
    Stop,
    StopOrdered,
    StopRequested,
    Terminated,
    Tick,
    Verdict,
    VolumesReady,
    Waiting,
)
from headrace.node.core.pod_spec import ContainerKind

FIRST_BACKOFF_SECONDS = 10.0
MAX_BACKOFF_SECONDS = 300.0
#: kubelet forgets a container's back-off after it ran for twice the longest wait.
RESET_BACKOFF_SECONDS = 2 * MAX_BACKOFF_SECONDS


def initial(rules: PodRules, now: float) -> PodState:
    """Return the state of a pod the node has just seen."""
    states = {}
    has_init = any(container.kind is not ContainerKind.MAIN for container in rules.containers)
    for container in rules.containers:
        is_main = container.kind is ContainerKind.MAIN
        states[container.name] = ContainerState(
            Waiting("PodInitializing" if is_main and has_init else "ContainerCreating")
        )
    return PodState(states, start_time=now)


def handle(rules: PodRules, state: PodState, event: Event, now: float) -> PodState:
    """Return the state after an event. Events about older attempts, or after the end, change nothing."""
    if state.final is not None:
        return state
    return _conclude(rules, _apply(rules, state, event), now)


def with_history(rules: PodRules, state: PodState, name: str, attempt: int) -> PodState:
    """Return the state of a pod that was restored from records of its last starts only.

    The back-off is the one `attempt` earlier restarts would have grown, and a pod whose main
    container once ran had passed its init containers, even if a sidecar has ended since."""
    old = state.containers[name]
    wait = 0.0
    for _ in range(min(attempt, 10)):
        wait = min(wait * 2, MAX_BACKOFF_SECONDS) or FIRST_BACKOFF_SECONDS
    new = replace(old, backoff_seconds=max(old.backoff_seconds, wait))
    is_main = _rules_for(rules, name).kind is ContainerKind.MAIN
    return replace(state, containers={**state.containers, name: new}, is_initialized=state.is_initialized or is_main)


def _apply(rules: PodRules, state: PodState, event: Event) -> PodState:
    match event:
        case Tick():
            return state
        case SandboxReady():
            return replace(state, has_sandbox=True)
        case VolumesReady():
            return replace(state, has_volumes=True)
        case Rejected(verdict):
            return replace(state, final=verdict)
        case StopRequested(deadline, verdict):
            return _request_stop(state, deadline, verdict)
        case _:
            return _apply_to_container(rules, state, event)


def _apply_to_container(
    rules: PodRules,
    state: PodState,
    event: StartOrdered | ContainerBlocked | ContainerStarted | ContainerExited | StopOrdered | ProbeAnswered,
) -> PodState:
    old = state.containers[event.name]
    match event:
        case StartOrdered():
            new = replace(old, is_starting=True, is_stopping=False, start_at=None)
        case ContainerBlocked():
            last = old.state if isinstance(old.state, Terminated) else old.last
            waiting = Waiting(event.reason, event.message)
            start_at = None if state.stop else event.retry_at
            new = replace(old, state=waiting, last=last, is_starting=False, start_at=start_at)
        case ContainerStarted():
            new = old if event.attempt <= old.attempt else _started(rules, old, event)
        case ContainerExited():
            is_known = event.attempt == old.attempt and isinstance(old.state, Running)
            new = _exited(rules, state, old, event) if is_known or event.attempt > old.attempt else old
        case StopOrdered():
            new = replace(old, is_stopping=True)
        case ProbeAnswered():
            is_current = event.attempt == old.attempt and isinstance(old.state, Running)
            new = _probed(old, event) if is_current else old
    return replace(state, containers={**state.containers, event.name: new})


def _started(rules: PodRules, old: ContainerState, event: ContainerStarted) -> ContainerState:
    container = _rules_for(rules, event.name)
    last = old.state if isinstance(old.state, Terminated) else old.last
    is_started = not container.has_startup_probe
    return replace(
        old,
        state=Running(event.started_at),
        attempt=event.attempt,
        last=last,
        start_at=None,
        is_starting=False,
        is_started=is_started,
        is_ready=is_started and not container.has_readiness_probe and container.kind is not ContainerKind.INIT,
        unhealthy="",
    )


def _exited(rules: PodRules, state: PodState, old: ContainerState, event: ContainerExited) -> ContainerState:
    outcome = event.outcome
    last = old.state if isinstance(old.state, Terminated) else old.last
    has_run_long = outcome.finished_at - outcome.started_at >= RESET_BACKOFF_SECONDS
    wait = 0.0 if has_run_long else old.backoff_seconds
    base = replace(
        old,
        state=outcome,
        attempt=event.attempt,
        last=last,
        start_at=None,
        is_starting=False,
        is_stopping=False,
        is_started=False,
        is_ready=_rules_for(rules, event.name).kind is ContainerKind.INIT and outcome.exit_code == 0,
        unhealthy="",
    )
    if state.stop or not _is_restart_wanted(rules, state, event.name, outcome.exit_code):
        return base
    next_wait = min(wait * 2, MAX_BACKOFF_SECONDS) or FIRST_BACKOFF_SECONDS
    base = replace(base, start_at=outcome.finished_at + wait, backoff_seconds=next_wait)
    if wait == 0:
        return base
    message = (
        f"back-off {_duration(wait)} restarting failed container={event.name} "
        f"pod={rules.name}_{rules.namespace}({rules.uid})"
    )
    return replace(base, state=Waiting(BACK_OFF, message), last=outcome)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _probed(old: ContainerState, event: ProbeAnswered) -> ContainerState:
    is_started = old.is_started if event.is_started is None else event.is_started
    is_ready = old.is_ready if event.is_ready is None else event.is_ready
    return replace(
        old, is_started=is_started, is_ready=is_ready and is_started, unhealthy=event.unhealthy or old.unhealthy
    )


def _request_stop(state: PodState, deadline: float, verdict: Verdict | None) -> PodState:
    old = state.stop
    stop = Stop(deadline, verdict) if old is None else Stop(min(old.deadline, deadline), old.verdict or verdict)
    containers = {}
    for name, container in state.containers.items():
        kept = container
        if isinstance(container.state, Waiting) and container.last is not None and not container.is_starting:
            kept = replace(container, state=container.last)
        containers[name] = replace(kept, start_at=None)
    return replace(state, stop=stop, containers=containers)


def _is_restart_wanted(rules: PodRules, state: PodState, name: str, exit_code: int) -> bool:
    container = _rules_for(rules, name)
    match container.kind:
        case ContainerKind.SIDECAR:
            return not _is_work_done(rules, state)
        case ContainerKind.INIT:
            return exit_code != 0 and rules.restart_policy != "Never"
        case ContainerKind.MAIN:
            return rules.restart_policy == "Always" or (rules.restart_policy == "OnFailure" and exit_code != 0)


def _rules_for(rules: PodRules, name: str) -> ContainerRules:
    return next(container for container in rules.containers if container.name == name)


def _of_kind(rules: PodRules, state: PodState, kind: ContainerKind) -> Iterator[tuple[str, ContainerState]]:
    for container in rules.containers:
        if container.kind is kind:
            yield container.name, state.containers[container.name]


def _is_settled(container: ContainerState) -> bool:
    """True when it ended and is not to be started again."""
    return isinstance(container.state, Terminated) and container.start_at is None and not container.is_starting


def _is_work_done(rules: PodRules, state: PodState) -> bool:
    """True when only sidecars can still be alive: the main containers ended, or an init container failed."""
    init_failed = any(
        _is_settled(container) and container.exit_code != 0
        for _, container in _of_kind(rules, state, ContainerKind.INIT)
    )
    return init_failed or all(_is_settled(container) for _, container in _of_kind(rules, state, ContainerKind.MAIN))


def _conclude(rules: PodRules, state: PodState, now: float) -> PodState:
    """Draw the consequences of time and of what just changed."""
    if state.final is not None:
        return state
    limit = rules.active_deadline_seconds
    if limit is not None and state.stop is None and now >= state.start_time + limit:
        verdict = Verdict(FAILED, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        state = _request_stop(state, now, verdict)
    if not state.is_initialized and _has_passed_init(rules, state):
        state = replace(state, is_initialized=True)
    if any(container.is_alive for container in state.containers.values()):
        return state
    if state.stop is not None:
        return replace(state, final=state.stop.verdict or _earned(rules, state))
    if _is_work_done(rules, state):
        return replace(state, final=_earned(rules, state))
    return state


def _has_passed_init(rules: PodRules, state: PodState) -> bool:
    return all(container.exit_code == 0 for _, container in _of_kind(rules, state, ContainerKind.INIT)) and all(
        container.is_started for _, container in _of_kind(rules, state, ContainerKind.SIDECAR)
    )


def _earned(rules: PodRules, state: PodState) -> Verdict:
    needed = [
        container for kind in (ContainerKind.INIT, ContainerKind.MAIN) for container in _of_kind(rules, state, kind)
    ]
    return Verdict(SUCCEEDED if all(container.exit_code == 0 for _, container in needed) else FAILED)


def phase(rules: PodRules, state: PodState) -> str:
    """Return the pod's phase as kubelet computes it."""
    if state.final is not None:
        return state.final.phase
    if not state.is_initialized:
        return PENDING
    mains = [container for _, container in _of_kind(rules, state, ContainerKind.MAIN)]
    if any(isinstance(container.state, Waiting) and container.last is None for container in mains):
        return PENDING
    return RUNNING


def decide(rules: PodRules, state: PodState, now: float) -> Decision:
    """Return what to do now. Asking twice without the ordered events gives the same answer."""
    if state.final is not None:
        return Decision()
    if state.stop is not None:
        return Decision(stops=_stops(rules, state, "Stopping container"), wake_at=None)
    if _is_work_done(rules, state):
        return Decision(stops=_stops(rules, state, "The pod's work is done, stopping sidecar"))
    stops = {
        name: container.unhealthy
        for name, container in state.containers.items()
        if container.unhealthy and container.is_alive and not container.is_stopping
    }
    candidates = _may_run(rules, state) if state.has_sandbox and state.has_volumes else []
    waits = [(name, at) for name in candidates if (at := state.containers[name].start_at) is not None]
    starts = tuple(name for name, at in waits if at <= now and not state.containers[name].is_alive)
    later = [at for _, at in waits if at > now]
    if rules.active_deadline_seconds is not None:
        later.append(state.start_time + rules.active_deadline_seconds)
    return Decision(starts=starts, stops=stops, wake_at=min(later, default=None))


def _may_run(rules: PodRules, state: PodState) -> list[str]:
    """Names of the containers whose turn has come, in starting order."""
    names: list[str] = []
    for container in rules.containers:
        current = state.containers[container.name]
        match container.kind:
            case ContainerKind.INIT:
                if not state.is_initialized and current.exit_code != 0:
                    return [*names, container.name]
            case ContainerKind.SIDECAR:
                names.append(container.name)
                if not state.is_initialized and not current.is_started:
                    return names
            case ContainerKind.MAIN:
                if state.is_initialized:
                    names.append(container.name)
    return names


def _stops(rules: PodRules, state: PodState, why: str) -> dict[str, str]:
    """Main containers at once; then sidecars from the last to the first, each when the next has ended."""
    others = [
        name
        for container in rules.containers
        if container.kind is not ContainerKind.SIDECAR
        for name in (container.name,)
        if state.containers[name].is_alive
    ]
    if others:
        return {name: why for name in others if not state.containers[name].is_stopping}
    for container in reversed(rules.containers):
        current = state.containers[container.name]
        if current.is_alive:
            return {} if current.is_stopping else {container.name: why}
    return {}
