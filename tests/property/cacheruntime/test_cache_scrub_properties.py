"""The scrubber's order and pace."""

from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.core.scrub import IDLE_SECONDS, ScrubSchedule

NAMES = st.sets(st.text("abc", min_size=1, max_size=3), max_size=8)


@given(NAMES, NAMES, st.integers(0, 8), st.floats(1, 1e6))
def test_a_pass_is_once_over_what_was_there_when_it_began(
    first: set[str], later: set[str], after: int, pass_seconds: float
) -> None:
    schedule = ScrubSchedule(1, pass_seconds)
    now, seen, names = 100.0, [], set(first)
    while (name := schedule.take(names.copy, now)) is not None:
        seen.append(name)
        if len(seen) == after:
            names |= later
        now += pass_seconds / 100
    assert seen == sorted(first)
    if first:
        assert schedule.is_between_passes
        assert schedule.take(names.copy, 100.0 + pass_seconds * 0.99) is None
        # As long as it says, and not a moment longer.
        assert schedule.pause_seconds(now) >= IDLE_SECONDS
        now = max(now, 100.0 + pass_seconds)
        assert schedule.take(names.copy, now) == min(names)
    else:
        assert schedule.take(lambda: {"x"}, now) == "x"  # the first file begins the first pass


@given(st.integers(1, 1 << 30), st.lists(st.tuples(st.integers(1, 4 << 20), st.floats(0, 3)), min_size=1, max_size=60))
def test_no_more_is_read_than_the_rate_allows(bytes_per_second: int, blocks: list[tuple[int, float]]) -> None:
    schedule = ScrubSchedule(bytes_per_second, 1.0)
    now = started = 1000.0
    read = 0
    for size, pause in blocks:
        now += schedule.delay_seconds(size, now)
        read += size
        # A burst of one second at the beginning, and after each pause.
        assert read <= bytes_per_second * (now - started + 1.0) * 1.000001 + 1
        now += pause
