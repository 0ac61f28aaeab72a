"""Cron schedules: when a line of five fields, or a word as @daily, comes due in a time zone.

Owns the reading of the line and what is due where clocks are changed; the search over a calendar without such changes
is cronsim's. Pure: knows no clock. Fields, names, `?`, words and IANA zones are those of Kubernetes' CronJob.

Where clocks are changed it is as in Debian's cron: with a `*` at the head of its minutes or hours a schedule follows
the clock (nothing in a skipped hour, twice in one that is there twice); any other is due once, for a skipped time when
the clock goes on, of two times at the first. Invariant: whatever is returned is a whole minute.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_WORDS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS: Final = ("minute", "hour", "day of month", "month", "day of week")


class CronError(ValueError):
    """The line, or the zone, cannot be read; the text names the value and what would be right."""


#: clocks are changed by less; Samoa once left out a day
_MOST_SHIFT = timedelta(hours=26)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A line that was read. Times are seconds since 1970."""

    line: str
    zone: ZoneInfo

    def next_after(self, at: float) -> float | None:
        """Return the first time it is due after `at`; None = never again (within 50 years)."""
        found = [_first(self._times(at, fold, forward=True), lambda time: time > at) for fold in self._folds]
        return min((time for time in found if time is not None), default=None)

    def last_until(self, at: float) -> float | None:
        """Return the last time it was due at `at` or before; None = never (within 50 years)."""
        found = [_first(self._times(at, fold, forward=False), lambda time: time <= at) for fold in self._folds]
        return max((time for time in found if time is not None), default=None)

    @property
    def _follows_clock(self) -> bool:
        minute, hour, *_ = self.line.split()
        return minute.startswith("*") or hour.startswith("*")

    @property
    def _folds(self) -> tuple[int, ...]:
        """Which of two times of one name count: 0 the first, 1 the second."""
        return (0, 1) if self._follows_clock else (0,)

    def _times(self, at: float, fold: int, *, forward: bool) -> Iterator[float]:
        """Yield times in order, from somewhat before `at` on (backwards: from behind it)."""
        # On a calendar on which no clock is changed, a name is a moment; so the search cannot lose its way.
        name = datetime.fromtimestamp(at, self.zone).replace(tzinfo=UTC)
        margin = self._margin(at)
        begin = name - margin if forward else name + margin
        for due in CronSim(self.line, begin, reverse=not forward):
            time = self._moment(due.replace(tzinfo=self.zone, fold=fold))
            if time is not None:
                yield time

    def _margin(self, at: float) -> timedelta:
        """Return by how much a name may be off its moment around `at`."""
        moments = (at - _MOST_SHIFT.total_seconds(), at, at + _MOST_SHIFT.total_seconds())
        offsets = {datetime.fromtimestamp(moment, self.zone).utcoffset() for moment in moments}
        return _MOST_SHIFT if len(offsets) > 1 else timedelta(minutes=1)

    def _moment(self, name: datetime) -> float | None:
        """Return when a clock shows that; None = never, and the schedule follows the clock."""
        time = name.timestamp()
        shown = datetime.fromtimestamp(time, self.zone)
        if shown.replace(tzinfo=None) == name.replace(tzinfo=None):
            return time
        if self._follows_clock:
            return None
        # Read by the clock before the change it is behind the gap, by the one after it is before.
        before, behind = sorted(name.replace(fold=fold).timestamp() for fold in (0, 1))
        offset = datetime.fromtimestamp(before, self.zone).utcoffset()
        while behind - before > 1:
            middle = (before + behind) // 2
            if datetime.fromtimestamp(middle, self.zone).utcoffset() == offset:
                before = middle
            else:
                behind = middle
        return behind


def _first(times: Iterator[float], fits: Callable[[float], bool]) -> float | None:
    return next(filter(fits, times), None)


def parse(line: str, time_zone: str | None = None) -> Schedule:
    """Read a schedule; `time_zone` is a name as Europe/Berlin, None = UTC. Raises CronError."""
    zone = _zone(time_zone)
    fields = _WORDS.get(line.strip(), line).split()
    if any("=" in field for field in fields):
        raise CronError(f"schedule {line!r} must not set a time zone; write it in timeZone")
    if len(fields) != len(_FIELDS):
        raise CronError(
            f"schedule {line!r} has {len(fields)} fields; it must be the five {', '.join(_FIELDS)}, as '0 2 * * *', "
            f"or one of {', '.join(_WORDS)}"
        )
    text = " ".join("*" if field == "?" and place in (2, 4) else field for place, field in enumerate(fields))
    try:
        # A begin of its own: reading must not depend on when it is done.
        CronSim(text, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise CronError(
            f"schedule {line!r} cannot be read: {str(error).lower()}; '0 2 * * *' is every night"
        ) from error
    return Schedule(text, zone)


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError) as error:
        raise CronError(
            f"timeZone {name!r} is not known; it must be an IANA name, as Europe/Berlin or Etc/UTC"
        ) from error
