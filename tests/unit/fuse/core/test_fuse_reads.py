"""Lookups, directories and reads, over in-memory peers."""

import os
import stat

import pytest

from fuse.core.names import PAGE_ENTRIES
from fuse.core.reads import ETAG_ATTRIBUTE, SNAPSHOT_ATTRIBUTE
from fuse.errors import BadHandle, NameTooLong, NoAttribute, NotFound, ReadOnly, Stale, Unavailable
from tests.builders.fuse_mount import KernelLessMount


@pytest.fixture
def mount() -> KernelLessMount:
    mount = KernelLessMount(writable=False)
    for number in range(100):
        mount.peers.put(mount.dataset, f"train/{number:03}.jpg", b"x" * number)
    mount.published()
    return mount


async def test_a_directory_is_listed_once_for_all_its_names(mount: KernelLessMount) -> None:
    for number in range(100):
        assert (await mount.stat(f"train/{number:03}.jpg")).size_bytes == number
    assert mount.peers.calls["read_directory"] == 2  # the root and train/
    assert mount.peers.calls["lookup"] == 0


async def test_a_name_that_is_not_there_is_not_asked_for_again(mount: KernelLessMount) -> None:
    await mount.stat("train/000.jpg")
    with pytest.raises(NotFound):
        await mount.stat("train/none")
    assert mount.peers.calls["lookup"] == 0
    parent = await mount.inode("train")
    attributes = await mount.operations.names.lookup(parent, b"none")
    assert (attributes.inode, attributes.timeout_seconds) == (0, 5.0)
    mount.peers.put(mount.dataset, "train/none", b"")
    assert (parent, b"none") in mount.published()


async def test_a_directory_larger_than_a_page_is_looked_up_name_by_name() -> None:
    mount = KernelLessMount(writable=False)
    for number in range(PAGE_ENTRIES + 5):
        mount.peers.put(mount.dataset, f"f{number:06}", b"")
    assert (await mount.stat(f"f{PAGE_ENTRIES + 2:06}")).inode
    assert mount.peers.calls["lookup"] == 1
    assert len(await mount.names("")) == PAGE_ENTRIES + 5


async def test_read_only_datasets_show_no_write_bits(mount: KernelLessMount) -> None:
    assert stat.S_IMODE((await mount.stat("train/001.jpg")).mode) == 0o444
    assert stat.S_IMODE((await mount.stat("train")).mode) == 0o555
    assert (await mount.stat("train/001.jpg")).timeout_seconds == 60.0


async def test_opening_asks_the_worker_for_nothing(mount: KernelLessMount) -> None:
    number = await mount.open("train/050.jpg")
    assert mount.peers.calls["ensure"] == mount.peers.calls["open"] == 0
    assert await mount.read(number) == b"x" * 50
    assert await mount.read(number) == b"x" * 50
    assert mount.peers.calls["ensure"] == mount.peers.calls["open"] == 1
    await mount.close(number)
    assert mount.peers.pins_open == 0


async def test_pages_of_an_unchanged_version_are_kept(mount: KernelLessMount) -> None:
    first, keeps_first = await mount.open_cached("train/050.jpg")
    await mount.close(first)
    second, keeps_second = await mount.open_cached("train/050.jpg")
    await mount.close(second)
    assert (keeps_first, keeps_second) == (False, True)


async def test_a_new_snapshot_is_told_to_the_kernel_and_inodes_stay(mount: KernelLessMount) -> None:
    before = await mount.inode("train/050.jpg")
    mount.peers.put(mount.dataset, "train/050.jpg", b"new")
    invalidated = mount.published()
    assert {name for _, name in invalidated} == {b"train", b"050.jpg"}
    attributes = await mount.stat("train/050.jpg")
    assert (attributes.inode, attributes.size_bytes) == (before, 3)
    number, keeps = await mount.open_cached("train/050.jpg")
    assert not keeps
    assert await mount.read(number) == b"new"


async def test_an_open_file_keeps_its_version_and_a_new_open_gets_an_inode_of_its_own(
    mount: KernelLessMount,
) -> None:
    old = await mount.open("train/050.jpg")
    assert await mount.read(old) == b"x" * 50
    before = await mount.inode("train/050.jpg")
    mount.peers.put(mount.dataset, "train/050.jpg", b"new")
    mount.published()
    new = await mount.open("train/050.jpg")
    assert await mount.inode("train/050.jpg") != before
    assert await mount.read(old) == b"x" * 50
    assert await mount.read(new) == b"new"


async def test_bytes_of_an_old_version_that_are_not_here_are_stale(mount: KernelLessMount) -> None:
    old = await mount.open("train/050.jpg")
    mount.peers.put(mount.dataset, "train/050.jpg", b"new")
    with pytest.raises(Stale):
        await mount.read(old)


async def test_a_read_asks_again_when_the_worker_is_lost_in_between(mount: KernelLessMount) -> None:
    number = await mount.open("train/050.jpg")
    await mount.read(number)
    node = mount.operations.state.inodes.get(await mount.inode("train/050.jpg"))
    assert node.pin is not None
    node.pin.lose()  # type: ignore[attr-defined]
    assert await mount.read(number) == b"x" * 50
    assert mount.peers.calls["open"] == 2


async def test_a_worker_that_fails_fails_the_read_only(mount: KernelLessMount) -> None:
    number = await mount.open("train/050.jpg")
    mount.peers.failures["ensure"] = Unavailable("no worker")
    with pytest.raises(Unavailable):
        await mount.read(number)
    del mount.peers.failures["ensure"]
    assert await mount.read(number) == b"x" * 50


async def test_a_directory_keeps_the_list_it_began_with_until_it_is_rewound(mount: KernelLessMount) -> None:
    names = mount.operations.names
    number = await names.open_directory(await mount.inode("train"))
    _, entries = await names.directory_page(number, 0)
    mount.peers.put(mount.dataset, "train/new.jpg", b"")
    mount.published()
    _, later = await names.directory_page(number, len(entries))
    assert len(later) == 100
    _, again = await names.directory_page(number, 0)
    assert len(again) == 101
    names.release_directory(number)


async def test_names_too_long_and_names_not_utf8(mount: KernelLessMount) -> None:
    parent = await mount.inode("")
    with pytest.raises(NameTooLong):
        await mount.operations.names.lookup(parent, b"x" * 256)
    assert (await mount.operations.names.lookup(parent, b"\xff")).inode == 0


async def test_everything_is_refused_in_a_read_only_dataset(mount: KernelLessMount) -> None:
    with pytest.raises(ReadOnly):
        await mount.create("new")
    with pytest.raises(ReadOnly):
        await mount.open("train/001.jpg", os.O_WRONLY)
    with pytest.raises(ReadOnly):
        await mount.unlink("train/001.jpg")
    with pytest.raises(ReadOnly):
        await mount.rename("train/001.jpg", "train/other")
    with pytest.raises(ReadOnly):
        await mount.operations.changes.setattr(await mount.inode("train/001.jpg"), size_bytes=0)
    with pytest.raises(ReadOnly):
        await mount.operations.moves.mkdir(await mount.inode(""), b"d", 0o755)
    assert not mount.operations.reads.may_access(await mount.inode("train"), os.W_OK)


async def test_attributes_name_the_version_and_the_snapshot(mount: KernelLessMount) -> None:
    inode = await mount.inode("train/050.jpg")
    reads = mount.operations.reads
    assert (await reads.attribute(inode, ETAG_ATTRIBUTE)).startswith(b"etag-")
    assert await reads.attribute(inode, SNAPSHOT_ATTRIBUTE) == str(mount.dataset.info.snapshot_version).encode()
    assert reads.attribute_names(await mount.inode("train")) == [SNAPSHOT_ATTRIBUTE]
    with pytest.raises(NoAttribute):
        await reads.attribute(inode, b"security.capability")


async def test_metadata_that_fails_leaves_the_known_catalogue(mount: KernelLessMount) -> None:
    await mount.stat("train")
    mount.peers.failures["list_datasets"] = Unavailable("down")
    mount.clock.seconds += 100
    assert (await mount.stat("train")).inode


async def test_snapshot_data_outlives_the_metadata_service() -> None:
    mount = KernelLessMount(writable=False, watching=False)
    mount.peers.put(mount.dataset, "a", b"1")
    await mount.stat("a")
    for call in ("list_datasets", "read_directory", "lookup"):
        mount.peers.failures[call] = Unavailable("down")
    mount.clock.seconds += 10_000
    assert await mount.read(await mount.open("a")) == b"1"
    with pytest.raises(NotFound):
        await mount.stat("none")


async def test_without_the_watch_listings_time_out() -> None:
    mount = KernelLessMount(writable=True, watching=False)
    mount.peers.put(mount.dataset, "a", b"1")
    assert (await mount.stat("a")).size_bytes == 1
    mount.peers.put(mount.dataset, "a", b"22")
    mount.clock.seconds += 1.5
    assert (await mount.stat("a")).size_bytes == 2


async def test_a_dataset_that_was_removed_is_gone_at_once_here_and_in_the_kernel(mount: KernelLessMount) -> None:
    top, directory = await mount.inode(""), await mount.inode("train")
    await mount.stat("train/001.jpg")
    uid = mount.dataset.info.uid
    mount.peers.datasets.pop(uid)
    stale = mount.operations.dataset_removed(uid)
    namespace = mount.operations.state.inodes.get(top).parent
    assert namespace is not None
    assert set(stale) == {(namespace.inode, b"data"), (top, b"train"), (directory, b"001.jpg")}
    with pytest.raises(NotFound):  # no time has passed: neither the catalogue nor a listing may answer from memory
        await mount.stat("train/001.jpg")
    assert mount.operations.dataset_removed(uid) == []


async def test_the_end_of_a_dataset_leaves_its_namesake_alone(mount: KernelLessMount) -> None:
    old = mount.dataset.info.uid
    await mount.stat("train/001.jpg")
    mount.peers.datasets.pop(old)
    mount.dataset = mount.peers.add_dataset("ns", "data", uid="another")
    mount.peers.put(mount.dataset, "new", b"1")
    mount.published()
    assert (await mount.stat("new")).size_bytes == 1
    assert mount.operations.dataset_removed(old) == []
    assert (await mount.stat("new")).size_bytes == 1


async def test_a_handle_that_is_not_open_is_a_bad_handle(mount: KernelLessMount) -> None:
    with pytest.raises(BadHandle):
        await mount.read(999)
