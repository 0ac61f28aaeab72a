"""Max-min fairness of the simulated links, for any streams."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulations.engine.network import Usage, fair_rates, usage
from simulations.engine.streams import Streams

RESOURCES = 6
streams = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, RESOURCES - 1), st.floats(0.05, 1.0), max_size=4),
        st.floats(0.1, 50.0),
        st.floats(0.5, 8.0),
    ),
    min_size=1,
    max_size=12,
)
capacities = st.lists(st.floats(0.0, 40.0), min_size=RESOURCES, max_size=RESOURCES)


def _load(uses: list[Usage], rates: np.ndarray) -> np.ndarray:
    load = np.zeros(RESOURCES)
    for use, rate in zip(uses, rates, strict=True):
        load[use.resources] += use.coefficients * rate
    return load


@given(streams, capacities)
def test_nothing_is_overloaded_and_nobody_could_have_more(
    wanted: list[tuple[dict[int, float], float, float]], capacity_list: list[float]
) -> None:
    capacity = np.array(capacity_list)
    uses = [usage(shares) for shares, _, _ in wanted]
    caps = np.array([cap for _, cap, _ in wanted])
    growth = np.array([grows for _, _, grows in wanted])
    rates = fair_rates(capacity, uses, caps, growth)
    load = _load(uses, rates)
    assert (load <= capacity * (1 + 1e-6) + 1e-9).all()
    assert (rates <= caps * (1 + 1e-9)).all()
    full = load >= capacity * (1 - 1e-6) - 1e-9
    for index, use in enumerate(uses):
        if rates[index] >= caps[index] * (1 - 1e-6):
            continue
        # Below its cap: some full resource holds it, on which nobody who grows with it got further.
        bottlenecks = [resource for resource in use.resources.tolist() if full[resource]]
        assert bottlenecks
        level = rates[index] / growth[index]
        assert any(
            all(
                rates[other] / growth[other] <= level * (1 + 1e-6) + 1e-9
                for other, its in enumerate(uses)
                if resource in its.resources
            )
            for resource in bottlenecks
        )


@given(streams, capacities, st.floats(0.5, 100.0))
def test_streams_go_as_fast_as_their_fair_rates_say(
    wanted: list[tuple[dict[int, float], float, float]], capacity_list: list[float], times: float
) -> None:
    """To the last bit, whether or not anybody is in anybody's way, and after others came and went."""
    capacity = np.array(capacity_list) * times
    running = Streams(capacity)
    kept = []
    for index, (shares, cap, growth) in enumerate(wanted):
        slot, use = running.open(), usage(shares)
        running.set(slot, 1e6, 0.0, cap=3.0 * cap, growth=growth, use=use)
        running.set(slot, 1e6, 0.0, cap=cap, growth=growth, use=use)
        if index % 3 == 2:
            running.close(slot)
        elif len(use.resources):
            kept.append((slot, use, cap, growth))
    running.share(0.0)
    caps, growths = (np.array([item[column] for item in kept]) for column in (2, 3))
    rates = fair_rates(capacity, [use for _, use, _, _ in kept], caps, growths)
    for (slot, _, _, _), rate in zip(kept, rates.tolist(), strict=True):
        assert running.left(slot, 1.0) == 1e6 - rate
