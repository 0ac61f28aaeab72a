"""A daemon's side of its keeper, over a socket pair: a keeper that does not listen, journals that cannot be begun."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fuse.core.journal import Image, replay
from fuse.metrics import Metrics
from fuse.node import session as session_module
from fuse.node import wire
from fuse.node.session import Session, new_journal
from tests.builders.fuse_mount import KernelLessMount

MANY = 2000
"""Messages that a socket has no room for."""
OPEN = Path("/proc/self/fd")
LONG_BYTES = 16 << 10
"""A journal of more is begun anew."""


class Served:
    """A daemon that serves, and the keeper's end of its socket."""

    def __init__(self) -> None:
        self.keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.journal = new_journal()
        wire.send(self.keeper, wire.Proceed(0, "first", {}, refuses_resent=False), [self.journal])
        self.session = Session(theirs, -1)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(self.session.wait())
        loop.close()
        self.mount = KernelLessMount(writable=True)
        self.metrics = Metrics()
        self.session.restore(self.mount.operations, self.metrics)
        self.theirs = theirs

    def heard(self) -> list[wire.Message]:
        """What the keeper has not heard so far; a new journal is kept."""
        found: list[wire.Message] = []
        while True:
            try:
                received = wire.receive(self.keeper, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            assert received is not None
            message, descriptors = received
            found.append(message)
            for descriptor in descriptors:
                if isinstance(message, wire.NewJournal):
                    os.dup2(descriptor, self.journal)
                os.close(descriptor)

    def image(self) -> Image:
        return replay(os.pread(self.journal, os.fstat(self.journal).st_size, 0))

    async def fill(self) -> None:
        """Write down so much that the journal is too long for what it describes."""
        await self.mount.write_file("a", b"x")
        inodes, inode = self.mount.operations.state.inodes, await self.mount.inode("a")
        before = os.fstat(self.journal).st_size
        while os.fstat(self.journal).st_size < before + 3 * LONG_BYTES:
            for _ in range(100):
                inodes.told(inodes.get(inode))
                self.session.flush()
            await asyncio.sleep(0)
            if any(isinstance(message, wire.NewJournal) for message in self.heard()):
                return

    def close(self) -> None:
        self.keeper.close()
        self.theirs.close()
        os.close(self.journal)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(session_module, "JOURNAL_BYTES_MIN", LONG_BYTES)
    made = Served()
    yield made
    made.close()


def test_a_keeper_that_is_stopped_is_not_waited_for(served: Served) -> None:
    for number in range(1, MANY):
        served.session.let_go(number)
        served.session.flush()
    told = {number for each in served.heard() if isinstance(each, wire.LetGo) for number in each.numbers}
    assert told < set(range(1, MANY))
    served.session.let_go(MANY)
    served.session.flush()
    (rest,) = served.heard()
    assert isinstance(rest, wire.LetGo)
    assert told | set(rest.numbers) == set(range(1, MANY + 1)), "it is told of each when it goes on"


async def test_a_keeper_that_is_stopped_has_room_for_descriptors(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "BEAT_SECONDS", 0.0)
    served.session.attach(asyncio.Event())
    for _ in range(MANY):
        await asyncio.sleep(0)
    served.session.keep(7, served.journal)
    heard = served.heard()
    assert heard[:2] == [wire.Warm(), wire.Serving()]
    assert heard[-1] == wire.Keep(7)
    assert 10 < heard.count(wire.Beat()) < MANY / 2


async def test_a_keeper_that_takes_no_descriptor_is_told_of_once_and_holds_nobody_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "BEAT_SECONDS", 0.0)
    with pytest.raises(BlockingIOError), capture_logs() as logs:
        served.session.attach(asyncio.Event())
        for number in range(1, 10 * MANY):
            served.session.keep(number, served.journal)
            await asyncio.sleep(0)
    assert [each["event"] for each in logs] == ["keeper_silent"]
    assert served.metrics.keeper_unread_bytes > session_module.BEATS_BYTES_MAX
    served.heard()
    with capture_logs() as logs:
        served.session.keep(1, served.journal)
        for _ in range(3):
            await asyncio.sleep(0)
    assert [each["event"] for each in logs] == ["keeper_reads_again"]


async def test_a_long_journal_is_begun_anew(served: Served) -> None:
    await served.fill()
    assert os.fstat(served.journal).st_size < LONG_BYTES
    assert {record.name for record in served.image().nodes.values()} == {"ns", "data", "a"}


@pytest.mark.parametrize("fails", ["making", "writing"])
async def test_the_old_journal_goes_on_when_another_cannot_be_begun(
    served: Served, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    write = session_module._write

    def no_room(descriptor: int, data: bytes, at: int) -> int:
        if fails == "writing" and os.fstat(descriptor).st_ino != os.fstat(served.journal).st_ino:
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data, at)

    def no_descriptor() -> int:
        if fails == "making":
            raise OSError(errno.EMFILE, "too many open files")
        return new_journal()

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(session_module, "_write", no_room)
        patch.setattr(session_module, "new_journal", no_descriptor)
        open_before = len(list(OPEN.iterdir()))
        await served.fill()
        assert len(list(OPEN.iterdir())) == open_before
    assert {each["event"] for each in logs} == {"journal_not_begun_anew"}
    assert len(logs) <= 3, "it is not tried again at once"
    assert {record.name for record in served.image().nodes.values()} == {"ns", "data", "a"}
    await served.fill()
    await served.fill()
    assert os.fstat(served.journal).st_size < LONG_BYTES
