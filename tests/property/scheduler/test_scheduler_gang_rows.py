"""The rows a gang takes: picked, not all sorted, and the same ones in the same order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.gang_placement import _first

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.5])), max_size=40)


@given(rows, st.integers(1, 45), st.integers(1, 3))
def test_the_first_are_those_of_a_whole_sort(listed: list[tuple[int, int, float]], count: int, columns: int) -> None:
    keys = [np.array([row[column] for row in listed], dtype=np.float64) for column in range(columns)]
    assert _first(keys, count).tolist() == np.lexsort(keys[::-1])[:count].tolist()
