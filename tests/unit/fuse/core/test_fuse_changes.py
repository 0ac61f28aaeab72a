"""Writing, committing, renaming and removing, over in-memory peers."""

import asyncio
import os
import stat
from collections.abc import Callable

import pytest

from fuse.core.contracts import Entry
from fuse.core.inodes import Node
from fuse.errors import (
    AlreadyExists,
    BadHandle,
    CrossDataset,
    InvalidRequest,
    IsADirectory,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    Stale,
    Unavailable,
    Unsupported,
)
from tests.builders.fuse_mount import KernelLessMount


@pytest.fixture
def mount() -> KernelLessMount:
    return KernelLessMount(writable=True)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_written_bytes_are_read_here_before_they_are_committed(mount: KernelLessMount) -> None:
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"hello")
    reader = await mount.open("a")
    assert await mount.read(reader) == b"hello"
    assert (await mount.stat("a")).size_bytes == 5
    assert await mount.names("") == ["a"]
    assert mount.origin() == {}
    await mount.close(number)
    assert mount.origin() == {"a": b"hello"}
    assert await mount.read(reader) == b"hello"


async def test_fsync_commits_and_the_file_goes_on(mount: KernelLessMount) -> None:
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"one")
    await mount.operations.changes.fsync(number)
    assert mount.origin() == {"a": b"one"}
    await mount.operations.changes.write(number, 3, b"two")
    await mount.close(number)
    assert mount.origin() == {"a": b"onetwo"}


async def test_closing_what_did_not_change_commits_nothing(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    number = await mount.open("a", os.O_RDWR)
    await mount.close(number)
    assert mount.peers.calls["commit"] == 1
    assert mount.peers.calls["create"] == 1


async def test_a_failed_commit_is_the_error_of_close_and_the_file_can_be_written_again(
    mount: KernelLessMount,
) -> None:
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"x")
    mount.peers.failures["commit"] = NoSpace("full")
    with pytest.raises(NoSpace):
        await mount.operations.changes.flush(number)
    with pytest.raises(NoSpace):
        await mount.operations.changes.release(number)
    with pytest.raises(NotFound):
        await mount.stat("a")
    assert mount.peers.stagings_open == 0
    del mount.peers.failures["commit"]
    await mount.write_file("a", b"y")
    assert mount.origin() == {"a": b"y"}


async def test_a_refused_create_leaves_nothing(mount: KernelLessMount) -> None:
    mount.peers.failures["create"] = Unavailable("no worker")
    with pytest.raises(Unavailable):
        await mount.create("a")
    assert await mount.names("") == []


async def test_appending_keeps_what_was_there(mount: KernelLessMount) -> None:
    await mount.write_file("log", b"one\n")
    number = await mount.open("log", os.O_WRONLY | os.O_APPEND)
    await mount.operations.changes.write(number, 4, b"two\n")
    await mount.close(number)
    assert mount.origin() == {"log": b"one\ntwo\n"}


async def test_truncating_at_open_starts_empty(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"old bytes")
    number = await mount.open("a", os.O_WRONLY | os.O_TRUNC)
    assert (await mount.stat("a")).size_bytes == 0
    await mount.operations.changes.write(number, 0, b"new")
    await mount.close(number)
    assert mount.origin() == {"a": b"new"}


async def test_a_file_truncated_at_open_while_its_last_writer_closes_it_goes_on(mount: KernelLessMount) -> None:
    """A staging file that is an object already is copied first, and the release of a close comes after the close."""
    mount.peers.cuts = asyncio.Semaphore(0)
    first = await mount.create("a")
    await mount.operations.changes.write(first, 0, b"old bytes")
    await mount.operations.changes.flush(first)
    opening = asyncio.ensure_future(mount.open("a", os.O_WRONLY | os.O_TRUNC))
    await _until(lambda: mount.peers.calls["cut"] == 1)
    await mount.operations.changes.release(first)
    mount.peers.cuts.release()
    number = await opening
    await mount.operations.changes.write(number, 0, b"new")
    await mount.close(number)
    assert mount.origin() == {"a": b"new"}
    assert mount.peers.stagings_open == 0


async def test_a_refused_truncation_at_open_opens_nothing(mount: KernelLessMount) -> None:
    first = await mount.create("a")
    await mount.operations.changes.write(first, 0, b"old bytes")
    await mount.operations.changes.flush(first)
    mount.peers.failures["truncate"] = NoSpace("full")
    with pytest.raises(NoSpace):
        await mount.open("a", os.O_WRONLY | os.O_TRUNC)
    del mount.peers.failures["truncate"]
    await mount.close(first)
    assert mount.origin() == {"a": b"old bytes"}
    assert mount.peers.stagings_open == 0 and not list(mount.operations.state.handles.files())


async def test_a_file_truncated_by_name_while_its_last_writer_closes_it_is_cut(mount: KernelLessMount) -> None:
    mount.peers.cuts = asyncio.Semaphore(0)
    first = await mount.create("a")
    await mount.operations.changes.write(first, 0, b"0123456789")
    await mount.operations.changes.flush(first)
    cutting = asyncio.ensure_future(mount.operations.changes.setattr(await mount.inode("a"), size_bytes=4))
    await _until(lambda: mount.peers.calls["cut"] == 1)
    await mount.operations.changes.release(first)
    mount.peers.cuts.release()
    assert (await cutting).size_bytes == 4
    assert mount.origin() == {"a": b"0123"}
    assert mount.peers.stagings_open == 0


async def test_who_opens_a_file_while_it_is_truncated_by_name_goes_on(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"0123456789")
    changes = mount.operations.changes
    inode = await mount.inode("a")
    mount.operations.watching(is_watching=False)
    mount.clock.seconds += 1000
    mount.peers.listings = asyncio.Semaphore(0)
    before = mount.peers.calls["read_directory"]
    opening = asyncio.ensure_future(changes.open(inode, os.O_WRONLY))
    await _until(lambda: mount.peers.calls["read_directory"] == before + 1)
    cutting = asyncio.ensure_future(changes.setattr(inode, size_bytes=4))
    await _until(lambda: mount.peers.calls["read_directory"] == before + 2)
    mount.peers.listings.release()
    mount.peers.listings.release()
    number, _ = await opening
    await cutting
    await changes.write(number, 0, b"AB")
    await mount.close(number)
    assert mount.origin() == {"a": b"AB23"}


async def test_truncate_without_a_handle_is_durable_when_it_returns(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"0123456789")
    changes = mount.operations.changes
    assert (await changes.setattr(await mount.inode("a"), size_bytes=4)).size_bytes == 4
    assert mount.origin() == {"a": b"0123"}
    await changes.setattr(await mount.inode("a"), size_bytes=6)
    assert mount.origin() == {"a": b"0123\0\0"}
    assert mount.peers.stagings_open == 0


async def test_an_exclusive_create_of_what_exists_is_refused(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    with pytest.raises(AlreadyExists):
        await mount.create("a", os.O_RDWR | os.O_EXCL)


async def test_a_name_committed_by_another_node_is_found_at_once(mount: KernelLessMount) -> None:
    await mount.names("")
    mount.peers.put(mount.dataset, "other", b"x")
    assert (await mount.stat("other")).size_bytes == 1


async def test_mode_and_time_of_a_file_being_written_are_committed(mount: KernelLessMount) -> None:
    number = await mount.create("a", mode=0o600)
    inode = await mount.inode("a")
    await mount.operations.changes.write(number, 0, b"x")
    await mount.operations.changes.setattr(inode, mode=0o640, mtime_ns=77)
    await mount.close(number)
    entry = mount.dataset.files["a"].entry
    assert (entry.mode, entry.mtime_ns) == (0o640, 77)


async def test_the_mode_of_what_is_committed_is_set_in_the_namespace(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    await mount.operations.moves.mkdir(await mount.inode(""), b"d", 0o700)
    changes = mount.operations.changes
    await changes.setattr(await mount.inode("a"), mode=0o644)
    assert not mount.peers.calls["set_mode"], "it has that mode"
    for path, mode, stored in (("a", 0o600, mount.dataset.files), ("d", 0o755, mount.dataset.directories)):
        attributes = await changes.setattr(await mount.inode(path), mode=mode)
        assert stat.S_IMODE(attributes.mode) == stat.S_IMODE((await mount.stat(path)).mode) == mode
        kept = stored[path]
        assert (kept if isinstance(kept, Entry) else kept.entry).mode == mode
    assert mount.peers.calls["commit"] == 1
    with pytest.raises(Unsupported):
        await changes.setattr(await mount.inode("a"), mode=0)
    with pytest.raises(Unsupported):
        await changes.setattr(await mount.inode(""), mode=0o700)
    await mount.peers.remove(mount.dataset.info.uid, "a", directory=False)
    with pytest.raises(NotFound):
        await changes.setattr(await mount.inode("a"), mode=0o640)


async def test_the_mode_of_a_removed_file_is_set_for_who_has_it_open(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    number = await mount.open("a")
    inode = await mount.inode("a")
    await mount.unlink("a")
    assert stat.S_IMODE((await mount.operations.changes.setattr(inode, mode=0o600)).mode) == 0o600
    assert not mount.peers.calls["set_mode"]
    await mount.close(number)


async def test_who_opens_a_file_while_its_mode_is_set_commits_it_with_that_mode(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    set_mode, opened = mount.peers.set_mode, []

    async def open_and_set(uid: str, path: str, mode: int) -> int:
        opened.append(await mount.open("a", os.O_RDWR))
        return await set_mode(uid, path, mode)

    mount.peers.set_mode = open_and_set  # type: ignore[method-assign]
    await mount.operations.changes.setattr(await mount.inode("a"), mode=0o600)
    await mount.operations.changes.write(opened[0], 0, b"y")
    await mount.close(opened[0])
    assert mount.dataset.files["a"].entry.mode == 0o600
    assert mount.origin() == {"a": b"y"}


async def test_times_and_owners_of_a_committed_file(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    inode, changes = await mount.inode("a"), mount.operations.changes
    await changes.setattr(inode, mtime_ns=5)
    await changes.setattr(inode, owner=(0, 0))
    with pytest.raises(NotPermitted):
        await changes.setattr(inode, owner=(1000, None))


async def test_a_removed_file_goes_on_for_who_has_it_open(mount: KernelLessMount) -> None:
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"x")
    await mount.unlink("a")
    await mount.operations.changes.write(number, 1, b"y")
    assert await mount.read(number) == b"xy"
    await mount.close(number)
    assert mount.origin() == {}
    assert mount.peers.calls["remove"] == 0
    assert len(mount.operations.state.handles) == 0


async def test_a_removed_file_that_was_committed_is_not_committed_again(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    number = await mount.open("a", os.O_RDWR)
    await mount.operations.changes.write(number, 0, b"y")
    await mount.unlink("a")
    await mount.close(number)
    assert mount.origin() == {}


@pytest.mark.parametrize("way", ["open", "open and truncate", "truncate"])
async def test_a_file_that_goes_while_it_is_opened_for_writing_is_stale(mount: KernelLessMount, way: str) -> None:
    await mount.write_file("a", b"old bytes")
    inode = await mount.inode("a")
    mount.operations.watching(is_watching=False)
    mount.clock.seconds += 1000
    before = mount.peers.calls["read_directory"]
    mount.peers.listings = asyncio.Semaphore(0)
    operations = mount.operations
    opening: asyncio.Future[object]
    if way == "truncate":
        opening = asyncio.ensure_future(operations.changes.setattr(inode, size_bytes=3))
    else:
        flags = os.O_WRONLY | (os.O_TRUNC if way == "open and truncate" else 0)
        opening = asyncio.ensure_future(operations.changes.open(inode, flags))
    await _until(lambda: mount.peers.calls["read_directory"] == before + 1)
    operations.state.inodes.detach(operations.state.inodes.get(inode))
    mount.peers.listings.release()
    with pytest.raises(Stale):
        await opening
    assert mount.peers.stagings_open == 0 and len(operations.state.handles) == 0
    assert mount.origin() == {"a": b"old bytes"}


async def test_a_file_the_kernel_does_not_know_and_that_is_let_go_while_it_is_opened_is_stale(
    mount: KernelLessMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mount.write_file("a", b"old bytes")
    operations, inodes = mount.operations, mount.operations.state.inodes
    inodes.forget(await mount.inode("a"), 1000)

    async def revalidate(node: Node) -> None:
        inodes.drop_if_unused(node)  # as the last close of another handle does

    directory = await mount.inode("")
    with monkeypatch.context() as patch:
        patch.setattr(operations.reads, "revalidate", revalidate)
        with pytest.raises(Stale):
            await operations.changes.create(directory, b"a", 0o644, os.O_WRONLY)
    number, _, attributes = await operations.changes.create(directory, b"a", 0o644, os.O_WRONLY)
    assert inodes.find(attributes.inode) is not None, "the kernel is told of nothing that is not known"
    await mount.close(number)


@pytest.mark.parametrize("takes_away", ["unlink", "rename over"])
async def test_who_opened_a_committed_file_for_writing_writes_on_after_its_removal(
    mount: KernelLessMount, takes_away: str
) -> None:
    await mount.write_file("a", b"old bytes")
    await mount.write_file("b", b"other")
    number = await mount.open("a", os.O_RDWR)
    if takes_away == "unlink":
        await mount.unlink("a")
    else:
        await mount.rename("b", "a")
    await mount.operations.changes.write(number, 0, b"NEW")
    assert await mount.read(number) == b"NEW bytes"
    await mount.close(number)
    assert mount.origin() == ({"b": b"other"} if takes_away == "unlink" else {"a": b"other"})
    assert mount.peers.stagings_open == 0


async def test_truncating_at_open_needs_no_handle_that_writes(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"old bytes")
    number = await mount.open("a", os.O_RDONLY | os.O_TRUNC)
    assert await mount.read(number) == b""
    with pytest.raises(BadHandle):
        await mount.operations.changes.write(number, 0, b"x")
    await mount.close(number)
    assert mount.origin() == {"a": b""}


async def test_a_refused_removal_leaves_the_writer_its_commit(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    number = await mount.open("a", os.O_RDWR)
    await mount.operations.changes.write(number, 0, b"y")
    mount.peers.failures["remove"] = Unavailable("no worker")
    with pytest.raises(Unavailable):
        await mount.unlink("a")
    await mount.close(number)
    assert mount.origin() == {"a": b"y"}


async def test_a_temporary_file_renamed_over_the_real_one(mount: KernelLessMount) -> None:
    await mount.write_file("model", b"old")
    number = await mount.create("model.tmp")
    await mount.operations.changes.write(number, 0, b"new")
    await mount.rename("model.tmp", "model")
    assert mount.origin() == {"model": b"new"}
    await mount.close(number)
    assert mount.origin() == {"model": b"new"}
    assert await mount.names("") == ["model"]


async def test_a_rename_waits_for_a_close_that_ends_the_file(mount: KernelLessMount) -> None:
    """Its own commit comes after the last close, when there is nothing left to commit."""
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"x")
    mount.peers.commits = asyncio.Semaphore(0)
    closing = asyncio.create_task(mount.close(number))
    await asyncio.sleep(0)
    renaming = asyncio.create_task(mount.rename("a", "b"))
    await asyncio.sleep(0.01)
    mount.peers.commits.release()
    await asyncio.gather(closing, renaming)
    assert mount.origin() == {"b": b"x"}
    assert mount.peers.calls["commit"] == 1


async def test_a_file_is_closed_while_a_rename_commits_it_again(mount: KernelLessMount) -> None:
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"x")
    mount.peers.commits = asyncio.Semaphore(0)
    syncing = asyncio.create_task(mount.operations.changes.fsync(number))
    await asyncio.sleep(0)
    renaming = asyncio.create_task(mount.rename("a", "b"))
    await asyncio.sleep(0.01)
    mount.peers.commits.release()
    await syncing
    await asyncio.sleep(0.01)
    await mount.close(number)
    mount.peers.commits.release()
    await renaming
    assert mount.origin() == {"b": b"x"}


async def test_a_file_that_is_created_while_its_directory_is_renamed_goes_along(mount: KernelLessMount) -> None:
    await mount.operations.moves.mkdir(await mount.inode(""), b"d", 0o755)
    await mount.write_file("d/old", b"old")
    rename, created = mount.peers.rename, []

    async def create_and_rename(uid: str, source: str, target: str) -> tuple[int, str]:
        created.append(await mount.create("d/new"))
        await mount.operations.changes.write(created[0], 0, b"new")
        return await rename(uid, source, target)

    mount.peers.rename = create_and_rename  # type: ignore[method-assign]
    await mount.rename("d", "e")
    await mount.close(created[0])
    assert mount.origin() == {"e/old": b"old", "e/new": b"new"}
    assert await mount.names("e") == ["new", "old"]


async def test_a_writer_goes_on_under_the_new_name(mount: KernelLessMount) -> None:
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"one")
    await mount.rename("a", "b")
    await mount.operations.changes.write(number, 3, b"two")
    await mount.close(number)
    assert mount.origin() == {"b": b"onetwo"}


async def test_a_writer_of_a_replaced_file_does_not_bring_it_back(mount: KernelLessMount) -> None:
    await mount.write_file("target", b"old")
    writer = await mount.open("target", os.O_RDWR)
    await mount.operations.changes.write(writer, 0, b"lost")
    await mount.write_file("source", b"new")
    await mount.rename("source", "target")
    await mount.close(writer)
    assert mount.origin() == {"target": b"new"}


async def test_a_renamed_directory_takes_what_is_written_below_it_along(mount: KernelLessMount) -> None:
    moves = mount.operations.moves
    await moves.mkdir(await mount.inode(""), b"step-1.tmp", 0o755)
    number = await mount.create("step-1.tmp/shard")
    await mount.operations.changes.write(number, 0, b"one")
    reader = await mount.open("step-1.tmp/shard")
    await mount.rename("step-1.tmp", "step-1")
    await mount.operations.changes.write(number, 3, b"two")
    assert await mount.read(reader) == b"onetwo"
    await mount.close(number)
    assert mount.origin() == {"step-1/shard": b"onetwo"}
    assert await mount.names("step-1") == ["shard"]


async def test_what_a_rename_refuses(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"")
    await mount.write_file("b", b"")
    await mount.operations.moves.mkdir(await mount.inode(""), b"d", 0o755)
    await mount.write_file("d/f", b"")
    await mount.operations.moves.mkdir(await mount.inode(""), b"e", 0o755)
    with pytest.raises(AlreadyExists):
        await mount.rename("a", "b", flags=1)
    with pytest.raises(InvalidRequest):
        await mount.rename("a", "b", flags=2)
    with pytest.raises(IsADirectory):
        await mount.rename("a", "d")
    with pytest.raises(NotADirectory):
        await mount.rename("d", "a")
    with pytest.raises(NotEmpty):
        await mount.rename("e", "d")
    with pytest.raises(NotFound):
        await mount.rename("none", "x")
    await mount.rename("d", "e")
    assert await mount.names("e") == ["f"]
    mount.peers.add_dataset("ns", "other", writable=True)
    mount.clock.seconds += 5
    names = mount.operations.names
    namespace = (await names.lookup(1, b"ns")).inode
    other = (await names.lookup(namespace, b"other")).inode
    with pytest.raises(CrossDataset):
        await mount.operations.moves.rename(await mount.inode(""), b"a", other, b"a", 0)


async def test_a_directory_with_an_uncommitted_file_is_not_empty(mount: KernelLessMount) -> None:
    moves = mount.operations.moves
    parent = await mount.inode("")
    assert stat.S_ISDIR((await moves.mkdir(parent, b"d", 0o755)).mode)
    number = await mount.create("d/f")
    with pytest.raises(NotEmpty):
        await moves.rmdir(parent, b"d")
    await mount.unlink("d/f")
    await mount.close(number)
    await moves.rmdir(parent, b"d")
    with pytest.raises(NotFound):
        await mount.stat("d")
    with pytest.raises(NotFound):
        await moves.rmdir(parent, b"d")


async def test_own_changes_keep_the_listing(mount: KernelLessMount) -> None:
    mount.peers.put(mount.dataset, "d/a", b"x")
    mount.published()
    await mount.stat("d/a")
    await mount.write_file("d/b", b"y")
    listed = mount.peers.calls["read_directory"]
    assert (await mount.stat("d/b")).size_bytes == 1
    assert await mount.names("d") == ["a", "b"]
    await mount.unlink("d/a")
    assert await mount.names("d") == ["b"]
    assert mount.peers.calls["read_directory"] == listed


async def test_a_handle_does_only_what_it_was_opened_for(mount: KernelLessMount) -> None:
    await mount.write_file("a", b"x")
    reader, writer = await mount.open("a"), await mount.open("a", os.O_WRONLY)
    with pytest.raises(BadHandle):
        await mount.operations.changes.write(reader, 0, b"y")
    with pytest.raises(BadHandle):
        await mount.read(writer)


async def test_nothing_is_held_after_the_last_close(mount: KernelLessMount) -> None:
    for name in "abc":
        await mount.write_file(name, b"x")
        number = await mount.open(name)
        await mount.read(number)
        await mount.close(number)
    assert mount.peers.pins_open == mount.peers.stagings_open == len(mount.operations.state.handles) == 0


async def test_nothing_is_made_in_a_directory_that_another_node_removed(mount: KernelLessMount) -> None:
    operations = mount.operations
    await operations.moves.mkdir(await mount.inode(""), b"d", 0o755)
    directory = await mount.inode("d")
    await mount.peers.remove(mount.dataset.info.uid, "d", directory=True)
    mount.published()
    # The kernel trusts the name for a second more, and asks with the directory's inode.
    with pytest.raises(NotFound):
        await operations.moves.mkdir(directory, b"x", 0o755)
    with pytest.raises(NotFound):
        await operations.changes.create(directory, b"x", 0o644, os.O_RDWR)
    assert await mount.names("") == []
