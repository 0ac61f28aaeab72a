"""From a pod's evidence to whose fault it was."""

from __future__ import annotations

from typing import Any

import pytest

from jobcontroller.core.exit_class import FailureKind, classify, first_cause
from jobcontroller.core.observed import PodPhase, PodView
from tests.builders.training_jobs import CREATED_AT, ended, pod, running

USER, INFRA, PREEMPT = FailureKind.USER_ERROR, FailureKind.INFRASTRUCTURE, FailureKind.PREEMPTION


def failed(**fields: Any) -> PodView:
    return pod(phase=PodPhase.FAILED, **fields)


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (ended(1), USER),
        (ended(127), USER),
        (ended(134), USER),
        (ended(139), USER),
        (ended(137), INFRA),
        (ended(143), INFRA),
        (ended(130), INFRA),
        (ended(0, signal=9, phase=PodPhase.FAILED), INFRA),
        (ended(137, end_reason="OOMKilled"), USER),
        (ended(1, disruption="PreemptionByScheduler"), PREEMPT),
        (ended(1, disruption="EvictionByEvictionAPI"), PREEMPT),
        (ended(137, disruption="DeletionByTaintManager"), INFRA),
        (ended(137, disruption="TerminationByKubelet"), INFRA),
        (ended(1, reason="Preempting"), PREEMPT),
        (failed(reason="Evicted", message="The node was low on resource: memory."), INFRA),
        (failed(reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit of 1Gi"), USER),
        (failed(reason="OutOfcpu"), INFRA),
        (failed(reason="UnexpectedAdmissionError"), INFRA),
        (failed(reason="NodeShutdown"), INFRA),
        (failed(reason="DeadlineExceeded"), USER),
        (failed(), INFRA),
        (running(deletion_at=CREATED_AT), PREEMPT),
        (running(deletion_at=CREATED_AT, disruption="DeletionByTaintManager"), INFRA),
    ],
    ids=lambda value: (
        str(value) if isinstance(value, FailureKind) else f"{value.reason or value.disruption}-{value.ends}"
    ),
)
def test_the_kind_of_a_failure(one: PodView, kind: FailureKind) -> None:
    failure = classify(one)
    assert failure is not None
    assert failure.kind is kind
    assert one.name in failure.message


@pytest.mark.parametrize("one", [pod(), running(), ended(0), ended(0, deletion_at=1.0)])
def test_no_failure(one: PodView) -> None:
    assert classify(one) is None


def test_a_running_pod_marked_for_disruption_has_not_failed_yet() -> None:
    assert classify(running(disruption="PreemptionByScheduler")) is None


def test_the_message_of_a_program_that_failed_ends_with_its_last_line() -> None:
    one = ended(3)
    end = one.ends[0].__class__("main", 3, message="Traceback\n  File x\nValueError: bad step\n", finished_at=1.0)
    failure = classify(pod(phase=PodPhase.FAILED, ends=(end,)))
    assert failure is not None
    assert failure.message.endswith("exited with code 3: ValueError: bad step")
    assert failure.exit_code == 3


def test_the_first_failure_is_the_cause_among_errors() -> None:
    late, early = classify(ended(1, 0, at=20)), classify(ended(2, 1, at=10))
    assert late is not None
    assert early is not None
    assert first_cause([late, early], 3) == early


def test_a_disruption_is_the_cause_though_a_peer_was_seen_to_fail_a_moment_before() -> None:
    error, killed = classify(ended(1, 0, at=10)), classify(ended(137, 1, at=12))
    assert error is not None
    assert killed is not None
    assert first_cause([error, killed], 3) == killed
    assert first_cause([error, killed], 1) == error
