"""Blocks that a worker sent because its node does not keep them: of all open files of a mount, within one budget.

Owns their memory, which is used again by the next ones: fresh memory is zeroed by the kernel first. Does no I/O and
does not know where blocks come from.

Invariants:
- What was asked for ahead never takes more than the budget; what a reader waits for is always taken, and given back
  when the next block comes.
- A block that was read to its end makes room for the next ones; the last few stay, since the kernel's requests of one
  reader come a little out of order.
- Memory that was given back is written again only by the next arrival from a worker: what was returned from it is good
  until the caller next waits.
"""

import mmap
from collections import OrderedDict
from typing import Final

from fuse.core.read_plan import BLOCK_BYTES, WINDOW_BYTES_MAX

BUDGET_BYTES: Final = 256 << 20
"""Of a mount: eight files that are read ahead by whole windows."""
SPARE_MAX: Final = 2 * WINDOW_BYTES_MAX // BLOCK_BYTES
READ_KEPT: Final = 2
"""Blocks of a file that stay after they were read to their end."""
WAITED_FOR_MAX: Final = 4
"""Blocks of a file that were not asked for ahead: what random readers come back to."""
IDLE_SECONDS: Final = 5.0
"""A file nobody read for so long gives its blocks back to one that is read."""


class InlineBlocks:
    """The budget of a mount, and the memory."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._spare: list[memoryview] = []
        self._files: OrderedDict[InlineFile, float] = OrderedDict()
        """Those with blocks, the one that was read last at the end; and when that was."""
        self.taken_bytes = 0

    def file(self) -> "InlineFile":
        """Return the place of one file's blocks."""
        return InlineFile(self)

    def take(self, size_bytes: int) -> memoryview:
        """Return memory for a block that is asked for."""
        self.taken_bytes += size_bytes
        if size_bytes == BLOCK_BYTES and self._spare:
            return self._spare.pop()
        # It begins where a page does: copies from 16 bytes behind, malloc's place, take four times as long.
        return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def give_back(self, memory: memoryview) -> None:
        """Nobody needs the block any more."""
        self.taken_bytes -= len(memory)
        if len(memory) == BLOCK_BYTES and len(self._spare) < SPARE_MAX:
            self._spare.append(memory)

    def lose(self, size_bytes: int) -> None:
        """Memory that was taken is not to be used again: who filled it may still do so."""
        self.taken_bytes -= size_bytes

    def has_room(self, file: "InlineFile", size_bytes: int, now_seconds: float) -> bool:
        """Whether so much more may be asked for ahead, for this file; files nobody reads make room for it."""
        while self.taken_bytes + size_bytes > self._budget_bytes:
            oldest = next(iter(self._files), None)
            if oldest is None or oldest is file or self._files[oldest] + IDLE_SECONDS > now_seconds:
                return False
            oldest.clear()
        return True

    def touched(self, file: "InlineFile", now_seconds: float) -> None:
        """The file is read, or a block of it has come."""
        self._files[file] = now_seconds
        self._files.move_to_end(file)

    def forget(self, file: "InlineFile") -> None:
        """It has nothing any more."""
        self._files.pop(file, None)


class InlineFile:
    """Blocks of one file, by their number. Files are compared by identity."""

    def __init__(self, blocks: InlineBlocks) -> None:
        self._all = blocks
        self._blocks: dict[int, memoryview] = {}
        self._read: OrderedDict[int, None] = OrderedDict()
        self._waited_for: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    def has_room(self, size_bytes: int, now_seconds: float) -> bool:
        """Whether a block may be asked for ahead."""
        return self._all.has_room(self, size_bytes, now_seconds)

    def arrived(self, block: int, memory: memoryview, now_seconds: float, *, is_ahead: bool) -> None:
        """A block is here, in memory of `InlineBlocks.take`; blocks that were read make room."""
        if block in self._blocks:
            self._all.give_back(memory)
            return
        self._blocks[block] = memory
        if not is_ahead:
            self._waited_for[block] = None
            if len(self._waited_for) > WAITED_FOR_MAX:
                self._drop(next(iter(self._waited_for)))
        while len(self._read) > READ_KEPT:
            self._drop(next(iter(self._read)))
        self._all.touched(self, now_seconds)

    def piece(self, offset_bytes: int, length_bytes: int, now_seconds: float) -> memoryview | None:
        """Return a range of one block, good until the caller next waits; None if that block is not here."""
        block, inside = divmod(offset_bytes, BLOCK_BYTES)
        memory = self._blocks.get(block)
        if memory is None or inside + length_bytes > len(memory):
            return None
        if inside + length_bytes == len(memory):
            self._read[block] = None
            self._read.move_to_end(block)
        if block in self._waited_for:
            self._waited_for.move_to_end(block)
        self._all.touched(self, now_seconds)
        return memory[inside : inside + length_bytes]

    def clear(self) -> None:
        """Let all blocks go."""
        for block in list(self._blocks):
            self._drop(block)
        self._all.forget(self)

    def _drop(self, block: int) -> None:
        self._all.give_back(self._blocks.pop(block))
        self._read.pop(block, None)
        self._waited_for.pop(block, None)
