"""When which cached file is read again to see whether its bytes are still right.

Owns the order and the pace; the clock is passed in. A pass goes once over the files there were when it began; what
comes meanwhile was checked when it came. Invariants: no file twice in a pass; over any time longer than a second no
more bytes than the rate allows, give or take one block and one second's worth.
"""

from collections.abc import Callable, Iterable
from typing import Final

from cacheruntime.core.rates import TokenBucket

IDLE_SECONDS: Final = 1.0
"""How soon to look again when there is nothing to check."""


class ScrubSchedule:
    """Passes over named files."""

    def __init__(self, bytes_per_second: int, pass_seconds: float) -> None:
        """`bytes_per_second` is above 0; passes begin at least `pass_seconds` apart."""
        self._bucket = TokenBucket(bytes_per_second)
        self._pass_seconds = pass_seconds
        self._next_pass_seconds = float("-inf")
        self._left: list[str] = []

    def take(self, names: Callable[[], Iterable[str]], now_seconds: float) -> str | None:
        """Return the next file to check, or None: then ask again after `pause_seconds`."""
        if not self._left and now_seconds >= self._next_pass_seconds:
            self._left = sorted(names(), reverse=True)
            if self._left:
                self._next_pass_seconds = now_seconds + self._pass_seconds
        return self._left.pop() if self._left else None

    @property
    def is_between_passes(self) -> bool:
        """Whether the pass is over, but for the file taken last."""
        return not self._left

    def pause_seconds(self, now_seconds: float) -> float:
        """Return how long there is nothing to do after `take` gave none."""
        return max(IDLE_SECONDS, self._next_pass_seconds - now_seconds)

    def delay_seconds(self, size_bytes: int, now_seconds: float) -> float:
        """Book a block and return how long to wait before it may be read."""
        return self._bucket.delay_seconds(size_bytes, now_seconds)
