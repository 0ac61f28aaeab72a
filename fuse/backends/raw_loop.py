"""Takes requests off /dev/fuse and carries their answers back, on the event loop's thread.

Owns the descriptor's reading, the coroutines under way and the request buffer. Knows nothing of what requests mean.

- A handler answers at once, or with a coroutine that is stepped by hand: most end without waiting, and then no task is
  made for them (a task costs more than a lookup). One that waits goes on when its future is done.
- What is asked most often, and needs but a look at the tables, is answered by a quick handler: no coroutine, no
  slice of the buffer, nothing to write down.
- A request that is waiting already is taken at once; after BURST of them the rest of the loop gets its turn.
- Readers wait a moment awake: waking an idle core costs more than the next request of a busy reader.

One thread and one descriptor: a cloned descriptor (FUSE_DEV_IOC_CLONE) fails its requests with ECONNABORTED when the
process that read them dies, and handlers hold the GIL anyway.

Invariants: every request but the silent ones is answered exactly once, whatever the handler raises; the buffer a
handler was given is not reused before the handler ended.
"""

import asyncio
import errno
import os
import select
import struct
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import structlog

from fuse.core import protocol
from fuse.core.contracts import Bytes
from fuse.core.protocol import BUFFER_BYTES, IN_HEADER, OUT_HEADER, RESENT

log = structlog.get_logger()

BURST: Final = 64
SPIN_SECONDS: Final = 40e-6
SPARE_BUFFERS: Final = 16
_HEAD: Final = struct.Struct("<4xIQQ16xQ")
"""Opcode, unique and inode of a request, and the body's first eight bytes."""
_COPIED_BYTES_MAX: Final = 4096
"""Shorter answers are put together with their header: that costs less than writing two pieces."""
_AGAIN: Final = {errno.EAGAIN, errno.EINTR, errno.ENOENT}
"""Nothing to read; ENOENT: the request was taken back while it was read."""

Answer = bytes | Coroutine[Any, Any, Bytes]
"""The payload, or what returns it when it had to wait."""
Handler = Callable[[int, int, memoryview], Answer]
"""Takes inode, unique and body."""
Quick = Callable[[int, int], bytes | None]
"""Takes inode and the body's first eight bytes as a number. Returns a payload that tells the kernel of nothing another
daemon would have to know of, or None: the handler shall look."""
Refusal = Callable[[int, Exception], int]
"""Turns what a handler raised into an errno."""
Prepared = Callable[[int, int, Bytes], None]
"""Called with opcode, unique and payload right before a success is answered; with opcode 0 before an errno is."""
Undo = Callable[[int, Bytes], None]
"""Called with opcode and payload when the asker was gone before a success could be answered."""


class RequestLoop:
    """The reading and answering of one connection."""

    def __init__(
        self,
        descriptor: int,
        quick: dict[int, Quick],
        handlers: dict[int, Handler],
        silent: frozenset[int],
        refusal: Refusal,
        *,
        prepared: Prepared | None,
        undo: Undo,
    ) -> None:
        self._descriptor = descriptor
        self._poller = select.poll()
        self._poller.register(descriptor, select.POLLIN)
        self._quick = quick
        self._handlers = handlers
        self._silent = silent
        self._refusal = refusal
        self._prepared = prepared
        self._undo = undo
        self._buffer = bytearray(BUFFER_BYTES)
        self._vector = [self._buffer]
        self._spare: list[bytearray] = []
        self._loop = asyncio.get_running_loop()
        self._waiting: set[_Step] = set()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._idle: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Serve until `stop` or the end of the connection, then wait for the requests in work."""
        self._loop.add_reader(self._descriptor, self._readable)
        try:
            await self._ended
        finally:
            self._loop.remove_reader(self._descriptor)
        if self._waiting:
            self._idle = self._loop.create_future()
            await self._idle

    def stop(self) -> None:
        """Make `run` return."""
        if not self._ended.done():
            self._ended.set_result(None)

    def _readable(self) -> None:
        for _ in range(BURST):
            try:
                count = os.readv(self._descriptor, self._vector)
            except OSError as error:
                if not self._is_worth_waiting(error):
                    return
                continue
            self._begin(count)
            if self._ended.done():
                return

    def _is_worth_waiting(self, error: OSError) -> bool:
        """Nothing could be read: wait a moment, and return whether something can be now."""
        if error.errno not in _AGAIN:
            # ENODEV: unmounted. Anything else ends the connection just as well.
            if error.errno != errno.ENODEV:
                log.error("fuse_device_failed", error=error.strerror)
            self.stop()
            return False
        poll = self._poller.poll
        until = time.monotonic() + SPIN_SECONDS
        # Another try would make an exception each time, which costs more than the request that is waited for.
        while not poll(0):
            if time.monotonic() >= until:
                return False
        return True

    def _begin(self, count: int) -> None:
        buffer = self._buffer
        opcode, unique, inode, head = _HEAD.unpack_from(buffer)
        quick = self._quick.get(opcode)
        handler = self._handlers.get(opcode)
        if handler is None:
            self._write_error(unique, errno.ENOSYS)
            return
        try:
            if quick is not None and unique < RESENT and count >= _HEAD.size:
                payload = quick(inode, head)
                if payload is not None:
                    self._write(opcode, unique, payload)
                    return
            answered = handler(inode, unique, memoryview(buffer)[IN_HEADER.size : count])
            if isinstance(answered, bytes):
                self.answer(opcode, unique, answered)
                return
            future = answered.send(None)
        except StopIteration as done:
            self.answer(opcode, unique, done.value)
        except asyncio.CancelledError:
            self.refuse(opcode, unique, InterruptedError("what the request waited for was cancelled"))
        except Exception as error:  # noqa: BLE001 - the edge: whatever happens becomes an errno
            self.refuse(opcode, unique, error)
        else:
            # The handler may still look at its bytes.
            self._buffer = self._spare.pop() if self._spare else bytearray(BUFFER_BYTES)
            self._vector = [self._buffer]
            step = _Step(self, answered, opcode, unique, buffer)
            self._waiting.add(step)
            step.wait_for(future)

    def answer(self, opcode: int, unique: int, payload: Bytes) -> None:
        """Send a success."""
        if opcode in self._silent:
            return
        if self._prepared is not None:
            try:
                self._prepared(opcode, unique, payload)
            except Exception as error:  # noqa: BLE001 - the edge: what cannot be written down must not be told
                self._undo(opcode, payload)
                self._write_error(unique, self._refusal(opcode, error))
                return
        self._write(opcode, unique, payload)

    def _write(self, opcode: int, unique: int, payload: Bytes) -> None:
        size = len(payload)
        head = OUT_HEADER.pack(OUT_HEADER.size + size, 0, unique)
        try:
            if size <= _COPIED_BYTES_MAX:
                os.write(self._descriptor, head + payload)
            else:
                os.writev(self._descriptor, (head, payload))
        except OSError as error:
            self._unanswered(opcode, payload, error)

    def refuse(self, opcode: int, unique: int, error: Exception) -> None:
        """Send an errno; a request without an answer only counts it."""
        number = self._refusal(opcode, error)
        if opcode in self._silent:
            return
        if self._prepared is not None:
            try:
                self._prepared(0, unique, b"")
            except Exception as defect:  # noqa: BLE001 - the edge: an errno tells the kernel of nothing
                self._refusal(opcode, defect)
        self._write_error(unique, number)

    def ended(self, step: "_Step") -> None:
        """A request that had to wait is answered."""
        self._waiting.discard(step)
        if len(self._spare) < SPARE_BUFFERS:
            self._spare.append(step.buffer)
        if self._idle is not None and not self._waiting and not self._idle.done():
            self._idle.set_result(None)

    def _unanswered(self, opcode: int, payload: Bytes, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            self._undo(opcode, payload)
        elif error.errno == errno.ENODEV:
            self.stop()
        else:
            log.error("answer_refused", opcode=opcode, error=error.strerror)

    def _write_error(self, unique: int, number: int) -> None:
        # The asker may be gone, and then nobody waits for it.
        with suppress(OSError):
            os.write(self._descriptor, protocol.encode_error(unique, number))


class _Step:
    """A handler that waits for something."""

    __slots__ = ("_coroutine", "_loop", "_opcode", "_unique", "buffer")

    def __init__(
        self, loop: RequestLoop, coroutine: Coroutine[Any, Any, Bytes], opcode: int, unique: int, buffer: bytearray
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._opcode = opcode
        self._unique = unique
        self.buffer = buffer

    def wait_for(self, future: Any) -> None:
        """Go on when the awaited future is done (asyncio's protocol between awaitables and their driver)."""
        if future is None:
            asyncio.get_running_loop().call_soon(self._resume)
            return
        future._asyncio_future_blocking = False
        future.add_done_callback(self._resume)

    def _resume(self, _: Any = None) -> None:
        try:
            # The awaitable itself hands its result or exception over, or asks to wait on.
            future = self._coroutine.send(None)
        except StopIteration as done:
            self._loop.answer(self._opcode, self._unique, done.value)
        except asyncio.CancelledError:
            self._loop.refuse(self._opcode, self._unique, InterruptedError("the daemon is stopping"))
        except Exception as error:  # noqa: BLE001 - the edge: whatever happens becomes an errno
            self._loop.refuse(self._opcode, self._unique, error)
        else:
            self.wait_for(future)
            return
        self._loop.ended(self)
