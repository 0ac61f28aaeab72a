"""Pods under any order of events: what must hold whatever happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.node.core.pod_model import (
    ContainerBlocked,
    ContainerExited,
    ContainerRules,
    ContainerStarted,
    Event,
    PodRules,
    PodState,
    ProbeAnswered,
    SandboxReady,
    StartOrdered,
    StopOrdered,
    StopRequested,
    Terminated,
    Tick,
    VolumesReady,
)
from headrace.node.core.pod_spec import ContainerKind
from headrace.node.core.pod_state import decide, handle, initial, phase
from headrace.node.core.pod_status import build

KINDS = st.sampled_from([ContainerKind.INIT, ContainerKind.SIDECAR])


@st.composite
def pods(draw: st.DrawFn) -> PodRules:
    before = draw(st.lists(KINDS, max_size=2))
    kinds = [*before, *[ContainerKind.MAIN] * draw(st.integers(1, 2))]
    containers = tuple(
        ContainerRules(f"c{index}", kind, "image", draw(st.booleans()), draw(st.booleans()))
        for index, kind in enumerate(kinds)
    )
    policy = draw(st.sampled_from(["Always", "OnFailure", "Never"]))
    deadline = draw(st.one_of(st.none(), st.integers(1, 50)))
    return PodRules("ns", "p", "u", policy, containers, deadline)


class Shell:
    """Obeys decisions and reports results, in an order the test draws."""

    def __init__(self, rules: PodRules) -> None:
        self.rules = rules
        self.now = 100.0
        self.state = initial(rules, self.now)

    def tell(self, event: Event) -> None:
        before = self.state
        self.state = handle(self.rules, before, event, self.now)
        check_step(self.rules, before, self.state)

    def obey(self) -> None:
        decision = decide(self.rules, self.state, self.now)
        assert not (decision.starts and self.state.stop)
        for name in decision.starts:
            assert not self.state.containers[name].is_alive
            self.tell(StartOrdered(name))
        for name in decision.stops:
            assert self.state.containers[name].is_alive
            self.tell(StopOrdered(name))

    def happen(self, data: st.DataObject) -> None:
        alive = [name for name, one in self.state.containers.items() if one.is_alive]
        choice = data.draw(st.sampled_from(["time", "sandbox", "volumes", "stop", *["container"] * 6]))
        if choice == "time":
            self.now += data.draw(st.sampled_from([1.0, 10.0, 400.0]))
            self.tell(Tick())
        elif choice == "sandbox":
            self.tell(SandboxReady())
        elif choice == "volumes":
            self.tell(VolumesReady())
        elif choice == "stop" and data.draw(st.integers(0, 5)) == 0:
            self.tell(StopRequested(self.now + 5))
        elif alive:
            self.container_event(data, data.draw(st.sampled_from(alive)))

    def container_event(self, data: st.DataObject, name: str) -> None:
        one = self.state.containers[name]
        code = data.draw(st.sampled_from([0, 0, 1, 143]))
        outcome = Terminated(code, "x", self.now - 1, self.now)
        possible: list[Event]
        if one.is_starting:
            possible = [
                ContainerStarted(name, one.attempt + 1, self.now),
                ContainerStarted(name, one.attempt + 1, self.now),
                ContainerBlocked(name, "CreateContainerConfigError", "", self.now + 10),
                ContainerExited(name, one.attempt + 1, Terminated(128, "StartError", self.now, self.now)),
            ]
        else:
            possible = [
                ContainerExited(name, one.attempt, outcome),
                ProbeAnswered(name, one.attempt, is_started=True, is_ready=True),
                ProbeAnswered(name, one.attempt, unhealthy="sick"),
            ]
        self.tell(data.draw(st.sampled_from(possible)))


def check_step(rules: PodRules, before: PodState, after: PodState) -> None:
    if before.final is not None:
        assert after == before
    for name, old in before.containers.items():
        assert after.containers[name].attempt >= old.attempt
    if before.is_initialized:
        assert after.is_initialized
    if after.final is not None and after.final.phase == "Succeeded":
        needed = [one.name for one in rules.containers if one.kind is not ContainerKind.SIDECAR]
        assert all(after.containers[name].exit_code == 0 for name in needed)
    if after.final is not None:
        assert not any(one.is_alive for one in after.containers.values())
    if any(after.containers[one.name].attempt >= 0 for one in rules.containers if one.kind is ContainerKind.MAIN):
        assert after.is_initialized


@settings(max_examples=300, deadline=None)
@given(pods(), st.data())
def test_no_order_of_events_breaks_the_rules(rules: PodRules, data: st.DataObject) -> None:
    shell = Shell(rules)
    for _ in range(data.draw(st.integers(1, 40))):
        shell.obey()
        shell.happen(data)
    status = build(rules, shell.state, conditions=(), pod_ip="", host_ip="127.0.0.1", now=shell.now)
    assert status["phase"] == phase(rules, shell.state)
    if status["phase"] == "Running":
        assert shell.state.is_initialized
    ready = {one["type"]: one["status"] for one in status["conditions"]}
    assert ready["Ready"] == "False" or ready["ContainersReady"] == "True"


@settings(max_examples=100, deadline=None)
@given(pods(), st.data())
def test_a_stop_always_comes_to_an_end(rules: PodRules, data: st.DataObject) -> None:
    """After a stop, answering every order is enough: nothing waits for anything else."""
    shell = Shell(rules)
    for _ in range(data.draw(st.integers(0, 20))):
        shell.obey()
        shell.happen(data)
    shell.tell(StopRequested(shell.now))
    for _ in range(3 * len(rules.containers) + 1):
        shell.obey()
        for name, one in shell.state.containers.items():
            if one.is_starting:
                shell.tell(ContainerStarted(name, one.attempt + 1, shell.now))
            elif one.is_stopping and one.is_alive:
                shell.tell(ContainerExited(name, one.attempt, Terminated(137, "Error", shell.now, shell.now)))
    assert shell.state.final is not None


@settings(max_examples=100, deadline=None)
@given(pods(), st.data())
def test_whoever_always_succeeds_makes_the_pod_succeed(rules: PodRules, data: st.DataObject) -> None:
    """With no failure and no deadline, a pod that does not restart for ever succeeds."""
    rules = PodRules("ns", "p", "u", "Never", rules.containers)
    shell = Shell(rules)
    shell.tell(SandboxReady())
    shell.tell(VolumesReady())
    for _ in range(6 * len(rules.containers)):
        shell.obey()
        for name, one in shell.state.containers.items():
            kind = next(each.kind for each in rules.containers if each.name == name)
            if one.is_starting:
                shell.tell(ContainerStarted(name, one.attempt + 1, shell.now))
            elif one.is_alive and not one.is_started:
                shell.tell(ProbeAnswered(name, one.attempt, is_started=True))
            elif one.is_alive and (kind is not ContainerKind.SIDECAR or one.is_stopping):
                shell.tell(ContainerExited(name, one.attempt, Terminated(0, "Completed", shell.now, shell.now)))
    assert phase(rules, shell.state) == "Succeeded"
