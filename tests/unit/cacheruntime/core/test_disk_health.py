"""When a medium is left alone, and when it is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.core.disk_health import (
    GOOD_MIN,
    PAUSE_SECONDS,
    PAUSE_SECONDS_MAX,
    SLOW_WINDOW_SECONDS,
    DiskHealth,
    Health,
)


def test_an_error_pauses_and_what_failed_with_it_does_not_count_again() -> None:
    disk = DiskHealth(slow_seconds=1.0)
    assert disk.failed(0.0, 0.5) and disk.state(0.5) is Health.PAUSED
    assert not disk.failed(0.0, 0.6) and not disk.failed(0.1, 0.6)
    assert disk.state(0.5 + PAUSE_SECONDS) is Health.TRIAL
    for _ in range(GOOD_MIN):
        assert disk.state(10.0) is Health.TRIAL
        disk.answered(10.0, 10.1)
    assert disk.state(10.0) is Health.HEALTHY


def test_pauses_double_while_trials_fail() -> None:
    disk, now, pauses = DiskHealth(slow_seconds=1.0), 0.0, []
    for _ in range(9):
        assert disk.failed(now, now)
        pauses.append(disk.paused_until_seconds - now)
        now = disk.paused_until_seconds
    assert pauses[:3] == [PAUSE_SECONDS, 2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS]
    assert pauses[-1] == PAUSE_SECONDS_MAX


def test_one_slow_answer_is_no_failure_three_soon_after_another_are() -> None:
    disk = DiskHealth(slow_seconds=1.0)
    assert not disk.answered(0.0, 2.0) and not disk.answered(1.0, 3.0)
    later = 3.0 + SLOW_WINDOW_SECONDS
    assert not disk.answered(later, later + 2) and not disk.answered(later, later + 2)
    assert disk.answered(later, later + 3) and disk.state(later + 3) is Health.PAUSED


def test_on_trial_one_slow_answer_is_enough() -> None:
    disk = DiskHealth(slow_seconds=1.0)
    disk.failed(0.0, 0.0)
    assert disk.answered(PAUSE_SECONDS, PAUSE_SECONDS + 2.0)
    assert disk.paused_until_seconds == pytest.approx(PAUSE_SECONDS + 2.0 + 2 * PAUSE_SECONDS)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(0, 5)), max_size=80))
def test_pauses_keep_their_bounds_whatever_happens(steps: list[tuple[bool, int, int]]) -> None:
    disk, now = DiskHealth(slow_seconds=1.0), 0.0
    for is_error, wait, takes in steps:
        asked = now + wait
        now = asked + takes
        began = disk.failed(asked, now) if is_error else disk.answered(asked, now)
        if began:
            assert PAUSE_SECONDS <= disk.paused_until_seconds - now <= PAUSE_SECONDS_MAX
        assert (disk.state(now) is Health.PAUSED) == (now < disk.paused_until_seconds)
        # However it was before, it comes back when nothing is wrong any more.
    now = max(now, disk.paused_until_seconds)
    for _ in range(GOOD_MIN):
        disk.answered(now, now)
    assert disk.state(now) is Health.HEALTHY
