"""Hedging's promises: its budget whatever happens, a delay that follows the tail, stalled peers found and forgiven."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.core.hedging import (
    BURST,
    EXTRA_PART,
    FIRST_SECONDS,
    LOST_MAX,
    ORIGIN_COST,
    SAMPLES_MIN,
    SECONDS_MAX,
    SECONDS_MIN,
    Hedging,
)


@given(st.lists(st.sampled_from(["ask", "ask", "ask", "hedge", "origin"]), max_size=400))
def test_hedges_keep_to_their_part_of_the_requests(steps: list[str]) -> None:
    hedging: Hedging[str] = Hedging()
    asked = hedged = at_origin = 0
    for step in steps:
        if step == "ask":
            hedging.asked()
            asked += 1
        elif step == "hedge":
            hedged += hedging.may_hedge(at_origin=False)
        else:
            at_origin += hedging.may_hedge(at_origin=True)
        assert hedged + ORIGIN_COST * at_origin <= BURST + EXTRA_PART * asked + 1e-9


@given(st.lists(st.floats(0, 30), min_size=1, max_size=400))
def test_the_delay_keeps_its_bounds_and_begins_with_a_guess(seconds: list[float]) -> None:
    hedging: Hedging[str] = Hedging()
    for number, each in enumerate(seconds, 1):
        hedging.answered("p", each)
        assert SECONDS_MIN <= hedging.delay_seconds <= SECONDS_MAX
        if number < SAMPLES_MIN:
            assert hedging.delay_seconds == FIRST_SECONDS


def test_few_requests_of_a_steady_peer_are_later_than_the_delay() -> None:
    draw, hedging, late = random.Random(4), Hedging[str](), 0
    for number in range(4000):
        seconds = draw.expovariate(1 / 0.1)
        late += number >= 1000 and seconds > hedging.delay_seconds
        hedging.answered("p", seconds)
    # Twice the 95th percentile of an exponential is its 99.75th.
    assert late / 3000 < 0.01


def test_a_peer_that_only_loses_is_stalled_and_one_answer_clears_it() -> None:
    hedging: Hedging[str] = Hedging()
    assert [hedging.lost("p") for _ in range(LOST_MAX)] == [False] * (LOST_MAX - 1) + [True]
    for _ in range(LOST_MAX - 1):
        assert not hedging.lost("q")
    hedging.answered("q", 0.1)
    assert not hedging.lost("q")
