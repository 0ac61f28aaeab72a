"""Whether a failure is worth another attempt.

Owns the three budgets, backoffLimit and the meaning of a role's restartPolicy. Every restart is of the whole
attempt, so restartPolicy only says what the *user's own* errors cost:

    unset, Never        an error of the user's program fails the job (unless restarts.userError gives a budget;
                        with Never not even then)
    OnFailure, Always   it restarts the job, up to restarts.userError times (default: backoffLimit, else 6)
    ExitCode            as OnFailure for exit codes from 128 and for OOMKilled; 1 to 127 are permanent

Infrastructure failures and preemptions draw on their own budgets whatever the restartPolicy is.
backoffLimit caps all restarts together."""

from __future__ import annotations

from dataclasses import dataclass

from api.training_v1alpha1 import RestartCounts, RestartPolicy, RunPolicy
from jobcontroller.core import reasons
from jobcontroller.core.exit_class import Failure, FailureKind

#: `backoffLimit` of a Kubernetes Job
DEFAULT_USER_ERROR_RESTARTS = 6
#: codes below are a program's own verdict, from here on signals (training-operator's rule)
FIRST_RETRYABLE_EXIT_CODE = 128


@dataclass(frozen=True, slots=True)
class Verdict:
    """`may_restart`, else `reason` and `message` of the job's failure."""

    may_restart: bool
    reason: str
    message: str


def decide(policy: RunPolicy, role_policy: RestartPolicy | None, counts: RestartCounts, failure: Failure) -> Verdict:
    """Return whether the budgets allow one more restart for this failure."""
    if failure.kind is FailureKind.USER_ERROR and _is_permanent(role_policy, failure):
        return Verdict(False, reasons.USER_ERROR, f"{failure.message}; restartPolicy {role_policy} ends the job")
    total = counts.user_error + counts.infrastructure + counts.preemption
    if policy.backoff_limit is not None and total >= policy.backoff_limit:
        text = f"{failure.message}; {total} restarts reached runPolicy.backoffLimit {policy.backoff_limit}"
        return Verdict(False, reasons.BACKOFF_LIMIT_EXCEEDED, text)
    used, budget, field_name = _budget(policy, role_policy, counts, failure.kind)
    if used < budget:
        return Verdict(True, str(failure.kind), failure.message)
    if failure.kind is FailureKind.USER_ERROR and budget == 0:
        return Verdict(False, reasons.USER_ERROR, f"{failure.message}; runPolicy.restarts.userError is 0")
    text = f"{failure.message}; {used} restarts used up runPolicy.restarts.{field_name} {budget}"
    return Verdict(False, reasons.RESTARTS_EXHAUSTED, text)


def count(counts: RestartCounts, kind: FailureKind) -> RestartCounts:
    """Return the counts with one more restart of this kind."""
    field_name = {
        FailureKind.USER_ERROR: "user_error",
        FailureKind.INFRASTRUCTURE: "infrastructure",
        FailureKind.PREEMPTION: "preemption",
    }[kind]
    return counts.model_copy(update={field_name: getattr(counts, field_name) + 1})


def _is_permanent(role_policy: RestartPolicy | None, failure: Failure) -> bool:
    if role_policy == "Never":
        return True
    if role_policy != "ExitCode" or failure.was_out_of_memory:
        return False
    return failure.exit_code is not None and failure.exit_code < FIRST_RETRYABLE_EXIT_CODE


def _budget(
    policy: RunPolicy, role_policy: RestartPolicy | None, counts: RestartCounts, kind: FailureKind
) -> tuple[int, int, str]:
    if kind is FailureKind.INFRASTRUCTURE:
        return counts.infrastructure, policy.restarts.infrastructure, "infrastructure"
    if kind is FailureKind.PREEMPTION:
        return counts.preemption, policy.restarts.preemption, "preemption"
    budget = policy.restarts.user_error
    if budget is None and role_policy is None:
        budget = 0
    elif budget is None:
        budget = policy.backoff_limit if policy.backoff_limit is not None else DEFAULT_USER_ERROR_RESTARTS
    return counts.user_error, budget, "userError"
