"""The table of datasets: when the list is read again, and what it may not undo."""

from collections.abc import Callable

import pytest

from fuse.core.catalogue import WATCHED_SECONDS, Catalogue
from fuse.core.contracts import Dataset
from fuse.errors import NotFound
from tests.builders.fuse_peers import FakePeers


class Listed(FakePeers):
    """Counts what it is asked, and lets something happen while it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = 0
        self.meanwhile: Callable[[], object] = lambda: None

    async def list_datasets(self) -> list[Dataset]:
        self.lists += 1
        found = await super().list_datasets()
        self.meanwhile()
        return found


class Site:
    """A catalogue and its clock."""

    def __init__(self) -> None:
        self.peers = Listed()
        self.seconds = 100.0
        self.catalogue = Catalogue(self.peers, lambda: self.seconds, 1.0)

    def add(self, name: str) -> Dataset:
        return self.peers.add_dataset("ns", name).info

    def take(self, dataset: Dataset) -> None:
        """Remove it at the service."""
        del self.peers.datasets[dataset.uid]


@pytest.fixture
def site() -> Site:
    return Site()


async def test_what_the_watch_did_not_take_back_is_there(site: Site) -> None:
    dataset = site.add("a")
    site.catalogue.watching(is_watching=True)
    for _ in range(10):
        assert await site.catalogue.find("ns", "a") == dataset and await site.catalogue.has_namespace("ns")
        site.seconds += 2.0
    assert site.peers.lists == 1
    site.seconds += WATCHED_SECONDS
    assert await site.catalogue.find("ns", "a") == dataset
    assert site.peers.lists == 2, "for what the watch may have lost"


async def test_without_the_watch_the_list_is_read_again_after_a_second(site: Site) -> None:
    site.add("a")
    for _ in range(3):
        await site.catalogue.find("ns", "a")
        site.seconds += 1.1
    assert site.peers.lists == 3


async def test_a_name_that_is_not_known_is_asked_for(site: Site) -> None:
    site.add("a")
    site.catalogue.watching(is_watching=True)
    await site.catalogue.find("ns", "a")
    with pytest.raises(NotFound):
        await site.catalogue.find("ns", "b")
    added = site.add("b")  # and the watch tells of datasets with a snapshot only
    site.seconds += 1.1
    assert await site.catalogue.find("ns", "b") == added


async def test_what_was_removed_while_the_watch_was_down_is_seen_when_it_comes_up(site: Site) -> None:
    dataset = site.add("a")
    site.catalogue.watching(is_watching=True)
    await site.catalogue.find("ns", "a")
    site.catalogue.watching(is_watching=False)
    site.take(dataset)
    site.catalogue.watching(is_watching=True)
    with pytest.raises(NotFound):
        await site.catalogue.find("ns", "a")


async def test_a_list_does_not_undo_what_the_watch_told_meanwhile(site: Site) -> None:
    gone, stays = site.add("gone"), site.add("stays")
    site.catalogue.watching(is_watching=True)

    def meanwhile() -> None:
        site.catalogue.remove(gone.uid)
        site.catalogue.update(added)
        site.peers.meanwhile = lambda: None

    added = Dataset(uid="u-new", namespace="ns", name="new", snapshot_version=7, writable=False)
    site.peers.meanwhile = meanwhile
    assert set(await site.catalogue.datasets()) == {("ns", "stays"), ("ns", "new")}
    assert (site.catalogue.by_uid(gone.uid), site.catalogue.by_uid(stays.uid)) == (None, stays)
