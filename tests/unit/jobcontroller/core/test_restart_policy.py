"""Budgets, backoffLimit and the four restartPolicies."""

from __future__ import annotations

from typing import Any

import pytest

from api.training_v1alpha1 import RestartCounts, RunPolicy
from jobcontroller.core.exit_class import Failure, FailureKind
from jobcontroller.core.restart_policy import count, decide


def failure(kind: FailureKind = FailureKind.USER_ERROR, exit_code: int | None = 1, oom: bool = False) -> Failure:
    return Failure(kind, "p", "u", "Worker", 0, "pod p failed", exit_code=exit_code, was_out_of_memory=oom)


def policy(**fields: Any) -> RunPolicy:
    return RunPolicy.model_validate(fields)


@pytest.mark.parametrize(
    ("role_policy", "exit_code", "oom", "may_restart"),
    [
        (None, 1, False, False),
        ("Never", 1, False, False),
        ("OnFailure", 1, False, True),
        ("Always", 1, False, True),
        ("ExitCode", 1, False, False),
        ("ExitCode", 127, False, False),
        ("ExitCode", 128, False, True),
        ("ExitCode", 139, False, True),
        ("ExitCode", 137, True, True),
        ("Never", 137, True, False),
    ],
)
def test_what_an_error_of_the_program_costs(role_policy: Any, exit_code: int, oom: bool, may_restart: bool) -> None:
    verdict = decide(policy(), role_policy, RestartCounts(), failure(exit_code=exit_code, oom=oom))
    assert verdict.may_restart is may_restart


@pytest.mark.parametrize("role_policy", [None, "Never", "OnFailure", "ExitCode"])
@pytest.mark.parametrize("kind", [FailureKind.INFRASTRUCTURE, FailureKind.PREEMPTION])
def test_what_is_not_the_users_fault_restarts_whatever_the_policy(role_policy: Any, kind: FailureKind) -> None:
    assert decide(policy(), role_policy, RestartCounts(), failure(kind)).may_restart


def test_each_kind_has_its_own_budget() -> None:
    used = RestartCounts(infrastructure=10, preemption=3)
    assert not decide(policy(), None, used, failure(FailureKind.INFRASTRUCTURE)).may_restart
    assert decide(policy(), None, used, failure(FailureKind.PREEMPTION)).may_restart


def test_an_explicit_budget_for_errors_counts_without_a_restart_policy() -> None:
    limits = policy(restarts={"userError": 2})
    assert decide(limits, None, RestartCounts(user_error=1), failure()).may_restart
    verdict = decide(limits, None, RestartCounts(user_error=2), failure())
    assert (verdict.may_restart, verdict.reason) == (False, "RestartsExhausted")
    assert "runPolicy.restarts.userError 2" in verdict.message


def test_on_failure_restarts_six_times_by_default_and_backoff_limit_times_otherwise() -> None:
    assert decide(policy(), "OnFailure", RestartCounts(user_error=5), failure()).may_restart
    assert not decide(policy(), "OnFailure", RestartCounts(user_error=6), failure()).may_restart
    assert decide(policy(backoffLimit=9), "OnFailure", RestartCounts(user_error=8), failure()).may_restart


def test_backoff_limit_caps_all_kinds_together() -> None:
    used = RestartCounts(user_error=1, infrastructure=1, preemption=1)
    verdict = decide(policy(backoffLimit=3), None, used, failure(FailureKind.PREEMPTION))
    assert (verdict.may_restart, verdict.reason) == (False, "BackoffLimitExceeded")


def test_a_count_goes_up_for_its_kind_only() -> None:
    assert count(RestartCounts(), FailureKind.PREEMPTION) == RestartCounts(preemption=1)
