"""Listings stay within their bound and never outlive the version they came from."""

from fuse.core.contracts import Entry, Page
from fuse.core.directories import DirectoryCache

FILE = Entry(is_directory=False, size_bytes=1, etag="e")


def _page(version: int, *names: str, more: bool = False) -> Page:
    return Page(entries=[(name, FILE) for name in names], more=more, snapshot_version=version)


def test_a_new_version_drops_the_listings_of_its_dataset_only() -> None:
    cache = DirectoryCache()
    cache.put("u", "d", _page(1, "a"), 0.0)
    cache.put("other", "d", _page(1, "a"), 0.0)
    assert cache.advance("u", 2)
    assert not cache.advance("u", 2)
    assert cache.get("u", "d") is None
    assert cache.get("other", "d") is not None


def test_an_answer_older_than_what_was_heard_is_not_kept() -> None:
    cache = DirectoryCache()
    cache.advance("u", 5)
    assert list(cache.put("u", "d", _page(4, "a"), 0.0).entries) == ["a"]
    assert cache.get("u", "d") is None


def test_our_own_next_version_is_patched_in() -> None:
    cache = DirectoryCache()
    cache.put("u", "d", _page(1, "a", "b"), 0.0)
    cache.put("u", "e", _page(1, "x"), 0.0)
    cache.changed_here("u", 2, [("d", "c", FILE), ("d", "a", None)])
    listing = cache.get("u", "d")
    assert listing is not None and list(listing.entries) == ["b", "c"]
    assert cache.get("u", "e") is not None
    assert cache.entries == 3


def test_a_gap_in_the_versions_drops_everything() -> None:
    cache = DirectoryCache()
    cache.put("u", "d", _page(1, "a"), 0.0)
    cache.changed_here("u", 3, [("d", "b", FILE)])
    assert cache.get("u", "d") is None


def test_a_change_the_watch_told_first_drops_the_directory_only() -> None:
    cache = DirectoryCache()
    cache.advance("u", 2)
    cache.put("u", "d", _page(2, "a"), 0.0)
    cache.put("u", "e", _page(2, "a"), 0.0)
    cache.changed_here("u", 2, [("d", "a", None)])
    assert cache.get("u", "d") is None
    assert cache.get("u", "e") is not None


def test_the_least_recently_used_listings_go_first() -> None:
    cache = DirectoryCache(entries_max=4)
    cache.put("u", "d", _page(1, "a", "b"), 0.0)
    cache.put("u", "e", _page(1, "a", "b"), 0.0)
    cache.get("u", "d")
    cache.put("u", "f", _page(1, "a"), 0.0)
    assert cache.get("u", "e") is None
    assert cache.get("u", "d") is not None
    assert cache.entries == 3


def test_single_lookups_are_added_to_an_incomplete_listing_only() -> None:
    cache = DirectoryCache()
    cache.put("u", "d", _page(1, "a", more=True), 0.0)
    cache.put("u", "e", _page(1, "a"), 0.0)
    cache.add("u", "d", "z", FILE)
    cache.add("u", "e", "z", FILE)
    assert cache.entries == 3


def test_a_renamed_directory_takes_the_listings_below_it_with_it() -> None:
    cache = DirectoryCache()
    for path in ("d", "d/e", "dd"):
        cache.put("u", path, _page(1, "a"), 0.0)
    cache.drop_below("u", "d")
    assert cache.get("u", "d/e") is None
    assert cache.get("u", "dd") is not None
