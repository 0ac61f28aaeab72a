"""Reading the bytes of a put: from a descriptor or a binary file, in pieces, exactly as many as promised.

Invariant: `pieces` yields `size_bytes` in all or raises ShortBody; a descriptor's own position is not moved.
Blocks: iterate in a thread.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Final

from understores.base import Piece, Source
from understores.errors import ShortBody

PIECE_BYTES: Final = 1 << 20


def pieces(source: Source, size_bytes: int, *, start_bytes: int | None = None) -> Iterator[bytes]:
    """Yield `size_bytes` of `source`; `start_bytes` is where a file is rewound to first (a retried put)."""
    if not isinstance(source, int) and start_bytes is not None:
        source.seek(start_bytes)
    done = 0
    while done < size_bytes:
        wanted = min(PIECE_BYTES, size_bytes - done)
        piece = os.pread(source, wanted, done) if isinstance(source, int) else source.read(wanted)
        if not piece:
            raise ShortBody(f"the source ended after {done} bytes of the {size_bytes} promised.", retryable=False)
        done += len(piece)
        yield piece


def from_thread(source: AsyncIterator[Piece], loop: asyncio.AbstractEventLoop) -> Iterator[Piece]:
    """What comes from `source`, which `loop` runs, for a thread that waits for it."""

    async def following() -> Piece:
        return await anext(source, b"")

    while piece := asyncio.run_coroutine_threadsafe(following(), loop).result():
        yield piece


def joined(source: Iterator[Piece], part_bytes: int) -> Iterator[bytes]:
    """The same bytes in parts of `part_bytes`; the last may be shorter."""
    part = bytearray()
    for piece in source:
        part += piece
        while len(part) >= part_bytes:
            yield bytes(part[:part_bytes])
            del part[:part_bytes]
    if part:
        yield bytes(part)
