"""One block on its way from the under store straight into its sparse file, part by part as it is read.

Owns the checksum so far and the right to write the block's place. Parts are written by the thread that read them, while
they are in its processor's cache; read as a whole first, a block is fetched from memory twice more.

A medium that hangs takes the threads of the store that is read with it. So no more than WRITERS_MAX of those write at a
time, and none begins to while another has not come back for a while: such a block comes as a whole, later.

Invariants: nothing is written after `finish` has begun; a block counts as resident only if `finish` returned True.
"""

import errno
import os
from collections.abc import Callable
from threading import Lock
from typing import Final

from cacheruntime.core.checksums import crc32c
from cacheruntime.worker import tier_files
from cacheruntime.worker.tier_files import CachedFile

WRITERS_MAX: Final = 12
"""A directory store has 16 threads (understores/posix.py)."""
STUCK_SECONDS: Final = 1.0


class Writers:
    """The threads that write parts to one tier now."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._since: dict[Incoming, float] = {}
        self._lock = Lock()

    def begin(self, incoming: "Incoming") -> bool:
        """One is about to; False: it had better not."""
        now = self.clock()
        with self._lock:
            is_stuck = any(now - since > STUCK_SECONDS for since in self._since.values())
            if is_stuck or len(self._since) >= WRITERS_MAX:
                return False
            self._since[incoming] = now
            return True

    def end(self, incoming: "Incoming") -> float:
        """It is back; return how long that took."""
        with self._lock:
            return self.clock() - self._since.pop(incoming)

    def waited_seconds(self, incoming: "Incoming") -> float:
        """How long it has not been back; 0.0 when it is."""
        with self._lock:
            since = self._since.get(incoming)
        return 0.0 if since is None else self.clock() - since


class Incoming:
    """Made by the block store, which has set room aside for the block and lets nobody else store it meanwhile."""

    def __init__(self, file: CachedFile, index: int, writers: Writers, *, as_home: bool, late_seconds: float) -> None:
        """`late_seconds`: nobody waits longer for the medium."""
        self.file = file
        self.index = index
        self.checksum = 0
        """Of what came so far."""
        self.medium_seconds = 0.0
        """How long the medium has had it; how long the under store took is not its fault."""
        self._writers = writers
        self._late_seconds = late_seconds
        self._as_home = as_home
        self._start = index * file.map.block_size_bytes
        self._error: OSError | None = None
        self._is_over = False
        self._lock = Lock()

    @property
    def is_late(self) -> bool:
        """Whether the medium has been waited for long enough."""
        return self._writers.waited_seconds(self) > self._late_seconds

    def part(self, at_bytes: int, data: memoryview) -> None:
        """The next bytes, `at_bytes` into the block; 0 begins it anew. Blocks. A failing medium shows at `finish`."""
        with self._lock:
            if self._is_over:
                return
            self.checksum = crc32c(data, self.checksum if at_bytes else 0)
            if self._error is None:
                self._write(at_bytes, data)

    def _write(self, at_bytes: int, data: memoryview) -> None:
        if not self._writers.begin(self):
            self._error = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return
        try:
            tier_files.write_at(self.file.descriptor, data, self._start + at_bytes)
        except OSError as error:
            self._error = error
        finally:
            self.medium_seconds += self._writers.end(self)

    def finish(self, *, is_whole: bool) -> bool:
        """Make the block resident if it `is_whole`; else, or when the medium failed, its place is free again. Waits for
        a part that is being written. Blocks; OSError, with EBUSY when it was not asked for all."""
        with self._lock:
            self._is_over = True
        if not is_whole or self._error is not None:
            tier_files.note_writes(self.file)  # ours, though nobody will see them
        if self._error is not None:
            raise self._error
        if not is_whole:
            return False
        tier_files.show_block(self.file, self.index, self.checksum, as_home=self._as_home)
        return True
