"""Checksums of the pieces of blocks that were checked as a whole.

Owns what is remembered and for how many blocks. A map has one checksum a block; to send a piece of one without
reading the block again, the pieces' own checksums are taken from bytes that had the block's. Invariants: what is
remembered is of the version's own bytes, which never change, so it stays right whatever happens to the medium; a
range is right when all pieces it touches are.
"""

from array import array
from collections import OrderedDict
from typing import Final

from cacheruntime.core.checksums import crc32c

PIECE_BYTES: Final = 4 << 10
"""A page: what is read at random is mostly whole ones, and then nothing more has to be read, and is checked once."""
BLOCKS_MAX: Final = 16_384
"""64 GiB of 4 MiB blocks, in 64 MiB of checksums."""


class PieceChecksums:
    """Of the blocks asked for last."""

    def __init__(self, blocks_max: int = BLOCKS_MAX) -> None:
        self._blocks_max = blocks_max
        self._blocks: OrderedDict[tuple[str, int], array[int]] = OrderedDict()

    def learn(self, name: str, index: int, block: memoryview) -> None:
        """Remember the pieces of a whole block whose bytes were checked a moment ago; `name` is the version's."""
        key = (name, index)
        if key not in self._blocks:
            self._blocks[key] = array(
                "I", (crc32c(block[start : start + PIECE_BYTES]) for start in range(0, len(block), PIECE_BYTES))
            )
        if len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)

    def knows(self, name: str, index: int) -> bool:
        """Whether pieces of that block can be checked; counts as a use."""
        key = (name, index)
        if key not in self._blocks:
            return False
        self._blocks.move_to_end(key)
        return True

    def is_right(self, name: str, index: int, start: int, checksum: int) -> bool:
        """Whether that is the checksum of the piece that starts there, of a known block."""
        known = self._blocks.get((name, index))
        return known is not None and known[start // PIECE_BYTES] == checksum

    def are_right(self, name: str, index: int, start: int, data: memoryview) -> bool:
        """Whether these bytes of a known block have their checksums; `start` and the end as `pieces_of` gave them."""
        known = self._blocks.get((name, index))
        if known is None:
            return False
        number = start // PIECE_BYTES
        for at in range(0, len(data), PIECE_BYTES):
            if crc32c(data[at : at + PIECE_BYTES]) != known[number]:
                return False
            number += 1
        return True


def pieces_of(start: int, length: int, block_length: int) -> tuple[int, int]:
    """Return start and end of the whole pieces around a range inside a block."""
    first = start // PIECE_BYTES * PIECE_BYTES
    return first, min(-(-(start + length) // PIECE_BYTES) * PIECE_BYTES, block_length)
