"""When a slow peer is raced by somebody else, and how often that may be.

Owns the delay, the budget and the count of lost races. Does not ask anybody. A request that takes longer than twice the
95th percentile of the last answers is a straggler (J. Dean, L. Barroso, "The Tail at Scale": the second request after
the expected 95th percentile, some per cent more load); twice, since a home that fetches from a busy under store is late
honestly, and asking that store again would only add to its load. For the same
reason a hedge there costs five, and needs more than lateness: the peer must have been silent for SILENT_SECONDS, and
have come down, its silence counted, to what the under store delivers. A reader that takes 300 MB/s from a peer gains
nothing from a few blocks of an under store of 60 MB/s: it goes on when the peer does, or when its lease ends.
Invariant: of n requests at most BURST + EXTRA_PART * n are hedged; at most a fifth of that at the under store.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

EXTRA_PART: Final = 0.05
BURST: Final = 10.0
ORIGIN_COST: Final = 5.0
QUANTILE: Final = 0.95
FACTOR: Final = 2.0
SAMPLES: Final = 256
SAMPLES_MIN: Final = 20
"""Before so many answers nothing is known of the tail: FIRST_SECONDS."""
FIRST_SECONDS: Final = 0.5
SECONDS_MIN: Final = 0.02
"""Less is noise of an event loop, and no reader notices it."""
SECONDS_MAX: Final = 5.0
LOST_MAX: Final = 3
"""Races lost in a row, without one answer between, after which a peer counts as stalled."""
SILENT_SECONDS: Final = 1.5
"""A peer that has not sent a byte for so long is not just busy."""
LOOK_SECONDS: Final = 0.25
"""How often to look whether a silent peer has sent something."""
OWN_STALL_FACTOR: Final = 2.0
"""A wait that took so many times what it should: it was we who stood still, and what came meanwhile is not read yet."""
ASSUMED_ORIGIN_BYTES_PER_SECOND: Final = 100e6
"""Of an under store that nobody has measured."""
_RECOUNT: Final = 16

P = TypeVar("P", bound=Hashable)


@dataclass(slots=True)
class Hedging(Generic[P]):
    """Of the requests to all peers `P`."""

    _tokens: float = BURST
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    _delay_seconds: float = FIRST_SECONDS
    _since_count: int = 0
    _lost: dict[P, int] = field(default_factory=dict)

    def asked(self) -> None:
        """A request was sent to a peer; each earns a part of a hedge."""
        self._tokens = min(BURST, self._tokens + EXTRA_PART)

    def answered(self, peer: P, seconds: float) -> None:
        """A peer sent a block after that time."""
        self._lost.pop(peer, None)
        self._seconds.append(seconds)
        self._since_count += 1
        if len(self._seconds) >= SAMPLES_MIN and (self._since_count >= _RECOUNT or len(self._seconds) == SAMPLES_MIN):
            self._since_count = 0
            ordered = sorted(self._seconds)
            tail = ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))]
            self._delay_seconds = min(SECONDS_MAX, max(SECONDS_MIN, FACTOR * tail))

    @property
    def delay_seconds(self) -> float:
        """How long to wait for a peer before somebody else is asked too."""
        return self._delay_seconds

    def may_hedge(self, *, at_origin: bool) -> bool:
        """Take a hedge from the budget; False when there is none."""
        cost = ORIGIN_COST if at_origin else 1.0
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True

    def lost(self, peer: P) -> bool:
        """Somebody else was faster than this peer; return whether it counts as stalled now."""
        count = self._lost.get(peer, 0) + 1
        if count >= LOST_MAX:
            self._lost.pop(peer, None)
            return True
        self._lost[peer] = count
        return False


@dataclass(slots=True)
class Silence:
    """How long a peer has sent nothing, seen by somebody who may stand still at times."""

    looked_seconds: float
    received_bytes: int
    silent_seconds: float = 0.0

    def look(self, now_seconds: float, received_bytes: int, waited_seconds: float) -> bool:
        """Look again after what should have been `waited_seconds`; True when the peer sent something since."""
        took = now_seconds - self.looked_seconds
        self.looked_seconds = now_seconds
        if received_bytes != self.received_bytes:
            self.received_bytes = received_bytes
            self.silent_seconds = 0.0
            return True
        if took < OWN_STALL_FACTOR * waited_seconds:
            self.silent_seconds += took
        return False

    def is_worth_origin(self, peer_bytes_per_second: float, origin_bytes_per_second: float) -> bool:
        """Whether the under store should be asked for what the silent peer owes; 0 as its speed = not measured.

        The peer's speed is that of the time in which something was asked of it, up to now.
        """
        origin = origin_bytes_per_second or ASSUMED_ORIGIN_BYTES_PER_SECOND
        return self.silent_seconds >= SILENT_SECONDS and peer_bytes_per_second <= origin
