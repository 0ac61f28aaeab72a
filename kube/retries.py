"""When a failed request may be sent again, and after how long.

Pure: the error, the verb's nature and the randomness come in. Invariant: a request that
may already have taken effect is repeated only when repeating it cannot do harm.
"""

from random import Random

from kube.errors import KubeError, TooManyRequests, Unavailable

FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 10.0


def backoff_seconds(
    failures: int,
    jitter: Random,
    *,
    first_seconds: float = FIRST_DELAY_SECONDS,
    max_seconds: float = MAX_DELAY_SECONDS,
) -> float:
    """Delay after the `failures`-th failure in a row (1, 2, …): doubling, capped, jittered by half."""
    exponent = min(max(failures - 1, 0), 30)
    ceiling = min(first_seconds * 2.0**exponent, max_seconds)
    return ceiling * (0.5 + 0.5 * jitter.random())


def retry_delay_seconds(error: KubeError, *, idempotent: bool, failures: int, jitter: Random) -> float | None:
    """Seconds to wait before sending the request again, or None when it must not be sent again.

    429 and a 503 that asks to come back were refused before any work: every verb may repeat.
    A request that never left may repeat too. All else repeats only when `idempotent`.
    """
    if not may_retry(error, idempotent=idempotent):
        return None
    delay = backoff_seconds(failures, jitter)
    if error.retry_after_seconds is not None:
        # Jitter on top, or all refused clients come back in the same instant.
        return error.retry_after_seconds + delay * 0.5
    return delay


def may_retry(error: KubeError, *, idempotent: bool) -> bool:
    """Whether sending the same request again is safe and may help."""
    if isinstance(error, TooManyRequests):
        return True
    if not isinstance(error, Unavailable):
        return False
    refused = error.status == 503 and error.retry_after_seconds is not None
    return idempotent or refused or not error.reached_server


def retry_cause(error: KubeError) -> str:
    """The bounded metric label for why a request is repeated."""
    if isinstance(error, TooManyRequests):
        return "throttled"
    return "unavailable" if error.status else "no_answer"
