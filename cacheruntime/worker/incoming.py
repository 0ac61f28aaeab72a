"""One block on its way from the under store straight into its sparse file, part by part as it is read.

Owns the checksum so far and the right to write the block's place. Parts are written by the thread that read them, while
they are in its processor's cache; read as a whole first, a block is fetched from memory twice more.

Invariants: nothing is written after `finish` has begun; a block counts as resident only if `finish` returned True.
"""

from threading import Lock

from cacheruntime.core.checksums import crc32c
from cacheruntime.worker import tier_files
from cacheruntime.worker.tier_files import CachedFile


class Incoming:
    """Made by the block store, which has set room aside for the block and lets nobody else store it meanwhile."""

    def __init__(self, file: CachedFile, index: int, asked_seconds: float, *, as_home: bool) -> None:
        self.file = file
        self.index = index
        self.asked_seconds = asked_seconds
        self.checksum = 0
        """Of what came so far."""
        self._as_home = as_home
        self._start = index * file.map.block_size_bytes
        self._error: OSError | None = None
        self._is_over = False
        self._lock = Lock()

    def part(self, at_bytes: int, data: memoryview) -> None:
        """The next bytes, `at_bytes` into the block; 0 begins it anew. Blocks. A failing medium shows at `finish`."""
        with self._lock:
            if self._is_over:
                return
            self.checksum = crc32c(data, self.checksum if at_bytes else 0)
            if self._error is None:
                try:
                    tier_files.write_at(self.file.descriptor, data, self._start + at_bytes)
                except OSError as error:
                    self._error = error

    def finish(self, *, is_whole: bool) -> bool:
        """Make the block resident if it `is_whole`; else, or when the medium failed, its place is free again. Waits for
        a part that is being written. Blocks; OSError."""
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
