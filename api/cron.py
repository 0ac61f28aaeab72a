"""Cron schedules: when a line of five fields, or a word as @daily, comes due in a time zone.

Owns the reading of the line. Pure: knows no clock. Follows Kubernetes' CronJob (fields, names, `?`, the words, IANA
zones), and Debian's cron where clocks are changed: a time that is skipped is due when the clock goes on, one that is
there twice is due once. Invariant: whatever is returned is a whole minute.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
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


@dataclass(frozen=True, slots=True)
class Schedule:
    """A line that was read. Times are seconds since 1970."""

    line: str
    zone: ZoneInfo

    def next_after(self, at: float) -> float | None:
        """Return the first time it is due after `at`; None = never again (within 50 years)."""
        return next(self._times(at, reverse=False), None)

    def last_until(self, at: float) -> float | None:
        """Return the last time it was due at `at` or before."""
        return next((time for time in self._times(at + 60, reverse=True) if time <= at), None)

    def _times(self, at: float, *, reverse: bool) -> Iterator[float]:
        begin = datetime.fromtimestamp(at, self.zone)
        for due in CronSim(self.line, begin, reverse=reverse):
            yield due.timestamp()


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
