"""Listing in parts, against a store that is a sorted list of keys."""

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metadata.core.listing_ranges import KeyRange, ListingRanges
from understores.base import ObjectInfo
from understores.errors import StoreFailed

NAMES = st.sampled_from(["a", "b", "c", "a-", "a.", "z"])
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
POINTS = KEYS.map(lambda key: f"{key}/")


class Listing(RuleBasedStateMachine):
    """Pages, cuts and restarts in any order take each key once."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []
        self.taken: list[str] = []
        self.staged: list[str] = []
        self.running: list[KeyRange] = []
        self.ranges = ListingRanges()

    @initialize(keys=st.sets(KEYS, max_size=30))
    def fill(self, keys: set[str]) -> None:
        self.keys = sorted(keys)

    @rule()
    def claim(self) -> None:
        keys = self.ranges.claim()
        if keys is not None:
            self.running.append(keys)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), size=st.integers(1, 4))
    def page(self, data: st.DataObject, size: int) -> None:
        keys = data.draw(st.sampled_from(self.running))
        start = bisect_right(self.keys, keys.after)
        page = [ObjectInfo(key, 1, "e", 1) for key in self.keys[start : start + size]]
        if page:
            self.taken += [info.key for info in self.ranges.take(keys, page)]
        if start + size >= len(self.keys):
            self.ranges.finish(keys)
        if not self.ranges.is_running(keys):
            self.running.remove(keys)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), points=st.sets(POINTS, max_size=6), pieces=st.integers(1, 4))
    def cut(self, data: st.DataObject, points: set[str], pieces: int) -> None:
        keys = data.draw(st.sampled_from(self.running))
        before = self.ranges.open
        made = self.ranges.cut(keys, points, pieces)
        assert made < max(pieces, 1)
        assert self.ranges.open == before + made

    @rule()
    def restart(self) -> None:
        self.ranges = ListingRanges(self.ranges.left)
        self.running = []

    @invariant()
    def what_is_left_is_what_was_not_taken(self) -> None:
        assert len(set(self.taken)) == len(self.taken)
        left = [key for key in self.keys if any(a < key and (not b or key <= b) for a, b in self.ranges.left)]
        assert sorted([*left, *self.taken]) == self.keys
        if self.ranges.is_done:
            assert sorted(self.taken) == self.keys


TestListing = Listing.TestCase


@given(st.lists(KEYS, min_size=2, max_size=6))
def test_a_page_out_of_order_is_refused(keys: list[str]) -> None:
    ranges = ListingRanges()
    claimed = ranges.claim()
    assert claimed is not None
    page = [ObjectInfo(key, 1, "e", 1) for key in keys]
    if keys == sorted(set(keys)):
        assert list(ranges.take(claimed, page)) == page
        with pytest.raises(StoreFailed, match="in order"):
            ranges.take(claimed, page)
    else:
        with pytest.raises(StoreFailed, match="in order"):
            ranges.take(claimed, page)
