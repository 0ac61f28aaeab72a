"""Measured speeds and a rate limit, with the clock passed in.

Owns arithmetic only. `Limits` hold back what is read from under stores. `BusyRate` is the speed of a path while it
is in use, all streams together: bytes over the time in which at least one transfer ran, newer ones counting more. Idle
time does not lower it.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import exp
from typing import Final, TypeVar

K = TypeVar("K", bound=Hashable)
RATES_MAX: Final = 1000
"""Paths whose speed is remembered: datasets' under stores, peers."""
LIMITS_MAX: Final = 1000
"""Datasets of which is remembered what they fetched in the last second."""


@dataclass(slots=True)
class BusyRate:
    """Bytes per second of busy time; what lies `memory_seconds` of busy time back counts a third (1/e)."""

    memory_seconds: float = 5.0
    total_bytes: int = 0
    _active: int = 0
    _since: float = 0.0
    _bytes: float = 0.0
    _seconds: float = 0.0

    @property
    def bytes_per_second(self) -> float:
        """The speed; 0 = nothing was moved yet."""
        return self._bytes / self._seconds if self._seconds > 0 else 0.0

    def until(self, now_seconds: float) -> float:
        """The speed with what is under way counted as time that brought nothing yet: it falls while nothing comes."""
        self._pass(now_seconds)
        return self.bytes_per_second

    def start(self, now_seconds: float) -> None:
        """A transfer begins."""
        self._pass(now_seconds)
        self._active += 1

    def finish(self, now_seconds: float, size_bytes: int) -> None:
        """A transfer ended after that many bytes (0 when it failed)."""
        self._pass(now_seconds)
        self._active -= 1
        self._bytes += size_bytes
        self.total_bytes += size_bytes

    def _pass(self, now_seconds: float) -> None:
        if self._active:
            busy = now_seconds - self._since
            kept = exp(-busy / self.memory_seconds)
            self._bytes *= kept
            self._seconds = self._seconds * kept + busy
        self._since = now_seconds


def rate_of(rates: dict[K, BusyRate], key: K) -> BusyRate:
    """Return the speed of one of many paths; the oldest of too many is forgotten."""
    if key not in rates and len(rates) >= RATES_MAX:
        del rates[next(iter(rates))]
    return rates.setdefault(key, BusyRate())


@dataclass(slots=True)
class TokenBucket:
    """Bytes per second with a burst of one second; 0 = unlimited."""

    bytes_per_second: int
    _debt_until: float = 0.0

    def delay_seconds(self, size_bytes: int, now_seconds: float) -> float:
        """Book the bytes and return how long to wait before they may be fetched."""
        if self.bytes_per_second <= 0:
            return 0.0
        start = max(self._debt_until, now_seconds - 1.0)
        self._debt_until = start + size_bytes / self.bytes_per_second
        return max(0.0, self._debt_until - now_seconds)


@dataclass(slots=True)
class Limits:
    """What may be fetched a second for each of many datasets, and for all of them together; 0 = unlimited.

    Rates are given each time, since they change with the number of workers. Who waits books with all only when its
    dataset's limit lets it go: a queue behind one dataset's limit takes nothing from the others.
    """

    _all: TokenBucket = field(default_factory=lambda: TokenBucket(0))
    _each: dict[str, TokenBucket] = field(default_factory=dict)

    def of_dataset(self, uid: str, size_bytes: int, now_seconds: float, rate: int) -> float:
        """Book a dataset's bytes and return how long to wait."""
        if rate <= 0:
            self._each.pop(uid, None)
            return 0.0
        if uid not in self._each and len(self._each) >= LIMITS_MAX:
            del self._each[next(iter(self._each))]
        bucket = self._each.setdefault(uid, TokenBucket(rate))
        bucket.bytes_per_second = rate
        return bucket.delay_seconds(size_bytes, now_seconds)

    def of_all(self, size_bytes: int, now_seconds: float, rate: int) -> float:
        """Book bytes of any dataset and return how long to wait."""
        self._all.bytes_per_second = rate
        return self._all.delay_seconds(size_bytes, now_seconds)
