"""The journal's form, and what another daemon makes of it."""

import os
from typing import Any

import msgspec
import pytest

from fuse.core.contracts import Entry
from fuse.core.inodes import ROOT_INODE
from fuse.core.journal import (
    ANSWERS_MAX,
    AnswerRecord,
    ClosedRecord,
    Counters,
    DirectoryRecord,
    GoneRecord,
    Image,
    LookupsRecord,
    NodeRecord,
    WritingRecord,
    encode,
    replay,
)
from fuse.core.moves import RENAME_NOREPLACE
from fuse.core.open_modes import Choice
from fuse.core.protocol import RESENT, Opcode
from fuse.core.recorder import Recorder
from fuse.core.resent import Resent
from fuse.errors import AlreadyExists, NotFound, Stale
from tests.builders.fuse_mount import KernelLessMount, MortalMount, known_to_kernel


def _node(inode: int, parent: int = ROOT_INODE, **fields: object) -> NodeRecord:
    values: dict[str, object] = {
        "inode": inode,
        "parent": parent,
        "kind": "file",
        "name": f"n{inode}",
        "dataset": "",
        "entry": Entry(is_directory=False, size_bytes=3, etag="e"),
        "lookups": 1,
        "cached_etag": "",
        "last_path": "",
    }
    return NodeRecord(**(values | fields))  # type: ignore[arg-type]


def test_a_torn_journal_is_good_up_to_its_last_whole_frame() -> None:
    frames = [encode([_node(number), _node(number + 100)]) for number in range(2, 6)]
    whole = b"".join(frames)
    ends = [sum(map(len, frames[: count + 1])) for count in range(len(frames))]
    for length in range(len(whole) + 1):
        image = replay(whole[:length])
        count = sum(end <= length for end in ends)
        assert len(image.nodes) == 2 * count
        assert image.end == (ends[count - 1] if count else 0)


def test_zeros_at_the_end_are_no_frame() -> None:
    frame = encode([_node(2)])
    assert replay(frame + bytes(64)).end == len(frame)


def test_a_whole_frame_that_is_no_list_of_records_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        replay(b"\x03\0\0\0\xa2hi")


def test_later_records_replace_earlier_ones() -> None:
    image = replay(
        encode([_node(2), LookupsRecord(2, 5), DirectoryRecord(1, 2, 0, "")])
        + encode([DirectoryRecord(1, 2, 9, "x"), LookupsRecord(77, 1)])
    )
    assert image.lookups == {2: 5, 77: 1}
    assert image.directories == {1: DirectoryRecord(1, 2, 9, "x")}
    assert not replay(encode([_node(2)]) + encode([_node(2), LookupsRecord(2, 5)]) + encode([_node(2)])).lookups


def test_numbers_are_never_given_again() -> None:
    image = replay(encode([_node(9), GoneRecord(9), DirectoryRecord(4, 9, 0, ""), ClosedRecord(4)]))
    assert (image.next_inode, image.next_handle) == (10, 5)
    begun_anew = encode([Counters(image.next_inode, image.next_handle, 3, 8)])
    image = replay(begun_anew)
    assert (image.next_inode, image.next_handle, image.next_backing_id, image.next_staging) == (10, 5, 3, 8)


def test_only_answers_that_may_be_under_way_are_kept() -> None:
    image = replay(encode([AnswerRecord(unique, b"%d" % unique) for unique in range(ANSWERS_MAX + 10)]))
    assert len(image.answers) == ANSWERS_MAX
    assert min(image.answers) == 10


async def test_the_answer_of_a_request_that_must_not_be_done_twice_is_kept_under_its_first_number() -> None:
    mount = KernelLessMount(writable=True)
    recorder = Recorder(mount.operations.state, Image())
    recorder.answered(Opcode.MKDIR, 7, b"seven")
    recorder.answered(Opcode.RENAME2, 8 | RESENT, memoryview(b"eight"))
    recorder.answered(Opcode.READ, 9, b"nine")
    assert replay(recorder.news()).answers == {7: b"seven", 8: b"eight"}
    assert recorder.news() == b""
    assert replay(b"".join(recorder.everything())).answers == {7: b"seven", 8: b"eight"}


async def test_a_slow_reader_of_a_directory_goes_on_with_the_next_name() -> None:
    mount = MortalMount(writable=True)
    names = [f"{number:03}" for number in range(50)]
    for name in names:
        mount.peers.put(mount.dataset, name, b"x")
    mount.published()
    writer = await mount.create("0255")  # not committed: it shows on this node only
    number = await mount.operations.names.open_directory(await mount.inode(""))
    _, entries = await mount.operations.names.directory_page(number, 0)
    seen = [name for name, _ in entries[:20]]
    mount.operations.names.gave(number, 20)
    mount.record()
    mount.peers.put(mount.dataset, "0001", b"new, behind the reader")
    mount.die()
    at = 20
    while True:
        _, entries = await mount.operations.names.directory_page(number, at)
        if at >= len(entries):
            break
        seen += [name for name, _ in entries[at:]]
        at = len(entries)
    assert seen == sorted([*names, "0255"])
    # Back to a place before the death: what is there now, by count.
    _, entries = await mount.operations.names.directory_page(number, 3)
    assert [name for name, _ in entries] == sorted([*names, "0001", "0255"])
    await mount.close(writer)


async def test_a_reader_of_the_list_of_datasets_goes_on() -> None:
    mount = MortalMount(writable=False)
    for name in ("b", "c", "e"):
        mount.peers.add_dataset("ns", name)
    mount.watch()
    attributes = await mount.operations.names.lookup(ROOT_INODE, b"ns")
    number = await mount.operations.names.open_directory(attributes.inode)
    _, entries = await mount.operations.names.directory_page(number, 0)
    assert [name for name, _ in entries] == ["b", "c", "data", "e"]
    mount.operations.names.gave(number, 2)
    mount.record()
    mount.die()
    _, entries = await mount.operations.names.directory_page(number, 2)
    assert [name for name, _ in entries[2:]] == ["data", "e"]


async def test_an_open_that_was_never_answered_is_let_go() -> None:
    mount = MortalMount(writable=True)
    await mount.write_file("a", b"bytes")
    mount.record()
    before = known_to_kernel(mount.operations)
    number = await mount.open("a", os.O_RDWR)
    mount.journal += mount.recorder.news()  # another answer left meanwhile: the open's own choice is not made
    mount.die()
    assert mount.operations.state.handles.find(number) is None
    after = known_to_kernel(mount.operations)
    assert {inode: fields[0] for inode, fields in after.items()} == {
        inode: fields[0] for inode, fields in before.items()
    }
    assert all(fields[-1] for fields in after.values()), "nobody writes"
    assert await mount.create("b") > number


async def test_a_written_file_is_committed_again_only_if_it_was_written_since() -> None:
    mount = MortalMount(writable=True)
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"one")
    await mount.operations.changes.fsync(number)
    mount.record()
    committed = mount.peers.calls["commit"]
    mount.clock.seconds += 10
    staged_at = mount.clock.wall_ns() - 10_000_000_000 - 1_000_000_000
    mount.die()
    mount.operations.state.handles.file(number)
    writing = mount.operations.state.handles.file(number).node.writing
    assert writing is not None and writing.is_dirty, "staged after it was recorded: perhaps not committed"

    mount.die()
    mount.peers.staged_at_ns = staged_at
    image = replay(mount.journal)
    assert isinstance(next(iter(image.writings.values())), WritingRecord)
    await mount.operations.changes.fsync(number)
    assert mount.peers.calls["commit"] == committed + 1
    mount.record()
    await mount.close(number)
    assert mount.peers.calls["commit"] == committed + 1
    assert mount.origin() == {"a": b"one"}


@pytest.mark.parametrize("was_committed", [True, False])
async def test_a_new_file_that_may_have_been_committed_before_a_death_is_removed(
    was_committed: bool,
) -> None:
    """Whoever closed it was killed too, so nobody asks for the commit again."""
    mount = MortalMount(writable=True)
    number = await mount.create("a")
    await mount.operations.changes.write(number, 0, b"one")
    mount.record()
    if was_committed:
        await mount.operations.changes.fsync(number)
    mount.die()
    await mount.unlink("a")
    assert mount.origin() == {}
    with pytest.raises(NotFound):
        await mount.stat("a")
    assert await mount.read(number) == b"one"


async def test_a_handle_that_was_not_written_down_never_reads_another_version() -> None:
    mount = MortalMount(writable=False)
    mount.peers.put(mount.dataset, "a", b"first")
    mount.published()
    number = await mount.open("a")
    handle = mount.operations.state.handles.file(number)
    handle.choice, handle.is_light = Choice.CACHED, True
    inode = handle.node.inode
    mount.record()
    mount.die()
    reads, names = mount.operations.reads, mount.operations.names
    assert bytes(await reads.read_unopened(inode, 0, 100)) == b"first"
    mount.record()
    mount.die()
    reads, names = mount.operations.reads, mount.operations.names
    mount.peers.put(mount.dataset, "a", b"other")
    mount.published()
    assert (await names.getattr(inode)).size_bytes == 5
    assert await mount.inode("a") != inode
    with pytest.raises(Stale):
        await reads.read_unopened(inode, 0, 100)
    number = await mount.open("a")
    assert await mount.read(number) == b"other"


class TestResent:
    """A second try of what the first may have done."""

    async def test_made_removed_and_renamed_before(self) -> None:
        mount = KernelLessMount(writable=True)
        again, moves = Resent(mount.operations), mount.operations.moves
        root = await mount.inode("")
        first = await moves.mkdir(root, b"d", 0o755)
        assert (await again.mkdir(root, b"d", 0o755)).inode == first.inode
        await moves.rmdir(root, b"d")
        await again.rmdir(root, b"d")
        await mount.write_file("a", b"bytes")
        inode = await mount.inode("a")
        await mount.peers.rename(mount.dataset.info.uid, "a", "b")  # done, and the daemon died before it noted it
        mount.operations.state.directories.drop(mount.dataset.info.uid)
        await again.rename(root, b"a", root, b"b", 0)
        assert await mount.inode("b") == inode
        await mount.peers.remove(mount.dataset.info.uid, "b", directory=False)
        mount.operations.state.directories.drop(mount.dataset.info.uid)
        await again.unlink(root, b"b")
        with pytest.raises(NotFound):
            await mount.stat("b")

    async def test_what_never_was_is_still_refused(self) -> None:
        mount = KernelLessMount(writable=True)
        again = Resent(mount.operations)
        root = await mount.inode("")
        await mount.write_file("file", b"")
        with pytest.raises(AlreadyExists):
            await again.mkdir(root, b"file", 0o755)
        with pytest.raises(NotFound):
            await again.rename(root, b"none", root, b"neither", 0)


class Death(BaseException):
    """The daemon ends here."""


class TestHalfDone:
    """The peers did it, the daemon died before it noted that, and a file is open."""

    @pytest.fixture
    def mount(self) -> MortalMount:
        return MortalMount(writable=True)

    def dies_after(self, mount: MortalMount, name: str) -> None:
        do = getattr(mount.peers, name)

        async def do_and_die(*arguments: Any, **named: Any) -> None:
            setattr(mount.peers, name, do)
            await do(*arguments, **named)
            raise Death

        setattr(mount.peers, name, do_and_die)

    async def written(self, mount: MortalMount, path: str) -> int:
        """Commit a file, and write on."""
        number = await mount.create(path)
        await mount.operations.changes.write(number, 0, b"first")
        await mount.operations.changes.fsync(number)
        mount.record()
        await mount.operations.changes.write(number, 0, b"later")
        mount.clock.seconds += 1
        mount.record()
        return number

    async def test_a_removed_file_is_not_brought_back_by_its_close(self, mount: MortalMount) -> None:
        root, number = await mount.inode(""), await self.written(mount, "a")
        self.dies_after(mount, "remove")
        with pytest.raises(Death):
            await mount.unlink("a")
        mount.die()
        await Resent(mount.operations).unlink(root, b"a")
        mount.record()
        assert await mount.read(number) == b"later"
        await mount.close(number)
        assert mount.origin() == {}

    async def test_a_file_that_was_opened_for_writing_and_removed(self, mount: MortalMount) -> None:
        root = await mount.inode("")
        await mount.write_file("a", b"first")
        number = await mount.open("a", os.O_RDWR)
        mount.record()
        self.dies_after(mount, "remove")
        with pytest.raises(Death):
            await mount.unlink("a")
        mount.die()
        await Resent(mount.operations).unlink(root, b"a")
        mount.record()
        assert await mount.read(number) == b"first"
        await mount.operations.changes.write(number, 5, b" and on")
        await mount.close(number)
        assert mount.origin() == {}

    async def test_what_replaced_a_file_is_not_overwritten_by_its_close(self, mount: MortalMount) -> None:
        root, number = await mount.inode(""), await self.written(mount, "a")
        await mount.write_file("b", b"new")
        await mount.inode("b")
        mount.record()
        self.dies_after(mount, "rename")
        with pytest.raises(Death):
            await mount.rename("b", "a")
        mount.die()
        await Resent(mount.operations).rename(root, b"b", root, b"a", 0)
        mount.record()
        assert await mount.read(number) == b"later"
        await mount.close(number)
        assert mount.origin() == {"a": b"new"}

    @pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE])
    async def test_a_written_file_is_renamed_once(self, mount: MortalMount, flags: int) -> None:
        root, number = await mount.inode(""), await self.written(mount, "a")
        self.dies_after(mount, "rename")
        with pytest.raises(Death):
            await mount.rename("a", "b", flags)
        mount.die()
        await Resent(mount.operations).rename(root, b"a", root, b"b", flags)
        mount.record()
        await mount.operations.changes.write(number, 0, b"again")
        await mount.close(number)
        assert mount.origin() == {"b": b"again"}

    async def test_a_name_that_is_taken_is_still_not_replaced(self, mount: MortalMount) -> None:
        root, number = await mount.inode(""), await self.written(mount, "a")
        other = await mount.create("fresh")
        await mount.write_file("b", b"other's")
        mount.record()
        mount.die()
        for name in (b"a", b"fresh"):
            with pytest.raises(AlreadyExists):
                await Resent(mount.operations).rename(root, name, root, b"b", RENAME_NOREPLACE)
        await mount.close(number)
        await mount.close(other)
        assert mount.origin() == {"a": b"later", "b": b"other's", "fresh": b""}

    async def test_files_below_a_directory_that_was_renamed_go_on(self, mount: MortalMount) -> None:
        root = await mount.inode("")
        await mount.operations.moves.mkdir(root, b"d", 0o755)
        number = await self.written(mount, "d/a")
        lookup = mount.peers.lookup

        async def note_and_die(uid: str, path: str) -> Entry:
            if path != "e/a":
                return await lookup(uid, path)
            mount.record()  # another answer leaves: the directory is under its new name, the file has not followed
            raise Death

        mount.peers.lookup = note_and_die  # type: ignore[method-assign]
        with pytest.raises(Death):
            await mount.rename("d", "e")
        mount.peers.lookup = lookup  # type: ignore[method-assign]
        mount.die()
        await Resent(mount.operations).rename(root, b"d", root, b"e", 0)
        mount.record()
        await mount.operations.changes.write(number, 0, b"again")
        await mount.close(number)
        assert mount.origin() == {"e/a": b"again"}


async def test_numbers_of_handles_that_are_not_written_down_are_not_given_again() -> None:
    mount = MortalMount(writable=False)
    for name in ("a", "b"):
        mount.peers.put(mount.dataset, name, name.encode())
    mount.published()
    given = set()
    for death in range(4):
        for _ in range(3 if death else 5000):
            number = await mount.open("a" if death % 2 else "b")
            assert number not in given
            given.add(number)
            handle = mount.operations.state.handles.file(number)
            handle.choice, handle.is_light = Choice.CACHED, True
            mount.record()
        if death == 2:
            mount.begin_anew()
        mount.die()
        assert not mount.operations.state.handles.numbers()
