"""A request budget: at most `qps` requests a second on average, `burst` at once.

Pure: the clock's reading comes in. Invariant: in any t seconds at most burst + qps·t
requests are let through. Not for more than one event loop.
"""


class RequestBudget:
    """A token bucket kept as one number (the time at which the bucket would be full again)."""

    def __init__(self, qps: float, burst: int) -> None:
        if qps <= 0:
            raise ValueError(f"qps {qps} must be more than 0; None means no limit")
        if burst < 1:
            raise ValueError(f"burst {burst} must be at least 1")
        self._seconds_per_request = 1.0 / qps
        self._slack_seconds = (burst - 1) / qps
        self._full_at = float("-inf")

    def reserve_seconds(self, now: float) -> float:
        """Take one request from the budget; returns the seconds to wait before sending it."""
        start = max(self._full_at, now)
        self._full_at = start + self._seconds_per_request
        return max(0.0, start - now - self._slack_seconds)
