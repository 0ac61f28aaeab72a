"""The table of datasets: when the service is asked, and what a list may not undo."""

from collections.abc import Callable

import pytest

from fuse.core.catalogue import Catalogue
from fuse.core.contracts import Dataset
from fuse.errors import NotFound, Unavailable
from tests.builders.fuse_peers import FakePeers


class Listed(FakePeers):
    """Counts what it is asked, and lets something happen while it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = 0
        self.meanwhile: Callable[[], object] = lambda: None

    async def list_datasets(self, namespace: str = "") -> list[Dataset]:
        self.lists += not namespace
        found = await super().list_datasets(namespace)
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

    def watch(self) -> None:
        """The watch comes up and tells of all there are."""
        for each in self.peers.datasets.values():
            self.catalogue.update(each.info)
        self.catalogue.watching(is_watching=True)


@pytest.fixture
def site() -> Site:
    return Site()


async def test_while_the_watch_stands_no_list_is_read(site: Site) -> None:
    dataset = site.add("a")
    site.watch()
    for _ in range(10):
        assert await site.catalogue.find("ns", "a") == dataset and await site.catalogue.has_namespace("ns")
        assert await site.catalogue.datasets() == {("ns", "a"): dataset}
        site.seconds += 100.0
    assert site.peers.lists == 0
    site.catalogue.watching(is_watching=False)
    assert await site.catalogue.find("ns", "a") == dataset
    assert site.peers.lists == 0, "it is as fresh as the watch was"
    site.seconds += 1.1
    assert await site.catalogue.find("ns", "a") == dataset
    assert site.peers.lists == 1


async def test_a_watch_that_never_stood_is_no_list(site: Site) -> None:
    dataset = site.add("a")
    site.catalogue.watching(is_watching=False)
    assert await site.catalogue.find("ns", "a") == dataset


async def test_without_the_watch_the_list_is_read_again_after_a_second(site: Site) -> None:
    site.add("a")
    for _ in range(3):
        await site.catalogue.find("ns", "a")
        site.seconds += 1.1
    assert site.peers.lists == 3


async def test_a_name_the_watch_has_not_told_of_is_asked_for(site: Site) -> None:
    site.watch()
    for _ in range(2):
        with pytest.raises(NotFound):
            await site.catalogue.find("ns", "b")
        assert not await site.catalogue.has_namespace("ns")
    added = site.add("b")
    assert await site.catalogue.find("ns", "b") == added
    assert await site.catalogue.has_namespace("ns")
    assert site.peers.lists == 0
    site.peers.failures["get_dataset"] = Unavailable("metadata")
    with pytest.raises(NotFound):
        await site.catalogue.find("ns", "b")


async def test_a_list_does_not_undo_what_the_watch_told_meanwhile(site: Site) -> None:
    gone, stays = site.add("gone"), site.add("stays")

    def meanwhile() -> None:
        site.catalogue.remove(gone.uid)
        site.catalogue.update(added)
        site.peers.meanwhile = lambda: None

    added = Dataset(uid="u-new", namespace="ns", name="new", snapshot_version=7, writable=False)
    site.peers.meanwhile = meanwhile
    assert set(await site.catalogue.datasets()) == {("ns", "stays"), ("ns", "new")}
    assert (site.catalogue.by_uid(gone.uid), site.catalogue.by_uid(stays.uid)) == (None, stays)
