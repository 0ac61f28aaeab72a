"""How long calls took that met a daemon's death, and how long those that met none: what a death costs is told from what
the disk and the other processes cost anyway."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

STALL_SECONDS: Final = 1.0
"""What is promised of calls that meet a death."""


@dataclass(frozen=True, slots=True)
class Call:
    """What an application called, when, and how long it took. Monotonic seconds."""

    what: str
    began: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Death:
    """From a daemon's end to its successor's first answer."""

    way: str
    began: float
    ended: float

    def met(self, call: Call) -> bool:
        """Whether the call waited in it."""
        return call.began < self.ended and call.began + call.seconds > self.began


@dataclass(frozen=True, slots=True)
class Row:
    """Calls of one kind; the seconds of those that were told of, ascending."""

    what: str
    calls: int
    met: Sequence[float]
    others: Sequence[float]
    per_death: float
    """The longest of `met` by how many deaths it met: one of several requests, or sent again, may meet several."""

    def line(self) -> str:
        """Return a line of the table."""
        return (
            f"{self.what:<26} {self.calls:>8} {len(self.met):>6} {_of(self.met, 0.5):>6} {_of(self.met, 0.95):>6}"
            f" {_of(self.met, 1.0):>6} {_long(self.met):>5} {self.per_death:>9.2f}"
            f" {_of(self.others, 1.0):>10} {_long(self.others):>5}"
        )


HEAD: Final = (
    f"{'call':<26} {'calls':>8} {'met':>6} {'median':>6} {'95 %':>6} {'worst':>6} {'> 1 s':>5}"
    f" {'per death':>9} {'met none':>10} {'> 1 s':>5}"
)


def rows(counts: dict[str, int], calls: Iterable[Call], deaths: Sequence[Death]) -> list[Row]:
    """Return a row for each kind in `counts`, of the calls that were told of one by one."""
    told = {what: list(group) for what, group in groupby(sorted(calls, key=_what), key=_what)}
    return [_row(what, count, told.get(what, []), deaths) for what, count in sorted(counts.items())]


def _row(what: str, count: int, calls: list[Call], deaths: Sequence[Death]) -> Row:
    met = [(call, sum(death.met(call) for death in deaths)) for call in calls]
    return Row(
        what,
        count,
        sorted(call.seconds for call, times in met if times),
        sorted(call.seconds for call, times in met if not times),
        max((call.seconds / times for call, times in met if times), default=0.0),
    )


def _what(call: Call) -> str:
    return call.what


def _of(seconds: Sequence[float], share: float) -> str:
    return f"{seconds[math.ceil(share * len(seconds)) - 1]:.2f}" if seconds else "-"


def _long(seconds: Sequence[float]) -> int:
    return sum(each > STALL_SECONDS for each in seconds)
