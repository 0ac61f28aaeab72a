"""Single flight: at most one fetch of a block at a time, and a pause after one failed.

Owns which keys are being fetched, who waits and until when a failed key is refused. Does not fetch; the shell
holds the futures. Life of a key, all else is a bug:

    idle --join--> filling --join--> filling (one waiter more)
    filling --succeed--> idle        filling --fail--> paused --time--> idle
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Join(StrEnum):
    """What the caller has to do."""

    START = "start"
    WAIT = "wait"
    REFUSED = "refused"


@dataclass(slots=True)
class _Pause:
    until_seconds: float
    failures: int
    reason: Exception


@dataclass(slots=True)
class Fills(Generic[K]):
    """The keys in flight. Times are seconds of the caller's monotonic clock."""

    pause_seconds: float = 0.1
    pause_seconds_max: float = 5.0
    paused_keys_max: int = 10_000
    _filling: dict[K, int] = field(default_factory=dict)
    _paused: dict[K, _Pause] = field(default_factory=dict)

    def join(self, key: K, now_seconds: float) -> Join:
        """Ask for a key: START means that the caller fetches it, WAIT that another one does."""
        if key in self._filling:
            self._filling[key] += 1
            return Join.WAIT
        pause = self._paused.get(key)
        if pause is not None and now_seconds < pause.until_seconds:
            return Join.REFUSED
        self._filling[key] = 0
        return Join.START

    def refusal(self, key: K) -> Exception:
        """Why the key is refused now."""
        return self._paused[key].reason

    def waiters(self, key: K) -> int:
        """How many callers joined the fetch under way."""
        return self._filling[key]

    def succeed(self, key: K) -> None:
        """The fetch went well."""
        del self._filling[key]
        self._paused.pop(key, None)

    def fail(self, key: K, now_seconds: float, reason: Exception, *, pause: bool) -> None:
        """The fetch failed; with `pause` the key is refused for a while, twice as long each time."""
        del self._filling[key]
        if not pause:
            return
        before = self._paused.pop(key, None)
        failures = 1 if before is None else before.failures + 1
        length = min(self.pause_seconds_max, self.pause_seconds * 2.0 ** min(failures - 1, 16))
        if len(self._paused) >= self.paused_keys_max:
            self._paused.pop(next(iter(self._paused)))
        self._paused[key] = _Pause(now_seconds + length, failures, reason)

    def __len__(self) -> int:
        return len(self._filling)
