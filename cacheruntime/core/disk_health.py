"""Whether a medium is worth asking: it is left alone after errors or slow answers, and tried again later.

Owns the state of one tier and the length of its pauses. Times are seconds of the caller's monotonic clock.

    healthy --error, or SLOW_MAX slow answers within SLOW_WINDOW_SECONDS--> paused --time--> on trial
    on trial --error or slow answer--> paused, twice as long      on trial --GOOD_MIN good answers--> healthy

Invariants: a pause is never shorter than PAUSE_SECONDS nor longer than PAUSE_SECONDS_MAX; answers to what was asked
before a pause change nothing, so that many requests that fail together count as one failure.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

PAUSE_SECONDS: Final = 5.0
PAUSE_SECONDS_MAX: Final = 300.0
SLOW_MAX: Final = 3
SLOW_WINDOW_SECONDS: Final = 30.0
GOOD_MIN: Final = 8
"""Good answers in a row that end a trial: a medium that fails every other time stays on trial."""


class Health(StrEnum):
    """State of a medium."""

    HEALTHY = "healthy"
    PAUSED = "paused"
    TRIAL = "trial"


@dataclass(slots=True)
class DiskHealth:
    """One tier's. `slow_seconds`: an answer that takes longer is slow."""

    slow_seconds: float
    _paused_until: float = float("-inf")
    _pauses: int = 0
    _good: int = 0
    _slow_at: list[float] = field(default_factory=list)

    @property
    def paused_until_seconds(self) -> float:
        """End of the last pause."""
        return self._paused_until

    def state(self, now_seconds: float) -> Health:
        """What the medium is now."""
        if now_seconds < self._paused_until:
            return Health.PAUSED
        return Health.TRIAL if self._pauses else Health.HEALTHY

    def failed(self, asked_seconds: float, now_seconds: float) -> bool:
        """A request that was asked then gave an error now; return whether a pause begins."""
        # Asked before the last pause ended: part of the failure that is known.
        if asked_seconds < self._paused_until:
            return False
        self._pauses += 1
        self._good = 0
        self._slow_at.clear()
        self._paused_until = now_seconds + min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 2.0 ** (min(self._pauses, 16) - 1))
        return True

    def answered(self, asked_seconds: float, now_seconds: float) -> bool:
        """A request went well, or is still waited for; return whether a pause begins, because it was slow."""
        if asked_seconds < self._paused_until:
            return False
        if now_seconds - asked_seconds <= self.slow_seconds:
            self._good += 1
            if self._good >= GOOD_MIN:
                self._pauses = 0
            return False
        self._good = 0
        if self._pauses:
            return self.failed(asked_seconds, now_seconds)
        self._slow_at = [at for at in self._slow_at if now_seconds - at < SLOW_WINDOW_SECONDS] + [now_seconds]
        return len(self._slow_at) >= SLOW_MAX and self.failed(asked_seconds, now_seconds)
