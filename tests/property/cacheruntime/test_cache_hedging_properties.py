"""Hedging's promises: its budget whatever happens, a delay that follows the tail, stalled peers found and forgiven."""

import random
from math import log

from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.core.hedging import (
    ASSUMED_ORIGIN_BYTES_PER_SECOND,
    BURST,
    EXTRA_PART,
    FIRST_SECONDS,
    LOOK_SECONDS,
    LOST_MAX,
    ORIGIN_COST,
    SAMPLES_MIN,
    SECONDS_MAX,
    SECONDS_MIN,
    SILENT_SECONDS,
    Hedging,
    Silence,
)
from cacheruntime.core.rates import BusyRate


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


STEPS = st.lists(st.tuples(st.floats(0.01, 5.0), st.booleans()), min_size=1, max_size=60)


@given(STEPS, st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_under_store_replaces_only_who_is_silent_and_no_faster(
    steps: list[tuple[float, bool]], peer_rate: float, origin_rate: float
) -> None:
    now, received, quiet_since = 0.0, 0, 0.0
    silence = Silence(now, received)
    for took, is_something in steps:
        now += took
        received += is_something
        if is_something:
            quiet_since = now
        assert silence.look(now, received, LOOK_SECONDS) is is_something
        assert silence.silent_seconds <= now - quiet_since + 1e-9
        if silence.is_worth_origin(peer_rate, origin_rate):
            assert now - quiet_since >= SILENT_SECONDS - 1e-9
            assert peer_rate <= (origin_rate or ASSUMED_ORIGIN_BYTES_PER_SECOND)


def test_who_stood_still_himself_does_not_take_it_for_the_peers_silence() -> None:
    silence = Silence(0.0, 7)
    assert not silence.look(20.0, 7, LOOK_SECONDS)
    assert not silence.is_worth_origin(0.0, 1e6), "what came in these 20 s has not been read yet"
    assert silence.look(20.3, 8, LOOK_SECONDS)


def _wait_for_stalled(peer_rate: float, origin_rate: float, busy_seconds: float) -> float:
    """Seconds until a peer that was this fast and then stalls is replaced."""
    rate, now = BusyRate(), 0.0
    while now < busy_seconds:
        rate.start(now)
        now += 0.1
        rate.finish(now, int(peer_rate / 10))
    rate.start(now)  # and this one never comes
    silence, began = Silence(now, 0), now
    while not silence.is_worth_origin(rate.until(now), origin_rate):
        now += LOOK_SECONDS
        silence.look(now, 0, LOOK_SECONDS)
    return now - began


@given(st.floats(1e6, 1e9), st.floats(1e6, 1e9), st.floats(0.1, 30.0))
def test_a_stalled_peer_is_replaced_in_the_end_later_the_slower_the_under_store(
    peer_rate: float, origin_rate: float, busy_seconds: float
) -> None:
    waited = _wait_for_stalled(peer_rate, origin_rate, busy_seconds)
    assert waited <= _wait_for_stalled(peer_rate, origin_rate / 2, busy_seconds)
    # The memory of a speed is 5 s long, so what is r times slower is asked after 5 s times the logarithm of r.
    assert waited < SILENT_SECONDS + 5.0 * log(1 + peer_rate / origin_rate) + 2 * LOOK_SECONDS
