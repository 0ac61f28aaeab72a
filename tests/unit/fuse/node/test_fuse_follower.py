"""A journal that is read while it is written gives what a whole replay of it gives."""

import os
from collections.abc import Iterator

import pytest

from fuse.core import journal
from fuse.core.contracts import Entry
from fuse.core.journal import AnswerRecord, GoneRecord, LookupsRecord, NodeRecord, encode, replay
from fuse.node import follower
from fuse.node.follower import Follower
from fuse.node.session import new_journal


class _Written:
    """A journal."""

    def __init__(self) -> None:
        self.descriptor = new_journal()
        self.bytes = b""

    def add(self, data: bytes) -> None:
        os.pwrite(self.descriptor, data, len(self.bytes))
        self.bytes += data


@pytest.fixture
def written() -> Iterator[_Written]:
    written = _Written()
    yield written
    os.close(written.descriptor)


@pytest.fixture
def following(written: _Written) -> Iterator[Follower]:
    following = Follower()
    following.begin(os.dup(written.descriptor))
    yield following
    following.end()


def _node(inode: int) -> NodeRecord:
    entry = Entry(is_directory=False, etag=f"e{inode}")
    return NodeRecord(inode, 1, "file", f"n{inode}", "", entry, lookups=1, cached_etag="", last_path="")


FRAMES = [
    encode([_node(2), _node(3), AnswerRecord(8, b"a")]),
    encode([LookupsRecord(2, 5), GoneRecord(3)]),
    encode([_node(4), LookupsRecord(4, 2), AnswerRecord(9, b"b")]),
]


def test_a_journal_that_was_followed_is_what_it_says(
    written: _Written, following: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torn frames are read once they are whole, and at the end only what is new is read."""
    following.look()
    for frame in FRAMES:
        for part in (frame[:7], frame[7:]):
            written.add(part)
            following.look()
    assert following.followed_bytes == len(written.bytes)
    last = encode([_node(7), GoneRecord(2)])
    written.add(last + b"\x09\x00\x00\x00torn")
    read: list[int] = []

    def counted(data: bytes, image: journal.Image) -> journal.Image:
        read.append(len(data))
        return replay(data, image)

    monkeypatch.setattr(follower, "replay", counted)
    assert following.image(written.descriptor) == replay(written.bytes)
    assert read == [len(last) + 8] and following.followed_bytes == 0


def test_another_journal_is_read_from_its_beginning(written: _Written, following: Follower) -> None:
    written.add(FRAMES[0])
    following.look()
    other = _Written()
    other.add(FRAMES[2])
    assert following.image(other.descriptor) == replay(FRAMES[2])
    written.add(FRAMES[1])
    assert following.image(written.descriptor) == replay(FRAMES[0] + FRAMES[1])
    following.begin(other.descriptor)
    following.look()
    assert following.followed_bytes == len(FRAMES[2])


def test_a_journal_of_a_large_mount_is_not_followed(
    written: _Written, following: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "NODES_MAX", 1)
    written.add(FRAMES[0])
    following.look()
    assert following.followed_bytes == 0
    written.add(FRAMES[1])
    following.look()
    assert following.followed_bytes == 0
    assert following.image(written.descriptor) == replay(written.bytes)
