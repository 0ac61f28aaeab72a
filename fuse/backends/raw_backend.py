"""The raw backend: one connection to the kernel over /dev/fuse, from its mount to its end.

Owns the descriptor's life, messages to the kernel and the undoing of answers nobody took. What requests mean is in
raw_handlers.py, how they are taken in raw_loop.py, the system calls in raw_device.py.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from fuse.backends import raw_device
from fuse.backends.base import Inherited
from fuse.backends.raw_handlers import Handlers
from fuse.backends.raw_loop import RequestLoop
from fuse.core import protocol
from fuse.core.contracts import Bytes
from fuse.core.operations import Invalidation, Operations
from fuse.core.protocol import Opcode
from fuse.metrics import Metrics

log = structlog.get_logger()

Record = Callable[[int, int, Bytes], None]
BACKING_IDS_PROBED: Final = 16
"""Each daemon's death can lose one."""
_UNDONE: Final = {Opcode.OPEN, Opcode.CREATE, Opcode.OPENDIR}
_SILENT: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET})


class RawBackend:
    """One connection to the kernel."""

    name = "raw"

    def __init__(
        self,
        operations: Operations,
        metrics: Metrics,
        mount_point: Path,
        *,
        allow_other: bool,
        request_timeout_seconds: int = 0,
    ) -> None:
        self._handlers = Handlers(operations, metrics)
        self._handlers.opens.drop_pages = self._drop_pages
        self._mount_point = mount_point
        self._allow_other = allow_other
        self._request_timeout_seconds = request_timeout_seconds
        self._read_only = not operations.state.has_opens
        self._device = -1
        self._requests: RequestLoop | None = None
        self._background: set[asyncio.Future[None]] = set()
        self._has_epochs = False
        self._kept_by: Record | None = None

    def mount(self) -> None:
        """Mount; MountError, also when the kernel is too old."""
        self._device, init = raw_device.mounted(
            self._mount_point,
            allow_other=self._allow_other,
            read_only=self._read_only,
            request_timeout_seconds=self._request_timeout_seconds,
        )
        self._has_epochs = init.minor >= protocol.MINOR_EPOCH

    def take_over(self, inherited: Inherited, kept_by: Record, tried_again: Callable[[int], None]) -> None:
        """Serve a mount that is there: from now on every answer goes by `kept_by` before it goes to the kernel, and
        every request that is left over by `tried_again`. The tables were restored before."""
        self._handlers.tried_again = tried_again
        self._device = inherited.device
        self._has_epochs = inherited.minor >= protocol.MINOR_EPOCH
        self._kept_by = kept_by
        self._handlers.answers = inherited.answers
        self._handlers.refused = inherited.refused
        self._handlers.opens.recount()
        if inherited.is_first:
            return
        # A backing file that was opened, and its open not written down: the kernel counts the ids up.
        for backing_id in range(inherited.next_backing_id, inherited.next_backing_id + BACKING_IDS_PROBED):
            raw_device.close_backing(self._device, backing_id)
        # Before anything is read, so that what was left over is answered before what is new.
        self._notify(protocol.encode_resend())

    async def serve(self) -> None:
        """Answer the kernel until `stop` or an unmount from outside."""
        handlers = self._handlers
        handlers.opens.device = self._device
        self._requests = RequestLoop(
            self._device,
            handlers.quick(),
            handlers.table(),
            _SILENT,
            handlers.refusal,
            prepared=self._kept_by,
            undo=self._undo,
        )
        await self._requests.run()

    def _undo(self, opcode: int, payload: Bytes) -> None:
        if opcode in _UNDONE:
            self._run_soon(self._handlers.opens.undo(opcode, bytes(payload)))

    def _run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _drop_pages(self, inode: int) -> None:
        # In a thread: it waits for pages that a reader who has come since waits for, and those are ours to answer.
        async def drop() -> None:
            await asyncio.to_thread(self._notify, protocol.encode_drop_pages(inode))

        self._run_soon(drop())

    def invalidate(self, entries: Sequence[Invalidation]) -> None:
        """Make the kernel ask again for these names. Blocks."""
        listings = [inode for inode, name in entries if not name]
        for inode in listings:
            # No lock of the directory is waited for here, and no page that a reader waits for us with.
            if not self._notify(protocol.encode_drop_pages(inode)):
                return
        names = [(parent, name) for parent, name in entries if name]
        if self._has_epochs:
            # One by one each takes the lock of its directory, which a request to us may hold. The thread that waits for
            # it cannot be killed, and the process is not gone before it is, so nobody would follow and answer.
            if names:
                self._notify(protocol.encode_increment_epoch())
            return
        for parent, name in names:
            if not self._notify(protocol.encode_invalidate_entry(parent, name)):
                return

    def _notify(self, message: bytes) -> bool:
        """Send to the kernel; return whether more may be sent."""
        try:
            os.write(self._device, message)
        except FileNotFoundError:
            return True  # the kernel had dropped it already
        except OSError as error:
            if self._device >= 0:
                log.warning("invalidate_failed", error=error.strerror)
            return False
        return True

    def stop(self) -> None:
        """Make `serve` return."""
        if self._requests is not None:
            self._requests.stop()

    def close(self) -> None:
        """Let go of the connection once `serve` has returned; the name is unmounted by node/mounts.py."""
        if self._device >= 0:
            os.close(self._device)
            self._device = -1
