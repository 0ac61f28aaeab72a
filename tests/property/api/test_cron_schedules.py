"""Schedules against a plain reading of their fields, minute by minute, and across changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given, settings

from api.cron import parse

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # clocks were changed a minute after midnight
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # a day was left out
    "Asia/Kolkata",
)
#: 2000 to 2040
moments = st.integers(946_684_800, 2_208_988_800)
#: of the clock: Berlin and New York in 2026, in spring and autumn; Lord Howe; Samoa in 2011
CHANGES = (1774746000, 1792890000, 1772953200, 1793512800, 1775314800, 1325239200)
changes = st.tuples(st.sampled_from(CHANGES), st.integers(-90_000, 90_000))
around = st.one_of(moments, changes.map(sum))
minutes = st.one_of(st.just("*"), st.sampled_from(("*/7", "*/30", "0", "15,45", "10-20/5")))
hours = st.one_of(st.just("*"), st.sampled_from(("*/6", "2", "0,12", "1-3", "23")))
days = st.sampled_from(("*", "*", "1", "15", "*/10", "28-31"))
months = st.sampled_from(("*", "*", "3", "10-12"))
weekdays = st.sampled_from(("*", "*", "0", "7", "MON-FRI", "sun,2"))
lines = st.tuples(minutes, hours, days, months, weekdays).map(" ".join)


@given(lines, st.sampled_from(ZONES), around)
@settings(deadline=None)
def test_the_last_time_is_the_next_one_of_a_moment_before_it(line: str, zone: str, at: int) -> None:
    schedule = parse(line, zone)
    due = schedule.next_after(at)
    assert due is not None
    assert due > at
    assert due % 60 == 0
    assert schedule.last_until(due) == due
    assert schedule.last_until(due + 59) == due
    last = schedule.last_until(due - 1)
    assert last is not None
    assert last <= at
    assert schedule.next_after(last) == due


@given(lines, st.sampled_from(ZONES), around)
@settings(deadline=None)
def test_times_go_forward_whole_minutes_apart(line: str, zone: str, at: int) -> None:
    schedule = parse(line, zone)
    times: list[float] = [at]
    for _ in range(5):
        due = schedule.next_after(times[-1])
        assert due is not None
        times.append(due)
    assert all(earlier < later for earlier, later in pairwise(times))


def values(field: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    """What a field admits, read without any library."""
    found: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        begin, _, end = span.partition("-")
        number = [names.index(text) if text in names else int(text) for text in (begin, end) if text not in ("", "*")]
        first, last = (number[0], number[-1]) if number else (low, high)
        found |= set(range(first, last + 1, int(step or 1)))
    return found


@given(lines, moments)
@settings(deadline=None)
def test_in_utc_it_is_due_exactly_when_the_fields_say_so(line: str, at: int) -> None:
    minute, hour, day, month, weekday = line.split()
    at -= at % 60
    then = datetime.fromtimestamp(at, UTC)
    in_month = then.day in values(day, 1, 31)
    in_week = then.isoweekday() % 7 in {
        one % 7 for one in values(weekday, 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
    }
    # cron's old rule: of two restricted day fields one is enough
    either = not day.startswith("*") and not weekday.startswith("*")
    is_day = (in_month or in_week) if either else (in_month and in_week)
    fits = then.minute in values(minute, 0, 59) and then.hour in values(hour, 0, 23) and is_day
    fits = fits and then.month in values(month, 1, 12)
    assert (parse(line).last_until(at) == at) == fits


def dues(line: str, zone: str, begin: str, count: int) -> list[str]:
    """The next times, as a clock at that place shows them."""
    schedule, at, found = parse(line, zone), datetime.fromisoformat(begin).timestamp(), []
    for _ in range(count):
        due = schedule.next_after(at)
        assert due is not None
        at = due
        found.append(datetime.fromtimestamp(due, schedule.zone).strftime("%d %H:%M%z"))
    return found


def test_a_time_that_is_skipped_is_due_when_the_clock_goes_on_and_one_that_comes_twice_once() -> None:
    spring = dues("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 2)
    assert spring == ["29 03:00+0200", "30 02:30+0200"]
    autumn = dues("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", 2)
    assert autumn == ["25 02:30+0200", "26 02:30+0100"]
    assert dues("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00Z", 2) == ["31 00:00+1400", "31 12:00+1400"]


def test_with_a_star_the_clock_is_followed() -> None:
    spring = dues("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15Z", 3)
    assert spring == ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]
    autumn = dues("0 * * * *", "Europe/Berlin", "2026-10-24T23:30Z", 3)
    assert autumn == ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]
    assert dues("* 2 * * *", "Europe/Berlin", "2026-03-29T00:30Z", 1) == ["30 02:00+0200"]
