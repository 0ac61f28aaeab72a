"""Which ranges to make resident, and when: for the read at hand, and ahead of a sequential reader.

Owns arithmetic on ranges and one reader's window. Does no I/O and holds no bytes.

- A file of up to WHOLE_FILE_BYTES is asked for as a whole on its first read: one round trip.
- Otherwise the blocks the read touches.
- A reader that goes on where it stopped gets blocks ahead of it, each asked for by itself so that the first
  arrives first. The window doubles from one block to WINDOW_BYTES_MAX while the reader stays sequential, and
  closes when it jumps. Reads that come a little out of order (the kernel sends readahead in parallel) count
  as sequential: they fall into the slack around the expected place.
"""

from collections.abc import Iterator
from typing import Final

BLOCK_BYTES: Final = 4 << 20
WHOLE_FILE_BYTES: Final = BLOCK_BYTES
WINDOW_BYTES_MAX: Final = 32 << 20
"""Eight blocks in flight: enough to fill a 10 Gbit/s link with 20 ms to the store."""
PIECE_BYTES: Final = 4 * BLOCK_BYTES
"""Of a whole file that is waited for, asked for as one."""
SLACK_BYTES: Final = 2 << 20
"""Twice the largest kernel request (1 MiB), so that two requests may swap places."""

Range = tuple[int, int]
"""Offset and length in bytes."""


def needed_range(offset_bytes: int, length_bytes: int, size_bytes: int) -> Range:
    """Return the range to make resident before `length_bytes` at `offset_bytes` can be read: whole blocks,
    clipped to the file. Empty (length 0) at or past the end."""
    if offset_bytes >= size_bytes or length_bytes <= 0:
        return (min(offset_bytes, size_bytes), 0)
    if size_bytes <= WHOLE_FILE_BYTES:
        return (0, size_bytes)
    start = offset_bytes - offset_bytes % BLOCK_BYTES
    end = min(offset_bytes + length_bytes, size_bytes)
    end = min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, size_bytes)
    return (start, end - start)


def whole_pieces(size_bytes: int) -> list[Range]:
    """Return the ranges to ask for when a whole file is waited for: few requests, of which the first ends soon."""
    return [(at, min(PIECE_BYTES, size_bytes - at)) for at in range(0, size_bytes, PIECE_BYTES)]


def split(wanted: Range, block_bytes: int = BLOCK_BYTES) -> Iterator[Range]:
    """Yield the parts of a range, each within one block."""
    offset_bytes, end = wanted[0], wanted[0] + wanted[1]
    while offset_bytes < end:
        until = min((offset_bytes // block_bytes + 1) * block_bytes, end)
        yield offset_bytes, until - offset_bytes
        offset_bytes = until


class ReadWindow:
    """What one open handle reads next."""

    __slots__ = ("_asked_until", "_expected", "_grown_at", "_window_bytes")

    def __init__(self) -> None:
        self._expected = 0
        self._window_bytes = 0
        self._asked_until = 0
        #: Block boundary at which the window last doubled: once a block, not once a read.
        self._grown_at = 0

    @property
    def window_bytes(self) -> int:
        """How far ahead of the reader blocks are asked for; 0 for a random reader."""
        return self._window_bytes

    def was_whole(self, size_bytes: int) -> bool | None:
        """Whether the reader went through the file in order so far that all of it was asked for; None if it read
        nothing. What it reads after that need not be told."""
        if not self._expected:
            return None
        if size_bytes <= WHOLE_FILE_BYTES:
            return self._expected >= size_bytes
        return self._window_bytes > 0 and max(self._expected, self._asked_until) >= size_bytes

    def ahead(self, offset_bytes: int, length_bytes: int, size_bytes: int) -> list[Range]:
        """Note a read; return the blocks to ask for ahead of it, none of them asked for before."""
        end = offset_bytes + length_bytes
        if not -SLACK_BYTES <= offset_bytes - self._expected <= SLACK_BYTES:
            self._expected = end
            self._window_bytes = 0
            self._asked_until = 0
            self._grown_at = 0
            return []
        previous = self._expected
        self._expected = max(self._expected, end)
        if size_bytes <= WHOLE_FILE_BYTES or end <= previous:
            return []
        return self._grow(end, size_bytes)

    def _grow(self, end: int, size_bytes: int) -> list[Range]:
        first = -(-end // BLOCK_BYTES) * BLOCK_BYTES
        if first > self._grown_at:
            self._grown_at = first
            self._window_bytes = min(max(BLOCK_BYTES, self._window_bytes * 2), WINDOW_BYTES_MAX)
        start = max(first, self._asked_until)
        until = min(first + self._window_bytes, size_bytes)
        ranges = [(at, min(BLOCK_BYTES, size_bytes - at)) for at in range(start, until, BLOCK_BYTES)]
        if ranges:
            self._asked_until = ranges[-1][0] + BLOCK_BYTES
        return ranges


class ResidentBlocks:
    """Which blocks of one object version are known to be resident, by what the worker answered."""

    __slots__ = ("_blocks", "_is_whole", "_size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._is_whole = size_bytes == 0
        self._blocks: set[int] = set()

    @property
    def is_whole(self) -> bool:
        """Every block is."""
        return self._is_whole

    def covers(self, offset_bytes: int, length_bytes: int) -> bool:
        """True when the whole range, clipped to the file, is known to be resident."""
        if self._is_whole:
            return True
        end = min(offset_bytes + length_bytes, self._size_bytes)
        if end <= offset_bytes:
            return True
        first, last = offset_bytes // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        return all(block in self._blocks for block in range(first, last + 1))

    def add(self, offset_bytes: int, length_bytes: int, *, is_whole: bool = False) -> None:
        """The worker said that the range is resident. Only blocks it covers entirely count."""
        if is_whole:
            self._is_whole = True
            self._blocks.clear()
            return
        end = min(offset_bytes + length_bytes, self._size_bytes)
        first = -(-offset_bytes // BLOCK_BYTES)
        last = -(-end // BLOCK_BYTES) if end == self._size_bytes else end // BLOCK_BYTES
        self._blocks.update(range(first, last))
        if len(self._blocks) * BLOCK_BYTES >= self._size_bytes:
            self._is_whole = True

    def clear(self) -> None:
        """Nothing is known any more: the pin was lost."""
        self._is_whole = self._size_bytes == 0
        self._blocks.clear()
