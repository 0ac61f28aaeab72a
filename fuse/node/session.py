"""A daemon's side of the keeper: what it was given to go on with, and what it gives for the next one.

Owns the journal's file, the descriptors of staging files on their way to and from the keeper, and the heartbeat.
What is written down is core/recorder.py's business.

Invariants: the journal has what an answer tells the kernel before the kernel has the answer; a descriptor is let go
only after the journal does not speak of it any more; a whole new journal replaces the old one at once, when the
keeper has its descriptor.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import structlog

from fuse.backends.base import Inherited
from fuse.core.contracts import Bytes
from fuse.core.journal import Image
from fuse.core.operations import Operations
from fuse.core.recorder import Recorder
from fuse.core.restore import restore
from fuse.core.succession import BEAT_SECONDS, CRASHES_MAX, LEFT_STATUS, Reason
from fuse.metrics import Metrics
from fuse.node import wire
from fuse.node.follower import Follower

log = structlog.get_logger()

SEND_SECONDS: Final = 5
"""How long either side may take to make room for what has to be said before anything else."""
BEATS_BYTES_MAX: Final = 64 << 10
"""Of what a stopped keeper has not read; the rest of the room is for descriptors, which it must get."""
JOURNAL_BYTES_MIN: Final = 512 << 10
NODE_BYTES: Final = 160
"""About what a node's record takes; a journal of more than four times that is begun anew."""
JOURNAL_LOST_STATUS: Final = 74
TOKENS_NUMBER: Final = 0
"""The keeper keeps tokens as it keeps staging files, whose numbers begin at 1."""


class Session:
    """Implements the worker client's Vault and TokenVault over the keeper's socket."""

    def __init__(self, channel: socket.socket, device: int) -> None:
        self._channel = channel
        self._device = device
        self._kept: dict[int, int] = {}
        self.tokens = b""
        self.follower = Follower()
        self.followed_bytes = 0
        """How much of the journal was read before we were told to serve."""
        self._journal = -1
        self._next_journal: int | None = None
        self._next_end = 0
        self._retry_end = 0
        """How long the journal becomes before it is tried again to begin another."""
        self._parts: Iterator[bytes] = iter(())
        self._end = 0
        self._proceed = wire.Proceed(0, Reason.FIRST.value, {}, refuses_resent=False)
        self._recorder: Recorder | None = None
        self._dropped: list[int] = []
        self._metrics = Metrics()
        self._is_silent = False
        """The keeper does not read what it is sent."""
        self._nodes: Callable[[], int] = lambda: 0

    async def wait(self) -> None:
        """Tell the keeper that we wait, and wait to be told to serve; OSError when the keeper is gone."""
        wire.send(self._channel, wire.Warm())
        while True:
            await self._packet()
            received = wire.receive(self._channel)
            if received is None:
                raise ConnectionResetError("the keeper is gone")
            message, descriptors = received
            if isinstance(message, wire.Follow):
                self.follower.begin(*descriptors)
            elif isinstance(message, wire.Kept):
                self._kept.update(zip(message.numbers, descriptors, strict=True))
            elif isinstance(message, wire.Proceed):
                self._proceed = message
                (self._journal,) = descriptors
                break
        wire.set_deadline(self._channel, SEND_SECONDS)
        tokens = self._kept.pop(TOKENS_NUMBER, None)
        if tokens is not None:
            self.tokens = os.pread(tokens, os.fstat(tokens).st_size, 0)
            os.close(tokens)

    async def _packet(self) -> None:
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._channel, come.set)
        try:
            await come.wait()
        finally:
            loop.remove_reader(self._channel)

    @property
    def reason(self) -> Reason:
        """Why this daemon serves."""
        return Reason(self._proceed.reason)

    def restore(self, operations: Operations, metrics: Metrics) -> Inherited:
        """Fill the tables with what the daemons before left; return what the backend needs to go on."""
        self._metrics = metrics
        metrics.takeovers.update(self._proceed.takeovers)
        self.followed_bytes = self.follower.followed_bytes
        state = operations.state
        size_bytes = os.fstat(self._journal).st_size
        # Millions of objects are made and none of them is garbage.
        gc.disable()
        try:
            image = self.follower.image(self._journal)
            # One that was kept, and not written down before its daemon died.
            image.next_staging = max(image.next_staging, 1 + max(self._kept, default=0))
            restore(state, image)
            self._recorder = Recorder(state, image)
        finally:
            gc.enable()
        if image.end < size_bytes:
            log.warning("journal_torn", good_bytes=image.end, size_bytes=size_bytes)
            os.ftruncate(self._journal, image.end)
        self._end = image.end
        self._nodes = lambda: len(state.inodes)
        self._drop_unclaimed()
        return Inherited(
            device=self._device,
            minor=self._proceed.minor,
            is_first=self.reason is Reason.FIRST,
            answers=dict(image.answers),
            next_backing_id=image.next_backing_id,
            refused=self._refused(image),
        )

    def _refused(self, image: Image) -> frozenset[int]:
        """The first try is not written down, so a request that three daemons crashed with was tried again twice."""
        if not self._proceed.refuses_resent:
            return frozenset()
        return frozenset(unique for unique, count in image.attempts.items() if count >= CRASHES_MAX - 1)

    def _drop_unclaimed(self) -> None:
        """Staging files nothing leads to any more."""
        for number, descriptor in self._kept.items():
            os.close(descriptor)
            self._dropped.append(number)
        self._kept.clear()

    # The vault

    def next_number(self) -> int:
        """Return the number of another staging file."""
        assert self._recorder is not None
        return self._recorder.next_staging()

    def keep(self, number: int, descriptor: int) -> None:
        """Let the keeper have a copy of the descriptor; BlockingIOError when it has no room, OSError."""
        wire.send(self._channel, wire.Keep(number), [descriptor], socket.MSG_DONTWAIT)

    def let_go(self, number: int) -> None:
        """Drop what is kept under the number after the next record."""
        self._dropped.append(number)

    def take(self, number: int) -> int | None:
        """Return the descriptor an earlier daemon kept."""
        return self._kept.pop(number, None)

    def keep_tokens(self, tokens: bytes) -> None:
        """Let the keeper have the tokens; the next daemon gets others when it cannot."""
        memory = os.memfd_create("headrace-tokens", os.MFD_CLOEXEC)
        try:
            _write(memory, tokens, 0)
            self.keep(TOKENS_NUMBER, memory)
        except OSError as error:
            log.warning("tokens_not_kept", error=error.strerror)
        finally:
            os.close(memory)

    # The journal

    def record(self, opcode: int, unique: int, payload: Bytes) -> None:
        """An answer is about to go to the kernel (opcode 0: an errno): write down what it depends on."""
        recorder = self._recorder
        assert recorder is not None
        if opcode:
            recorder.answered(opcode, unique, payload)
        news = recorder.news()
        if news:
            self._append(news)
        if self._dropped and self._tell(wire.LetGo(self._dropped)):
            self._dropped = []

    def tried_again(self, unique: int) -> None:
        """A request that was left over is about to be carried out."""
        assert self._recorder is not None
        self._recorder.tried_again(unique)
        self.flush()

    def flush(self) -> None:
        """Write down what no answer depends on."""
        self.record(0, 0, b"")

    def _append(self, frame: bytes) -> None:
        try:
            self._end += _write(self._journal, frame, self._end)
        except OSError as error:
            # The kernel must not be told what the next daemon would not know. It asks that one again.
            log.critical("journal_lost", error=error.strerror)
            os._exit(JOURNAL_LOST_STATUS)
        self._append_to_next(frame)
        self._metrics.journal_bytes = self._end
        if self._is_long(4):
            self._begin_anew()

    def _append_to_next(self, frame: bytes) -> None:
        if self._next_journal is None:
            return
        try:
            self._next_end += _write(self._next_journal, frame, self._next_end)
        except OSError as error:
            self._keep_the_old_one(error)

    def _keep_the_old_one(self, error: OSError) -> None:
        """It is as good, only longer."""
        log.warning("journal_not_begun_anew", error=error.strerror)
        if self._next_journal is not None:
            os.close(self._next_journal)
            self._next_journal = None
        self._retry_end = 2 * self._end

    def _is_long(self, times: int) -> bool:
        """Whether the journal is so many times what it describes."""
        bytes_max = max(JOURNAL_BYTES_MIN, times * NODE_BYTES * self._nodes(), self._retry_end)
        return self._next_journal is None and self._end > bytes_max

    def _begin_anew(self) -> None:
        """Write a whole new journal, a part at a time between requests; until it is whole, news go to both."""
        recorder = self._recorder
        assert recorder is not None
        try:
            self._next_journal = new_journal()
        except OSError as error:
            self._keep_the_old_one(error)
            return
        self._next_end = 0
        self._parts = recorder.everything()
        asyncio.get_running_loop().call_soon(self._next_part)

    def _next_part(self) -> None:
        self.flush()
        if self._next_journal is None:
            return
        part = next(self._parts, None)
        if part is not None:
            self._append_to_next(part)
            asyncio.get_running_loop().call_soon(self._next_part)
            return
        try:
            wire.send(self._channel, wire.NewJournal(), [self._next_journal], socket.MSG_DONTWAIT)
        except OSError as error:
            self._keep_the_old_one(error)
            return
        os.close(self._journal)
        log.info("journal_begun_anew", old_bytes=self._end, new_bytes=self._next_end)
        self._journal, self._end = self._next_journal, self._next_end
        self._next_journal = None
        self._retry_end = 0

    # The keeper

    def attach(self, leaving: asyncio.Event) -> None:
        """Serving begins: tell the keeper, keep telling it, and set `leaving` when it wants another daemon."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._told, leaving)
        wire.send(self._channel, wire.Serving())
        self._beat()
        if self._is_long(2):
            # Where one daemon died another may, and it would read all of this again.
            self._begin_anew()

    def leave(self) -> NoReturn:
        """End at once: what is still in work must not be answered by this process any more, not even with an error."""
        self.flush()
        os._exit(LEFT_STATUS)

    def _beat(self) -> None:
        unread_bytes = self._metrics.keeper_unread_bytes = wire.unread_bytes(self._channel)
        if unread_bytes < BEATS_BYTES_MAX:
            self._tell(wire.Beat())
        if self._is_silent is not (is_silent := unread_bytes >= BEATS_BYTES_MAX):
            self._is_silent = is_silent
            if is_silent:
                log.warning("keeper_silent", unread_bytes=unread_bytes)
            else:
                log.info("keeper_reads_again")
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _told(self, leaving: asyncio.Event) -> None:
        received = wire.receive(self._channel, socket.MSG_DONTWAIT)
        if received is None:
            # The keeper's death is ours (PR_SET_PDEATHSIG); nothing more comes from here.
            asyncio.get_running_loop().remove_reader(self._channel)
        elif isinstance(received[0], wire.Leave):
            leaving.set()

    def _tell(self, message: wire.Message) -> bool:
        """Return whether the keeper was told. A stopped one is not waited for: requests would wait too."""
        try:
            wire.send(self._channel, message, flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            log.warning("keeper_not_told", error=error.strerror)
        return True


def new_journal() -> int:
    """Return the descriptor of an empty journal: memory that lives as long as a process has it."""
    return os.memfd_create("headrace-journal", os.MFD_CLOEXEC)


def _write(descriptor: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], at + done)
    return done
