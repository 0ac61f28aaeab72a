"""The life of a pod, event by event. Arbitrary orders are in tests/property/headrace."""

from __future__ import annotations

import pytest

from headrace.node.core.pod_model import (
    ContainerBlocked,
    ContainerExited,
    ContainerRules,
    ContainerStarted,
    Event,
    PodRules,
    ProbeAnswered,
    SandboxReady,
    StartOrdered,
    StopOrdered,
    StopRequested,
    Terminated,
    Tick,
    Verdict,
    VolumesReady,
    Waiting,
)
from headrace.node.core.pod_spec import ContainerKind
from headrace.node.core.pod_state import decide, handle, initial, phase, with_history

INIT, SIDECAR, MAIN = ContainerKind.INIT, ContainerKind.SIDECAR, ContainerKind.MAIN


class Pod:
    """A pod whose events are told in words."""

    def __init__(self, *containers: ContainerRules, policy: str = "Always", deadline: int | None = None) -> None:
        self.rules = PodRules("ns", "p", "u1", policy, containers, deadline)
        self.now = 1000.0
        self.state = initial(self.rules, self.now)

    def tell(self, *events: Event) -> Pod:
        for event in events:
            self.state = handle(self.rules, self.state, event, self.now)
        return self

    def prepared(self) -> Pod:
        return self.tell(SandboxReady(), VolumesReady())

    def started(self, name: str) -> Pod:
        attempt = self.state.containers[name].attempt + 1
        return self.tell(StartOrdered(name), ContainerStarted(name, attempt, self.now))

    def exited(self, name: str, code: int, *, ran_seconds: float = 1.0) -> Pod:
        self.now += ran_seconds
        attempt = self.state.containers[name].attempt
        outcome = Terminated(code, "Completed" if code == 0 else "Error", self.now - ran_seconds, self.now)
        return self.tell(ContainerExited(name, attempt, outcome))

    @property
    def starts(self) -> tuple[str, ...]:
        return decide(self.rules, self.state, self.now).starts

    @property
    def stops(self) -> list[str]:
        return list(decide(self.rules, self.state, self.now).stops)

    @property
    def phase(self) -> str:
        return phase(self.rules, self.state)


def container(
    name: str, kind: ContainerKind = MAIN, *, startup: bool = False, readiness: bool = False
) -> ContainerRules:
    return ContainerRules(name, kind, "image", startup, readiness)


def test_nothing_starts_before_sandbox_and_volumes() -> None:
    pod = Pod(container("a"))
    assert pod.starts == ()
    assert pod.tell(SandboxReady()).starts == ()
    assert pod.tell(VolumesReady()).starts == ("a",)


def test_a_start_is_ordered_once() -> None:
    pod = Pod(container("a")).prepared().tell(StartOrdered("a"))
    assert pod.starts == ()


def test_main_containers_start_together_and_make_the_pod_run() -> None:
    pod = Pod(container("a"), container("b")).prepared()
    assert pod.starts == ("a", "b")
    assert pod.started("a").phase == "Pending"
    assert pod.started("b").phase == "Running"


def test_init_containers_run_one_after_the_other() -> None:
    pod = Pod(container("i", INIT), container("j", INIT), container("a")).prepared()
    assert pod.starts == ("i",)
    assert pod.started("i").starts == ()
    assert pod.exited("i", 0).starts == ("j",)
    assert pod.started("j").exited("j", 0).starts == ("a",)
    assert pod.state.is_initialized


def test_a_failed_init_container_fails_the_pod_that_never_restarts() -> None:
    pod = Pod(container("i", INIT), container("a"), policy="Never").prepared().started("i").exited("i", 2)
    assert pod.phase == "Failed"


def test_a_failed_init_container_is_tried_again_otherwise() -> None:
    pod = Pod(container("i", INIT), container("a"), policy="OnFailure").prepared().started("i").exited("i", 2)
    assert (pod.phase, pod.starts) == ("Pending", ("i",))


def test_a_sidecar_lets_the_next_start_once_it_is_started() -> None:
    pod = Pod(container("s", SIDECAR, startup=True), container("a")).prepared()
    assert pod.starts == ("s",)
    assert pod.started("s").starts == ()
    assert pod.tell(ProbeAnswered("s", 0, is_started=True)).starts == ("a",)


def test_sidecars_are_stopped_when_the_work_is_done_and_do_not_count() -> None:
    pod = Pod(container("s", SIDECAR), container("a"), policy="Never").prepared().started("s").started("a")
    pod.exited("a", 0)
    assert (pod.phase, pod.stops) == ("Running", ["s"])
    assert pod.tell(StopOrdered("s")).exited("s", 143).phase == "Succeeded"


def test_a_sidecar_that_ends_early_is_restarted_whatever_the_policy() -> None:
    pod = Pod(container("s", SIDECAR), container("a"), policy="Never").prepared().started("s").started("a")
    assert pod.exited("s", 0).starts == ("s",)


@pytest.mark.parametrize(
    ("policy", "code", "phase_after", "restarts"),
    [
        ("Always", 0, "Running", True),
        ("Always", 1, "Running", True),
        ("OnFailure", 0, "Succeeded", False),
        ("OnFailure", 1, "Running", True),
        ("Never", 0, "Succeeded", False),
        ("Never", 1, "Failed", False),
    ],
)
def test_restart_policy(policy: str, code: int, phase_after: str, restarts: bool) -> None:
    pod = Pod(container("a"), policy=policy).prepared().started("a").exited("a", code)
    assert pod.phase == phase_after
    assert (pod.starts == ("a",)) is restarts


def test_back_off_doubles_from_the_second_restart_up_to_five_minutes() -> None:
    pod = Pod(container("a")).prepared()
    waits = []
    for _ in range(8):
        pod.started("a").exited("a", 1)
        at = pod.state.containers["a"].start_at
        assert at is not None
        waits.append(at - pod.now)
        pod.now = at
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_crash_loop_back_off_is_said_in_kubelets_words() -> None:
    pod = Pod(container("a")).prepared().started("a").exited("a", 1).started("a").exited("a", 1)
    waiting = pod.state.containers["a"].state
    assert waiting == Waiting("CrashLoopBackOff", "back-off 10s restarting failed container=a pod=p_ns(u1)")
    assert decide(pod.rules, pod.state, pod.now).wake_at == pod.now + 10


def test_a_long_run_forgets_the_back_off() -> None:
    pod = Pod(container("a")).prepared().started("a").exited("a", 1).started("a").exited("a", 1)
    pod.now += 10
    pod.started("a").exited("a", 1, ran_seconds=601)
    assert pod.starts == ("a",)


def test_a_restored_container_goes_on_with_the_back_off_it_had() -> None:
    pod = Pod(container("a")).prepared()
    pod.tell(ContainerStarted("a", 3, pod.now))
    pod.state = with_history(pod.rules, pod.state, "a", 3)
    pod.exited("a", 1)
    at = pod.state.containers["a"].start_at
    assert at is not None
    assert at - pod.now == 40


def test_a_blocked_container_waits_and_is_tried_again() -> None:
    pod = Pod(container("a")).prepared().tell(StartOrdered("a"))
    pod.tell(ContainerBlocked("a", "CreateContainerConfigError", "no secret", pod.now + 10))
    assert (pod.phase, pod.starts) == ("Pending", ())
    pod.now += 10
    assert pod.starts == ("a",)


def test_a_stop_ends_main_containers_then_sidecars_backwards() -> None:
    pod = Pod(container("s", SIDECAR), container("t", SIDECAR), container("a")).prepared()
    pod.started("s").started("t").started("a").tell(StopRequested(pod.now + 30))
    assert pod.stops == ["a"]
    assert pod.tell(StopOrdered("a")).stops == []
    assert pod.exited("a", 143).stops == ["t"]
    assert pod.tell(StopOrdered("t")).exited("t", 0).stops == ["s"]
    assert pod.tell(StopOrdered("s")).exited("s", 0).phase == "Failed"


def test_a_stop_before_the_start_was_answered_is_ordered_once() -> None:
    pod = Pod(container("a")).prepared().tell(StartOrdered("a"), StopRequested(pod_deadline := 1030.0))
    assert pod_deadline == 1030.0
    assert pod.stops == ["a"]
    pod.tell(StopOrdered("a"), ContainerStarted("a", 0, pod.now))
    assert pod.stops == []


def test_a_second_stop_can_only_shorten_the_grace() -> None:
    pod = Pod(container("a")).prepared().started("a")
    pod.tell(StopRequested(1030), StopRequested(1005), StopRequested(1060))
    assert pod.state.stop is not None
    assert pod.state.stop.deadline == 1005


def test_nothing_starts_after_a_stop() -> None:
    pod = Pod(container("a"), container("b")).prepared().started("a").tell(StopRequested(1030))
    assert pod.starts == ()
    assert pod.tell(StopOrdered("a")).exited("a", 0).starts == ()


def test_a_stopped_pod_whose_containers_ended_well_succeeded() -> None:
    pod = Pod(container("a")).prepared().started("a").tell(StopRequested(1030), StopOrdered("a")).exited("a", 0)
    assert pod.phase == "Succeeded"


def test_a_shutdown_has_the_last_word() -> None:
    pod = Pod(container("a")).prepared().started("a")
    pod.tell(StopRequested(1030, Verdict("Failed", "Terminated", "node")), StopOrdered("a")).exited("a", 0)
    assert pod.state.final == Verdict("Failed", "Terminated", "node")


def test_the_active_deadline_fails_the_pod() -> None:
    pod = Pod(container("a"), deadline=60).prepared().started("a")
    assert decide(pod.rules, pod.state, pod.now).wake_at == 1060
    pod.now = 1060
    assert pod.tell(Tick()).stops == ["a"]
    pod.tell(StopOrdered("a")).exited("a", 143)
    assert pod.state.final is not None
    assert pod.state.final.reason == "DeadlineExceeded"


def test_an_unhealthy_container_is_stopped_and_restarted() -> None:
    pod = Pod(container("a")).prepared().started("a")
    pod.tell(ProbeAnswered("a", 0, unhealthy="failed liveness probe"))
    assert pod.stops == ["a"]
    assert pod.tell(StopOrdered("a")).exited("a", 143).starts == ("a",)


def test_answers_about_an_older_start_change_nothing() -> None:
    pod = Pod(container("a", readiness=True)).prepared().started("a").exited("a", 1).started("a")
    before = pod.state
    assert pod.tell(ProbeAnswered("a", 0, is_ready=True)).state == before
    assert pod.tell(ContainerExited("a", 0, Terminated(1, "Error", 0, 0))).state == before


def test_readiness_waits_for_its_probe_and_for_the_startup_probe() -> None:
    pod = Pod(container("a", startup=True, readiness=True)).prepared().started("a")
    pod.tell(ProbeAnswered("a", 0, is_ready=True))
    assert not pod.state.containers["a"].is_ready
    pod.tell(ProbeAnswered("a", 0, is_started=True, is_ready=True))
    assert pod.state.containers["a"].is_ready
