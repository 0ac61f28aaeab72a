"""Listings the kernel keeps: when it may answer from them, and that nothing outdated is left in them."""

import pytest

from fuse.core import names as names_module
from fuse.core.directories import Caching
from fuse.core.inodes import ROOT_INODE
from tests.builders.fuse_mount import KernelLessMount, MortalMount


class Reader:
    """An open directory of a mount."""

    def __init__(self, mount: KernelLessMount, number: int) -> None:
        self.names = mount.operations.names
        self.number = number
        self.caching = self.names.kernel_caching(number)
        self.position = 0

    async def next(self) -> list[str]:
        """Return what comes next; [] at the end, which the kernel then knows."""
        _, entries = await self.names.directory_page(self.number, self.position)
        given = [name for name, _ in entries[self.position :]]
        self.position = len(entries)
        self.names.gave(self.number, self.position)
        if not given:
            self.names.gave_all(self.number)
        return given

    async def rest(self) -> list[str]:
        """Read to the end."""
        seen: list[str] = []
        while given := await self.next():
            seen += given
        return seen

    def close(self) -> None:
        self.names.release_directory(self.number)


async def opened(mount: KernelLessMount, path: str = "d") -> Reader:
    return Reader(mount, await mount.operations.names.open_directory(await mount.inode(path)))


async def filled(mount: KernelLessMount, path: str = "d") -> list[str]:
    """Somebody lists the directory from the beginning to the end, and the kernel keeps that."""
    reader = await opened(mount, path)
    assert reader.caching is Caching.FILL
    seen = await reader.rest()
    reader.close()
    return seen


@pytest.fixture
def books() -> KernelLessMount:
    mount = KernelLessMount(writable=False)
    for name in ("a", "b", "c"):
        mount.peers.put(mount.dataset, f"d/{name}", b"x")
    mount.published()
    return mount


async def test_what_was_read_to_the_end_is_kept_for_the_next_reader(books: KernelLessMount) -> None:
    assert await filled(books) == ["a", "b", "c"]
    second = await opened(books)
    assert second.caching is Caching.KEEP
    third = await opened(books)
    assert third.caching is Caching.KEEP
    # The kernel may have dropped it all the same.
    assert await second.rest() == await third.rest() == ["a", "b", "c"]


async def test_what_was_read_in_part_is_not_kept(books: KernelLessMount) -> None:
    first = await opened(books)
    assert first.caching is Caching.FILL
    assert await first.next() == ["a", "b", "c"]
    first.close()
    assert await filled(books) == ["a", "b", "c"]


async def test_one_reader_at_a_time_fills(books: KernelLessMount) -> None:
    first, second = await opened(books), await opened(books)
    assert (first.caching, second.caching) == (Caching.FILL, Caching.NONE)
    await second.rest()
    second.close()
    third = await opened(books)
    assert third.caching is Caching.NONE
    third.close()
    await first.rest()
    assert (await opened(books)).caching is Caching.KEEP


async def test_it_is_kept_no_longer_than_the_attributes_that_came_with_it_serve(books: KernelLessMount) -> None:
    await filled(books)
    books.clock.seconds += 29
    reader = await opened(books)
    assert reader.caching is Caching.KEEP
    reader.close()
    books.clock.seconds += 2
    assert await filled(books) == ["a", "b", "c"]


async def test_a_new_snapshot_takes_it_back(books: KernelLessMount) -> None:
    await filled(books)
    inode = await books.inode("d")
    books.peers.put(books.dataset, "d/new", b"x")
    assert (inode, b"") in books.published()
    assert await filled(books) == ["a", "b", "c", "new"]


async def test_a_new_snapshot_takes_back_what_is_being_filled(books: KernelLessMount) -> None:
    reader = await opened(books)
    await reader.next()
    books.peers.put(books.dataset, "d/new", b"x")
    assert (await books.inode("d"), b"") in books.published()
    assert await reader.next() == []
    reader.close()
    assert await filled(books) == ["a", "b", "c", "new"]


async def test_a_reader_that_begins_again_fills_it_again_and_a_new_snapshot_takes_that_back_too(
    books: KernelLessMount,
) -> None:
    inode = await books.inode("d")
    await filled(books)
    filling = await opened(books)
    keeping = await opened(books)
    assert (filling.caching, keeping.caching) == (Caching.KEEP, Caching.KEEP)
    for number, reader in enumerate((filling, keeping, filling)):
        books.peers.put(books.dataset, f"d/new{number}", b"x")
        assert (inode, b"") in books.published()
        # It has nothing any more, asks for the beginning, and adds the answer to what it keeps: so it does for a
        # directory that was opened so, until that is closed.
        reader.position = 0
        assert (await reader.rest())[-1] == f"new{number}"
    beside = await opened(books)
    assert beside.caching is Caching.NONE
    for reader in (filling, keeping, beside):
        reader.close()
    after = await opened(books)
    assert after.caching is Caching.FILL, "what two added may be of two snapshots: nobody is answered from it"


async def test_a_reader_that_is_not_to_add_to_it_adds_nothing(books: KernelLessMount) -> None:
    first, second = await opened(books), await opened(books)
    assert (first.caching, second.caching) == (Caching.FILL, Caching.NONE)
    books.published()
    first.close()
    inode = await books.inode("d")
    books.peers.put(books.dataset, "d/new", b"x")
    books.published()
    second.position = 0
    await second.rest()
    books.peers.put(books.dataset, "d/newer", b"x")
    assert (inode, b"") not in books.published()


async def test_a_dataset_that_ends_takes_it_back(books: KernelLessMount) -> None:
    await filled(books)
    inode = await books.inode("d")
    assert (inode, b"") in books.operations.dataset_removed(books.dataset.info.uid)


async def test_a_reader_keeps_its_list_and_begins_again_with_what_is_there_now(books: KernelLessMount) -> None:
    await filled(books)
    reader = await opened(books)
    assert reader.caching is Caching.KEEP
    books.peers.put(books.dataset, "d/0", b"x")
    books.published()
    # The kernel had given him two names before its pages were taken back.
    reader.position = 2
    assert await reader.rest() == ["c"]
    reader.position = 0
    assert await reader.rest() == ["0", "a", "b", "c"]


async def test_what_a_reader_got_who_began_again_is_not_kept(books: KernelLessMount) -> None:
    reader = await opened(books)
    await reader.next()
    reader.position = 0
    assert await reader.rest() == ["a", "b", "c"]
    reader.close()
    assert await filled(books) == ["a", "b", "c"]


async def test_what_others_may_change_is_not_kept() -> None:
    work = KernelLessMount(writable=True)
    work.peers.put(work.dataset, "d/a", b"x")
    work.published()
    for path in ("d", ""):
        reader = await opened(work, path)
        assert reader.caching is Caching.NONE
        await reader.rest()
        reader.close()
    for inode in (ROOT_INODE, (await work.operations.names.lookup(ROOT_INODE, b"ns")).inode):
        reader = Reader(work, await work.operations.names.open_directory(inode))
        assert reader.caching is Caching.NONE


async def test_a_directory_of_many_pages_is_asked_for_once(
    books: KernelLessMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "PAGE_ENTRIES", 2)
    assert await filled(books) == ["a", "b", "c"]
    asked = books.peers.calls["read_directory"]
    reader = await opened(books)
    assert reader.caching is Caching.KEEP
    assert await reader.rest() == ["a", "b", "c"]
    assert books.peers.calls["read_directory"] == asked


async def test_pages_of_two_snapshots_are_not_kept(books: KernelLessMount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "PAGE_ENTRIES", 2)
    await books.inode("d")
    reader = await opened(books)
    assert await reader.next() == ["a", "b"]
    books.peers.put(books.dataset, "d/a2", b"x")  # and the watch has not told yet
    assert await reader.rest() == ["c"]
    reader.close()
    assert await filled(books) == ["a", "a2", "b", "c"]


async def test_another_daemon_takes_back_whatever_may_have_been_kept() -> None:
    mount = MortalMount(writable=False)
    mount.peers.put(mount.dataset, "d/a", b"x")
    mount.published()
    await filled(mount)
    mount.record()
    inode = await mount.inode("d")
    mount.die()
    assert await filled(mount) == ["a"]
    mount.die()
    mount.peers.put(mount.dataset, "d/b", b"x")
    assert (inode, b"") in mount.published()
