"""When a listing is cut, and when an interrupted one may go on."""

from dataclasses import replace

import pytest

from metadata.core.datasets import Dataset, Mount, Specification
from metadata.core.listing_progress import (
    RESUME_WITHIN_NS,
    ListingOrigin,
    ListingProgress,
    UnfinishedListing,
    may_go_on,
)
from metadata.core.listing_ranges import PAGES_BEFORE_CUTTING, KeyRange, ListingRanges
from understores.base import ObjectInfo
from understores.errors import StoreFailed

MOUNT = Mount("s3://b")
DATASET = Dataset(Specification("u", "ns", "n", (MOUNT,)), id=3, version=7)
LISTING = UnfinishedListing(1, ListingOrigin("u", 3, 5, (MOUNT,), 1000), ListingProgress())


def pages(ranges: ListingRanges, keys: KeyRange, count: int) -> None:
    for _ in range(count):
        ranges.take(keys, [ObjectInfo(f"{keys.after}x", 1, "e", 1)])


def test_a_small_store_is_never_asked_for_places_to_cut() -> None:
    ranges = ListingRanges()
    keys = ranges.claim()
    assert keys is not None
    pages(ranges, keys, PAGES_BEFORE_CUTTING - 1)
    assert ranges.worth_cutting() is None


@pytest.mark.parametrize("size", [-1, (1 << 53) + 1, 1 << 63, 1 << 70])
def test_sizes_that_no_object_has_are_refused_with_their_page(size: int) -> None:
    ranges = ListingRanges()
    keys = ranges.claim()
    assert keys is not None
    with pytest.raises(StoreFailed, match="a size that no object has"):
        ranges.take(keys, [ObjectInfo("a", 1, "e", 1), ObjectInfo("b", size, "e", 1)])
    assert ranges.left == [("", "")]


def test_a_look_that_found_nothing_is_repeated_ever_more_seldom() -> None:
    ranges = ListingRanges()
    keys = ranges.claim()
    assert keys is not None
    looks = 0
    for _ in range(500):
        pages(ranges, keys, 1)
        looks += ranges.worth_cutting() is not None
    assert 3 <= looks <= 10


def test_a_cut_makes_parts_that_are_evenly_apart() -> None:
    ranges = ListingRanges()
    keys = ranges.claim()
    assert keys is not None
    assert ranges.cut(keys, [f"{number:02}/" for number in range(40)], 4) == 3
    assert ranges.left == [("", "10/"), ("10/", "20/"), ("20/", "30/"), ("30/", "")]


@pytest.mark.parametrize(
    "dataset",
    [
        None,
        replace(DATASET, id=4),
        replace(DATASET, specification=replace(DATASET.specification, mounts=(Mount("s3://c"),))),
        replace(DATASET, version=15),
    ],
    ids=["removed", "made again", "other mounts", "history cut"],
)
def test_a_listing_that_no_longer_fits_does_not_go_on(dataset: Dataset | None) -> None:
    assert may_go_on(LISTING, DATASET, 1000, 10)
    assert not may_go_on(LISTING, dataset, 1000, 10)


def test_an_old_listing_does_not_go_on() -> None:
    assert may_go_on(LISTING, DATASET, 1000 + RESUME_WITHIN_NS, 10)
    assert not may_go_on(LISTING, DATASET, 1001 + RESUME_WITHIN_NS, 10)
