"""When a request may be repeated, and how often at all: kube/retries.py, kube/budget.py."""

from random import Random

import pytest

from kube.budget import RequestBudget
from kube.errors import Conflict, Invalid, KubeError, NotFound, TooManyRequests, Unavailable
from kube.retries import backoff_seconds, may_retry, retry_delay_seconds


@pytest.mark.parametrize(
    ("error", "for_reads", "for_writes"),
    [
        (TooManyRequests(429, "TooManyRequests", ""), True, True),
        (Unavailable(503, "ServiceUnavailable", "", retry_after_seconds=1), True, True),
        (Unavailable(503, "ServiceUnavailable", ""), True, False),
        (Unavailable(500, "InternalError", "", retry_after_seconds=1), True, False),
        (Unavailable(0, "NoAnswer", ""), True, False),
        (Unavailable(0, "NoAnswer", "", reached_server=False), True, True),
        (NotFound(404, "NotFound", ""), False, False),
        (Conflict(409, "Conflict", ""), False, False),
        (Invalid(422, "Invalid", ""), False, False),
    ],
)
def test_what_may_have_taken_effect_is_repeated_only_when_harmless(
    error: KubeError, for_reads: bool, for_writes: bool
) -> None:
    assert may_retry(error, idempotent=True) is for_reads
    assert may_retry(error, idempotent=False) is for_writes


def test_the_server_wish_is_a_lower_bound() -> None:
    error = TooManyRequests(429, "", "", retry_after_seconds=3)
    delay = retry_delay_seconds(error, idempotent=False, failures=1, jitter=Random(1))
    assert delay is not None
    assert 3 <= delay <= 3.1


def test_backoff_doubles_is_capped_and_jittered() -> None:
    jitter = Random(7)
    for failures, ceiling in ((1, 0.1), (2, 0.2), (5, 1.6), (8, 10), (1000, 10)):
        delays = [backoff_seconds(failures, jitter) for _ in range(50)]
        assert ceiling / 2 <= min(delays) < max(delays) <= ceiling


def test_a_budget_lets_a_burst_through_and_then_the_rate() -> None:
    budget = RequestBudget(qps=10, burst=3)
    assert [round(budget.reserve_seconds(0.0), 6) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    # Idle time refills the bucket to the burst and no further.
    assert [round(budget.reserve_seconds(100.0), 6) for _ in range(4)] == [0, 0, 0, 0.1]


@pytest.mark.parametrize(("qps", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_senseless_budget_is_refused(qps: float, burst: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        RequestBudget(qps, burst)
