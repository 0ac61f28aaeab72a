"""The metadata service's listing in parts over the stores it can cut: side by side, resumed, each name once."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from metadata.core.entries import Entry, Kind
from metadata.core.listing import ListingBuilder
from metadata.core.listing_ranges import ListingRanges
from metadata.shell.mount_listing import MountListing
from understores.base import ObjectInfo
from understores.errors import StoreFailed, UnderStoreError

NAMES = [f"train/d{directory:02}/f{number:02}" for directory in range(30) for number in range(20)]


class Watched:
    """A store that counts lists under way, and fails all of them once `pages_left` have come."""

    def __init__(self, store: Any, pages_left: int = 1_000_000) -> None:
        self._store = store
        self._pages_left = pages_left
        self.lists_max = 0
        self._lists = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[list[ObjectInfo], None]:
        self._lists += 1
        self.lists_max = max(self.lists_max, self._lists)
        try:
            async for page in self._store.list(prefix, start_after=start_after):
                self._pages_left -= 1
                if self._pages_left < 0:
                    raise StoreFailed("the test ends it.")
                yield page
        finally:
            self._lists -= 1


async def listed(store: Any, left: Sequence[tuple[str, str]], staged: list[str]) -> list[tuple[str, str]]:
    """List what is left; returns what then is, as of the last commit."""
    commits = [list(left)]

    async def stage(entries: list[Entry], rest: Sequence[tuple[str, str]]) -> None:
        staged.extend(entry.path for entry in entries if entry.kind is Kind.FILE)
        commits.append(list(rest))

    listing = MountListing(store, ListingRanges(left), new_builder=ListingBuilder, stage=stage, requests_max=4)
    with contextlib.suppress(UnderStoreError):
        await listing.run([])
    return commits[-1]


async def test_a_listing_in_parts_has_each_name_once(cuttable: Any) -> None:
    for name in NAMES:
        cuttable.write(name, b"")
    store, staged = Watched(cuttable.store), list[str]()
    assert await listed(store, [("", "")], staged) == []
    assert sorted(staged) == sorted(NAMES)
    assert store.lists_max > 1


async def test_a_listing_that_broke_off_goes_on_where_it_was(cuttable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metadata.shell.mount_listing.STAGE_ENTRIES", 1)
    for name in NAMES:
        cuttable.write(name, b"")
    staged: list[str] = []
    left = await listed(Watched(cuttable.store, pages_left=4), [("", "")], staged)
    assert left and 0 < len(staged) < len(NAMES)
    assert await listed(Watched(cuttable.store), left, staged) == []
    assert sorted(staged) == sorted(NAMES)
